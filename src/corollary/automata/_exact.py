"""Spans of vectors, in exact rationals or in float64 with a stated tolerance."""

from fractions import Fraction
from typing import Any

import numpy as np

from corollary.errors import InvalidInputError

TOLERANCE = 1e-9  # a float vector is new if its part outside of the span is larger than this share of it


def as_exact(values: Any, ndim: int) -> np.ndarray:
    """An object array of Fractions; floats become the rationals that they are."""
    array = np.asarray(values, dtype=object)
    if array.ndim != ndim:
        raise InvalidInputError(f"{ndim} axes are needed, got shape {array.shape}")
    try:
        flat = [Fraction(v.item() if isinstance(v, np.generic) else v) for v in array.reshape(-1)]
    except (TypeError, ValueError, OverflowError) as problem:
        raise InvalidInputError(f"the weights must be finite rationals ({problem})") from None
    out = np.empty(len(flat), dtype=object)
    out[:] = flat
    return out.reshape(array.shape)


def as_real(values: Any, ndim: int) -> np.ndarray:
    """A finite float64 array."""
    try:
        array = np.asarray(values).astype(np.float64)
    except (TypeError, ValueError) as problem:
        raise InvalidInputError(f"the weights must be numbers ({problem})") from None
    if array.ndim != ndim or not np.isfinite(array).all():
        raise InvalidInputError(f"{ndim} axes of finite numbers are needed, got shape {array.shape}")
    return array


class Span:
    """A growing span with coordinates in the vectors that were added."""

    def __init__(self, dim: int, *, exact: bool) -> None:
        self.dim, self.exact = dim, exact
        self.kept: list[np.ndarray] = []
        self.rows: list[tuple[int, np.ndarray, np.ndarray]] = []  # pivot, reduced row, its combination of `kept`

    def _reduce(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What is left of v, and the combination of kept vectors that was taken away."""
        rest, taken = v.copy(), np.full(len(self.kept), Fraction(0), dtype=object)
        for pivot, row, combination in self.rows:
            if rest[pivot] != 0:
                factor = rest[pivot]
                rest = rest - factor * row
                taken[: len(combination)] = taken[: len(combination)] + factor * combination
        return rest, taken

    def add(self, v: np.ndarray) -> bool:
        """Whether v was outside of the span, which then includes it."""
        if not self.exact:
            size = np.abs(v).max(initial=0.0)
            if size == 0 or len(self.kept) >= self.dim:
                return False
            if self.kept:
                B = self.basis()
                rest = v - B.T @ np.linalg.lstsq(B.T, v, rcond=None)[0]
                if np.abs(rest).max() <= TOLERANCE * size:
                    return False
            self.kept.append(v)
            return True
        rest, taken = self._reduce(v)
        pivot = next((i for i, x in enumerate(rest) if x != 0), None)
        if pivot is None:
            return False
        self.kept.append(v)
        combination = np.array([*(-taken), Fraction(1)], dtype=object) / rest[pivot]
        self.rows.append((pivot, rest / rest[pivot], combination))
        return True

    def basis(self) -> np.ndarray:
        """(r, d) the vectors that were kept."""
        return np.stack(self.kept) if self.kept else np.zeros((0, self.dim))

    def coordinates(self, v: np.ndarray) -> np.ndarray:
        """(r,) of a vector in the span."""
        if not self.exact:
            return np.linalg.lstsq(self.basis().T, v, rcond=None)[0]
        return self._reduce(v)[1]
