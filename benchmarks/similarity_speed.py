r"""Sentences a second in training and encoding, microseconds a search, beside Keras and FAISS in the same run.

    python benchmarks/similarity_speed.py train --keras-python PYTHON    # a step of batch 100, 34,328 classes
    python benchmarks/similarity_speed.py train --classes 120000
    python benchmarks/similarity_speed.py encode                         # sentences of the lengths of real questions
    python benchmarks/similarity_speed.py search                         # 100,000 vectors of 128, batches of 256

Real groups are not needed: ids are random, their lengths those of the questions of BQ, AFQMC, ATEC and SimCLUE (mean
14.5, half of them up to 11, a tenth above 25). What is timed is the package's own code, after a warm-up, medians of the
turns; --threads sets torch's threads, Keras and FAISS get the same.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from command import with_threads
from torch.nn.functional import normalize

from losses import MarginSoftmaxHead, am_softmax
from similarity import Architecture, SentenceEncoder, Vocabulary
from similarity.data import GroupPairs, LabelledSentences
from similarity.groups import Groups
from similarity.optimizer import RowAdagrad
from similarity.train import in_batch_terms
from similarity.vectors import FaissVectors, Vectors
from trainer import run_main

CHARACTERS = "".join(chr(0x4E00 + i) for i in range(2500))
BATCH = 100
BAG = Architecture(dim=512, hidden=0, max_length=64, buckets=1 << 17)


@dataclass(frozen=True)
class Settings:
    """Speed of training, encoding and searching."""

    what: Annotated[Literal["train", "encode", "search"], tyro.conf.Positional]
    keras_python: str = ""
    """python of an environment with keras and tensorflow; empty: Keras is left out"""
    classes: int = 34_328
    """of the head in training; those of BQ, AFQMC, ATEC and SimCLUE"""
    threads: int = 1
    turns: int = 3
    steps: int = 20
    """of training in a turn"""


def questions(count: int, seed: int = 0) -> list[str]:
    """Random characters, frequent ones more often, in questions of realistic lengths."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(2.45, 0.6, count).astype(int), 2, 100)
    places = np.minimum(rng.zipf(1.3, lengths.sum()), len(CHARACTERS)) - 1
    text = "".join(CHARACTERS[place] for place in places)
    return [text[end - length : end] for end, length in zip(np.cumsum(lengths), lengths, strict=True)]


def rate(step: Callable[[int], int], steps: int, turns: int) -> tuple[float, float, float]:
    """(median, least, most) of what `step(i)` does a second, over the turns."""
    for i in range(3):
        step(i)
    found = []
    for turn in range(turns):
        start, done = time.perf_counter(), 0
        for i in range(steps):
            done += step(3 + turn * steps + i)
        found.append(done / (time.perf_counter() - start))
    return statistics.median(found), min(found), max(found)


def show(name: str, found: tuple[float, float, float], base: float | None) -> None:
    ratio = f"{found[0] / base:.2f}" if base else ""
    print(f"| {name} | {found[0]:,.0f} ({found[1]:,.0f} to {found[2]:,.0f}) | {ratio} |", flush=True)


def keras_rate(settings: Settings, ids: torch.Tensor, labels: torch.Tensor) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "ids.npz"
        np.savez(data, train=ids.numpy(), labels=labels.numpy(), pool=ids[:1].numpy(), num_ids=len(CHARACTERS) + 2)
        script = str(Path(__file__).with_name("keras_similarity.py"))
        command = [settings.keras_python, script, str(data), folder, "--steps", str(settings.steps)]
        found = []
        for _ in range(settings.turns):
            said = subprocess.run(
                command, env=with_threads(settings.threads), capture_output=True, text=True, check=True
            ).stdout
            found.append(float(said.split()[-2]))
    return statistics.median(found), min(found), max(found)


def article_step(
    dataset: LabelledSentences, classes: int, padding: str, bf16: bool, sample_rate: float
) -> Callable[[int], int]:
    """A step of `similarity.train` with the article's network: its batch, loss, optimiser and projection."""
    torch.manual_seed(0)
    encoder = SentenceEncoder(Vocabulary(CHARACTERS), Architecture(padding=padding))  # type: ignore[arg-type]
    chunk_size = 8192 if sample_rate == 1 else None  # a sample of these sizes has nothing to save
    head = MarginSoftmaxHead(
        128,
        classes,
        "am_softmax",
        chunk_size,
        unit_columns="projected",
        sample_rate=sample_rate,
        scale=30.0,
        margin=0.35,
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], 1e-3, eps=1e-7, fused=True)
    batches = dataset.order(0, BATCH, padding == "mask")(0).split(BATCH)

    def step(i: int) -> int:
        ids, labels = dataset.__getitems__(batches[i % len(batches)].tolist())
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = head(encoder(ids), labels)
        optimizer.zero_grad()
        loss.backward()
        loss.item()  # the training loop reads it
        optimizer.step()
        head.project_()
        return BATCH

    return step


