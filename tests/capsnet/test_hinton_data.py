"""The images of the two Hinton papers, against plain loops and their published statistics."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from capsnet import data
from capsnet.augment import Augmentation, augment
from capsnet.hinton_data import (
    AFFNIST_SIZE,
    PLACEMENTS,
    PlacedDigits,
    Placement,
    _distort,
    affine,
    place,
    standardized,
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> data.Digits:
    return data.load("digits", "train", tmp_path_factory.mktemp("none"))


@given(st.integers(3, 9), st.integers(1, 6), st.integers(1, 6), st.integers(0, 4), st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_place_equals_loops(size, height, width, reach, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (2, 2, height, width), generator=generator, dtype=torch.uint8)
    moves = torch.randint(-reach, reach + 1, (2, 2, 2), generator=generator)
    expected = torch.zeros(2, 2, size, size, dtype=torch.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    for b in range(2):
        for n in range(2):
            for y in range(height):
                for x in range(width):
                    row, column = top + y + int(moves[b, n, 0]), left + x + int(moves[b, n, 1])
                    if 0 <= row < size and 0 <= column < size:
                        expected[b, n, row, column] = images[b, n, y, x]
    assert torch.equal(place(images, moves, size), expected)


@pytest.mark.parametrize("name", list(PLACEMENTS))
def test_batches_hold_what_they_say(digits, name):
    placement = PLACEMENTS[name]
    dataset = PlacedDigits(digits, placement, seed=3)
    images, labels, alone = dataset.__getitems__([5, 0, 700])
    size, count = placement.size, placement.count
    assert images.shape == (3, 1, size, size)
    assert labels.shape == (3, count)
    assert alone.shape == (3, count, 1, size, size)
    assert torch.equal(labels[:, 0], digits.labels[torch.tensor([5, 0, 700])])
    torch.testing.assert_close(images, alone.sum(dim=1).clamp(max=1))
    assert images.max() <= 1
    reach = {"mnist": 2, "multimnist": 4, "affnist": 6}[name]  # as the papers say
    assert (dataset.moves.min(), dataset.moves.max()) == (-reach, reach)
    single = dataset[700]
    assert all(torch.equal(a, b[2]) for a, b in zip(single, (images, labels, alone), strict=True))
    if name != "mnist":  # nothing is lost: as much ink as the digit has
        ink = digits.images[5].float().sum() / 255
        torch.testing.assert_close(alone[0, 0].sum(), ink)


def test_every_epoch_is_another_draw_of_seed_and_epoch_alone(digits):
    first, again, other = (PlacedDigits(digits, PLACEMENTS["multimnist"], seed=s) for s in (1, 1, 2))
    first.set_epoch(3)
    first.set_epoch(1)
    again.set_epoch(1)
    other.set_epoch(1)
    assert torch.equal(first.moves, again.moves)
    assert torch.equal(first.members, again.members)
    assert not torch.equal(first.moves, other.moves)
    again.set_epoch(2)
    assert not torch.equal(first.moves, again.moves)
    fixed = PlacedDigits(digits, PLACEMENTS["multimnist"], seed=1, fixed=True)
    moves = fixed.moves
    fixed.set_epoch(5)
    assert torch.equal(fixed.moves, moves)


def test_digits_are_distorted_each_by_itself_and_then_placed(digits):
    ranges = Augmentation(rotation=30, scale=0.2, shear=0.3)
    placement = PLACEMENTS["multimnist"]
    plain, distorted = (PlacedDigits(digits, placement, 1, augmentation=a) for a in (None, ranges))
    images, labels, alone = distorted.__getitems__([3, 8])
    assert torch.equal(labels, plain.__getitems__([3, 8])[1])
    for row, index in enumerate([3, 8]):
        for digit, member in enumerate(distorted.members[index].tolist()):
            one = digits.images[member][None, None].float() / 255
            turned = augment(one, labels[row, :1], ranges, distorted.draws[index, digit : digit + 1])[0]
            assert not torch.equal(turned, one)
            where = distorted.moves[index, digit][None, None]
            expected = place(turned[:, 0, None], where, placement.size)[0]
            torch.testing.assert_close(alone[row, digit], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(images, alone.sum(dim=1).clamp(max=1))
    assert torch.equal(distorted.moves, plain.moves)  # the moves are the same with and without
    draws = distorted.draws
    assert len(draws.flatten(0, 1).unique(dim=0)) == 2 * len(digits)
    distorted.set_epoch(1)
    assert not torch.equal(distorted.draws, draws)
    distorted.set_epoch(0)
    assert torch.equal(distorted.draws, draws)


@pytest.mark.parametrize("name", ["mnist", "affnist"])
def test_batches_are_made_where_the_digits_are(digits, name):
    """On a GPU that is made up: torch follows shapes and devices, and refuses what lies on two of them."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        ranges = Augmentation(rotation=10, scale=0.1, shear=0.1)
        dataset = PlacedDigits(digits.to(torch.device("cuda")), PLACEMENTS[name], augmentation=ranges)
        dataset.set_epoch(1)
        batch = dataset.__getitems__([3, 1, 2])
    assert {tensor.device.type for tensor in batch} == {"cuda"}


