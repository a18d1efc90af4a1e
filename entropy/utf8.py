"""UTF-8 and UTF-32 to code points, without holding Python's global lock."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def decode_utf8(data, out):
    r"""Write the code points of `data` (uint8) to `out` (uint32, at least as long).

    Returns:
        (number of code points, -1), or (number before the fault, byte offset of the fault) where `data` is not valid
        UTF-8: overlong forms, surrogates, values past U+10FFFF and cut sequences are faults, as in Python.
    """
    size = len(data)
    i = n = 0
    while i < size:
        first = np.uint32(data[i])
        if 0xE1 <= first <= 0xEC and i + 2 < size:  # the common case of Chinese text
            second, third = np.uint32(data[i + 1]), np.uint32(data[i + 2])
            if (second & 0xC0) != 0x80 or (third & 0xC0) != 0x80:
                return n, i
            out[n] = ((first & 0x0F) << 12) | ((second & 0x3F) << 6) | (third & 0x3F)
            i += 3
        elif first < 0x80:
            out[n] = first
            i += 1
        else:
            if 0xC2 <= first <= 0xDF:
                length, code, low, high = 2, first & 0x1F, 0x80, 0xBF
            elif 0xE0 <= first <= 0xEF:
                low, high = (0xA0 if first == 0xE0 else 0x80), (0x9F if first == 0xED else 0xBF)
                length, code = 3, first & 0x0F
            elif 0xF0 <= first <= 0xF4:
                low, high = (0x90 if first == 0xF0 else 0x80), (0x8F if first == 0xF4 else 0xBF)
                length, code = 4, first & 0x07
            else:
                return n, i
            if i + length > size or not low <= data[i + 1] <= high:
                return n, i
            for k in range(1, length):
                byte = np.uint32(data[i + k])
                if (byte & 0xC0) != 0x80:
                    return n, i
                code = (code << 6) | (byte & 0x3F)
            out[n] = code
            i += length
        n += 1
    return n, -1


def code_points(text: str) -> np.ndarray:
    """The code points of `text`: uint32 of shape (len(text),). Lone surrogates pass as they are."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def to_text(codes: np.ndarray) -> str:
    """The inverse of `code_points`."""
    return np.ascontiguousarray(codes, np.uint32).tobytes().decode("utf-32-le", "surrogatepass")
