r"""The first half of the article's algorithm: cut the text wherever two characters do not hold together."""

import numpy as np
from numba import njit

from entropy.counting import EMPTY, KeyCounter, PairCounter, find_slot, pack_pair, unpack_pair
from entropy.information import approximate_gain, exact_gain
from entropy.sequences import SequenceCounter


def strong_pairs(
    singles: np.ndarray, keys: np.ndarray, counts: np.ndarray, min_prob: float, min_pmi: float, criterion: str
) -> np.ndarray:
    r"""Which pairs hold together: bool, one a pair.

    Frequency above `min_prob`, and
    "pmi": $\log \frac{p_{ab}}{p_a p_b}$ > `min_pmi` (nats; Su 2018, eq. 2.16 asks for 1);
    "exact": $F_{ab} > 0$ (eq. 2.11); "approximate": $F^*_{ab} > 0$.
    $p_a$ is a share of all characters, $p_{ab}$ of all adjacent pairs.
    """
    if not len(keys):
        return np.zeros(0, bool)
    first, second = unpack_pair(keys)
    logs = np.log(np.maximum(singles, 1)) - np.log(singles.sum())
    log_joint = np.log(counts) - np.log(counts.sum())
    frequent = log_joint > (np.log(min_prob) if min_prob > 0 else -np.inf)
    if criterion == "pmi":
        return frequent & (log_joint - logs[first] - logs[second] > min_pmi)
    gain = {"exact": exact_gain, "approximate": approximate_gain}[criterion]
    parts = [np.exp(logs[code]) for code in (first, second)]
    joint = np.minimum(np.exp(log_joint), np.minimum(*parts))  # two totals: the last digits may disagree
    return frequent & (gain(joint, *parts) > 0)


class Cutter:
    """Cuts text into pieces: stretches of word characters in which every adjacent pair is strong.

    Args:
        pairs: the counter of the corpus, for its table of characters.
        strong: packed pairs that hold together.
        max_length: characters in a piece; a longer one is cut into pieces of that length.
    """

    def __init__(self, pairs: PairCounter, strong: np.ndarray, max_length: int):
        self.ids, self.max_length = pairs.ids, max_length
        num_rows = len(pairs.frequent) + 1
        self.dense = np.zeros((num_rows, num_rows), np.uint8)
        first, second = unpack_pair(strong)
        rows, columns = self.ids[first], self.ids[second]
        inside = (rows < num_rows) & (columns < num_rows)
        self.dense[rows[inside], columns[inside]] = 1
        rest = KeyCounter()
        rest.add(strong[~inside])
        self.rest = rest.keys

    def cut(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the pieces of `codes` (uint32) begin and end."""
        begins, ends = np.empty(len(codes), np.int64), np.empty(len(codes), np.int64)
        num = _cut(codes, self.ids, self.dense, self.rest, self.max_length, begins, ends)
        return begins[:num], ends[:num]


@njit(cache=True, nogil=True)
def _cut(codes, ids, dense, keys, max_length, begins, ends):
    num_rows = len(dense)
    num = 0
    begin = -1  # of the piece that is open
    previous = 0
    for i in range(len(codes)):
        this = ids[codes[i]]
        if begin >= 0:
            if this == 0 or i - begin == max_length:
                joined = False
            elif this < num_rows and previous < num_rows:
                joined = dense[previous, this] != 0
            else:
                joined = keys[find_slot(keys, pack_pair(codes[i - 1], codes[i]))] != EMPTY
            if not joined:
                begins[num], ends[num] = begin, i
                num += 1
                begin = -1
        if begin < 0 and this:
            begin = i
        previous = this
    if begin >= 0:
        begins[num], ends[num] = begin, len(codes)
        num += 1
    return num


def count_pieces(cutter: Cutter, counter: SequenceCounter, codes: np.ndarray, index: int) -> None:
    """Add the pieces of block `index` to `counter`, each with its place in the corpus."""
    begins, ends = cutter.cut(codes)
    counter.add(codes, begins, ends, firsts=begins + (index << 32))
