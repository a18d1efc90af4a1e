"""Pictures of the two Hinton papers: what a capsule's numbers mean, what it draws, how routing decides.

The train scripts write them as files and to TensorBoard, `capsnet.evaluate` writes the files again.
"""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.manifold import TSNE
from torch import Tensor

from capsnet.hinton_data import PlacedDigits
from capsnet.matrix import MatrixCapsNet
from capsnet.routing import RoutingStep
from capsnet.sabour import CapsNet

TWEAKS = torch.linspace(-0.25, 0.25, 11)  # Sabour et al. 2017, figure 4


def capsnet_figures(model: CapsNet, dataset: PlacedDigits) -> dict[str, Figure]:
    """The pictures of a trained CapsNet, in evaluation mode, over the first images of a test set."""
    images, labels, alone = dataset.__getitems__(list(range(min(len(dataset), 10))))
    device = next(model.parameters()).device
    figures = {"couplings_by_iteration": couplings_figure(model, images[:1].to(device))}
    if model.decoder is not None:
        drawn = model(images.to(device), labels.to(device))[1].detach().cpu()
        figures["reconstructions"] = reconstruction_figure(images, labels, alone, drawn)
        shown = [int((labels[:, 0] == label).nonzero()[0]) for label in labels[:, 0].unique()[:2]]
        for row in shown:
            name = f"dimensions_of_{int(labels[row, 0])}"
            figures[name] = perturbation_figure(model, images[row].to(device), int(labels[row, 0]))
    return figures


@torch.no_grad()
def matrix_figures(model: MatrixCapsNet, images: Tensor, labels: Tensor) -> dict[str, Figure]:
    """The pictures of trained matrix capsules: (M, C, H, W), (M,)."""
    device = next(model.parameters()).device
    chunks = [model.capsules(part.to(device))[0].cpu() for part in images.split(50)]
    poses = torch.cat(chunks)[torch.arange(len(labels)), labels].flatten(1)  # (M, 16)
    poses_below, activations = model.convolve(images[:1].to(device))
    votes, steps = model.classes.trace(poses_below, activations)
    distances = []
    for step in steps:
        gap = (votes - step.mean.unsqueeze(1)).norm(dim=3)[0]  # (I, O)
        weights = activations.flatten(1)[0].unsqueeze(1) * step.assignment[0]
        distances.append(torch.stack([gap, weights]).cpu())
    names = [str(label) for label in range(votes.shape[2])]
    return {
        "vote_distances": vote_distance_figure(distances, names, int(labels[0])),
        "poses": pose_figure(poses, labels),
    }


def reconstruction_figure(images: Tensor, labels: Tensor, alone: Tensor, drawn: Tensor) -> Figure:
    """Images, and below each what every one of its class capsules draws alone; two digits in red and green as well.

    Args:
        images, labels, alone: a batch of `PlacedDigits`.
        drawn: (B, n, 1, S, S).
    """
    count = labels.shape[1]
    rows: list[tuple[str, list[np.ndarray]]] = [("image", [1 - image[0].numpy() for image in images])]
    for digit in range(count):
        if count > 1:  # one digit alone is the image
            rows.append(("alone", [1 - a[digit, 0].numpy() for a in alone]))
        rows.append(("drawn", [1 - d[digit, 0].numpy() for d in drawn]))
    if count == 2:
        rows.append(("both drawn", [_red_green(d) for d in drawn]))
    figure = Figure(figsize=(len(images), 1.05 * len(rows) + 0.3), layout="constrained")
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for i, (name, pictures) in enumerate(rows):
        for j, picture in enumerate(pictures):
            axis = axes[i, j]
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
            if i == 0:
                axis.set_title(", ".join(map(str, labels[j].tolist())), fontsize=8)
            if j == 0:
                axis.set_ylabel(name, fontsize=7)
    return figure


def _red_green(drawn: Tensor) -> np.ndarray:
    """Two drawings (2, 1, S, S) as ink of two colours on white, (S, S, 3)."""
    first, second = drawn[0, 0].numpy(), drawn[1, 0].numpy()
    return np.stack([1 - second, 1 - first, 1 - np.maximum(first, second)], axis=2).clip(0, 1)


