"""Identities of rows of features: rows that trained are not to certify."""

from typing import Any

import numpy as np
from jaxtyping import UInt64
from scipy import sparse

from corollary.certificates import Assumption
from corollary.errors import ReusedRowsError

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
BY_CHANCE = 4.0  # standard deviations above the equal rows that chance explains


def row_hashes(X: Any, y: Any) -> UInt64[np.ndarray, " n"]:
    """(n,) hashes of dense or sparse rows with their label: the bits of every entry mixed under its column's key.

    Example:
        >>> a, b = row_hashes([[0.0, 1.0]], [1]), row_hashes(sparse.csr_matrix([[0.0, 1.0]]), [1])
        >>> bool(a[0] == b[0]), bool(a[0] == row_hashes([[1.0, 0.0]], [1])[0])
        (True, False)
    """
    labels = np.asarray(y, dtype=np.float64).reshape(-1, 1) + 1.0  # a label of 0 counts too
    x = sparse.hstack([sparse.csr_matrix(X, dtype=np.float64), sparse.csr_matrix(labels)], format="csr")
    x.eliminate_zeros()
    total = np.zeros(x.shape[0], dtype=np.uint64)
    with np.errstate(over="ignore"):
        bits = (x.data + 0.0).view(np.uint64) + GOLDEN * (x.indices.astype(np.uint64) + np.uint64(1))
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        np.add.at(total, np.repeat(np.arange(x.shape[0]), np.diff(x.indptr)), bits ^ (bits >> np.uint64(31)))
    return total


def refuse_seen(rows: UInt64[np.ndarray, " n"], seen: UInt64[np.ndarray, " m"], *, use: str) -> Assumption:
    """Refuse rows that were used before, beyond the equal rows that tables of few distinct values hold by chance.

    Raises:
        ReusedRowsError: naming how many.

    Example:
        >>> refuse_seen(np.array([1], dtype=np.uint64), np.array([2], dtype=np.uint64), use="training").checked
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
