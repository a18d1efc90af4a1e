r"""Margin softmax in float32 against float64: here, in pytorch-metric-learning, and in the article's own form.

    python benchmarks/loss_precision.py                      # the table of losses/README.md, a minute on one core
    python benchmarks/loss_precision.py --out cells.tsv      # every cell; --figure losses/psi.png draws psi(theta)

Rows of normal cosines of deviation 0.09 with the target's set, the same float32 numbers for all three. An error is the
largest over the rows of |float32 - float64| / |float64|, of the loss and of the gradient (by the norm of a row);
float64 is our form, which agrees with the originals to 1e-10 in tests/losses. `inf`: a result is infinite or NaN; an
error of 1: a float32 loss has come out as 0. The work of a cell is the same for all: one
log-sum-exp over (rows, classes).
"""

import argparse
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import command
import torch
from torch import Tensor

import losses
from losses.margin import FAMILY, margin_function

SCALES, MARGINS, CLASSES, TARGETS = (30.0, 64.0), (0.2, 0.35, 0.5), (100, 1000, 90_000), (0.3, 0.6, 0.8, 0.9, 0.99)
Rows = Callable[[Tensor, Tensor, float, float], Tensor]  # cosines, labels, scale, margin -> (B,)


def here(cosine: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    return losses.am_softmax(cosine, labels, scale, margin, reduction="none")


def article(cosine: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """Su 2018, archives 5743: all logits and the margin's in one log-sum-exp, then the target's own taken out."""
    own = cosine.gather(1, labels[:, None])
    log_z = torch.logsumexp(scale * torch.cat([cosine, own - margin], dim=1), dim=1, keepdim=True)
    return (log_z + torch.log(1 - torch.exp(scale * own - log_z)) - scale * (own - margin)).squeeze(1)


def metric_learning(cosine: Tensor, labels: Tensor, scale: float, margin: float) -> Tensor:
    """pytorch-metric-learning's CosFaceLoss from its cosines on."""
    from pytorch_metric_learning.losses import CosFaceLoss
    from pytorch_metric_learning.reducers import DoNothingReducer

    loss = CosFaceLoss(cosine.shape[1], 1, margin=margin, scale=scale, reducer=DoNothingReducer())
    loss.get_cosine = lambda _: cosine
    return loss(cosine.new_zeros(len(cosine), 1), labels)["loss"]["losses"]


FORMS: dict[str, Rows] = {"here": here, "pytorch-metric-learning": metric_learning, "article": article}


def evaluate(form: Rows, cosine: Tensor, labels: Tensor, scale: float, margin: float) -> tuple[Tensor, Tensor]:
    cosine = cosine.clone().requires_grad_()
    rows = form(cosine, labels, scale, margin)
    return rows.detach().double(), torch.autograd.grad(rows.sum(), cosine)[0].double()


def worst(ours: Tensor, exact: Tensor) -> float:
    if not ours.isfinite().all():
        return math.inf
    return ((ours - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).max().item()


def cells(rows: int):
    for classes, target in itertools.product(CLASSES, TARGETS):
        generator = torch.Generator().manual_seed(classes)
        labels = torch.randint(classes, (rows,), generator=generator)
        cosine = (0.09 * torch.randn(rows, classes, generator=generator)).clamp(-1, 1)
        cosine.scatter_(1, labels[:, None], target)
        for scale, margin in itertools.product(SCALES, MARGINS):
            exact_loss, exact_gradient = evaluate(here, cosine.double(), labels, scale, margin)
            for name, form in FORMS.items():
                loss, gradient = evaluate(form, cosine, labels, scale, margin)
                errors = worst(loss[:, None], exact_loss[:, None]), worst(gradient, exact_gradient)
                yield scale, margin, classes, target, name, *errors


def draw(path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    theta = torch.linspace(0, math.pi, 721, dtype=torch.float64)
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name in FAMILY:
        settings = ", ".join(f"{key} {value}" for key, value in FAMILY[name][2].items())
        axes.plot(
            theta.rad2deg(), margin_function(name)[1](theta.cos()), label=f"{name} ({settings})" if settings else name
        )
    axes.set(xlabel="angle between embedding and class, degrees", ylabel="psi(theta)", xlim=(0, 180), ylim=(-4, 1.1))
    axes.set_xticks(range(0, 181, 30))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main(argv: list[str] | None = None) -> list[tuple]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=64, help="rows a cell (default 64)")
    parser.add_argument("--out", type=command.writable, help="TSV of every cell")
    parser.add_argument("--figure", type=command.writable, help="draw psi(theta) of the family to this file instead")
    arguments = parser.parse_args(argv)
    if arguments.figure:
        draw(arguments.figure)
        return []
    results = list(cells(arguments.rows))
    if arguments.out:
        header = "scale\tmargin\tclasses\ttarget_cosine\tform\tloss_error\tgradient_error"
        lines = [header, *("\t".join(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row) for row in results)]
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("Worst relative error, loss / gradient, over margins .2 .35 .5 and 100, 1000, 90 000 classes")
    print("| scale | target cosine | " + " | ".join(FORMS) + " |\n|---|---|" + "---|" * len(FORMS))
    for scale, target in itertools.product(SCALES, TARGETS):
        columns = []
        for name in FORMS:
            errors = [row[5:] for row in results if (row[0], row[3], row[4]) == (scale, target, name)]
            columns.append(" / ".join(f"{max(column):.1e}" for column in zip(*errors, strict=True)))
        print(f"| {scale:g} | {target:g} | " + " | ".join(columns) + " |")
    mine = [max(row[5:]) for row in results if row[4] == "here"]
    print(f"here: worst of {len(mine)} cells {max(mine):.2g} (goal 2e-5)")
    return results


if __name__ == "__main__":
    command.run(main)
