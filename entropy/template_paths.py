r"""The sentence graph of the template miner, in numba: strong skip-grams, and the paths through a clause.

Words are ids from 1 on in an array of uint32, a clause ends with a 0, and a template is a sequence of ids in which 0
is a placeholder. In a clause of n words, i is linked to j, 0 < j - i <= window, if their skip-gram is strong; a
template is a path from a word that no link enters to one that no link leaves (Su 2018, archives/5577).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from entropy.counting import EMPTY, find_slot, mix
from entropy.sequences import find_sequence, hash_sequence

_HALF = np.uint64(32)


@njit(cache=True, nogil=True)
def pair_keys(tokens, window, frequent, part, num_parts, out):
    """Keys (first id << 32 | second id) of the skip-grams of frequent words that fall into one of `num_parts` parts.

    Returns how many were written to `out`.
    """
    used = 0
    for i in range(len(tokens)):
        first = tokens[i]
        if first == 0 or not frequent[first]:
            continue
        for j in range(i + 1, min(i + 1 + window, len(tokens))):
            second = tokens[j]
            if second == 0:
                break
            if frequent[second]:
                key = (np.uint64(first) << _HALF) | np.uint64(second)
                if num_parts == 1 or (mix(key) >> np.uint64(40)) % np.uint64(num_parts) == np.uint64(part):
                    out[used] = key
                    used += 1
    return used


@njit(cache=True, nogil=True)
def count_words(tokens, window, counts):
    """Add the words of `tokens` to `counts`; returns the number of skip-grams, of clauses, the longest clause."""
    pairs = clauses = longest = length = 0
    for token in tokens:
        if token:
            counts[token] += 1
            pairs += min(length, window)
            length += 1
            clauses += length == 1
            longest = max(longest, length)
        else:
            length = 0
    return pairs, clauses, longest


@njit(cache=True, nogil=True)
def _link(tokens, start, n, window, strong, links):
    """links[i, d] becomes whether word i is linked to word i + d."""
    for i in range(n):
        for d in range(1, window + 1):
            links[i, d] = 0
            if i + d < n:
                key = (np.uint64(tokens[start + i]) << _HALF) | np.uint64(tokens[start + i + d])
                links[i, d] = strong[find_slot(strong, key)] != EMPTY


@njit(cache=True, nogil=True)
def _num_paths(n, window, max_words, links, ways, entered):
    """The number of paths, and of those with at most `max_words` words, through links of at most `window`.

    ways[i, m] is the number of paths from i to an end with at most m words, ways[i, 0] with any number; float64, since
    there can be very many. `max_words` 0: no bound, both are the same.
    """
    entered[:n] = 0
    longest = min(n, max_words)
    for i in range(n - 1, -1, -1):
        ways[i, : longest + 1] = 0.0
        leaves = False
        for d in range(1, min(window, n - 1 - i) + 1):
            if links[i, d]:
                leaves = True
                entered[i + d] = 1
                ways[i, 0] += ways[i + d, 0]
                for m in range(2, longest + 1):
                    ways[i, m] += ways[i + d, m - 1]
        if not leaves:
            ways[i, : longest + 1] = 1.0
    total = bounded = 0.0
    for i in range(n):
        if not entered[i]:
            total += ways[i, 0]
            bounded += ways[i, longest]
    return total, bounded


@njit(cache=True, nogil=True)
def _narrow(n, window, max_words, max_paths, links, ways, entered):
    """The widest window with at most `max_paths` paths (or 1), the number of paths there, and of all paths."""
    total, bounded = _num_paths(n, window, max_words, links, ways, entered)
    while bounded > max_paths and window > 1:
        window -= 1
        _, bounded = _num_paths(n, window, max_words, links, ways, entered)
    return window, bounded, total


@njit(cache=True, nogil=True)
def _longest_path(n, window, links, longest):
    """The most words of a path; `longest` is room for those from each word on."""
    for i in range(n - 1, -1, -1):
        longest[i] = 1
        for d in range(1, min(window, n - 1 - i) + 1):
            if links[i, d]:
                longest[i] = max(longest[i], longest[i + d] + 1)
    return longest[:n].max()


@njit(cache=True, nogil=True)
def survey(tokens, strong, window, max_words, max_paths, longest):
    """(paths that the bounds let through, all paths, clauses read through a narrower window) of a block."""
    links = np.empty((longest, window + 1), np.uint8)
    counted = max_words if max_words < longest else 0  # a column a word of the bound: none for what binds nothing
    ways = np.empty((longest, counted + 1))
    entered = np.empty(longest, np.uint8)
    kept = everything = 0.0
    narrowed = start = 0
    for end in range(len(tokens)):
        if tokens[end]:
            continue
        n = end - start
        if n:
            _link(tokens, start, n, window, strong, links)
            width, bounded, total = _narrow(n, window, counted, max_paths, links, ways, entered)
            kept, everything = kept + bounded, everything + total
            narrowed += width < window
        start = end + 1
    return kept, everything, narrowed


@njit(cache=True, nogil=True)
def write_paths(tokens, start, strong, window, max_words, max_paths, longest, symbols, begins, ends, clauses):
    """Templates of the clauses from `start` on, until one finds no room.

    Template number t is symbols[begins[t] : ends[t]], from the clause that starts at clauses[t].

    Returns (where the next clause starts, number of templates, symbols that the next clause needs, templates it needs).
    """
    links = np.empty((longest, window + 1), np.uint8)
    counted = max_words if max_words < longest else 0  # a column a word of the bound: none for what binds nothing
    ways = np.empty((longest, counted + 1))
    entered = np.empty(longest, np.uint8)
    shortest = np.empty(longest, np.int64)
    path = np.empty(longest, np.int64)
    step = np.empty(longest, np.int64)
    used = num = 0
    for end in range(start, len(tokens)):
        if tokens[end]:
            continue
        n = end - start
        if n:
            _link(tokens, start, n, window, strong, links)
            width, bounded, _ = _narrow(n, window, counted, max_paths, links, ways, entered)
            size = int(bounded) * (2 * min(_longest_path(n, width, links, step), max_words) + 1)
            if used + size > len(symbols) or num + bounded > len(begins):
                return start, num, size, int(bounded)
            before = num
            graph = n, width, max_words, links, entered
            used, num = _walk(tokens, start, graph, shortest, path, step, symbols, begins, ends, used, num)
            clauses[before:num] = start
        start = end + 1
    return start, num, 0, 0


@njit(cache=True, nogil=True)
def _walk(tokens, start, graph, shortest, path, step, symbols, begins, ends, used, num):
    """Every path of a clause, depth first.

    shortest[i] becomes the fewest words from i to an end, so that no way is walked in vain; path[m] is word number m of
    the path, step[m] the link that is tried next from it.
    """
    n, window, max_words, links, entered = graph
    for i in range(n - 1, -1, -1):
        shortest[i] = 0
        for d in range(1, min(window, n - 1 - i) + 1):
            if links[i, d] and (shortest[i] == 0 or shortest[i + d] < shortest[i]):
                shortest[i] = shortest[i + d]
        shortest[i] += 1
    for first in range(n):
        if entered[first] or shortest[first] > max_words:
            continue
        depth, path[0], step[0] = 0, first, 1
        while depth >= 0:
            i, d = path[depth], step[depth]
            if shortest[i] == 1:
                begins[num] = used
                used = _spell(tokens, start, n, path, depth + 1, symbols, used)
                ends[num] = used
                num += 1
                depth -= 1
            elif d > min(window, n - 1 - i):
                depth -= 1
            else:
                step[depth] += 1
                if links[i, d] and depth + 1 + shortest[i + d] <= max_words:
                    depth += 1
                    path[depth], step[depth] = i + d, 1
    return used, num


@njit(cache=True, nogil=True)
def _spell(tokens, start, n, path, length, symbols, used):
    """Write the template of a path: a placeholder wherever words were passed over."""
    expected = 0
    for m in range(length):
        if path[m] != expected:
            symbols[used] = 0
            used += 1
        symbols[used] = tokens[start + path[m]]
        used += 1
        expected = path[m] + 1
    if expected != n:
        symbols[used] = 0
        used += 1
    return used


@njit(cache=True, nogil=True)
def add_to_sketch(symbols, begins, ends, sketch):
    """Count each template in the bucket of its hash; counters stop at 255. `len(sketch)` is a power of two."""
    mask = np.uint64(len(sketch) - 1)
    for i in range(len(begins)):
        bucket = (mix(hash_sequence(symbols, begins[i], ends[i])) >> np.uint64(8)) & mask
        if sketch[bucket] < 255:
            sketch[bucket] += 1


@njit(cache=True, nogil=True)
def in_sketch(symbols, begins, ends, sketch, least):
    """Whether the bucket of each template holds at least `least`."""
    mask = np.uint64(len(sketch) - 1)
    result = np.empty(len(begins), np.bool_)
    for i in range(len(begins)):
        bucket = (mix(hash_sequence(symbols, begins[i], ends[i])) >> np.uint64(8)) & mask
        result[i] = sketch[bucket] >= least
    return result


@njit(cache=True, nogil=True)
def find_templates(symbols, begins, ends, hashes, entries, known, starts):
    """The number of each template among the known ones of a `SequenceCounter`, -1 for others."""
    result = np.empty(len(begins), np.int64)
    for i in range(len(begins)):
        value = hash_sequence(symbols, begins[i], ends[i])
        slot = find_sequence(hashes, entries, known, starts, value, symbols, begins[i], ends[i])
        result[i] = entries[slot] if hashes[slot] else -1
    return result
