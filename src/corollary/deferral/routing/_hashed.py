r"""Features of hashed words, pairs of words and character n-grams, weighted by TF-IDF.

For the count t of a bucket in a text and the share of training texts that hold it:
\((1 + \log t) \cdot (\log \frac{1 + n}{1 + df} + 1)\), each row scaled to length 1. Buckets that fewer than
`min_count` training texts hold are left out, so a router's weights are as many as its training texts can speak about.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import sparse

from corollary.deferral.routing._hashing import Spans, buckets
from corollary.errors import InvalidInputError

CHUNK = 512  # texts hashed at a time: the tables of powers then stay in the cache
SALTS = {"word": 1, "pair": 2, "character": 8}  # plus n for character n-grams


class HashedText:
    r"""TF-IDF over hash buckets, fitted without a vocabulary.

    .. math:: x_b = (1 + \log t_b) (\log \tfrac{1 + n}{1 + df_b} + 1), \quad x \leftarrow x / \|x\|_2

    Args:
        words: count words.
        pairs: count pairs of neighbouring words.
        characters: lengths of the byte n-grams to count; none by default for words.
        bits: 2^bits buckets; more where several hundred thousand different n-grams occur.
        min_count: training texts that must hold a bucket for it to be kept.

    Raises:
        InvalidInputError: where nothing is counted, or a number is out of range.

    Guarantee: none; buckets may collide.

    Example:
        >>> x = HashedText(min_count=1).fit_transform(["two words", "two"])
        >>> x.shape[0], float(x.multiply(x).sum())
        (2, 2.0)
    """

    kind = "hash"

    def __init__(
        self,
        *,
        words: bool = True,
        pairs: bool = True,
        characters: Sequence[int] = (),
        bits: int = 20,
        min_count: int = 2,
    ) -> None:
        if not (words or pairs or characters):
            raise InvalidInputError("`HashedText` has nothing to count; set words, pairs or characters")
        if not 8 <= bits <= 26 or min_count < 1 or any(not 1 <= n <= 16 for n in characters):
            raise InvalidInputError(
                f"`bits` must lie in 8..26, `min_count` be at least 1 and `characters` lie in 1..16, "
                f"got {bits}, {min_count}, {tuple(characters)}"
            )
        self.words, self.pairs, self.characters = words, pairs, tuple(int(n) for n in characters)
        self.bits, self.min_count = bits, min_count
        self.active: np.ndarray = np.zeros(0, dtype=np.int64)
        self.idf: np.ndarray = np.zeros(0)

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.active)

    def fit_transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Choose the buckets, learn their document frequencies, and give the features of the same texts."""
        counts = self._counts(texts)
        frequency = np.bincount(counts.indices, minlength=1 << self.bits)
        self.__dict__.pop("_lookup", None)
        self.active = np.flatnonzero(frequency >= min(self.min_count, len(texts)))
        self.idf = np.log((1 + len(texts)) / (1 + frequency[self.active])) + 1
        return self._weighted(counts)

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """The features of new texts: (N, width)."""
        return self._weighted(self._counts(texts))

    def entries(self, text: str) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Columns and values of one text: `transform` without the matrix around it, for single decisions."""
        bucket, count = np.unique(self._buckets(Spans([text]))[1], return_counts=True)
        column = self._lookup[bucket]
        known = column >= 0
        column = column[known]
        value = (1 + np.log(count[known])) * self.idf[column]
        return column.astype(np.int64), value / max(np.sqrt(value @ value), 1e-300)

    def parts(self, text: str) -> list[tuple[str, int]]:
        """The n-grams of one text, in words, each with its column (-1: not among the features)."""
        spans = Spans([text])
        start, end = spans.word_spans()
        found = []
        if self.words:
            found.append((start, end, spans.words().value, SALTS["word"]))
        if self.pairs:
            found.append((start[:-1], end[1:], spans.pairs().value, SALTS["pair"]))
        for n in self.characters:
            value = spans.characters(n).value
            first = np.arange(len(value))
            found.append((first, first + n, value, SALTS["character"] + n))
        return [
            (spans.raw[a:b].tobytes().decode("utf-8", "replace"), int(column))
            for begin, stop, value, salt in found
            for a, b, column in zip(begin, stop, self._lookup[buckets(value, salt=salt, bits=self.bits)], strict=True)
        ]

    def settings(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {
            "words": self.words,
            "pairs": self.pairs,
            "characters": list(self.characters),
            "bits": self.bits,
            "min_count": self.min_count,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """What fitting learned."""
        return {"active": self.active, "idf": self.idf}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> "HashedText":
        """Take back what `arrays` gave."""
        self.__dict__.pop("_lookup", None)
        self.active, self.idf = arrays["active"].astype(np.int64), arrays["idf"].astype(np.float64)
        if self.active.shape != self.idf.shape or (np.diff(self.active) <= 0).any():
            raise InvalidInputError("stored buckets and their weights do not fit together; fit again")
        return self

    @cached_property
    def _lookup(self) -> Int[np.ndarray, " b"]:
        """Column of every bucket, -1 where it is not among the features."""
        table = np.full(1 << self.bits, -1, dtype=np.int32)
        table[self.active] = np.arange(len(self.active))
        return table

    def _buckets(self, spans: Spans) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " m"]]:
        """Row and bucket of every n-gram."""
        found = []
        if self.words or self.pairs:
            words = spans.words()
            if self.words:
                found.append((words, SALTS["word"]))
            if self.pairs:
                found.append((spans.pairs(words), SALTS["pair"]))
        found += [(spans.characters(n), SALTS["character"] + n) for n in self.characters]
        rows = [hashes.row for hashes, _ in found]
        columns = [buckets(hashes.value, salt=salt, bits=self.bits) for hashes, salt in found]
        return (rows[0], columns[0]) if len(found) == 1 else (np.concatenate(rows), np.concatenate(columns))

    def _counts(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """(N, 2^bits) counts of the buckets."""
        parts = [self._chunk(texts[i : i + CHUNK]) for i in range(0, len(texts), CHUNK)]
        if not parts:
            return sparse.csr_matrix((0, 1 << self.bits))
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _chunk(self, texts: Sequence[str]) -> sparse.csr_matrix:
        row, bucket = self._buckets(Spans(texts))
        key = np.sort((row << self.bits) | bucket)
        first = np.flatnonzero(np.append(True, key[1:] != key[:-1])) if len(key) else np.zeros(0, dtype=np.int64)
        count = np.diff(np.append(first, len(key))).astype(np.float64)
        row, column = key[first] >> self.bits, key[first] & ((1 << self.bits) - 1)
        pointer = np.searchsorted(row, np.arange(len(texts) + 1))
        return sparse.csr_matrix((count, column, pointer), shape=(len(texts), 1 << self.bits))

    def _weighted(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        column = self._lookup[counts.indices]
        known = column >= 0
        owner = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))[known]
        column = column[known]
        value = (1 + np.log(counts.data[known])) * self.idf[column]
        norm = np.sqrt(np.bincount(owner, value**2, minlength=counts.shape[0]))
        pointer = np.searchsorted(owner, np.arange(counts.shape[0] + 1))
        return sparse.csr_matrix((value / norm[owner], column, pointer), shape=(counts.shape[0], self.width))
