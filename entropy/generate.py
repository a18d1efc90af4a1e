r"""Sentences sampled from templates and what fills their slots: the quickest look at what was learned.

    python -m entropy.generate templates.tsv slots.tsv -n 20

A template is drawn by its count, then a filler for each slot: with probability 1 - mix among the slot's own, with
probability mix among those of its class, both by count. The log-probability is that of these choices.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from entropy.commands import Parser, positive, run
from entropy.errors import UserError
from entropy.slots import Filler, Slot, SlotClasses
from entropy.template_file import format_template, is_trivial, read_templates
from entropy.template_node import Template


class Sample(NamedTuple):
    """A sentence, the template and fillers it was made of, and the natural logarithm of their probability."""

    words: tuple[str, ...]
    template: Template
    fillers: tuple[Filler, ...]
    log_prob: float


class Generator:
    """Samples sentences.

    Args:
        templates: template -> count.
        slots: what fills them. Templates with a slot that nothing fills are left out.
        mix: how often a filler is drawn from the whole class of its slot, 0 to 1.
        trivial: use templates of one word too.

    Raises:
        UserError: no template can be filled; mix out of range.
    """

    def __init__(
        self, templates: Mapping[Template, float], slots: SlotClasses, mix: float = 0.2, trivial: bool = False
    ):
        if not 0 <= mix <= 1:
            raise UserError(f"mix={mix!r}: expected a share from 0 to 1")
        self.slots, self.mix = slots, mix
        self.templates = {
            template: count
            for template, count in templates.items()
            if (trivial or not is_trivial(template))
            and all((template, index) in slots.fillers for index in range(template.count(None)))
        }
        if not self.templates:
            raise UserError("no template can be filled: the templates and the slots must come from the same corpus")
        self._total = math.fsum(self.templates.values())
        self._of_class = {label: slots.words(label) for label in set(slots.labels.values())}
        self._drawn: dict[int, tuple[list, list]] = {}

    def samples(self, num: int, seed: int = 0) -> Iterator[Sample]:
        """`num` sentences."""
        rng = random.Random(seed)
        templates, ends = list(self.templates), list(accumulate(self.templates.values()))
        for _ in range(num):
            template = rng.choices(templates, cum_weights=ends)[0]
            fillers = tuple(self._draw((template, index), rng) for index in range(template.count(None)))
            blocks = iter(fillers)
            words = tuple(word for part in template for word in (next(blocks) if part is None else (part,)))
            yield Sample(words, template, fillers, self.log_prob(template, fillers))

    def log_prob(self, template: Template, fillers: tuple[Filler, ...]) -> float:
        """Natural logarithm of the probability of drawing a template and these fillers."""
        probs = [self.templates[template] / self._total]
        probs += [self.prob((template, index), filler) for index, filler in enumerate(fillers)]
        return math.fsum(math.log(prob) if prob else -math.inf for prob in probs)

    def prob(self, slot: Slot, filler: Filler) -> float:
        """The probability of a filler in a slot."""
        own, shared = self.slots.fillers[slot], self._shared(slot)
        return (1 - self.mix) * own[filler] / own.total() + self.mix * shared[filler] / shared.total()

    def _shared(self, slot: Slot) -> Counter[Filler]:
        label = self.slots.labels.get(slot)
        return self.slots.fillers[slot] if label is None else self._of_class[label]

    def _draw(self, slot: Slot, rng: random.Random) -> Filler:
        counts = self._shared(slot) if rng.random() < self.mix else self.slots.fillers[slot]
        if id(counts) not in self._drawn:  # cumulated once a counter
            self._drawn[id(counts)] = list(counts), list(accumulate(counts.values()))
        keys, ends = self._drawn[id(counts)]
        return rng.choices(keys, cum_weights=ends)[0]


def main(argv: Sequence[str] | None = None) -> list[Sample]:
    """Print sentences with their log-probability and template."""
    parser = Parser("python -m entropy.generate", __doc__)
    parser.add_argument("templates", help="file that entropy.templates wrote")
    parser.add_argument("slots", help="file that entropy.templates --slots wrote")
    parser.add_argument("-n", "--num", type=positive, default=10, help="sentences (default 10)")
    parser.add_argument("--mix", type=float, default=0.2, help="share of fillers from the class (default 0.2)")
    parser.add_argument("--trivial", action="store_true", help="use templates of one word too")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")
    options = parser.parse_args(argv)
    slots = SlotClasses.load(options.slots)
    generator = Generator(read_templates(options.templates), slots, options.mix, options.trivial)
    samples = list(generator.samples(options.num, options.seed))
    print("sentence\tlog_prob\ttemplate")
    for sample in samples:
        print(f"{' '.join(sample.words)}\t{sample.log_prob:.2f}\t{format_template(sample.template)}")
    return samples


if __name__ == "__main__":
    run(main)
