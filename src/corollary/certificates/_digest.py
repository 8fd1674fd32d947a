"""Identities of evidence: SHA-256 of canonical bytes, orders drawn from it, and rows that may be used once."""

import hashlib
import json
from typing import Any

import numpy as np
from jaxtyping import Int, UInt64

from corollary.errors import InvalidInputError, ReusedRowsError


def as_array(value: Any) -> np.ndarray:
    """A NumPy array from an array, a tensor (moved to the CPU), a list or a number.

    Raises:
        InvalidInputError: for objects that are not numbers or booleans.

    Example:
        >>> as_array([1.0, 2.0]).dtype
        dtype('float64')
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise InvalidInputError(
            f"evidence must be numbers or booleans, got dtype {array.dtype}; pass strings in the witness"
        )
    return array


def digest(**arrays: Any) -> str:
    """SHA-256 over the arrays: names in order, dtype, shape, bytes (little-endian, row-major).

    Args:
        arrays: named arrays, tensors, lists or numbers.

    Returns:
        64 hexadecimal digits.

    Guarantee: equal arrays under equal names give equal digests on every machine; a changed bit changes it.

    Example:
        >>> digest(x=[1.0, 2.0]) == digest(x=[1.0, 2.0]), digest(x=[1.0, 2.0]) == digest(x=[2.0, 1.0])
        (True, False)
    """
    state = hashlib.sha256()
    for name in sorted(arrays):
        array = as_array(arrays[name])
        array = np.asarray(array.astype(array.dtype.newbyteorder("<"), copy=False), order="C")
        header = json.dumps([name, array.dtype.str, list(array.shape)])
        state.update(f"{len(header)}:{header}".encode())
        state.update(array.tobytes())
    return state.hexdigest()


def order_from_digest(key: str, count: int) -> Int[np.ndarray, " count"]:
    """A permutation of `count` units fixed by a digest, so that nobody can choose the order.

    Betting bounds depend on the order of the data; fixing it by the digest of the rows leaves no freedom.

    Guarantee: the same digest and count give the same order.

    Example:
        >>> (order_from_digest("ab" * 32, 5) == order_from_digest("ab" * 32, 5)).all()
        np.True_
    """
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    return np.random.default_rng(seed).permutation(count)


def refuse_reuse(rows: UInt64[np.ndarray, " n"], **used: Any) -> None:
    """Refuse rows meant to certify that were used before.

    Args:
        rows: (n,) hashes of the rows meant to certify (`Documents.row_hashes`).
        used: hashes of the rows used elsewhere, under the name of the use, e.g. `training=...`.

    Raises:
        ReusedRowsError: naming how many rows and what they were used for.

    Guarantee: equal rows are found; different rows are taken for equal with a chance of about one in 2^64 a pair.

    Example:
        >>> import numpy as np
        >>> refuse_reuse(np.array([1, 2], dtype=np.uint64), training=np.array([3], dtype=np.uint64))
    """
    for purpose, seen in used.items():
        count = int(np.isin(rows, seen).sum())
        if count:
            raise ReusedRowsError(count, len(rows), purpose)
