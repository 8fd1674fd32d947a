"""The distinct n-grams and contexts of a corpus, found once and then looked up in any number of models."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8, UInt64

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.models._ngram_tables import MAX_ORDER, Table, context_starts, find, ngram_keys, suffix_mask


@dataclass(frozen=True, eq=False)
class NgramScores:
    """What an n-gram model says of every token of a corpus.

    Args:
        log_probs: (total,) natural-log probability of the token given the earlier tokens of its document.
        matched_order: (total,) bytes of the longest known context, 0 to order - 1.
        context_count: (total,) count of that context: occurrences at the highest order and at a document's
            start, numbers of distinct (preceding byte, next byte) pairs at the orders between.
        escape: (total,) the mass which that context leaves to shorter ones, in (0, 1].

    Guarantee: the last three depend on the earlier tokens of the document only, never on the token that
    comes: a causal gate may read them before it (deterministic, by construction; tested).

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel, NgramQueries
        >>> model = NgramModel.fit(Documents.from_texts(["abracadabra"]), order=3)
        >>> model.score(NgramQueries(Documents.from_texts(["abz"]), 3)).matched_order.tolist()
        [1, 2, 2]
    """

    log_probs: Float32[np.ndarray, " total"]
    matched_order: UInt8[np.ndarray, " total"]
    context_count: Float32[np.ndarray, " total"]
    escape: Float32[np.ndarray, " total"]


@dataclass(frozen=True, eq=False)
class _Level:
    """The distinct k-grams of a corpus: `suffix` points into the level below, `context` into the contexts."""

    keys: UInt64[np.ndarray, " rows"]
    suffix: Int[np.ndarray, " rows"]
    context: Int[np.ndarray, " rows"]
    contexts: UInt64[np.ndarray, " contexts"]
    context_suffix: Int[np.ndarray, " contexts"]


class NgramQueries:
    """Sorted distinct n-grams and contexts of a corpus, built once and shared over models.

    Args:
        documents: byte documents; one without tokens gives no queries, none at all is fine.
        order: at least the order of the models to be asked, 1 to 7.

    Raises:
        InvalidInputError: where tokens are no bytes or the order is not in 1 to 7.

    Guarantee: none; `model.score(queries)` equals a look-up token by token (tested).

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel, NgramQueries
        >>> queries = NgramQueries(Documents.from_texts(["to be", "or not"]), 4)
        >>> texts = ["to be"], ["not to be"]
        >>> experts = [NgramModel.fit(Documents.from_texts(text), order=4) for text in texts]
        >>> [expert.score(queries).log_probs.shape for expert in experts]
        [(11,), (11,)]
    """

    def __init__(self, documents: Documents, order: int) -> None:
        check_order(order)
        self.order = order
        keys, where = np.unique(ngram_keys(documents, order), return_inverse=True)
        self.where = where.astype(np.int32)
        levels = []
        for k in range(order, 0, -1):
            shorter, suffix = np.unique(keys & suffix_mask(k), return_inverse=True)
            levels.append((keys, suffix, context_starts(keys)))
            keys = shorter
        self.levels: list[_Level] = []
        below = np.zeros(len(keys), dtype=np.int64)
        for keys, suffix, first in reversed(levels):
            context = np.cumsum(first) - 1
            self.levels.append(_Level(keys, suffix, context, keys[first] >> np.uint64(8), below[suffix[first]]))
            below = context

    def __len__(self) -> int:
        return len(self.where)

    def score(self, tables: list[Table]) -> NgramScores:
        """Look every distinct n-gram and context up, short to long, and hand the results to the tokens."""
        if len(tables) - 1 > self.order:
            raise InvalidInputError(
                f"the model is of order {len(tables) - 1}, the queries of order {self.order}; build longer queries"
            )
        log_prob = tables[0].log_prob.astype(np.float64)
        matched = np.zeros(1, dtype=np.uint8)
        row = np.zeros(1, dtype=np.int64)
        for k, level in enumerate(self.levels, start=1):
            log_prob = log_prob[level.suffix]
            if k > 1:
                matched, row = matched[level.context_suffix], row[level.context_suffix]
            if k >= len(tables):
                continue
            if k > 1:
                at, known = find_contexts(tables[k - 1], level.contexts)
                matched[known], row[known] = k - 1, at[known]
            else:
                known = np.ones(len(level.contexts), dtype=bool)
            at, hit = find(tables[k].keys, level.keys)
            escapes = np.where(known, tables[k - 1].log_escape[np.where(known, row, 0)], 0)
            log_prob += escapes[level.context]
            log_prob[hit] = tables[k].log_prob[at[hit]]
        top = self.levels[-1].context
        count, escape = np.empty(len(row), dtype=np.float32), np.empty(len(row), dtype=np.float32)
        for m in range(min(len(tables) - 1, self.order)):
            at = matched == m
            count[at], escape[at] = tables[m].count[row[at]], np.exp(tables[m].log_escape[row[at]])
        where, owner = self.where, top[self.where]
        return NgramScores(log_prob[where].astype(np.float32), matched[owner], count[owner], escape[owner])


def find_contexts(
    table: Table, wanted: UInt64[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Rows of the wanted contexts, and which of them were ever followed by something."""
    at, known = find(table.keys, wanted)
    return at, known & (table.count[at] > 0) if len(table.count) else known & False


def check_order(order: int) -> None:
    """Refuse orders that no key can hold."""
    if not 1 <= order <= MAX_ORDER:
        raise InvalidInputError(f"`order` must be from 1 to {MAX_ORDER}, got {order!r}; 6 is a good start")
