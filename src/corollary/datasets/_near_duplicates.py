"""Near-duplicates: two documents with one key are one document; two that share long runs of bytes are relatives."""

import re
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, UInt64

from corollary.documents import Documents

HEAD = 80
SHINGLE = 60
_BLANK = re.compile(rb"\s+")
_DIGITS = re.compile(rb"[0-9]+")


def normalise(text: bytes) -> bytes:
    """Lower case, one blank for every run of white space, one 0 for every run of digits."""
    return _DIGITS.sub(b"0", _BLANK.sub(b" ", text)).strip().lower()


def keys(text: bytes) -> tuple[bytes, bytes]:
    """The normalised text, and its first 80 characters: sharing either makes two documents near-duplicates."""
    whole = normalise(text)
    return whole, whole[:HEAD]


class Seen:
    """The keys of every document accepted so far."""

    def __init__(self) -> None:
        self._keys: set[int] = set()

    def accept(self, text: bytes) -> bool:
        """True where no document accepted before is a near-duplicate of this one; it is then remembered."""
        found = {hash((i, key)) for i, key in enumerate(keys(text))}
        if found & self._keys:
            return False
        self._keys |= found
        return True


def shingles(tokens: np.ndarray, *, length: int = SHINGLE) -> UInt64[np.ndarray, " m"]:
    """Hash of every run of `length` bytes: sum_j b[i + j] B^j mod 2^64, built by doubling."""
    if len(tokens) < length:
        return np.zeros(0, dtype=np.uint64)
    base = 0x9E3779B97F4A7C15
    power = tokens.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93) + np.uint64(1)
    total, done, width = None, 0, 1
    while True:
        if length & width:
            shift = np.uint64(pow(base, done, 1 << 64))
            total = power if total is None else total[: len(power) - done] + power[done:] * shift
            done += width
        width *= 2
        if width > length:
            break
        half = width // 2
        power = power[:-half] + power[half:] * np.uint64(pow(base, half, 1 << 64))
    assert total is not None
    mixed = total[: len(tokens) - length + 1]
    return mixed ^ (mixed >> np.uint64(29))


def shared_fraction(documents: Documents, others: Iterable[Documents], *, sample: int = 4) -> Float[np.ndarray, " n"]:
    """(N,) for each document, which part of its 60-byte runs also stands in one of `others` (one run in `sample`)."""
    pool = [shingles(other.tokens) for other in others]
    # Keep runs by their hash, not by their place, so that both sides keep the same ones.
    known = np.unique(np.concatenate([h[h % sample == 0] for h in pool] or [np.zeros(0, dtype=np.uint64)]))
    hashes = shingles(documents.tokens)
    share = np.zeros(len(documents))
    if len(hashes) == 0 or len(known) == 0:
        return share
    start = np.arange(len(hashes))
    owner = documents.owner[: len(hashes)]
    inside = (start + SHINGLE <= documents.offsets[1:][owner]) & (hashes % sample == 0)
    at = np.searchsorted(known, hashes[inside]).clip(max=len(known) - 1)
    hit = known[at] == hashes[inside]
    held = np.bincount(owner[inside], minlength=len(documents))
    np.divide(np.bincount(owner[inside], weights=hit, minlength=len(documents)), held, out=share, where=held > 0)
    return share
