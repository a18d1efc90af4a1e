r"""Slots: what fills the placeholders of templates, and which slots take the same words.

Su 2018 (archives/5577) announces words that fill the same slot as equivalence classes and leaves it there. Here the
fillers are read off parse trees, every slot becomes a vector of positive pointwise mutual information with its fillers,
and slots with like vectors form a class.

    python -m entropy.templates corpus.txt --words words.tsv --slots slots.tsv     # finds and writes them
    python -m entropy.slots slots.tsv 苹果                                          # the slots that a word fills
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from tqdm import tqdm

from entropy.commands import Parser, positive, run, table
from entropy.errors import UserError
from entropy.lexicon import atomic_write, open_text
from entropy.parser import TemplateParser
from entropy.template_file import format_template, parse_template
from entropy.template_node import Template

Slot = tuple[Template, int]  # a template and which of its placeholders, from 0
Filler = tuple[str, ...]
_HEADER = ("template", "slot", "class", "filler", "count")


class SlotClasses:
    """Fillers of slots with their counts, and the class of each slot.

    Args:
        fillers: slot -> filler (words) -> count.
        labels: slot -> class, from 0; a slot without a class is left out.
    """

    def __init__(self, fillers: Mapping[Slot, Counter[Filler]], labels: Mapping[Slot, int]):
        self.fillers = dict(fillers)
        self.labels = dict(labels)

    def members(self, label: int) -> list[Slot]:
        """The slots of a class, those with most fillers first."""
        slots = [slot for slot, own in self.labels.items() if own == label]
        return sorted(slots, key=lambda slot: -self.fillers[slot].total())

    def words(self, label: int) -> Counter[Filler]:
        """What fills the slots of a class, counts added up."""
        return sum((self.fillers[slot] for slot in self.members(label)), Counter())

    def slots_of(self, filler: str | Filler) -> Counter[Slot]:
        """The slots that a word (or several, as a tuple) fills, with counts."""
        key = (filler,) if isinstance(filler, str) else tuple(filler)
        return Counter({slot: counts[key] for slot, counts in self.fillers.items() if key in counts})

    def substitutes(self, slot: Slot, other: Slot) -> list[tuple[Filler, int, int]]:
        """Fillers of one slot that also fill another, with both counts: the most frequent of the rarer counts first."""
        mine, theirs = self.fillers[slot], self.fillers[other]
        both = [(filler, mine[filler], theirs[filler]) for filler in mine.keys() & theirs.keys()]
        return sorted(both, key=lambda row: (-min(row[1:]), row[0]))

    def substitutability(self, slot: Slot, other: Slot) -> float:
        """The share of the fillings of one slot whose filler also fills another: 1 if it can always stand there."""
        shared = sum(count for _, count, _ in self.substitutes(slot, other))
        return shared / self.fillers[slot].total()

    def save(self, path: str | PathLike) -> None:
        """Write lines of template, slot, class (empty if none), filler, count, separated by tabs."""
        with atomic_write(path) as file:
            file.write("\t".join(_HEADER) + "\n")
            for slot, counts in self.fillers.items():
                head = [format_template(slot[0]), str(slot[1]), str(self.labels.get(slot, ""))]
                for filler, count in counts.most_common():
                    file.write("\t".join([*head, format_template(filler), str(count)]) + "\n")

    @classmethod
    def load(cls, path: str | PathLike) -> SlotClasses:
        """Read what `save` wrote."""
        fillers: dict[Slot, Counter[Filler]] = {}
        labels: dict[Slot, int] = {}
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                cells = line.rstrip("\r\n").split("\t")
                if number == 1 and tuple(cells) == _HEADER:
                    continue
                try:
                    template, index, label, text, count = cells
                    slot, filler = (parse_template(template), int(index)), parse_template(text)
                    if None in filler or int(count) < 1 or not 0 <= slot[1] < slot[0].count(None):
                        raise ValueError
                    fillers.setdefault(slot, Counter())[filler] += int(count)  # type: ignore[index]
                    if label:
                        labels[slot] = int(label)
                except ValueError:
                    expected = "template, slot, class, filler and count, separated by tabs"
                    raise UserError(f"{path}, line {number}: {line.rstrip()!r:.60}: expected {expected}") from None
        if not fillers:
            raise UserError(f"{path}: no slots in it; `python -m entropy.templates --slots` writes them")
        return cls(fillers, labels)


def slot_fillers(
    parser: TemplateParser, sentences: Iterable[Sequence[str]], *, max_words: int = 2, progress: bool = False
) -> dict[Slot, Counter[Filler]]:
    """What fills each slot in the best trees of the sentences (words each), fillers of `max_words` words at most."""
    fillers: dict[Slot, Counter[Filler]] = {}
    for words in tqdm(sentences, "parsing", unit="clause", delay=1, disable=None if progress else True):
        for node in parser.parse(words).walk():
            if node.template is None:
                continue
            for index, block in enumerate(node.children):
                if 1 <= block.end - block.start <= max_words:
                    fillers.setdefault((node.template, index), Counter())[block.words] += 1
    return fillers


def slot_classes(
    parser: TemplateParser,
    sentences: Iterable[Sequence[str]],
    *,
    num_classes: int = 30,
    min_count: int = 20,
    max_words: int = 2,
    dim: int = 50,
    seed: int = 0,
    progress: bool = False,
) -> SlotClasses:
    r"""Group slots by the words they take.

    The vector of a slot s holds max(0, log p(s, f) / (p(s) p(f))) for its fillers f, reduced by a truncated singular
    value decomposition, at unit length; classes are clusters of k-means.

    Args:
        parser: finds the templates in the sentences.
        sentences: words of each.
        num_classes: how many clusters; fewer if there are fewer distinct vectors.
        min_count: slots with fewer fillings keep their fillers but get no class.
        max_words: longer blocks are structure, not fillers.
        dim: dimensions left by the decomposition.
        seed: of decomposition and clustering.
        progress: show a bar.
    """
    from sklearn.cluster import KMeans  # here: scikit-learn takes a second to import
    from sklearn.decomposition import TruncatedSVD
    from sklearn.preprocessing import normalize

    if num_classes < 1 or min_count < 1 or dim < 1:
        raise UserError(f"num_classes {num_classes}, min_count {min_count}, dim {dim}: expected 1 or more of each")
    fillers = slot_fillers(parser, sentences, max_words=max_words, progress=progress)
    slots = [slot for slot, counts in fillers.items() if counts.total() >= min_count]
    if not slots:
        return SlotClasses(fillers, {})
    vectors = ppmi([fillers[slot] for slot in slots])
    if min(vectors.shape) > dim:
        vectors = TruncatedSVD(dim, random_state=seed).fit_transform(vectors)
    vectors = normalize(vectors)
    found = KMeans(min(num_classes, _num_distinct(vectors)), n_init=5, random_state=seed).fit_predict(vectors)
    return SlotClasses(fillers, dict(zip(slots, found.tolist(), strict=True)))


def _num_distinct(vectors: Any) -> int:
    """How many rows differ by more than rounding; k-means warns when asked for more clusters."""
    from scipy.sparse import csr_matrix

    table = csr_matrix(vectors, copy=True)
    table.data = table.data.round(6)
    table.eliminate_zeros()
    table.sort_indices()
    return len({(row.indices.tobytes(), row.data.tobytes()) for row in table})


def ppmi(rows: Sequence[Counter[Filler]]) -> Any:
    """Positive pointwise mutual information of rows and their keys, nats: sparse (rows, distinct keys)."""
    from scipy.sparse import csr_matrix

    columns = {key: place for place, key in enumerate(dict.fromkeys(key for row in rows for key in row))}
    places = np.array([columns[key] for row in rows for key in row], np.int64)
    counts = np.array([count for row in rows for count in row.values()], float)
    ends = np.cumsum([0, *map(len, rows)])
    table = csr_matrix((counts, places, ends), (len(rows), len(columns)))
    in_row = np.repeat(np.asarray(table.sum(axis=1)).ravel(), np.diff(ends))
    in_column = np.asarray(table.sum(axis=0)).ravel()[places]
    table.data = np.maximum(0.0, np.log(counts * counts.sum() / (in_row * in_column)))
    table.eliminate_zeros()
    return table


def clauses(texts: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """The clauses of segmented texts: runs of words that hold a letter, digit or ideograph."""
    from entropy.characters import word_characters

    is_word = word_characters()
    for words in texts:
        clause: list[str] = []
        for word in words:
            if any(is_word[ord(character)] for character in word):
                clause.append(word)
            elif clause:
                yield clause
                clause = []
        if clause:
            yield clause


def main(argv: Sequence[str] | None = None) -> list[tuple[Slot, int]]:
    """Print the slots that a word fills, and how far each one's fillers can stand in the most frequent of them."""
    parser = Parser("python -m entropy.slots", __doc__)
    parser.add_argument("slots", help="file that entropy.templates --slots wrote")
    parser.add_argument("word", nargs="+", help="a word, or the words of a longer filler")
    parser.add_argument("--top", type=positive, default=20, help="slots to print (default 20)")
    options = parser.parse_args(argv)
    slots = SlotClasses.load(options.slots)
    found = slots.slots_of(tuple(options.word)).most_common(options.top)
    if not found:
        raise UserError(f"{options.slots}: no slot holds {' '.join(options.word)!r}")
    rows: list[tuple[object, ...]] = [("template", "slot", "count", "class", "also fill the first slot")]
    for slot, count in found:
        share = f"{slots.substitutability(slot, found[0][0]):.0%}"
        rows.append((format_template(slot[0]), slot[1] + 1, count, slots.labels.get(slot, "-"), share))
    print(table(rows))
    return found


if __name__ == "__main__":
    run(main)
