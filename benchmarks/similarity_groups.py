r"""The sentence experiment on real groups (Su 2018, archives/5743): baselines, the article's losses, Keras, our recipe.

    python benchmarks/similarity_groups.py baselines --data-root DATA       # character tf-idf, word vectors
    python benchmarks/similarity_groups.py faithful --data-root DATA        # three losses, three seeds
    python benchmarks/similarity_groups.py keras --data-root DATA --keras-python PYTHON    # with tensorflow
    python benchmarks/similarity_groups.py ours --data-root DATA            # three seeds
    python benchmarks/similarity_groups.py held_out --data-root DATA        # trained on three sources, asked the fourth
    python benchmarks/similarity_groups.py ablation --data-root DATA        # on validation groups

DATA/pairs holds bq, afqmc, atec and simclue as .tsv.xz (`s1 TAB s2 TAB label`). Of the groups 85 % train, 5 % choose
the epoch, 10 % are asked once; `held_out` trains on three files and asks every group of the fourth that shares no
sentence with them. A run that is finished with the same settings is not run again. Prints a row a run.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import scipy.sparse
import tyro
from finished import finished
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize as unit_rows

from similarity import SentenceEncoder, Vocabulary, train
from similarity.data import load_split
from similarity.evaluate import pool_scores, unseen
from similarity.groups import Groups, Split
from similarity.readers import load
from similarity.retrieval import retrieve
from trainer import parse, run_main

SOURCES = ("bq", "afqmc", "atec", "simclue")
SHOWN = ("top1", "top5", "top10", "mrr", "map_r")
LOSSES = ("normalized_softmax", "am_softmax", "simpler_a_softmax")
ARTICLE = ("--padding", "original", "--precision", "bf16")
CLASSES = ("--objective", "classes", "--sample-rate", "0.05", "--margin", "0.35", "--scale", "30")
PRETRAINED = "pretrained on raw text"
ABLATION: dict[str, tuple[str, ...]] = {
    "our recipe": (),
    "dim 128": ("--dim", "128"),
    "dim 256": ("--dim", "256"),
    "no margin": ("--margin", "0"),
    "scale 30": ("--scale", "30"),
    "no hard strangers": ("--neighbours", "0"),
    "n-grams dropped 0.2": ("--ngram-drop", "0.2"),
    "characters alone": ("--order", "1"),
    "trigrams too": ("--order", "3"),
    "32,768 buckets": ("--buckets", "32768"),
    "batch 128": ("--batch-size", "128"),
    "classes, not pairs": CLASSES,
    "classes, 3 sub-centres": (*CLASSES, "--sub-centers", "3"),
    "GRU both ways, mean": ("--hidden", "128", "--bidirectional", "--pooling", "mean"),
    PRETRAINED: ("--sentences", "raw", "--ngram-drop", "0.3", "--epochs", "1", "--final", "validation"),  # first
}


@dataclass(frozen=True)
class Settings:
    """Retrieval scores on real groups."""

    what: Annotated[Literal["baselines", "faithful", "keras", "ours", "held_out", "ablation"], tyro.conf.Positional]
    data_root: Path = Path("data")
    """folder that holds pairs/"""
    out: Path = Path("runs")
    """folder of the runs"""
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 25
    """of the article's network, here and under Keras"""
    only: str = ""
    """just the rows with this in their name"""
    keras_python: str = sys.executable
    """python of an environment with keras and tensorflow"""


def files(settings: Settings, sources: Iterable[str] = SOURCES) -> list[Path]:
    return [settings.data_root / "pairs" / f"{name}.tsv.xz" for name in sources]


def show(name: str, values: dict[str, float], extra: str = "") -> None:
    print(f"| {name} | " + " | ".join(f"{values[key]:.4f}" for key in SHOWN) + f" | {extra} |", flush=True)


