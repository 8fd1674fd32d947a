r"""Hashed n-grams of many texts at once: no Python loop over words.

A string of bytes \(b_0 .. b_{m-1}\) has the hash \(h = \sum_j (b_j + 1) B^j \bmod 2^{64}\). With prefix sums
\(P_i = \sum_{j<i} (b_j + 1) B^j\) over all texts end to end, the hash of any span [s, e) is
\((P_e - P_s) B^{-s}\): one subtraction and one product, whatever its length. B is odd, so it has an inverse.

The bucket is the top bits of \(mix(h \oplus salt)\), the salt telling words, pairs of words and character n-grams
apart. Eight lines of plain Python compute the same (the exported JSON says how; a test does it).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt64

BASE = 0x9E3779B97F4A7C15 | 1
INVERSE = pow(BASE, -1, 2**64)
MIX = 0xD6E8FEB86659FD93
PAIR = 0xA0761D6478BD642F  # the second word of a pair
BETWEEN = "\x00"  # stands between texts; replaced by a blank inside them

WORD_BYTE: Bool[np.ndarray, " 256"] = np.array([chr(b).isalnum() or b == 95 or b >= 128 for b in range(256)])


class Hashes(NamedTuple):
    """Hashes of the n-grams of one family: which text each belongs to, and its 64-bit hash (before mixing).

    Example:
        >>> words = Spans(["a b", "b"]).words()
        >>> words.row.tolist(), bool(words.value[1] == words.value[2])
        ([0, 0, 1], True)
    """

    row: Int[np.ndarray, " m"]
    value: UInt64[np.ndarray, " m"]


class Spans:
    """Texts in one array of bytes, lower-cased, with the prefix sums that hash any span of them.

    Args:
        texts: the texts.

    Guarantee: none; two different strings share a hash with a probability of about 2^-64 a pair.

    Example:
        >>> spans = Spans(["One two", "three"])
        >>> len(spans.words().row), len(spans.pairs().row), len(spans.characters(3).row)
        (3, 1, 8)
    """

    def __init__(self, texts: Sequence[str]) -> None:
        joined = BETWEEN.join(t.replace(BETWEEN, " ") for t in texts).lower() + BETWEEN
        raw = np.frombuffer(joined.encode("utf-8", "replace"), dtype=np.uint8)
        self.raw = raw
        self.ends = np.flatnonzero(raw == 0)
        self._text = np.repeat(np.arange(len(self.ends)), np.diff(self.ends, prepend=-1))
        self._powers, self._inverses = _powers(len(raw))
        terms = (raw.astype(np.uint64) + np.uint64(1)) * self._powers[: len(raw)]
        self._prefix = np.concatenate([np.zeros(1, dtype=np.uint64), np.cumsum(terms, dtype=np.uint64)])

    def hash(self, start: Int[np.ndarray, " m"], end: Int[np.ndarray, " m"]) -> UInt64[np.ndarray, " m"]:
        """The hashes of the spans [start, end)."""
        return (self._prefix[end] - self._prefix[start]) * self._inverses[start]

    def word_spans(self) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
        """Start and end of every word: a run of letters, digits, underscores and bytes beyond ASCII."""
        inside = np.concatenate([[False], WORD_BYTE[self.raw], [False]])
        edges = np.flatnonzero(inside[1:] != inside[:-1])
        return edges[::2], edges[1::2]

    def words(self) -> Hashes:
        """Every word."""
        start, end = self.word_spans()
        return Hashes(self._text[start], self.hash(start, end))

    def pairs(self, words: Hashes | None = None) -> Hashes:
        """Every two neighbouring words of the same text."""
        row, value = self.words() if words is None else words
        same = np.flatnonzero(row[1:] == row[:-1])
        return Hashes(row[same], value[same] * np.uint64(PAIR) + value[same + 1])

    def characters(self, n: int) -> Hashes:
        """Every run of n bytes inside a text, blanks included."""
        start = np.arange(max(len(self.raw) - n, 0))
        start = start[start + n <= self.ends[self._text[start]]]
        return Hashes(self._text[start], self.hash(start, start + n))


def buckets(value: UInt64[np.ndarray, " m"], *, salt: int, bits: int) -> Int[np.ndarray, " m"]:
    """The bucket in [0, 2^bits) of each hash.

    Example:
        >>> buckets(np.array([1, 2], dtype=np.uint64), salt=1, bits=8).tolist()
        [110, 144]
    """
    h = value + np.uint64(salt * MIX % 2**64)
    h = (h ^ (h >> np.uint64(32))) * np.uint64(MIX)
    h = (h ^ (h >> np.uint64(29))) * np.uint64(BASE)
    return (h >> np.uint64(64 - bits)).astype(np.int64)


@lru_cache(maxsize=8)
def _cached_powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    base, inverse = np.full(size, BASE, dtype=np.uint64), np.full(size, INVERSE, dtype=np.uint64)
    base[0] = inverse[0] = 1
    return np.cumprod(base, dtype=np.uint64), np.cumprod(inverse, dtype=np.uint64)


def _powers(size: int) -> tuple[np.ndarray, np.ndarray]:
    """B^j and B^-j for j < size, kept between calls; sizes grow in powers of two."""
    return _cached_powers(1 << max(16, (size - 1).bit_length()))