def test_partners_are_of_another_class_and_any_of_them(digits):
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    tiny = data.Digits(digits.images[:6], labels)
    seen = set()
    dataset = PlacedDigits(tiny, Placement(36, 4, 2))
    for epoch in range(200):
        dataset.set_epoch(epoch)
        own, partner = dataset.members.T
        assert torch.equal(own, torch.arange(6))
        assert (labels[own] != labels[partner]).all()
        seen |= set(zip(own.tolist(), partner.tolist(), strict=True))
    assert seen == {(i, j) for i in range(6) for j in range(6) if labels[i] != labels[j]}
    with pytest.raises(ValueError, match="two classes at least"):
        PlacedDigits(data.Digits(digits.images[:2], labels[:2]), PLACEMENTS["multimnist"])


def test_multimnist_frames_overlap_by_80_per_cent_on_average():
    """The exact mean of the published moves: along an axis two uniform -4..4 differ by 80/27, so (1 - 80/27/28)^2."""
    axis = torch.arange(-4, 5)
    moves = torch.cartesian_prod(axis, axis).unsqueeze(1)  # (81, 1, 2)
    placement = PLACEMENTS["multimnist"]
    assert placement.shift == 4
    frames = place(torch.ones(81, 1, 28, 28), moves, placement.size).flatten(1)
    mean = (frames @ frames.T / 28**2).mean().item()  # over all pairs of moves
    assert mean == pytest.approx((1 - 80 / 27 / 28) ** 2, abs=1e-6)
    assert round(mean, 2) == 0.80


def test_standardized_images_have_mean_0_and_variance_1_each():
    images = torch.randint(0, 9, (3, 2, 5, 4)).double()
    images[1, 0] = 7.0
    found = standardized(images)
    for image, expected in zip(found.flatten(0, 1).numpy(), images.flatten(0, 1).numpy(), strict=True):
        wanted = (expected - expected.mean()) / (expected.std(ddof=1) + 1e-6)
        torch.testing.assert_close(torch.from_numpy(image), torch.from_numpy(wanted))
    assert (found[1, 0] == 0).all()


def test_moves_are_uniform_within_their_reach(digits):
    moves = PlacedDigits(digits, PLACEMENTS["affnist"]).moves.flatten()
    counts = torch.bincount(moves + 6, minlength=13)
    assert len(counts) == 13
    expected = len(moves) / 13
    assert ((counts - expected).abs() < 5 * math.sqrt(expected)).all()  # five deviations of a Poisson count


def test_affine_keeps_all_ink_in_the_frame_and_is_seeded(digits):
    part = digits[:400]
    found = affine(part, seed=1)
    assert found.images.shape == (400, AFFNIST_SIZE, AFFNIST_SIZE)
    assert found.images.dtype == torch.uint8
    assert torch.equal(found.labels, part.labels)
    assert torch.equal(found.images, affine(part, seed=1).images)
    assert not torch.equal(found.images, affine(part, seed=2).images)
    ratio = found.images.flatten(1).float().sum(1) / part.images.flatten(1).float().sum(1)
    assert 0.6 < ratio.min() < 0.75  # an area scale of 0.8^2 = 0.64 at least,
    assert 1.3 < ratio.max() < 1.5  # 1.2^2 = 1.44 at most, within the rounding of pixels
    assert abs(ratio.mean() - 1) < 0.03


