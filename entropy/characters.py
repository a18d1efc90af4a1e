"""What kind of character each code point is, for every reader of text in this package.

One table of 0x110000 bytes, filled from the Unicode database: extension blocks, ideographic zero and combining marks
count like their relatives, where a hard range such as U+4E00-U+9FA5 would drop them.
"""

from functools import cache
from unicodedata import category

import numpy as np

NUM_CODE_POINTS = 0x110000
# OTHER: punctuation, symbols, emoji, unassigned. IDEOGRAPH: Han and the letters of scripts written without spaces
# (kana, Thai, ...), one unit each. LETTER and DIGIT: runs stay whole. MARK: belongs to the character before it.
SPACE, OTHER, IDEOGRAPH, LETTER, DIGIT, MARK = range(6)

_FROM_CATEGORY = {"Lu": LETTER, "Ll": LETTER, "Lt": LETTER, "Lm": LETTER, "Lo": LETTER, "Nd": DIGIT}
_FROM_CATEGORY |= {"Mn": MARK, "Mc": MARK, "Me": MARK, "Zs": SPACE, "Zl": SPACE, "Zp": SPACE, "Cc": SPACE}
_UNSPACED_LETTERS_FROM = 0x0E00  # Thai: below it, letters without case (Hebrew, Arabic, Indic) are written in words
_IDEOGRAPHS = (
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),  # iteration mark, closing mark, ideographic zero
    (0x3021, 0x3029),  # Hangzhou numerals
    (0x30FC, 0x30FC),  # prolonged sound mark
    (0x3400, 0x4DBF),  # extension A
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),  # compatibility ideographs
    (0x20000, 0x3FFFF),  # extensions B and later: planes 2 and 3, whatever this Python's database knows of them
    (0x25CB, 0x25CB),  # the circle that newspapers print for a zero
)
_FIRST_UNASSIGNED = 0x32000  # above it lie ideograph planes, private use and tags only
_JOINERS = (0x200D, *range(0x1F3FB, 0x1F400))  # zero-width joiner, skin tones


@cache
def character_classes() -> np.ndarray:
    """The class of every code point: uint8 of shape (0x110000,), read-only."""
    classes = np.full(NUM_CODE_POINTS, OTHER, np.uint8)
    for code in range(_FIRST_UNASSIGNED):
        kind = category(chr(code))
        classes[code] = _FROM_CATEGORY.get(kind, OTHER)
        if kind == "Lo" and code >= _UNSPACED_LETTERS_FROM:
            classes[code] = IDEOGRAPH
    for first, last in _IDEOGRAPHS:
        classes[first : last + 1] = IDEOGRAPH
    classes[0xE0100:0xE01F0] = MARK  # variation selectors of ideographs
    classes[list(_JOINERS)] = MARK
    classes.flags.writeable = False
    return classes


@cache
def word_characters(alphabet: str = "unicode") -> np.ndarray:
    """Which code points can be part of a word: bool of shape (0x110000,), read-only.

    Args:
        alphabet: "unicode": ideographs, letters, digits and their marks; "ascii": U+4E00-U+9FA5, 0-9, a-z and A-Z, the
            only ones that nlp-zero 0.1.6 keeps.
    """
    if alphabet == "unicode":
        table = np.isin(character_classes(), (IDEOGRAPH, LETTER, DIGIT, MARK))
    elif alphabet == "ascii":
        table = np.zeros(NUM_CODE_POINTS, bool)
        for first, last in ((0x4E00, 0x9FA5), (ord("0"), ord("9")), (ord("a"), ord("z")), (ord("A"), ord("Z"))):
            table[first : last + 1] = True
    else:
        raise ValueError(f"alphabet {alphabet!r}: expected 'unicode' or 'ascii'")
    table.flags.writeable = False
    return table