def run(settings: Settings, name: str, flags: Sequence[str], data: Sequence[Path]) -> Path:
    """Train, unless this run is finished with the same settings; returns its folder."""
    folder = settings.out / "similarity" / name
    flags = [*flags, "--data", *map(str, data), "--out", str(settings.out), "--name", name, "--overwrite"]
    if not finished(folder, parse(train.Settings, flags, "", train.RECIPES)):
        train.main(flags)
    return folder


def row_of(folder: Path, name: str) -> None:
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    extra = f"epoch {content['metrics']['best_epoch']}, {content['seconds'] / 60:.1f} min, {content['commit'][:7]}"
    show(name, content["metrics"], extra)


def character_tfidf(parts: Split, sentences: Sequence[str]) -> scipy.sparse.csr_matrix:
    """Unit rows of character 1-2-grams, fitted on the training part and its single sentences."""
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 2), sublinear_tf=True)
    vectorizer.fit([*parts.train.sentences, *parts.train.singles])
    return vectorizer.transform(sentences)


def word_vectors(parts: Split, sentences: Sequence[str], dim: int = 300, window: int = 5) -> np.ndarray:
    """Weighted means of word vectors (Arora, Liang and Ma 2017), those from co-occurrence (Levy and Goldberg 2014).

    Words by jieba; positive PMI in a window over the training part and its single sentences, its first `dim` singular
    vectors; weights 1e-3 / (1e-3 + p), first common direction taken out.
    """
    import jieba

    texts = [list(jieba.cut(text)) for text in [*parts.train.sentences, *parts.train.singles]]
    counts: dict[str, int] = {}
    for words in texts:
        for word in words:
            counts[word] = counts.get(word, 0) + 1
    kept = {word: i for i, word in enumerate(sorted(w for w, c in counts.items() if c >= 3))}
    numbers = [[kept[w] for w in words if w in kept] for words in texts]
    near = [(a, b) for n in numbers for i, a in enumerate(n) for b in n[i + 1 : i + 1 + window]]
    first, second = np.array(near).T
    shape = (len(kept), len(kept))
    pairs = scipy.sparse.coo_matrix((np.ones(len(first)), (first, second)), shape).tocsr()
    pairs = (pairs + pairs.T).tocoo()
    total, margin = pairs.sum(), np.asarray(pairs.sum(axis=1)).ravel()
    pmi = np.log(pairs.data * total / (margin[pairs.row] * margin[pairs.col]))
    positive = pmi > 0
    ppmi = scipy.sparse.coo_matrix((pmi[positive], (pairs.row[positive], pairs.col[positive])), shape).tocsr()
    svd = TruncatedSVD(dim, random_state=0).fit(ppmi)
    vectors = svd.components_.T * np.sqrt(svd.singular_values_)
    every = sum(counts.values())
    weights = np.array([1e-3 / (1e-3 + counts[word] / every) for word in kept])
    weighted = np.vstack([vectors * weights[:, None], np.zeros(dim)])  # the last row: a sentence of unknown words
    rows = np.stack([weighted[[kept[w] for w in jieba.cut(s) if w in kept] or [-1]].mean(axis=0) for s in sentences])
    common = TruncatedSVD(1, random_state=0).fit(rows).components_
    return unit_rows(rows - rows @ common.T @ common).astype(np.float32)


BASELINES: dict[str, Callable[[Split, Sequence[str]], Any]] = {
    "character 1-2-gram tf-idf": character_tfidf,
    "word vectors (PPMI, SIF)": word_vectors,
}


def baselines(settings: Settings) -> None:
    parts = load_split(files(settings), 0.05, 0.1)
    for name, vectors in BASELINES.items():
        if settings.only in name:
            show(name, retrieve(vectors(parts, parts.test.sentences), parts.test.labels).scores(), "test")
            show(name, retrieve(vectors(parts, parts.validation.sentences), parts.validation.labels).scores(), "valid.")


def faithful(settings: Settings) -> None:
    for seed, loss in product(settings.seeds, LOSSES):
        name = f"faithful-{loss}-seed{seed}"
        if settings.only in name:
            flags = [*ARTICLE, "--epochs", str(settings.epochs), "--loss", loss, "--seed", str(seed)]
            row_of(run(settings, name, flags, files(settings)), name)


