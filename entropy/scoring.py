"""Word precision, recall and F1 as in the SIGHAN bakeoffs (Emerson 2005)."""

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple

from entropy.characters import IDEOGRAPH, character_classes
from entropy.errors import UserError


class Score(NamedTuple):
    """Words in common, words proposed, words of the gold standard."""

    common: int
    proposed: int
    gold: int

    @property
    def precision(self) -> float:
        """Share of the proposed words that are right."""
        return self.common / self.proposed if self.proposed else 0.0

    @property
    def recall(self) -> float:
        """Share of the gold words that are found."""
        return self.common / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of the two."""
        return 2 * self.common / (self.proposed + self.gold) if self.gold else 0.0


def score(proposed: Iterable[Sequence[str]], gold: Iterable[Sequence[str]], han_only: bool = False) -> Score:
    """Compare two segmentations of the same lines; a word is right if both its ends are.

    Punctuation and numbers are words like others; with `han_only`, words without an ideograph are left out of both.

    Raises:
        UserError: the two differ in more than their spaces; the message names the line.
    """
    common = num_proposed = num_gold = 0
    for number, (words, truth) in enumerate(zip_longest(proposed, gold), 1):
        if words is None or truth is None or "".join(words) != "".join(truth):
            shown = " | ".join("(no line)" if side is None else "".join(side)[:30] for side in (words, truth))
            raise UserError(f"line {number}: the segmentation and the gold standard are not of one text: {shown}")
        mine, theirs = _spans(words, han_only), _spans(truth, han_only)
        common += len(mine & theirs)
        num_proposed += len(mine)
        num_gold += len(theirs)
    return Score(common, num_proposed, num_gold)


def _spans(words: Sequence[str], han_only: bool) -> set[tuple[int, int]]:
    spans, start = set(), 0
    classes = character_classes()
    for word in words:
        end = start + len(word)
        if not han_only or any(classes[ord(character)] == IDEOGRAPH for character in word):
            spans.add((start, end))
        start = end
    return spans
