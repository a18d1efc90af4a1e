"""The figures of a lexicon that `entropy.discover` prints."""

import math
from collections.abc import Mapping

from entropy.corpus import Corpus
from entropy.discoverer import WordDiscoverer
from entropy.information import description_length, information

_UNSEEN_BITS = 17  # to spell one character


def summarize(discoverer: WordDiscoverer) -> dict[str, int | float]:
    """Sizes, H, l and L in bits, description length, of a fitted discoverer."""
    words = discoverer.words_
    bits = information(words)
    code = description_length(words)
    return {
        "characters": discoverer.num_characters_,
        "distinct characters": discoverer.num_distinct_,
        "words kept": len(words),
        "words pruned": len(discoverer.pruned_),
        "H, bits per word": bits.entropy,
        "l, characters per word": bits.length,
        "L = H / l, bits per character": bits.per_character,
        "leave-one-out bits per character": leave_one_out_bits(words),
        "description, lexicon, bytes": round(code.lexicon / 8),
        "description, corpus, bytes": round(code.corpus / 8),
        "description, total, bytes": round(code.total / 8),
    }


def leave_one_out_bits(words: Mapping[str, int]) -> float:
    r"""Bits per character if each occurrence is coded by the counts of all others.

    $\frac{-\sum_w n_w \log_2 \frac{n_w - 1}{N - 1}}{\sum_w n_w l_w}$; a word seen once is announced like half an
    occurrence and spelled at 17 bits a character. Unlike L it does not fall for words that occur once.
    """
    total = sum(words.values())
    characters = sum(len(word) * count for word, count in words.items())
    if total < 2:
        return float(_UNSEEN_BITS * characters)
    bits = 0.0
    for word, count in words.items():
        others = count - 1 or 0.5
        bits -= count * math.log2(others / (total - 1))
        bits += _UNSEEN_BITS * len(word) if count == 1 else 0
    return bits / characters


def held_out_bits(discoverer: WordDiscoverer, corpus: Corpus) -> float:
    """Bits per word character of other text under the unigram model of the lexicon; nan if it has none."""
    segmenter = discoverer.segmenter()
    bits, characters = 0.0, 0
    for line in corpus.lines():
        cost, covered = segmenter.bits(line)
        bits, characters = bits + cost, characters + covered
    return bits / characters if characters else math.nan
