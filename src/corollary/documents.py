"""Documents packed end to end: the one form in which token sequences travel through the library."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped, UInt64

from corollary.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class Documents:
    """N token sequences in one flat array.

    Document i is `tokens[offsets[i]:offsets[i + 1]]`. Byte documents have dtype uint8, others int32.

    Args:
        tokens: (total,) uint8 or int32, the tokens of all documents, end to end.
        offsets: (N + 1,) int64, starting at 0, never decreasing, ending at `total`.

    Raises:
        InvalidInputError: where the offsets do not describe the tokens.

    Guarantee: none; it is a container.

    Example:
        >>> docs = Documents.from_texts(["import this", "x = 1"])
        >>> len(docs), docs[1], docs.lengths.tolist()
        (2, b'x = 1', [11, 5])
    """

    tokens: Shaped[np.ndarray, " total"]
    offsets: Int[np.ndarray, " n_plus_1"]

    def __post_init__(self) -> None:
        tokens, offsets = np.asarray(self.tokens), np.asarray(self.offsets, dtype=np.int64)
        if tokens.ndim != 1 or tokens.dtype not in (np.uint8, np.int32):
            raise InvalidInputError(
                f"`tokens` must be a flat array of uint8 or int32, got {tokens.dtype} of shape {tokens.shape}; "
                "use Documents.from_texts or Documents.from_sequences"
            )
        if (
            offsets.ndim != 1
            or len(offsets) == 0
            or offsets[0] != 0
            or offsets[-1] != len(tokens)
            or (np.diff(offsets) < 0).any()
        ):
            raise InvalidInputError(
                f"`offsets` must rise from 0 to {len(tokens)}, the number of tokens; "
                "build it with np.cumsum of the lengths"
            )
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "offsets", offsets)

    @classmethod
    def from_texts(cls, texts: Iterable[str | bytes]) -> "Documents":
        """Pack texts as UTF-8 bytes (lone surrogates survive as their escapes)."""
        raw = [t.encode("utf-8", "surrogateescape") if isinstance(t, str) else bytes(t) for t in texts]
        return cls.from_sequences([np.frombuffer(r, dtype=np.uint8) for r in raw])

    @classmethod
    def from_sequences(cls, sequences: Sequence[Any], *, dtype: Any = np.uint8) -> "Documents":
        """Pack sequences of token ids."""
        arrays = [np.asarray(s, dtype=dtype) for s in sequences]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(a) for a in arrays], out=offsets[1:])
        tokens = np.concatenate(arrays) if arrays else np.zeros(0, dtype=dtype)
        return cls(tokens, offsets)

    @classmethod
    def concatenate(cls, parts: Sequence["Documents"]) -> "Documents":
        """Join several packs into one, in order."""
        if not parts:
            return cls.from_sequences([])
        tokens = np.concatenate([p.tokens for p in parts])
        lengths = np.concatenate([p.lengths for p in parts])
        return cls(tokens, np.concatenate([[0], np.cumsum(lengths)]))

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """(N,) number of tokens of each document."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> Int[np.ndarray, " total"]:
        """(total,) index of the document each token belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def position(self) -> Int[np.ndarray, " total"]:
        """(total,) index of each token inside its document."""
        return np.arange(len(self.tokens)) - np.repeat(self.offsets[:-1], self.lengths)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> bytes:
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        index %= len(self)
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        return (self[i] for i in range(len(self)))

    def select(self, index: Any) -> "Documents":
        """The documents at `index` (integers or a boolean mask), in that order."""
        index = np.asarray(index)
        chosen = np.arange(len(self))[index if index.size else index.astype(np.int64)]
        lengths = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][chosen] - offsets[:-1], lengths)
        return Documents(self.tokens[source], offsets)

    def truncate(self, length: int) -> "Documents":
        """Every document cut to at most `length` tokens; each still counts as one unit."""
        keep = self.position < length
        return Documents(self.tokens[keep], np.concatenate([[0], np.cumsum(np.minimum(self.lengths, length))]))

    def sums(self, values: Shaped[np.ndarray, "total ..."]) -> Shaped[np.ndarray, "n ..."]:
        """Sum per-token `values` over each document, in float64; an empty document sums to zero."""
        values = np.asarray(values)
        total = np.zeros((len(self), *values.shape[1:]))
        filled = self.lengths > 0
        if filled.any():
            total[filled] = np.add.reduceat(values, self.offsets[:-1][filled], axis=0, dtype=np.float64)
        return total

    def row_hashes(self) -> UInt64[np.ndarray, " n"]:
        """(N,) the first 64 bits of each document's SHA-256: the identity of a row."""
        return np.array([int.from_bytes(hashlib.sha256(d).digest()[:8], "big") for d in self], dtype=np.uint64)

    def digest(self) -> str:
        """SHA-256 of the tokens and of where documents end."""
        state = hashlib.sha256(str(self.tokens.dtype).encode())
        state.update(np.ascontiguousarray(self.offsets).tobytes())
        state.update(np.ascontiguousarray(self.tokens).tobytes())
        return state.hexdigest()
