"""What the pictures of the two Hinton papers show, number by number."""

import numpy as np
import pytest
import torch

from capsnet import RoutingStep, hinton_figures
from capsnet.data import load
from capsnet.hinton_data import PLACEMENTS, PlacedDigits
from capsnet.matrix import MatrixCapsNet
from capsnet.sabour import CapsNet


def small(**settings) -> CapsNet:
    return CapsNet(
        **{"network": "small", "num_classes": 4, "out_dim": 6, "image_shape": (1, 12, 20), **settings}
    ).eval()


def image_of(axis) -> np.ndarray:
    return np.asarray(axis.images[0].get_array())


@pytest.mark.parametrize("channels", [1, 3])
def test_each_row_changes_one_number_of_one_capsule(channels):
    model = small(image_shape=(channels, 12, 20))
    image, label = torch.rand(channels, 12, 20), 2
    figure = hinton_figures.perturbation_figure(model, image, label)
    sheet = 1 - image_of(figure.axes[0])
    assert sheet.shape == (6 * 12, 11 * 20)
    capsules = model.capsules(image.unsqueeze(0)).detach()
    for number in (0, 5):
        for column, change in enumerate(np.arange(-0.25, 0.26, 0.05)):
            changed = capsules.clone()
            changed[0, label, number] += change
            drawn = model.draw(changed, torch.tensor([[label]]))[0, 0].mean(0).detach()
            cell = sheet[number * 12 : number * 12 + 12, column * 20 : column * 20 + 20]
            np.testing.assert_allclose(cell, drawn, atol=1e-6)
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()][::5] == ["-0.25", "0", "+0.25"]


def test_pairs_are_drawn_each_from_its_own_capsule(tmp_path):
    digits = load("digits", "test", tmp_path)
    images, labels, alone = PlacedDigits(digits, PLACEMENTS["multimnist"], fixed=True).__getitems__([0, 1, 2])
    model = CapsNet(network="small", image_shape=(1, 36, 36)).eval()
    drawn = model(images, labels)[1].detach()
    figure = hinton_figures.reconstruction_figure(images, labels, alone, drawn)
    grid = np.array(figure.axes).reshape(6, 3)  # image; alone, drawn, twice; both
    assert [axis.get_ylabel() for axis in grid[:, 0]] == ["image", "alone", "drawn", "alone", "drawn", "both drawn"]
    capsules = model.capsules(images).detach()
    for j in range(3):
        np.testing.assert_allclose(image_of(grid[0, j]), 1 - images[j, 0])
        for digit in range(2):
            own = torch.zeros_like(capsules[j])
            own[labels[j, digit]] = capsules[j, labels[j, digit]]
            expected = model.decoder(own.flatten().unsqueeze(0))[0, 0].detach()
            np.testing.assert_allclose(image_of(grid[1 + 2 * digit, j]), 1 - alone[j, digit, 0])
            np.testing.assert_allclose(image_of(grid[2 + 2 * digit, j]), 1 - expected, atol=1e-6)
        first, second = (image_of(grid[row, j]) for row in (2, 4))
        np.testing.assert_allclose(image_of(grid[5, j]), np.stack([second, first, np.minimum(first, second)], 2))


def test_couplings_are_those_of_the_image_by_iteration():
    model, image = small(), torch.rand(1, 1, 12, 20)
    trace: list[RoutingStep] = []
    model.capsules(image, trace)
    figure = hinton_figures.couplings_figure(model, image)
    panels = [image_of(axis) for axis in figure.axes[:3]]
    assert np.allclose(panels[0], 1 / 4)
    for panel, step in zip(panels, trace, strict=True):
        np.testing.assert_allclose(panel.sum(axis=0), 1, atol=1e-5)  # over the classes, for every input
        np.testing.assert_allclose(np.sort(panel.ravel()), step.coupling[0].detach().flatten().sort().values, atol=1e-6)
    assert (np.diff(panels[-1].argmax(axis=0)) >= 0).all()  # inputs in the order of their last choice


def test_vote_distances_are_weighted_by_what_the_capsule_was_given():
    model = MatrixCapsNet(6, 2, 3, 3, num_iters=2)
    images, labels = torch.randn(5, 1, 21, 21), torch.tensor([3, 1, 0, 1, 2])
    figures = hinton_figures.matrix_figures(model, images, labels)
    axes = np.array(figures["vote_distances"].axes).reshape(2, 10)
    assert axes[0, 3].get_title() == "3 (true)"
    poses, activations = model.convolve(images[:1])
    for row, step in enumerate(model.classes.trace(poses, activations)[1]):
        mass = step.mass[0]  # the sum of a_i R_ij
        for column, axis in enumerate(axes[row]):
            assert sum(bar.get_height() for bar in axis.patches) == pytest.approx(float(mass[column]), rel=1e-4)


@torch.no_grad()
def test_distances_are_euclidean_and_poses_those_of_the_true_class(monkeypatch):
    model = MatrixCapsNet(6, 2, 3, 3, num_iters=2)
    images, labels = torch.randn(5, 1, 21, 21), torch.tensor([3, 1, 0, 1, 2])
    shown = {}
    monkeypatch.setattr(hinton_figures, "vote_distance_figure", lambda *given: shown.update(distances=given))
    monkeypatch.setattr(hinton_figures, "pose_figure", lambda *given: shown.update(poses=given))
    hinton_figures.matrix_figures(model, images, labels)
    votes, steps = model.classes.trace(*model.convolve(images[:1]))
    for (gap, _), step in zip(shown["distances"][0], steps, strict=True):
        expected = torch.stack([torch.dist(vote, step.mean[0, 4]) for vote in votes[0, :, 4]])
        torch.testing.assert_close(gap[:, 4], expected)
    poses = model.capsules(images)[0]
    expected = torch.stack([poses[i, label].flatten() for i, label in enumerate(labels.tolist())])
    torch.testing.assert_close(shown["poses"][0], expected)


@pytest.mark.parametrize("poses", [torch.zeros(30, 16), torch.randn(2, 16), torch.randn(5, 16)])
def test_poses_without_neighbourhoods_are_shown_too(poses):
    figure = hinton_figures.pose_figure(poses, torch.arange(len(poses)) % 3)
    shown = sum(len(points.get_offsets()) for points in figure.axes[0].collections)
    assert shown == len(poses)
