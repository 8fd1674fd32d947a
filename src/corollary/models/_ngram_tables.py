"""Sorted tables of byte n-grams: how they are keyed, counted, and estimated by modified Kneser-Ney.

A k-gram `x_1 .. x_k` has the key `x_1 256^(k-1) + .. + x_k`: its context is `key >> 8`, its suffix the key
without its first byte, and in sorted order the k-grams of one context lie together. Before a document stand
NUL bytes. They carry one bit (the document starts here), so contexts that begin with two NULs are left out
and their shorter form is used: `NUL NUL a` is read as `NUL a`.

Reference: Chen and Goodman, "An empirical study of smoothing techniques for language modeling", 1999
(modified Kneser-Ney, interpolated). Fidelity: the standard formulas as generally known, the paper not read
here; that counts of n-grams at a document's start stay raw is the usual practice of n-gram toolkits.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, UInt64

from corollary.documents import Documents
from corollary.errors import InvalidInputError

MAX_ORDER = 7
_FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True, eq=False)
class Table:
    """What is known of the k-grams of one k, in order of their keys.

    A row is a k-gram as a prediction (`log_prob`, of its last byte) and as a context of the next order
    (`log_escape`, the mass left to shorter contexts; `count`, zero where it was never a context). At the
    highest order no row is a context: the last two arrays are empty there.
    """

    keys: UInt64[np.ndarray, " rows"]
    log_prob: Float[np.ndarray, " rows"]
    log_escape: Float[np.ndarray, " contexts"]
    count: Float[np.ndarray, " contexts"]


def ngram_keys(documents: Documents, order: int) -> UInt64[np.ndarray, " total"]:
    """(total,) key of the n-gram that ends at each token, NULs standing before each document."""
    tokens = byte_tokens(documents)
    position = documents.position
    keys = tokens.copy()
    for j in range(1, order):
        keys[j:] |= np.where(position[j:] >= j, tokens[:-j] << np.uint64(8 * j), np.uint64(0))
    return keys


def byte_tokens(documents: Documents) -> UInt64[np.ndarray, " total"]:
    """(total,) the tokens widened to keys, refused where they are not bytes."""
    tokens = documents.tokens
    if tokens.dtype != np.uint8 and len(tokens) and (tokens.min() < 0 or tokens.max() > 255):
        raise InvalidInputError(
            f"n-gram models read bytes, got tokens from {tokens.min()} to {tokens.max()}; use byte documents"
        )
    return tokens.astype(np.uint64)


def suffix_mask(order: int) -> np.uint64:
    """What keeps the last `order - 1` bytes of a key."""
    return np.uint64((1 << (8 * (order - 1))) - 1)


def context_starts(keys: UInt64[np.ndarray, " rows"]) -> Bool[np.ndarray, " rows"]:
    """Where a new context begins in sorted keys."""
    contexts, first = keys >> np.uint64(8), np.ones(len(keys), dtype=bool)
    first[1:] = contexts[1:] != contexts[:-1]
    return first


def with_ends(documents: Documents) -> Documents:
    """The documents, each followed by the end symbol, byte 0."""
    return Documents(
        np.insert(documents.tokens, documents.offsets[1:], 0),
        documents.offsets + np.arange(len(documents) + 1),
    )


def discounts(counts: Float64[np.ndarray, " rows"]) -> Float64[np.ndarray, "3"]:
    """The discounts D1, D2, D3+ of modified Kneser-Ney, from how many counts are 1, 2, 3 and 4.

    `Y = n1 / (n1 + 2 n2)`, `D_j = j - (j + 1) Y n_{j+1} / n_j`. Where a needed `n_j` is zero, or the result
    is not in `(0, j]` (tiny and odd corpora), the fixed value .5, 1 or 1.5 takes its place: any value in `(0,
    j]` gives a proper model.
    """
    n = np.bincount(np.minimum(counts, 5).astype(np.int64), minlength=6).astype(np.float64)
    found = np.array(_FALLBACK)
    for j in (1, 2, 3):
        if n[1] > 0 and n[j] > 0 and n[j + 1] > 0:
            d = j - (j + 1) * n[1] / (n[1] + 2 * n[2]) * n[j + 1] / n[j]
            found[j - 1] = d if 0 < d <= j else found[j - 1]
    return found


def discounted(counts: Float64[np.ndarray, " rows"], d: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, " rows"]:
    """What each count keeps: `c - D(c)`, never negative since `D_j <= j`."""
    return counts - d[np.minimum(counts, 3).astype(np.int64) - 1]


def escape_mass(
    counts: Float64[np.ndarray, " rows"], d: Float64[np.ndarray, "3"], starts: Int[np.ndarray, " contexts"]
) -> Float64[np.ndarray, " contexts"]:
    """What each context gives away: `(D1 N1 + D2 N2 + D3 N3+) / total`, always in (0, 1]."""
    given = d[np.minimum(counts, 3).astype(np.int64) - 1]
    return np.add.reduceat(given, starts) / np.add.reduceat(counts, starts)


def estimate(documents: Documents, order: int) -> tuple[list[Table], Float64[np.ndarray, "order 3"]]:
    """Tables of orders 0 to `order` in float64, and the discounts of orders 1 to `order`.

    `p_k(w | c) = max(a(cw) - D, 0) / a(c) + escape(c) p_{k-1}(w | c')`, `p_0 = 1 / 256`, where c' is c
    without its first byte and the counts a are raw at the highest order and behind a document's start, and
    numbers of distinct preceding bytes elsewhere.
    """
    keys, raw = np.unique(ngram_keys(with_ends(documents), order), return_counts=True)
    # From long to short: the distinct k-grams, where each one's suffix lies, and its adjusted count.
    levels = []
    raw = raw.astype(np.float64)
    adjusted = raw
    for k in range(order, 0, -1):
        shorter, suffix = np.unique(keys & suffix_mask(k), return_inverse=True)
        levels.append((k, keys, suffix, adjusted))
        raw = np.bincount(suffix, weights=raw)
        after_start = shorter >> np.uint64(8 * (k - 2)) == 0 if k > 2 else np.zeros(len(shorter), dtype=bool)
        adjusted = np.where(after_start, raw, np.bincount(suffix))
        keys = shorter

    tables = [_table(np.zeros(1, dtype=np.uint64), np.full(1, -np.log(256.0)), contexts=1)]
    probability = np.full(1, 1 / 256)
    found = []
    for k, keys, suffix, adjusted in reversed(levels):
        probability = probability[suffix]
        kept = keys >> np.uint64(8 * (k - 2)) != 0 if k > 2 else np.ones(len(keys), dtype=bool)
        d = np.array(_FALLBACK)
        if kept.any():
            counts = adjusted[kept]
            first = context_starts(keys[kept])
            starts, owner = np.flatnonzero(first), np.cumsum(first) - 1
            d = discounts(counts)
            total, escape = np.add.reduceat(counts, starts), escape_mass(counts, d, starts)
            probability[kept] = discounted(counts, d) / total[owner] + escape[owner] * probability[kept]
            row = np.searchsorted(tables[-1].keys, keys[kept][starts] >> np.uint64(8))
            tables[-1].log_escape[row] = np.log(escape)
            tables[-1].count[row] = total
        tables.append(_table(keys[kept], np.log(probability[kept]), contexts=len(keys[kept]) if k < order else 0))
        found.append(d)
    return tables, np.array(found)


def _table(keys: UInt64[np.ndarray, " rows"], log_prob: Float64[np.ndarray, " rows"], *, contexts: int) -> Table:
    return Table(keys, log_prob, np.zeros(contexts), np.zeros(contexts))


def find(
    table: UInt64[np.ndarray, " rows"], wanted: UInt64[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Where each wanted key would lie in a sorted table, and whether it is there."""
    row = np.minimum(table.searchsorted(wanted), max(len(table) - 1, 0))
    return row, (table[row] == wanted if len(table) else np.zeros(len(wanted), dtype=bool))
