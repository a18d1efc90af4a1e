r"""Classification heads, forward and backward: CPU time and peak memory, every cell in a process of its own.

    python benchmarks/margin_head.py                     # 100 x 90k, 1024 x 90k, 256 x 1M; some minutes on one core
    python benchmarks/margin_head.py --shapes 100x90000 --methods here_2048 dense_cross_entropy

Methods, all on unit embeddings of 128 dimensions and the same class matrix, AM-Softmax with s = 30, m = 0.35:
`products_only` the three matrix products (the floor of time for who computes each logit once), `dense_cross_entropy`
torch's cross-entropy on shifted logits, `pytorch_metric_learning` its CosFaceLoss, `keras_form` the article's loss,
`here_dense`, and `here_N`: the head with chunk_size N.
Memory is the peak of the resident set over its size after a small warm-up, before the class matrix (512 B a class) is
made; the floor is the matrix and its gradient. Time is process CPU time of one thread, the median of the steps.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import command
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import MarginSoftmaxHead

DIM, SCALE, MARGIN = 128, 30.0, 0.35
Step = Callable[[Tensor, Tensor], Tensor]  # embeddings, labels -> loss
METHODS = (
    "products_only", "dense_cross_entropy", "pytorch_metric_learning", "keras_form",
    "here_dense", "here_512", "here_2048", "here_8192",
)  # fmt: skip


def make(method: str, classes: int) -> tuple[Step, Tensor]:
    """One step's loss and the class matrix it trains."""
    if method.startswith("here"):
        size = method.removeprefix("here_")
        head = MarginSoftmaxHead(DIM, classes, chunk_size=None if size == "dense" else int(size))
        return head, head.weight
    if method == "pytorch_metric_learning":
        from pytorch_metric_learning.losses import CosFaceLoss

        loss = CosFaceLoss(classes, DIM, margin=MARGIN, scale=SCALE)
        return loss, loss.W
    weight = nn.Parameter(F.normalize(torch.randn(classes, DIM)))

    def products_only(embeddings: Tensor, labels: Tensor) -> Tensor:
        return F.linear(embeddings, weight).mean()

    def dense_cross_entropy(embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(embeddings), F.normalize(weight))
        rows = torch.arange(len(labels))
        cosine = cosine.index_put((rows, labels), cosine[rows, labels] - MARGIN)
        return F.cross_entropy(SCALE * cosine, labels)

    def keras_form(embeddings: Tensor, labels: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(embeddings), weight)  # unit columns by projection after the step
        own = cosine.gather(1, labels[:, None])
        log_z = torch.logsumexp(SCALE * torch.cat([cosine, own - MARGIN], dim=1), dim=1, keepdim=True)
        return (log_z + torch.log(1 - torch.exp(SCALE * own - log_z)) - SCALE * (own - MARGIN)).mean()

    return {f.__name__: f for f in (products_only, dense_cross_entropy, keras_form)}[method], weight


def measure(method: str, rows: int, classes: int, steps: int) -> dict[str, float | str | int]:
    """One cell, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)

    def step(loss: Step, weight: Tensor, embeddings: Tensor, labels: Tensor) -> float:
        embeddings.grad = weight.grad = None
        value = loss(embeddings, labels)
        value.backward()
        return value.item()

    small = make(method, 100)  # loads what the first use loads
    step(*small, torch.randn(8, DIM, requires_grad=True), torch.arange(8))
    embeddings = F.normalize(torch.randn(rows, DIM)).requires_grad_()
    labels = torch.randint(classes, (rows,))
    before = resident_now()
    loss, weight = make(method, classes)
    times = []
    for _ in range(steps):
        start = time.process_time()
        value = step(loss, weight, embeddings, labels)
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    return {
        "rows": rows,
        "classes": classes,
        "method": method,
        "cpu_s": statistics.median(times[1:] or times),
        "peak_mb": peak,
        "loss": value,
    }


def resident_now() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def shape_of(text: str) -> tuple[int, int]:
    """ROWSxCLASSES, for argparse."""
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected rows and classes such as 1024x90000")
    rows, classes = map(int, text.split("x"))
    return rows, classes


def main(argv: list[str] | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--shapes",
        nargs="+",
        type=shape_of,
        default=[(100, 90_000), (1024, 90_000), (256, 1_000_000)],
        metavar="ROWSxCLASSES",
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=4, help="steps a cell, the first is not counted (default 4)")
    parser.add_argument("--out", type=command.writable, help="TSV of the results")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.cell:
        method, rows, classes = arguments.cell.split(",")
        print(json.dumps(measure(method, int(rows), int(classes), arguments.steps)))
        return []
    results = []
    print("| rows x classes | method | CPU s | of dense | peak MB | of floor | loss |\n|---|---|---|---|---|---|---|")
    for rows, classes in arguments.shapes:
        floor = 2 * classes * DIM * 4 / 2**20
        dense = None
        for method in sorted(arguments.methods, key=lambda name: name != "dense_cross_entropy"):
            cell = [
                sys.executable,
                __file__,
                "--cell",
                f"{method},{rows},{classes}",
                "--steps",
                str(arguments.steps),
            ]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(cell, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                print(
                    f"| {rows} x {classes} | {method} | failed: {done.stderr.strip().splitlines()[-1:]} |", flush=True
                )
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            results.append(result)
            dense = dense or (result["cpu_s"] if method == "dense_cross_entropy" else None)
            ratio = f"{result['cpu_s'] / dense:.2f}" if dense else ""
            print(
                f"| {rows} x {classes} | {method} | {result['cpu_s']:.2f} | {ratio} | {result['peak_mb']:.0f} | "
                f"{result['peak_mb'] / floor:.1f} | {result['loss']:.5f} |",
                flush=True,
            )
    if arguments.out and results:
        lines = ["\t".join(results[0]), *("\t".join(map(str, row.values())) for row in results)]
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return results


if __name__ == "__main__":
    command.run(main)
