import numpy as np
import pytest
import torch

from capsnet.data import Digits
from capsnet.multidigit import compose, evaluate, predict, set_scores


def digits(count=200):
    """Images that carry their label as brightness, so that a composed image can be read back."""
    labels = torch.arange(count) % 10
    return Digits((labels[:, None, None] * 20 + 20).expand(count, 28, 28).to(torch.uint8), labels)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_stacked_is_along_the_height_and_row_along_the_width(count):
    stacked, row = compose(digits(), count, "stacked"), compose(digits(), count, "row")
    assert stacked.images.shape[1:] == (28 * count, 28)
    assert row.images.shape[1:] == (28, 28 * count)
    torch.testing.assert_close(stacked.labels, row.labels)
    for k in range(count):
        shown = 20 + 20 * stacked.labels[:, k]
        assert (stacked.images[:, 28 * k : 28 * k + 28] == shown[:, None, None]).all()
        assert (row.images[:, :, 28 * k : 28 * k + 28] == shown[:, None, None]).all()


def test_equal_digits_are_dropped_and_nothing_else():
    composed = compose(digits(5000), 3, "stacked")
    assert (composed.labels.sort(dim=1).values.diff(dim=1) > 0).all()
    assert abs(len(composed.labels) / 5000 - 0.9 * 0.8) < 0.03  # chance of three different digits; 5 sigma
    torch.testing.assert_close(compose(digits(), 2, "row", seed=3).images, compose(digits(), 2, "row", seed=3).images)
    assert not torch.equal(compose(digits(), 2, "row", seed=3).labels, compose(digits(), 2, "row", seed=4).labels)


def test_overlap_equals_plain_loops():
    dim = Digits(digits(40).images // 2, digits(40).labels)  # no sum reaches white
    composed = compose(dim, 2, "overlap")
    assert composed.images.shape[1:] == (36, 36)
    for image, (a, b) in zip(composed.images.numpy(), composed.labels.tolist(), strict=True):
        first, second = 10 + 10 * a, 10 + 10 * b
        found = {}
        for top in range(9):
            for left in range(9):
                rest = image.astype(int)
                rest[top : top + 28, left : left + 28] -= first
                rows, columns = np.nonzero(rest)
                if rest.min() >= 0 and len(rows):
                    box = rest[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
                    if box.shape == (28, 28) and (box == second).all():
                        found[top, left] = rows.min(), columns.min()
        assert found  # the image is the first digit somewhere plus the second somewhere, each moved by 0 to 8


def test_overlap_is_cut_at_white():
    white = Digits(torch.full((20, 28, 28), 200, dtype=torch.uint8), torch.arange(20) % 10)
    assert compose(white, 2, "overlap").images.max() == 255


def test_set_scores_by_hand():
    scores = torch.tensor([[0.9, 0.8, 0.1], [0.9, 0.4, 0.1], [0.9, 0.1, 0.8]])
    labels = torch.tensor([[1, 0], [0, 1], [0, 1]])
    found = set_scores(scores, labels)
    assert found["top"] == pytest.approx(200 / 3)
    assert found["confident"] == pytest.approx(100 / 3)


class Reader(torch.nn.Module):
    """Scores of the brightness code above: how much of the image each label's brightness covers."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        label = (x * 255 / 20 - 1).round().long().flatten(1)
        return torch.nn.functional.one_hot(label.clamp(0, 9), 10).float().mean(dim=1) * 4


def test_evaluate_gives_a_perfect_reader_full_marks():
    values = evaluate(Reader(), digits(), progress=False)
    assert values["single"] == 100
    assert {key for key in values if key.startswith(("stacked", "row"))} == {
        f"{layout}_{n}_{score}" for layout in ("stacked", "row") for n in (2, 3, 4) for score in ("top", "confident")
    }
    assert all(v == 100 for key, v in values.items() if key.startswith(("stacked", "row")))
    assert values["overlap_2_top"] < 100


def test_predict_restores_the_training_mode():
    model = Reader().train()
    predict(model, digits().images)
    assert model.training
