"""Pictures of a trained network: what the routing looks at, what it got right and wrong, scores by number of digits."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from capsnet.multidigit import COUNTS, Composed
from capsnet.networks import DigitCapsNet
from capsnet.routing import RoutingStep
from trainer import write_atomically


def write(folder: Path, figures: Mapping[str, Figure], writer: SummaryWriter | None, step: int = 0) -> None:
    """Write each figure to ``folder/NAME.png`` and, at the step of the weights it was made with, to TensorBoard."""
    for name, figure in figures.items():
        if writer is not None:
            writer.add_figure(name, figure, step, close=False)
        write_atomically(folder / f"{name}.png", lambda file, f=figure: f.savefig(file, format="png", dpi=120))


@torch.no_grad()
def coupling_figure(model: DigitCapsNet, image: Tensor, class_names: list[str]) -> Figure:
    """Couplings of the last iteration over the image, one panel a class, beside the image itself.

    Args:
        model: in evaluation mode.
        image: (H, W) uint8.
    """
    trace: list[RoutingStep] = []
    device = next(model.parameters()).device
    scores = model(image.to(device)[None, None].float() / 255, trace)[0].cpu()
    margin = (model.features.min_size - 1) / 2
    height, width = (int(size) for size in model.features(image.to(device)[None, None].float() / 255).shape[2:])
    coupling = trace[-1].coupling[0].T.unflatten(1, (height, width)).cpu()  # (O, H', W')
    columns = math.ceil((len(coupling) + 1) / 2)
    figure = Figure(figsize=(1.6 * columns, 3.6 * image.shape[0] / image.shape[1] + 0.8), layout="constrained")
    axes = figure.subplots(2, columns, squeeze=False).ravel()
    axes[0].imshow(image.numpy(), cmap="gray_r")
    axes[0].set_title("image", fontsize=8)
    # each position is drawn at the centre of what it sees
    extent = (margin, image.shape[1] - 1 - margin, image.shape[0] - 1 - margin, margin)
    for axis, name, score, panel in zip(axes[1:], class_names, scores, coupling, strict=False):
        axis.imshow(image.numpy(), cmap="gray_r", alpha=0.5)
        uniform = 1 / len(coupling)  # what an undecided position gives every class is left transparent
        opacity = ((panel - uniform) / (1 - uniform)).clamp_min(0).sqrt().numpy()
        axis.imshow(opacity, cmap="autumn_r", alpha=opacity, vmin=0, vmax=1, extent=extent, interpolation="nearest")
        axis.set_xlim(-0.5, image.shape[1] - 0.5)
        axis.set_ylim(image.shape[0] - 0.5, -0.5)
        axis.set_title(f"{name}: {score:.2f}", fontsize=8, fontweight="bold" if score > 0.5 else "normal")
    for axis in axes:
        axis.set_axis_off()
    return figure


def examples_figure(composed: Composed, scores: Tensor, per_row: int = 8) -> Figure:
    """Images answered right (first row) and wrong (second row), with the answer; scores (M, K)."""
    count = composed.labels.shape[1]
    answer = scores.topk(count, dim=1).indices.sort(dim=1).values
    truth = composed.labels.sort(dim=1).values
    right = (answer == truth).all(dim=1)
    figure = Figure(figsize=(1.3 * per_row, 6), layout="constrained")
    for row, (which, word) in enumerate(((right, "right"), (~right, "wrong"))):
        for column, index in enumerate(which.nonzero().flatten()[:per_row].tolist()):
            axis = figure.add_subplot(2, per_row, row * per_row + column + 1)
            axis.imshow(composed.images[index].numpy(), cmap="gray_r")
            found = ",".join(map(str, answer[index].tolist()))
            shown = "" if word == "right" else "\nis " + ",".join(map(str, truth[index].tolist()))
            axis.set_title(f"{word}: {found}{shown}", fontsize=7)
            axis.set_axis_off()
    return figure


def counts_figure(values: Mapping[str, Mapping[str, float]]) -> Figure:
    """Share of right answers against the number of digits; one line a model: name -> what `evaluate` returned.

    The dotted line is what independent digits would give: the single accuracy to the power of their number.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, layout in zip(axes, ("stacked", "row"), strict=True):
        for i, (name, scores) in enumerate(values.items()):
            top = [scores["single"], *(scores[f"{layout}_{n}_top"] for n in COUNTS)]
            confident = [scores[f"{layout}_{n}_confident"] for n in COUNTS]
            axis.plot([1, *COUNTS], top, marker="o", color=f"C{i}", label=f"{name}: top n")
            axis.plot(COUNTS, confident, marker="x", linestyle="--", color=f"C{i}", label=f"{name}: and above 0.5")
            power = [100 * (scores["single"] / 100) ** n for n in (1, *COUNTS)]
            axis.plot([1, *COUNTS], power, linestyle=":", linewidth=0.8, color=f"C{i}")
        axis.set_xticks([1, *COUNTS])
        axis.set_xlabel(f"digits, {'stacked' if layout == 'stacked' else 'side by side'}")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("right, %")
    axes[1].legend(fontsize=7)
    return figure


def class_names(data: str) -> list[str]:
    """Names of the classes of a data set, for titles."""
    if data == "fashion":
        return ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
    return [str(digit) for digit in range(10)]
