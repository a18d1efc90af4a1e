r"""What two lexicons share, and where they differ most.

python -m entropy.compare a.tsv b.tsv
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from entropy.commands import Parser, positive, run, table
from entropy.information import description_length, information
from entropy.lexicon import read_lexicon


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the comparison of the command line `argv` and return its figures."""
    parser = Parser("python -m entropy.compare", __doc__)
    parser.add_argument("first", help="lexicon: word TAB count a line")
    parser.add_argument("second", help="another")
    parser.add_argument("--top", type=positive, default=20, help="words to show of each kind (default 20)")
    options = parser.parse_args(argv)
    first, second = read_lexicon(options.first), read_lexicon(options.second)
    figures = compare(first, second)
    sides = [(path, words, information(words)) for path, words in ((options.first, first), (options.second, second))]
    rows: list[Sequence[object]] = [("", *(path for path, _, _ in sides))]
    rows.append(("words", *(len(words) for _, words, _ in sides)))
    rows.append(("occurrences", *(sum(words.values()) for _, words, _ in sides)))
    rows.append(("H, bits per word", *(f"{bits.entropy:.4f}" for _, _, bits in sides)))
    rows.append(("l, characters per word", *(f"{bits.length:.4f}" for _, _, bits in sides)))
    rows.append(("L, bits per character", *(f"{bits.per_character:.4f}" for _, _, bits in sides)))
    rows.append(("description, bytes", *(round(description_length(words).total / 8) for _, words, _ in sides)))
    print(table(rows))
    print(
        f"shared: {figures['shared']:,} words, Jaccard {figures['jaccard']:.4f}; same count: {figures['same_count']:,}"
    )
    for name, words, other in ((options.first, first, second), (options.second, second, first)):
        only = sorted((word for word in words if word not in other), key=lambda word: (-words[word], word))
        print(f"only in {name}:", " ".join(only[: options.top]) or "none")
    print("most changed in frequency:", " ".join(figures["most_changed"][: options.top]) or "none")
    return figures


def compare(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, Any]:
    """Sizes of the common part, and the shared words whose frequency changed, most information moved first."""
    shared = [word for word in first if word in second]
    totals = sum(first.values()), sum(second.values())

    def change(word: str) -> float:
        p, q = first[word] / totals[0], second[word] / totals[1]
        return abs((p - q) * math.log(p / q))

    return {
        "shared": len(shared),
        "jaccard": len(shared) / len(first.keys() | second.keys()),
        "same_count": sum(first[word] == second[word] for word in shared),
        "most_changed": sorted((word for word in shared if change(word)), key=lambda word: (-change(word), word)),
    }


if __name__ == "__main__":
    run(main)
