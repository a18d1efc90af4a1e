"""Three pictures of a lexicon: Zipf's law, information against size, mutual information against frequency."""

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from entropy.characters import word_characters
from entropy.corpus import Corpus, num_workers
from entropy.counting import unpack_pair
from entropy.discoverer import WordDiscoverer, count_pairs
from entropy.information import description_length, information, pmi
from entropy.segmenter import UnigramSegmenter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SAMPLE_LINES = 20_000
_NUM_SIZES = 10


def draw(discoverer: WordDiscoverer, corpus: Corpus, folder: Path) -> list[Path]:
    """Write zipf.png, information.png and pmi.png to `folder`; returns their paths."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, plot in (("zipf", _zipf), ("information", _information), ("pmi", _pmi)):
        figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
        plot(axes, discoverer, corpus)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=150)
        pyplot.close(figure)
    return paths


def _zipf(axes: "Axes", discoverer: WordDiscoverer, corpus: Corpus) -> None:
    counts = np.sort(np.fromiter(discoverer.words_.values(), np.int64))[::-1]
    axes.loglog(np.arange(1, len(counts) + 1), counts)
    axes.set(xlabel="rank of word", ylabel="count", title="Zipf")


def _information(axes: "Axes", discoverer: WordDiscoverer, corpus: Corpus) -> None:
    """The first lines of the corpus, segmented with ever more of the most frequent words."""
    sample = Corpus(list(islice(corpus.lines(), _SAMPLE_LINES)))
    singles = [word for word in discoverer.words_ if len(word) == 1]
    longer = [word for word in discoverer.words_ if len(word) > 1]
    sizes = sorted({0, *np.geomspace(1, max(1, len(longer)), _NUM_SIZES).astype(int).tolist()})
    per_character, description = [], []
    for size in sizes:
        words = {word: discoverer.words_[word] for word in (*singles, *longer[:size])}
        segmenter = UnigramSegmenter(words, numbers=discoverer.chosen_method == "mdl")
        counted = {word: count for word, count in segmenter.count(sample, 1).items() if count}
        characters = max(1, sum(len(word) * count for word, count in counted.items()))
        per_character.append(information(counted).per_character)
        description.append(description_length(counted).total / characters)
    axes.plot(sizes, per_character, marker="o", label="L = H / l")
    axes.plot(sizes, description, marker="s", label="description length, lexicon included")
    axes.set_xscale("symlog")
    axes.set(xlabel="words of two characters and more", ylabel="bits per character", title="Information")
    axes.legend()


def _pmi(axes: "Axes", discoverer: WordDiscoverer, corpus: Corpus) -> None:
    counts = getattr(discoverer, "pair_counts_", None)
    if counts is None:
        counts = count_pairs(corpus, word_characters(discoverer.alphabet), num_workers(discoverer.workers)).result()
    singles, keys, pairs = counts
    first, second = unpack_pair(keys)
    total = singles.sum()
    values = pmi(pairs / pairs.sum(), singles[first] / total, singles[second] / total)
    axes.hexbin(pairs, values, xscale="log", bins="log", gridsize=60, mincnt=1)
    axes.axhline(discoverer.thresholds[1], color="red", linewidth=1)
    axes.set(xlabel="count of pair", ylabel="PMI (nats)", title="Neighbouring characters")
