"""Statistics of a text that need no vocabulary: length, lines, digits, capitals, punctuation, formulas."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

from corollary.deferral.routing._hashing import WORD_BYTE
from corollary.errors import InvalidInputError

LIMIT = 4.0  # standard deviations at which a statistic is cut
SCALE = 0.15  # of a standard deviation, so that a dozen statistics weigh about as much as a text row of length 1

_CLASS = np.zeros(256, dtype=np.int64)
for _code, _bytes in enumerate(
    (b"0123456789", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"\n", b"?", b"+-*/=^<>\\$", b"_", b",", b"\"'`", b".;:!()[]{}"), 1
):
    _CLASS[list(_bytes)] = _code
_CLASS[128:] = 10
_CLASSES = (
    "other",
    "digits",
    "capitals",
    "lines",
    "questions",
    "symbols",
    "blanks",
    "commas",
    "quotes",
    "stops",
    "non-ascii",
)
_SHARES = [_CLASSES.index(c) for c in ("digits", "capitals", "stops")]
_NUMBERS = [_CLASSES.index(c) for c in ("digits", "lines", "questions", "symbols", "blanks", "commas", "non-ascii")]

NAMES = (
    "length",
    "words",
    "length of words",
    "longest line",
    "mean line",
    "last line",
    *(f"share of {_CLASSES[c]}" for c in _SHARES),
    *(f"number of {_CLASSES[c]}" for c in _NUMBERS),
)


def text_statistics(texts: Sequence[str]) -> Float[np.ndarray, "n f"]:
    """Raw statistics, one row a text, in the order of `NAMES`: of bytes, log(1 + x); trailing blanks do not count.

    Example:
        >>> dict(zip(NAMES, text_statistics(["What is 2 + 2?"])[0].round(2).tolist()))["number of digits"]
        1.1
    """
    encoded = [t.rstrip().encode("utf-8", "replace") + b"\n" for t in texts]
    lengths = np.array([len(e) for e in encoded], dtype=np.int64)
    raw = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    owner = np.repeat(np.arange(len(texts)), lengths)
    count = np.bincount(owner * len(_CLASSES) + _CLASS[raw], minlength=len(texts) * len(_CLASSES))
    count = count.reshape(len(texts), len(_CLASSES)).astype(np.float64)
    inside = WORD_BYTE[raw]
    begins = inside & ~np.append(False, inside[:-1])  # every text ends with a line break, so words do not run over
    words = np.bincount(owner[begins], minlength=len(texts))
    letters = np.bincount(owner[inside], minlength=len(texts))
    breaks = np.flatnonzero(raw == 10)
    lines, last = np.diff(breaks, prepend=-1) - 1, np.cumsum(count[:, _CLASSES.index("lines")]).astype(np.int64)
    first = np.append(0, last[:-1])
    mean = np.add.reduceat(lines, first) / (last - first)
    long = np.column_stack([lengths - 1, words])
    of_lines = np.column_stack([np.maximum.reduceat(lines, first), mean, lines[last - 1]])
    shares, numbers = count[:, _SHARES] / lengths[:, None], np.log1p(count[:, _NUMBERS])
    return np.column_stack([np.log1p(long), letters / (words + 1.0), np.log1p(of_lines), shares, numbers])


class TextStatistics:
    """Standardised statistics, cut at 4 standard deviations and scaled to sit beside TF-IDF rows.

    Guarantee: none.

    Example:
        >>> TextStatistics().fit_transform(["short", "a longer text, with 3 numbers: 1 2 3"]).shape == (2, len(NAMES))
        True
    """

    kind = "statistics"

    def __init__(self) -> None:
        self.mean: np.ndarray = np.zeros(len(NAMES))
        self.spread: np.ndarray = np.ones(len(NAMES))

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(NAMES)

    def fit_transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Learn mean and spread, and give the features of the same texts."""
        raw = text_statistics(texts)
        self.mean, spread = raw.mean(0), raw.std(0)
        self.spread = np.where(spread > 1e-12, spread, 1.0)
        return self._scaled(raw)

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """The features of new texts."""
        return self._scaled(text_statistics(texts))

    def entries(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Columns and values of one text."""
        return np.arange(self.width), self._values(text_statistics([text]))[0]

    def parts(self, text: str) -> list[tuple[str, int]]:
        """The name of each statistic, with its column."""
        return list(zip(NAMES, range(self.width), strict=True))

    def settings(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """What fitting learned."""
        return {"mean": self.mean, "spread": self.spread}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> "TextStatistics":
        """Take back what `arrays` gave."""
        self.mean, self.spread = arrays["mean"], arrays["spread"]
        if self.mean.shape != (self.width,) or self.spread.shape != (self.width,):
            raise InvalidInputError(f"stored statistics are not the {self.width} of this version; fit again")
        return self

    def _values(self, raw: np.ndarray) -> np.ndarray:
        return SCALE * np.clip((raw - self.mean) / self.spread, -LIMIT, LIMIT)

    def _scaled(self, raw: np.ndarray) -> sparse.csr_matrix:
        return sparse.csr_matrix(self._values(raw))