def our_step(groups: Groups, batch: int = 512) -> Callable[[int], int]:
    """A step of our recipe: pairs of a batch, n-gram bag, sparse Adagrad."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(CHARACTERS)
    encoder, dataset = SentenceEncoder(vocabulary, BAG), GroupPairs(groups, vocabulary, 64, 0)
    optimizer = RowAdagrad(encoder.parameters(), 0.5)
    batches = dataset.order(0, torch.empty(0), 0)(0).split(batch)

    def step(i: int) -> int:
        (ids,) = dataset.__getitems__(batches[i % (len(batches) - 1)].tolist())
        loss = in_batch_terms(encoder(ids), am_softmax, {"scale": 16.0, "margin": 0.2})["loss"]
        optimizer.zero_grad()
        loss.backward()
        loss.item()
        optimizer.step()
        return 2 * batch

    return step


def train(settings: Settings) -> None:
    texts = questions(2 * settings.classes)
    groups = Groups([texts[i : i + 2] for i in range(0, len(texts), 2)])
    dataset = LabelledSentences(groups, Vocabulary(CHARACTERS), 32)
    print(f"| batch {BATCH}, {settings.classes:,} classes | sentences/s | x Keras |\n|---|---|---|")
    base = None
    if settings.keras_python:
        first = torch.arange(settings.steps * BATCH + 4 * BATCH) * 7 % len(dataset)
        ids, labels = dataset.__getitems__(first.tolist())
        labels[-1] = settings.classes - 1  # Keras takes the number of classes from the labels
        found = keras_rate(settings, torch.nn.functional.pad(ids, (0, 32 - ids.shape[1])), labels)
        base = found[0]
        show("Keras 3, TensorFlow", found, base)
    for name, arguments in {
        "ours, --padding original": ("original", False, 1.0),
        "ours": ("mask", False, 1.0),
        "ours, --precision bf16": ("mask", True, 1.0),
        "ours, --sample-rate 0.2 --chunk-size 0": ("mask", False, 0.2),
        "ours, --sample-rate 0.2 --chunk-size 0 --precision bf16": ("mask", True, 0.2),
        "ours, --sample-rate 0.1 --chunk-size 0": ("mask", False, 0.1),
        "ours, --sample-rate 0.1 --chunk-size 0 --precision bf16": ("mask", True, 0.1),
        "ours, --sample-rate 0.05 --chunk-size 0 --precision bf16": ("mask", True, 0.05),
    }.items():
        show(name, rate(article_step(dataset, settings.classes, *arguments), settings.steps, settings.turns), base)
    show("our recipe (no classes, batch 1024)", rate(our_step(groups), settings.steps, settings.turns), base)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak memory of this process, over all of ours: {peak:.2f} GB")


def encode(settings: Settings) -> None:
    texts = questions(20_000)
    print("| encoder | sentences/s | |\n|---|---|---|")
    for name, architecture in (("article's GRU", Architecture()), ("our n-gram bag, 512", BAG)):
        encoder = SentenceEncoder(Vocabulary(CHARACTERS), architecture).eval()

        def step(_: int, encoder: SentenceEncoder = encoder) -> int:
            return len(encoder.encode(texts))

        show(name, rate(step, 1, settings.turns), None)


def search(settings: Settings) -> None:
    torch.manual_seed(0)
    vectors, queries = normalize(torch.randn(100_000, 128), dim=1), normalize(torch.randn(256, 128), dim=1)
    alive = np.ones(len(vectors), bool)
    exact = (queries @ vectors.T).topk(10, dim=1).indices
    print(
        "| 100,000 x 128, 10 nearest, 256 at a time | microseconds a query | same neighbours | MB |\n|---|---|---|---|"
    )

    def time_of(name: str, ask: Callable[[], tuple[torch.Tensor, torch.Tensor]], size: float) -> None:
        same = float((ask()[1] == exact).float().mean())
        seconds = []
        for _ in range(settings.turns):
            start = time.perf_counter()
            ask()
            seconds.append((time.perf_counter() - start) / len(queries) * 1e6)
        spread = f"{statistics.median(seconds):.0f} ({min(seconds):.0f} to {max(seconds):.0f})"
        print(f"| {name} | {spread} | {same:.4f} | {size / 1e6:.1f} |", flush=True)

    for storage in ("float32", "float16", "int8"):
        stored = Vectors.store(vectors.numpy(), storage)  # type: ignore[arg-type]
        time_of(storage, lambda stored=stored: stored.search(queries, 10, alive), stored.nbytes)  # type: ignore[misc]
    try:
        import faiss
    except ImportError:
        print("faiss is not installed: pip install faiss-cpu", file=sys.stderr)
        return
    faiss.omp_set_num_threads(settings.threads)
    flat = FaissVectors(vectors.numpy())
    time_of(f"FAISS {faiss.__version__} flat", lambda: flat.search(queries, 10), vectors.nbytes)


def main(argv: Sequence[str] | None = None) -> None:
    settings = tyro.cli(Settings, args=argv)
    torch.set_num_threads(settings.threads)
    {"train": train, "encode": encode, "search": search}[settings.what](settings)


if __name__ == "__main__":
    run_main(main)