@torch.no_grad()
def perturbation_figure(model: CapsNet, image: Tensor, label: int) -> Figure:
    """What each number of a class capsule stands for: a row a number, changed by -0.25 to 0.25 in steps of 0.05.

    Args:
        model: with a decoder.
        image: (C, H, W), whose capsule is changed.
        label: which capsule.
    """
    capsules = model.capsules(image.unsqueeze(0))  # (1, O, D)
    dims, tweaks = capsules.shape[2], TWEAKS.to(capsules.device)
    changed = capsules.repeat(dims * len(tweaks), 1, 1).unflatten(0, (dims, len(tweaks)))  # (D, 11, O, D)
    axis = torch.arange(dims)
    changed[axis, :, label, axis] += tweaks
    which = torch.full((dims * len(tweaks), 1), label, device=capsules.device)
    drawn = model.draw(changed.flatten(0, 1), which)[:, 0].mean(dim=1).cpu()  # (D * 11, H, W), colours as grey
    height, width = drawn.shape[1:]
    sheet = drawn.unflatten(0, (dims, len(tweaks))).transpose(1, 2).reshape(dims * height, len(tweaks) * width)
    figure = Figure(figsize=(5.5, 0.5 * dims), layout="constrained")
    axes = figure.subplots()
    axes.imshow(1 - sheet.numpy(), cmap="gray", vmin=0, vmax=1)
    marks = [f"{t:+.2f}".replace("-0.00", "0") for t in TWEAKS.tolist()]
    axes.set_xticks([width * (i + 0.5) for i in range(len(tweaks))], marks, fontsize=6)
    axes.set_yticks([height * (i + 0.5) for i in range(dims)], [str(i) for i in range(dims)], fontsize=6)
    axes.set_ylabel(f"number of the capsule of class {label}")
    return figure


@torch.no_grad()
def couplings_figure(model: CapsNet, images: Tensor) -> Figure:
    """Couplings by iteration of one image (1, 1, S, S): inputs in the order of their last choice, a row a class."""
    trace: list[RoutingStep] = []
    model.capsules(images, trace)
    last = trace[-1].coupling[0].cpu()  # (I, O)
    order = (last.argmax(dim=1) + (1 - last.amax(dim=1)) / 2).argsort()
    figure = Figure(figsize=(7, 1.5 * len(trace)), layout="constrained")
    axes = figure.subplots(len(trace), 1, squeeze=False, sharex=True).ravel()
    for i, (axis, step) in enumerate(zip(axes, trace, strict=True)):
        shown = axis.imshow(step.coupling[0].cpu()[order].T.numpy(), aspect="auto", vmin=0, vmax=1, cmap="magma")
        mean = step.entropy.mean().item()
        axis.set_title(f"iteration {i + 1}: mean entropy of an input's couplings {mean:.3f} nat", fontsize=8)
        axis.set_ylabel("class", fontsize=7)
    axes[-1].set_xlabel("input capsule")
    figure.colorbar(shown, ax=axes)
    return figure


def vote_distance_figure(distances: Sequence[Tensor], names: Sequence[str], true: int) -> Figure:
    """Histograms of the distance from every vote to each class capsule's mean, a row an iteration (Hinton et al. 2018,
    figure 2), each vote counted by how much of it the capsule was given.

    Args:
        distances: for each iteration (2, I, O): distances, and the weights of the votes.
        names: of the classes.
        true: the class of the image.
    """
    figure = Figure(figsize=(1.5 * len(names), 1.4 * len(distances)), layout="constrained")
    axes = figure.subplots(len(distances), len(names), squeeze=False, sharex=True)
    edges = np.linspace(0, max(float(step[0].max()) for step in distances), 30)
    for i, step in enumerate(distances):
        for j, name in enumerate(names):
            axis = axes[i, j]
            axis.hist(step[0, :, j].numpy(), edges, weights=step[1, :, j].numpy(), color="C3" if j == true else "C0")
            axis.set_yticks([])
            axis.tick_params(labelsize=6)
            if i == 0:
                axis.set_title(f"{name}" + (" (true)" if j == true else ""), fontsize=8)
            if j == 0:
                axis.set_ylabel(f"iteration {i + 1}", fontsize=7)
    figure.supxlabel("distance of a vote from the capsule's mean", fontsize=8)
    return figure


def pose_figure(poses: Tensor, labels: Tensor, seed: int = 0) -> Figure:
    """t-SNE of the pose of each image's true class capsule, coloured by class: (M, 16), (M,).

    Poses that are all the same, or fewer than four, have no neighbourhoods to keep (on the former scikit-learn ends the
    process): their first two numbers are shown as they are.
    """
    perplexity = min(30.0, max(2.0, (len(poses) - 1) / 3))
    if len(poses) < 4 or not (poses != poses[0]).any():
        places = poses[:, :2].numpy()
    else:
        places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(poses.numpy())
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    for label in labels.unique():
        part = places[(labels == label).numpy()]
        axes.scatter(part[:, 0], part[:, 1], s=8, color=f"C{int(label) % 10}", label=str(int(label)))
    axes.legend(fontsize=7, markerscale=2)
    axes.set_xticks([])
    axes.set_yticks([])
    return figure
