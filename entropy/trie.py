"""A lexicon as a trie in one hash table, and the units of a text between which words may end."""

from collections.abc import Mapping

import numpy as np
from numba import njit

from entropy.characters import DIGIT, LETTER, MARK, OTHER, SPACE, character_classes
from entropy.counting import EMPTY, find_slot, pack_pair
from entropy.utf8 import code_points

NEWLINE = ord("\n")
_NUMBER = ord("0")  # every run of digits is looked up as this
_DECIMAL_MARKS = (ord("."), ord(","), ord("．"))

Trie = tuple[np.ndarray, np.ndarray, np.ndarray]


def build_trie(words: Mapping[str, int], total: float, numbers: bool) -> tuple[Trie, np.ndarray]:
    """A trie in one hash table: `keys[slot]` is (slot of the parent, code point), and the slot is the node.

    Returns `root` (code point -> slot of the node below the root, -1: none), `keys` and `scores`, the log-probability
    of the word that ends at a node (-inf: none); and the node of every word. Few bytes and one look-up a step: speed is
    a matter of cache misses here.
    """
    codes = code_points("".join(words))
    ends = np.cumsum(np.fromiter(map(len, words), np.int64, len(words)))
    counts = np.fromiter(words.values(), np.float64, len(words))
    room = len(codes) + 1  # an upper bound; the second round knows the number of nodes
    slots = np.empty(len(words), np.int64)
    for _ in range(2):
        capacity = 1 << (2 * room).bit_length()
        root = np.full(len(character_classes()), -1, np.int32)
        keys, weights = np.full(capacity, EMPTY, np.uint64), np.zeros(capacity)
        room = _fill_trie(codes, ends, counts, character_classes(), numbers, root, keys, weights, slots)
    with np.errstate(divide="ignore"):
        return (root, keys, np.log(weights / total)), slots


@njit(cache=True, nogil=True, inline="always")
def _child(root, keys, node, code):
    """The node after `code`; -1: none. Node -1 is the root."""
    if node < 0:
        return np.int64(root[code])
    slot = np.int64(find_slot(keys, pack_pair(node, code)))
    return slot if keys[slot] != EMPTY else np.int64(-1)


@njit(cache=True)
def _fill_trie(codes, ends, counts, classes, numbers, root, keys, weights, slots):
    size = start = 0
    for word in range(len(ends)):
        node = np.int64(-1)
        i = start
        while i < ends[word]:
            code = codes[i]
            i += 1
            if numbers and classes[code] == DIGIT:
                code = np.uint32(_NUMBER)
                while i < ends[word] and classes[codes[i]] == DIGIT:
                    i += 1
            child = _child(root, keys, node, code)
            if child < 0:
                key = pack_pair(node if node >= 0 else len(keys), code)
                child = np.int64(find_slot(keys, key))
                keys[child] = key
                size += 1
                if node < 0:
                    root[code] = child
            node = child
        weights[node] += counts[word]
        slots[word] = node
        start = ends[word]
    return size


@njit(cache=True, nogil=True, inline="always")
def walk(codes, end, digit, root, keys, numbers, node, i):
    """The node after the unit `codes[i:end]`; -1: none."""
    if numbers and digit:
        return _child(root, keys, node, np.uint32(_NUMBER))
    node = _child(root, keys, node, codes[i])
    i += 1
    while i < end and node >= 0:
        node = _child(root, keys, node, codes[i])
        i += 1
    return node


@njit(cache=True, nogil=True)
def find_units(codes, classes, unit_ends, digits):
    """For the first position of every unit: where it ends, and whether it is a number."""
    n = len(codes)
    i = 0
    while i < n:
        kind = classes[codes[i]]
        only_digits = kind == DIGIT
        j = i + 1
        if kind in (LETTER, DIGIT):
            while j < n:
                this = classes[codes[j]]
                if this in (LETTER, MARK):
                    only_digits = False
                elif this != DIGIT:
                    inside = classes[codes[j - 1]] == DIGIT and j + 1 < n and classes[codes[j + 1]] == DIGIT
                    if not (inside and codes[j] in _DECIMAL_MARKS):
                        break
                j += 1
        else:
            while (
                j < n and kind != SPACE and (classes[codes[j]] == MARK or (kind == OTHER and codes[j] == codes[j - 1]))
            ):
                j += 1
            while j < n and kind == SPACE == classes[codes[j]] and codes[j] != NEWLINE != codes[i]:
                j += 1
        unit_ends[i], digits[i] = j, only_digits
        i = j
