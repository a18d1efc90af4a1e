"""The segmenter as its docstring says it, in dictionaries and strings: the slow twin of the tests."""

import math

from entropy.characters import DIGIT, LETTER, MARK, OTHER, SPACE, character_classes


def kind(character: str) -> int:
    return int(character_classes()[ord(character)])


def units(text: str) -> list[str]:
    """The stretches of `text` that are never cut."""
    found, start = [], 0
    while start < len(text):
        end = start + 1
        first = kind(text[start])
        if first in (LETTER, DIGIT):
            while end < len(text) and (kind(text[end]) in (LETTER, DIGIT, MARK) or decimal(text, end)):
                end += 1
        else:
            while (
                first != SPACE
                and end < len(text)
                and (kind(text[end]) == MARK or (first == OTHER and text[end] == text[end - 1]))
            ):
                end += 1
            while first == SPACE and end < len(text) and kind(text[end]) == SPACE and "\n" not in text[start : end + 1]:
                end += 1
        found.append(text[start:end])
        start = end
    return found


def decimal(text: str, place: int) -> bool:
    """A decimal mark between two digits."""
    around = text[place - 1], text[place + 1 : place + 2]
    return text[place] in ".,．" and all(side and kind(side) == DIGIT for side in around)


def is_number(unit: str) -> bool:
    """Digits, with decimal marks inside."""
    return kind(unit[0]) == DIGIT and all(kind(c) == DIGIT or c in ".,．" for c in unit)


def as_class(text: str) -> str:
    """A lexicon word with its runs of digits replaced."""
    out = ""
    for i, character in enumerate(text):
        if kind(character) != DIGIT:
            out += character
        elif i == 0 or kind(text[i - 1]) != DIGIT:
            out += "0"
    return out


def segment(text: str, words: dict[str, int], unseen: float = 0.5, numbers: bool = True) -> list[str]:
    """Least total information over all ways to join units; ties to the earlier start of the last word."""
    total = sum(words.values()) + unseen
    lexicon: dict[str, float] = {}
    for word, count in words.items():
        word = as_class(word) if numbers else word
        lexicon[word] = lexicon.get(word, 0) + count
    pieces = units(text)
    keys = ["0" if numbers and is_number(unit) else unit for unit in pieces]
    best, back = [0.0] + [-math.inf] * len(pieces), [0] * (len(pieces) + 1)
    for start in range(len(pieces)):
        for end in range(start + 1, len(pieces) + 1):
            count = lexicon.get("".join(keys[start:end]))
            if count:
                score = best[start] + math.log(count / total)
            elif end == start + 1:
                score = best[start] + (0 if kind(pieces[start][0]) in (OTHER, SPACE) else math.log(unseen / total))
            else:
                continue
            if score > best[end]:
                best[end], back[end] = score, start
    ends, end = [], len(pieces)
    while end:
        ends.append(end)
        end = back[end]
    starts = [back[end] for end in ends]
    return ["".join(pieces[a:b]) for a, b in zip(reversed(starts), reversed(ends), strict=True)]
