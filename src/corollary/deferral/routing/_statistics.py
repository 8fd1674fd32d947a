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

NAMES = (
    "length",
    "words",
    "length of words",
    *(f"share of {c}" for c in _CLASSES[1:]),
    *(f"number of {c}" for c in _CLASSES[1:]),
)


def text_statistics(texts: Sequence[str]) -> Float[np.ndarray, "n f"]:
    """Raw statistics, one row a text, in the order of `NAMES`.

    Example:
        >>> dict(zip(NAMES, text_statistics(["What is 2 + 2?"])[0].round(2).tolist()))["number of digits"]
        1.1
    """
    encoded = [t.encode("utf-8", "replace") for t in texts]
    lengths = np.array([len(e) for e in encoded], dtype=np.int64)
    raw = np.frombuffer(b"".join(encoded), dtype=np.uint8)
    owner = np.repeat(np.arange(len(texts)), lengths)
    count = np.bincount(owner * len(_CLASSES) + _CLASS[raw], minlength=len(texts) * len(_CLASSES))
    count = count.reshape(len(texts), len(_CLASSES))[:, 1:].astype(np.float64)
    inside = WORD_BYTE[raw]
    begins = inside & np.append(True, ~inside[:-1] | (owner[1:] != owner[:-1]))[: len(raw)]
    words = np.bincount(owner[begins], minlength=len(texts))
    letters = np.bincount(owner[inside], minlength=len(texts))
    size = lengths[:, None] + 1.0
    return np.column_stack([np.log1p(lengths), np.log1p(words), letters / (words + 1.0), count / size, np.log1p(count)])


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
