"""Identities of rows of numbers: rows that trained or chose something are not to certify it."""

from typing import Any

import numpy as np
from jaxtyping import UInt64

from corollary.certificates._claim import Assumption
from corollary.errors import ReusedRowsError

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
BY_CHANCE = 4.0  # standard deviations of equal rows that chance is granted before rows count as used before


def hash_rows(X: Any, Y: Any) -> UInt64[np.ndarray, " n"]:
    """(n,) hashes of rows with their truth: the bits of every entry mixed (splitmix64) under its column's key, summed.

    Args:
        X: (n, p) numbers, dense or sparse.
        Y: (n,) or (n, L) truth.

    Guarantee: dense and sparse rows with the same entries have the same hash; others collide by chance of 2^-64.

    Example:
        >>> from scipy import sparse
        >>> a, b = hash_rows(np.array([[0.0, 1.0]]), [1]), hash_rows(sparse.csr_matrix([[0.0, 1.0]]), [1])
        >>> bool(a[0] == b[0]), bool(a[0] == hash_rows(np.array([[1.0, 0.0]]), [1])[0])
        (True, False)
    """
    labels = np.asarray(Y, dtype=np.float64)
    labels = labels.reshape(len(labels), -1) + 1.0  # a label of 0 counts, too
    p = X.shape[1]
    total = np.zeros(len(labels), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for j in range(labels.shape[1]):
            total += _mixed(labels[:, j], np.uint64(p + j))
        if hasattr(X, "tocsr"):
            x = X.tocsr().astype(np.float64)
            np.add.at(total, np.repeat(np.arange(len(labels)), np.diff(x.indptr)), _mixed(x.data, x.indices))
        else:
            for j in range(p):
                total += _mixed(np.asarray(X[:, j], dtype=np.float64), np.uint64(j))
    return total


def _mixed(values: np.ndarray, columns: Any) -> UInt64[np.ndarray, " n"]:
    """Mixed bits of entries; zeros, stored or not, count nothing."""
    bits = np.ascontiguousarray(values + 0.0).view(np.uint64)  # -0.0 is 0.0
    bits = bits + GOLDEN * (np.asarray(columns).astype(np.uint64) + np.uint64(1))
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.where(values == 0, np.uint64(0), bits ^ (bits >> np.uint64(31)))


def refuse_seen(rows: UInt64[np.ndarray, " n"], seen: UInt64[np.ndarray, " m"], *, use: str = "training") -> Assumption:
    """Refuse rows that were used before, beyond the equal rows that tables of few distinct values hold by chance.

    A fresh row equals an earlier one about as often as the earlier ones equal one another.

    Args:
        rows: (n,) hashes of the rows that are to certify.
        seen: (m,) hashes of those that were used.
        use: what for.

    Returns:
        The assumption, with how it was checked.

    Raises:
        ReusedRowsError: naming how many.

    Guarantee: fresh rows are refused where chance alone makes more of them equal than 4 standard deviations allow.

    Example:
        >>> refuse_seen(np.array([1], dtype=np.uint64), np.array([2], dtype=np.uint64)).checked
        '0 of 1 rows equal one of training, 0 by chance'
    """
    count = int(np.isin(rows, seen).sum())
    _, inverse, times = np.unique(seen, return_inverse=True, return_counts=True)
    repeats, n = float((times[inverse] > 1).mean()), len(rows)
    allowed = n * repeats + BY_CHANCE * np.sqrt(max(n * repeats * (1 - repeats), 1.0)) if repeats else 0.0
    if count > allowed:
        raise ReusedRowsError(count, n, use)
    return Assumption(
        "nothing saw the certifying rows before", f"{count} of {n} rows equal one of {use}, {allowed:.0f} by chance"
    )
