r"""Groups of sentences that mean the same: made from labelled pairs, checked, and split whole.

A sentence is the same as another if `normalize` makes them equal; the first spelling is kept.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np

from similarity.text import normalize
from trainer import UserError


@dataclass(frozen=True)
class Groups(Sequence[list[str]]):
    """A sequence of groups, each a list of sentences; no sentence is in two of them.

    Args:
        groups: the groups.
        singles: sentences with no known synonym.
        negatives: pairs that someone labelled as different in meaning.
        contradictions: negative pairs whose sentences the positives had joined; their groups were dropped.
        dropped: sentences of those groups.
        duplicates: times that a group file named a sentence again, in the same group or in another one.
        across: of these, in another group; the first group keeps it.
        disputed: the pairs that dropped groups consist of, labels and all; `merged` needs them.
    """

    groups: list[list[str]]
    singles: list[str] = field(default_factory=list)
    negatives: list[tuple[str, str]] = field(default_factory=list)
    contradictions: int = 0
    dropped: int = 0
    duplicates: int = 0
    across: int = 0
    disputed: list[tuple[str, str, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.groups)

    @overload
    def __getitem__(self, index: int) -> list[str]: ...
    @overload
    def __getitem__(self, index: slice) -> "list[list[str]]": ...
    def __getitem__(self, index: int | slice) -> "list[str] | list[list[str]]":
        return self.groups[index]

    def __iter__(self) -> Iterator[list[str]]:
        return iter(self.groups)

    @property
    def sentences(self) -> list[str]:
        """Of all groups, group by group."""
        return [sentence for group in self.groups for sentence in group]

    @property
    def labels(self) -> np.ndarray:
        """The group of each of `sentences`."""
        return np.repeat(np.arange(len(self.groups)), [len(group) for group in self.groups])

    def sha256(self) -> str:
        """Of the sentences in their groups, whatever order both are in."""
        groups = sorted("\t".join(sorted(map(normalize, group))) for group in self.groups)
        return hashlib.sha256("\n".join(groups).encode("utf-8", "surrogatepass")).hexdigest()

    def summary(self) -> str:
        """One line for the user: sizes, and what was wrong."""
        parts = [f"{len(self):,} groups of {len(self.sentences):,} sentences, {len(self.singles):,} alone"]
        if self.contradictions:
            parts.append(f"{self.contradictions} contradictions: {self.dropped} sentences of their groups dropped")
        if self.duplicates:
            parts.append(f"{self.duplicates} repeated sentences dropped, {self.across} of them in another group")
        return "; ".join(parts)


def groups_from_pairs(pairs: Iterable[tuple[str, str, int]]) -> Groups:
    """Connected components of the pairs labelled 1, in the order of their first sentence.

    A negative pair inside a component is a contradiction. Which of the component's positives is wrong cannot be
    told, so the component is dropped whole, and the contradiction counted.

    Args:
        pairs: (first, second, label), label 1 for the same meaning and 0 for another.

    Raises:
        UserError: another label, or an empty sentence; the pair is named by its number, from 1.
    """
    texts: dict[str, str] = {}  # normalised -> the first spelling
    parents: dict[str, str] = {}
    negatives = []

    def root(key: str) -> str:
        while parents[key] != key:
            parents[key] = parents[parents[key]]  # halve the path: near-linear over all
            key = parents[key]
        return key

    for number, (first, second, label) in enumerate(pairs, 1):
        keys = []
        for text in (first, second):
            key = normalize(text)
            if not key:
                raise UserError(f"pair {number}: an empty sentence ({first!r}, {second!r})")
            texts.setdefault(key, text.strip())
            parents.setdefault(key, key)
            keys.append(key)
        if label not in (0, 1):
            raise UserError(f"pair {number}: label {label!r}; expected 1 (the same meaning) or 0 (another)")
        if label == 1:
            parents[root(keys[1])] = root(keys[0])
        else:
            negatives.append((keys[0], keys[1]))
    members: dict[str, list[str]] = defaultdict(list)
    for key in texts:
        members[root(key)].append(key)
    parted = [(first, second, 0) for first, second in negatives if first != second and root(first) == root(second)]
    dropped = {root(first): members[root(first)] for first, _, _ in parted}
    joined = [(group[0], other, 1) for group in dropped.values() for other in group[1:]]
    kept = {name: group for name, group in members.items() if name not in dropped}
    return Groups(
        groups=[[texts[key] for key in group] for group in kept.values() if len(group) > 1],
        singles=[texts[group[0]] for group in kept.values() if len(group) == 1],
        negatives=[(texts[a], texts[b]) for a, b in negatives if not {root(a), root(b)} & dropped.keys()],
        contradictions=len(parted),
        dropped=sum(map(len, dropped.values())),
        disputed=[(texts[a], texts[b], label) for a, b, label in [*joined, *parted]],
    )


def groups_from_rows(rows: Iterable[tuple[str, str]]) -> Groups:
    """Groups from (group, sentence) rows, in the order of their first sentence; a repeated sentence stays where it
    first was.

    A sentence in two groups breaks an evaluation by retrieval: its twin comes first and is of another group.

    Raises:
        UserError: an empty sentence; the row is named by its number, from 1.
    """
    members: dict[str, list[str]] = {}
    place: dict[str, str] = {}  # normalised sentence -> its group
    duplicates = across = 0
    for number, (name, text) in enumerate(rows, 1):
        key = normalize(text)
        if not key:
            raise UserError(f"row {number}: an empty sentence in group {name!r}")
        if key in place:
            duplicates += 1
            across += place[key] != name
            continue
        place[key] = name
        members.setdefault(name, []).append(text.strip())
    return Groups(
        groups=[group for group in members.values() if len(group) > 1],
        singles=[group[0] for group in members.values() if len(group) == 1],
        duplicates=duplicates,
        across=across,
    )


def merged(parts: Sequence[Groups]) -> Groups:
    """Several sets of groups as one: groups that share a sentence become one, for each vouches for its own.

    A negative pair that the union joined is a contradiction as in `groups_from_pairs`, and so is one of a single set,
    whatever another set says of its sentences.
    """
    if len(parts) == 1:
        return parts[0]
    pairs: list[tuple[str, str, int]] = []
    for part in parts:
        pairs += [(group[0], other, 1) for group in part.groups for other in group[1:]]
        pairs += [(sentence, sentence, 1) for sentence in part.singles]  # a self-loop: there, and joined to nothing
        pairs += [(first, second, 0) for first, second in part.negatives]
        pairs += part.disputed
    whole = groups_from_pairs(pairs)
    sums = {name: sum(getattr(part, name) for part in parts) for name in ("duplicates", "across")}
    return replace(whole, **sums)


@dataclass(frozen=True)
class Split:
    """Train, validation and test parts that share no sentence."""

    train: Groups
    validation: Groups
    test: Groups

    def sha256(self) -> str:
        """Of which sentence is where, the same on every machine."""
        parts = (self.train, self.validation, self.test)
        return hashlib.sha256(" ".join(part.sha256() for part in parts).encode()).hexdigest()


def split(groups: Groups, validation_share: float = 0.05, test_share: float = 0.1) -> Split:
    """Split by group, never by sentence: a group's place follows from the hash of its first sentence alone.

    A group more or less in the file moves at most one other across each border. Singles are split by the same rule;
    negative pairs stay where both of their sentences are.

    Raises:
        UserError: a part would have no group.
    """

    def parts(items: list, key) -> list[list]:  # type: ignore[no-untyped-def]
        order = sorted(items, key=lambda item: hashlib.sha256(key(item).encode("utf-8", "surrogatepass")).digest())
        test = round(test_share * len(order))
        validation = test + round(validation_share * len(order))
        return [order[validation:], order[test:validation], order[:test]]

    by_group = parts(groups.groups, lambda group: min(map(normalize, group)))
    if not all(by_group):
        raise UserError(
            f"{len(groups)} groups are too few to split into train, validation ({validation_share:.0%}) and test "
            f"({test_share:.0%})"
        )
    singles = parts(groups.singles, normalize)
    place = {s: i for i, part in enumerate(by_group) for group in part for s in group}
    place |= {s: i for i, part in enumerate(singles) for s in part}
    negatives: list[list[tuple[str, str]]] = [[], [], []]
    for first, second in groups.negatives:
        if place[first] == place[second]:
            negatives[place[first]].append((first, second))
    return Split(*(Groups(*part) for part in zip(by_group, singles, negatives, strict=True)))
