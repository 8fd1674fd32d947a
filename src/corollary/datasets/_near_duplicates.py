"""Near-duplicates: documents with a key in common are one; documents that share long runs are relatives."""

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
    """The normalised text, and its first 80 characters: documents that share either are near-duplicates."""
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


def sampled_shingles(documents: Documents, *, sample: int = 8) -> UInt64[np.ndarray, " m"]:
    """The 60-byte runs inside the documents whose hash is a multiple of `sample`, sorted."""
    hashes, _ = _inside(documents, sample)
    return np.sort(hashes)


def _inside(documents: Documents, sample: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash and document of the runs that stand inside one document; chosen by hash, so that copies agree."""
    hashes = shingles(documents.tokens)
    start = np.flatnonzero(hashes % np.uint64(sample) == 0)
    owner = np.searchsorted(documents.offsets, start, side="right") - 1
    whole = start + SHINGLE <= documents.offsets[1:][owner] if len(documents) else start < 0
    return hashes[start[whole]], owner[whole]


def shared_fraction(documents: Documents, others: Iterable[Documents], *, sample: int = 8) -> Float[np.ndarray, " n"]:
    """(N,) which part of the 60-byte runs of each document also stands in one of `others`, by sample."""
    hashes, owner = _inside(documents, sample)
    hit = np.zeros(len(hashes), dtype=bool)
    for other in others:
        known = sampled_shingles(other, sample=sample)
        if len(known):
            hit |= known[np.searchsorted(known, hashes).clip(max=len(known) - 1)] == hashes
    held = np.bincount(owner, minlength=len(documents))
    share = np.zeros(len(documents))
    np.divide(np.bincount(owner, weights=hit, minlength=len(documents)), held, out=share, where=held > 0)
    return share