def keras(settings: Settings) -> None:
    """The original's network under Keras on the same split; the epoch is chosen on the same validation groups."""
    parts = load_split(files(settings), 0.05, 0.1)
    vocabulary = Vocabulary.fit([*parts.train.sentences, *parts.train.singles], 5)
    pool = [*parts.validation.sentences, *parts.test.sentences]
    folder = settings.out / "similarity" / "keras"
    folder.mkdir(parents=True, exist_ok=True)

    def ids(sentences: Sequence[str]) -> np.ndarray:
        found = vocabulary.encode(sentences, 32).numpy()
        return np.pad(found, ((0, 0), (0, 32 - found.shape[1])))

    np.savez(folder / "ids.npz", train=ids(parts.train.sentences), labels=parts.train.labels, pool=ids(pool),
             num_ids=len(vocabulary))  # fmt: skip
    script = Path(__file__).with_name("keras_similarity.py")
    for seed, loss in product(settings.seeds, LOSSES):
        name = f"keras {loss} seed{seed}"
        if settings.only not in name:
            continue
        found = folder / f"{loss}-seed{seed}-{settings.epochs}epochs.npz"
        if not found.exists():
            command = [settings.keras_python, str(script), str(folder / "ids.npz"), str(found), "--loss", loss]
            options = ["--epochs", str(settings.epochs), "--seed", str(seed)]
            subprocess.run([*command, *options], env={**os.environ, "KERAS_BACKEND": "tensorflow"}, check=True)
        with np.load(found, allow_pickle=False) as content:
            vectors, seconds = content["vectors"], content["seconds"]
        count = len(parts.validation.sentences)
        chosen = max(
            range(len(vectors)),
            key=lambda i: retrieve(vectors[i][:count], parts.validation.labels).scores()["top1"],
        )
        values = retrieve(vectors[chosen][count:], parts.test.labels).scores()
        show(name, values, f"epoch {chosen + 1}, {seconds.sum() / 60:.1f} min")


def ours(settings: Settings) -> None:
    for seed in settings.seeds:
        name = f"ours-seed{seed}"
        row_of(run(settings, name, ["--recipe", "ours", "--seed", str(seed)], files(settings)), name)


def held_out(settings: Settings) -> None:
    """Each source in turn is asked and not trained on; the baseline's idf is of the training files too."""
    for source in SOURCES:
        if settings.only not in source:
            continue
        others = files(settings, [name for name in SOURCES if name != source])
        parts = load_split(others, 0.05, 0.1, progress=False)
        whole = load(others)
        pool = unseen(load(files(settings, [source])), whole)
        pool = Groups(pool.groups)
        print(f"{source}: {len(pool)} groups of {len(pool.sentences)} sentences")
        vectors = character_tfidf(parts, pool.sentences)
        show(f"{source} tf-idf", retrieve(vectors, pool.labels).scores())
        for seed in settings.seeds:
            flags = ["--recipe", "ours", "--seed", str(seed), "--final", "validation"]
            folder = run(settings, f"without-{source}-seed{seed}", flags, others)
            show(f"{source} ours seed{seed}", pool_scores(SentenceEncoder.load(folder), pool))


def ablation(settings: Settings) -> None:
    for name, flags in ABLATION.items():
        if settings.only in name:
            if name == PRETRAINED:
                flags = ("--start", str(run(settings, "raw", ("--recipe", "ours", *flags), files(settings))))
            flags = ("--recipe", "ours", "--final", "validation", *flags)
            row_of(run(settings, f"ablation-{name.replace(' ', '-').replace(',', '')}", flags, files(settings)), name)


COMMANDS = {f.__name__: f for f in (baselines, faithful, keras, ours, held_out, ablation)}


def main(argv: Sequence[str] | None = None) -> None:
    settings = tyro.cli(Settings, args=argv)
    print("| | " + " | ".join(SHOWN) + " | |")
    COMMANDS[settings.what](settings)


if __name__ == "__main__":
    run_main(main)
