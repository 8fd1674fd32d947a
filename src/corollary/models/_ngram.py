"""Byte n-gram models with interpolated modified Kneser-Ney smoothing: quick to fit, exactly normalised.

`p_k(w | c) = max(a(cw) - D(a(cw)), 0) / a(c) + escape(c) p_{k-1}(w | c')`, with `p_0 = 1 / 256` and c' the
context c without its first byte. A seen n-gram is stored with its full probability, a seen context with its
escape, so that an unseen n-gram costs one look-up an order: `log p_k(w | c) = log escape(c) + log p_{k-1}(w |
c')`.

Reference: see `_ngram_tables`.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Integer, UInt8, UInt64

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.models import _storage
from corollary.models._ngram_queries import NgramQueries, NgramScores, check_order, find_contexts
from corollary.models._ngram_tables import Table, estimate, suffix_mask
from corollary.models._protocol import register_loader

_BYTE = np.uint64(8)


class NgramModel:
    """Interpolated modified Kneser-Ney over the 256 bytes; use `fit` or `load` to make one.

    Documents are independent: NUL bytes stand before each, and byte 0 is learned as what follows its last
    token, so that samples end. Runs of NULs inside a text count as one.

    Args:
        tables: one for each order from 0 (the empty context) to the model's.
        discounts: (order, 3) the D1, D2, D3+ that were used; for the reader, not used again.

    Guarantee: for every context the 256 probabilities are positive and sum to one (exactly in real numbers;
    within 1e-6 with the float32 tables, 1e-10 with float64 ones), for all discounts in (0, j].

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel, sample
        >>> model = NgramModel.fit(Documents.from_texts(["the cat sat", "the dog sat"]), order=4)
        >>> bool(abs(np.exp(model.next_log_probs(model.start(1))).sum() - 1) < 1e-6)
        True
        >>> len(sample(model, 3, max_tokens=20, seed=0))
        3

    Reference: Chen and Goodman 1999; fidelity: standard formulas as generally known, paper not read here.
    """

    vocab_size: int = 256

    def __init__(self, tables: list[Table], discounts: Float[np.ndarray, "order 3"]) -> None:
        self.tables, self.discounts = tables, discounts
        self._fingerprint: str | None = None

    @property
    def order(self) -> int:
        """The longest n-gram: a token is predicted from at most `order - 1` bytes."""
        return len(self.tables) - 1

    @classmethod
    def fit(cls, documents: Documents, *, order: int = 6, dtype: Any = np.float32) -> "NgramModel":
        """Count and smooth.

        Args:
            documents: bytes to learn from, at least one token in all.
            order: longest n-gram, 1 to 7; 6 suits a megabyte, 4 a few kilobytes.
            dtype: of the tables; float64 doubles them and is for tests.

        Returns:
            The model.

        Raises:
            InvalidInputError: where there is no token, a token is no byte, or the order is not in 1 to 7.

        Guarantee: a proper distribution for every non-empty corpus, however small or odd.
        """
        check_order(order)
        if not len(documents.tokens):
            raise InvalidInputError(f"{len(documents)} documents without a token were given; fit on at least one byte")
        tables, discounts = estimate(documents, order)
        cast = [
            Table(t.keys, t.log_prob.astype(dtype), t.log_escape.astype(dtype), t.count.astype(dtype)) for t in tables
        ]
        return cls(cast, discounts)

    def score(self, queries: NgramQueries) -> NgramScores:
        """Log-probabilities, and statistics of the context, of every token of a corpus."""
        return queries.score(self.tables)

    def log_probs(self, documents: Documents) -> Float32[np.ndarray, " total"]:
        """Natural-log probability of every token given the earlier tokens of its document."""
        return self.score(NgramQueries(documents, self.order)).log_probs

    def start(self, batch: int) -> UInt64[np.ndarray, " b"]:
        """(B,) the last `order - 1` bytes of each document, packed; NULs before its first."""
        return np.zeros(batch, dtype=np.uint64)

    def advance(self, state: UInt64[np.ndarray, " b"], tokens: Integer[np.ndarray, " b"]) -> UInt64[np.ndarray, " b"]:
        """The state after one more byte of each document; the given state stays as it is."""
        return ((state << _BYTE) | np.asarray(tokens).astype(np.uint64)) & suffix_mask(self.order)

    def extend(self, state: UInt64[np.ndarray, " b"], tokens: Integer[np.ndarray, "b t"]) -> UInt64[np.ndarray, " b"]:
        """The state after several more bytes of each document: only the last `order - 1` matter."""
        for token in np.asarray(tokens)[:, max(0, tokens.shape[1] - self.order + 1) :].T:
            state = self.advance(state, token)
        return state

    def next_log_probs(self, state: UInt64[np.ndarray, " b"]) -> Float[np.ndarray, "b 256"]:
        """(B, 256) natural-log probabilities of the next byte, in float64."""
        out = np.full((len(state), 256), self.tables[0].log_prob[0], dtype=np.float64)
        for shorter, longer, at, known, context in self._walk(state):
            out[known] += shorter.log_escape[at[known], None]
            edges = np.searchsorted(longer.keys, np.stack([context, context + np.uint64(1)]) << _BYTE)
            length = np.where(known, edges[1] - edges[0], 0)
            b = np.repeat(np.arange(len(state)), length)
            rows = np.arange(len(b)) + np.repeat(edges[0] - (np.cumsum(length) - length), length)
            out[b, (longer.keys[rows] & np.uint64(255)).astype(np.int64)] = longer.log_prob[rows]
        return out

    def token_log_probs(
        self, state: UInt64[np.ndarray, " b"], tokens: Integer[np.ndarray, " b"]
    ) -> Float[np.ndarray, " b"]:
        """(B,) natural-log probability of one next byte of each document, without the table of all."""
        if len(state) == 1:
            return np.array([self._token_log_prob(int(state[0]), int(tokens[0]))])
        last = np.asarray(tokens).astype(np.uint64)
        out = np.full(len(state), self.tables[0].log_prob[0], dtype=np.float64)
        for shorter, longer, at, known, context in self._walk(state):
            key = (context << _BYTE) | last
            row = np.minimum(longer.keys.searchsorted(key), len(longer.keys) - 1)
            escaped = out + np.where(known, shorter.log_escape[at], 0.0)
            out = np.where(known & (longer.keys[row] == key), longer.log_prob[row], escaped)
        return out

    def _token_log_prob(self, state: int, token: int) -> float:
        """The same of one document, number by number: on arrays of one the calls cost three times as much."""
        out = float(self.tables[0].log_prob[0])
        for k, (shorter, longer) in enumerate(pairwise(self.tables)):
            context = np.uint64(state & ((1 << 8 * k) - 1))
            at = int(shorter.keys.searchsorted(context))
            if at == len(shorter.keys) or shorter.keys[at] != context or not shorter.count[at] > 0:
                continue
            key = (context << _BYTE) | np.uint64(token)
            row = int(longer.keys.searchsorted(key))
            found = row < len(longer.keys) and longer.keys[row] == key
            out = float(longer.log_prob[row]) if found else out + float(shorter.log_escape[at])
        return out

    def next_statistics(
        self, state: UInt64[np.ndarray, " b"]
    ) -> tuple[UInt8[np.ndarray, " b"], Float32[np.ndarray, " b"], Float32[np.ndarray, " b"]]:
        """(matched_order, context_count, escape), (B,) each, of the byte to come: those of `NgramScores`."""
        matched = np.zeros(len(state), dtype=np.uint8)
        count, escape = np.zeros(len(state), dtype=np.float32), np.zeros(len(state), dtype=np.float32)
        for k, (table, _, at, known, _) in enumerate(self._walk(state)):
            matched[known], count[known] = k, table.count[at[known]]
            escape[known] = np.exp(table.log_escape[at[known]])
        return matched, count, escape

    def _walk(self, state: UInt64[np.ndarray, " b"]) -> Any:
        """From the empty context to the longest: its table, the next, its rows, which are known, its keys."""
        for k in range(self.order):
            context = state & suffix_mask(k + 1)
            yield self.tables[k], self.tables[k + 1], *find_contexts(self.tables[k], context), context

    def fingerprint(self) -> str:
        """SHA-256 of configuration and tables."""
        if self._fingerprint is None:
            self._fingerprint = _storage.fingerprint(self._config(), self._arrays())
        return self._fingerprint

    def save(self, folder: str | Path) -> None:
        """Write the model; a killed or failed save leaves what the folder held."""
        header = {"kind": "ngram", **self._config(), "fingerprint": self.fingerprint()}
        _storage.write_model(folder, header, self._arrays())

    def _config(self) -> dict[str, Any]:
        return {"order": self.order, "discounts": self.discounts.tolist()}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {f"{name}.{k}": getattr(t, name) for k, t in enumerate(self.tables) for name in Table.__annotations__}


def _load(folder: Path, header: dict[str, Any]) -> NgramModel:
    path, order = folder / "model.json", header.get("order")
    _storage.require(isinstance(order, int) and 1 <= order <= 7, path, f"`order` is {order!r}, not 1 to 7")
    assert isinstance(order, int)
    try:
        discounts = np.array(header.get("discounts"), dtype=np.float64)
    except (TypeError, ValueError):
        discounts = np.zeros(0)
    _storage.require(discounts.shape == (order, 3), path, "`discounts` are not three numbers an order")
    arrays = _storage.read_arrays(folder, header)
    path = folder / header["weights"]
    expected = {f"{name}.{k}" for k in range(order + 1) for name in Table.__annotations__}
    _storage.require(arrays.keys() == expected, path, f"not the tables of an n-gram model of order {order}")
    tables = []
    for k in range(order + 1):
        keys, *values = (arrays[f"{name}.{k}"] for name in Table.__annotations__)
        shapes = [keys.shape, keys.shape, keys.shape] if k < order else [keys.shape, (0,), (0,)]
        fits = keys.dtype == np.uint64 and keys.ndim == 1 and len(keys) > 0 if k < 2 else keys.ndim == 1
        sound = (
            fits
            and keys.dtype == np.uint64
            and [v.shape for v in values] == shapes
            and all(v.dtype in (np.float32, np.float64) for v in values)
            and (keys[1:] > keys[:-1]).all()
            and (not len(keys) or int(keys[-1]) < 256**k)
            and (values[0] <= 1e-6).all()
            and (values[1] <= 1e-6).all()
            and (values[2] >= 0).all()
        )
        _storage.require(sound, path, f"the table of order {k} has wrong shapes, types or values")
        tables.append(Table(keys, *values))
    model = NgramModel(tables, discounts)
    _storage.require(
        model.fingerprint() == header.get("fingerprint"),
        path,
        "changed since it was saved (its hash differs)",
    )
    return model


register_loader("ngram", _load)