def test_affine_fills_the_whole_canvas(digits):
    """Ink comes to every edge, so no place that fits is left out, and none lies outside."""
    images = affine(digits[:400]).images > 0
    for edge in (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]):
        assert edge.any()


def test_distortions_have_the_published_extremes():
    """A cross of one vertical and one horizontal bar under the largest draw of each kind alone."""
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[:, 4:24, 13:15] = 255

    def bar(draws):
        ys, xs = (_distort(image, torch.tensor([draws]), 80)[0] > 127).nonzero().float().unbind(1)
        return ys - 39.5, xs - 39.5

    ys, xs = bar([0.5, 0.5, 0.5, 0.5])
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (-9.5, 9.5, -0.5, 0.5)
    ys, xs = bar([1.0, 0.5, 0.5, 0.5])
    slope = (ys * xs).sum() / (ys * ys).sum()
    assert abs(slope) == pytest.approx(math.tan(math.radians(20)), abs=0.03)
    ys, xs = bar([0.5, 1.0, 0.5, 0.5])
    slope = (ys * xs).sum() / (ys * ys).sum()
    assert abs(slope) == pytest.approx(0.2, abs=0.03)
    ys, _ = bar([0.5, 0.5, 1.0, 0.5])
    assert ys.max() - ys.min() + 1 == pytest.approx(24, abs=1)
    image = image.transpose(1, 2).contiguous()  # wide, not tall
    for draw, width in ((1.0, 24), (0.0, 16)):
        ys, xs = bar([0.5, 0.5, 0.5, draw])
        assert xs.max() - xs.min() + 1 == pytest.approx(width, abs=1)
        assert ys.max() - ys.min() + 1 == 2


def test_a_distortion_turns_then_leans_then_stretches():
    """Where the middle of a dot comes to, by the product of the three matrices."""
    angle, shear, tall, wide = math.radians(20), -0.2, 0.8, 1.2
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])  # of (x, y), y down
    lean, stretch = np.array([[1, shear], [0, 1]]), np.diag([wide, tall])
    for x, y in ((6, 0), (0, 7), (-5, 4)):
        image = torch.zeros(1, 29, 29, dtype=torch.uint8)
        image[0, 13 + y : 16 + y, 13 + x : 16 + x] = 255
        found = _distort(image, torch.tensor([[1.0, 0.0, 0.0, 1.0]]), 81)[0].double()
        middle = [float((found.sum(axis) * torch.arange(-40, 41)).sum() / found.sum()) for axis in (0, 1)]
        np.testing.assert_allclose(middle, stretch @ lean @ turn @ [x, y], atol=0.1)


def test_affine_keeps_the_middle_of_what_cannot_fit_and_black_images():
    black = data.Digits(torch.zeros(2, 28, 28, dtype=torch.uint8), torch.zeros(2, dtype=torch.long))
    assert affine(black).images.max() == 0
    white = torch.full((100, 28, 28), 255, dtype=torch.uint8)
    white[:, 13:15, 13:15] = 1  # all but black in the middle
    for size in (20, 40):  # some of the images are wider than 40 pixels, all wider than 20
        found = affine(data.Digits(white, torch.zeros(100, dtype=torch.long)), size=size).images
        assert found.shape == (100, size, size)
        dark = (found.float() < 200) & (found > 0)
        seen = dark[:, 2:-2, 2:-2].flatten(1).any(dim=1)
        assert seen.all()
    assert (found.amax(dim=(1, 2)) == 255).all()
    middle = affine(data.Digits(white, torch.zeros(100, dtype=torch.long)), size=20).images
    rows = (middle < 200).float().mean(dim=(0, 2))  # where the dark middle is, over all images
    assert abs(float((rows * torch.arange(20)).sum() / rows.sum()) - 9.5) < 0.5
