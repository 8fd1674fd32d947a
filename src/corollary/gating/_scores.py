"""What every expert says of every token of a corpus, computed once and shared by all gates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Float16, Float32, Int

from corollary.documents import Documents
from corollary.errors import InvalidInputError

STATISTICS = 3  # of each expert's context: bytes matched, log(1 + count), escape mass
CHUNK_TOKENS = 300_000  # tokens treated at once: bounds the memory of every pass


@dataclass(frozen=True, eq=False)
class ExpertScores:
    """Log-probabilities of K experts on a corpus, with what each knew of the context before the token.

    Args:
        offsets: (N + 1,) where documents begin and end.
        log_probs: (total, K) natural-log probability of each token under each expert, given the earlier ones.
        statistics: (total, K, 3) of the context only: bytes matched, log(1 + count), escape mass; zero where an expert
            has none.

    Guarantee: none; the numbers are the experts' own.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel
        >>> docs = Documents.from_texts(["one two one two"])
        >>> score_experts([NgramModel.fit(docs), NgramModel.fit(docs, order=2)], docs).log_probs.shape
        (15, 2)
    """

    offsets: Int[np.ndarray, " n_plus_1"]
    log_probs: Float32[np.ndarray, "total k"]
    statistics: Float16[np.ndarray, "total k 3"]

    lazy: ClassVar[bool] = False  # on disk: to be gone through in `parts`

    @property
    def experts(self) -> int:
        """K."""
        return self.log_probs.shape[1]

    def totals(self) -> Float[np.ndarray, "n k"]:
        """(N, K) log-likelihood of each document under each expert, in float64."""
        return Documents(np.zeros(len(self.log_probs), dtype=np.uint8), self.offsets).sums(self.log_probs)

    def parts(self, tokens: int = CHUNK_TOKENS) -> Iterator[tuple["ExpertScores", slice]]:
        """Whole documents in runs of about `tokens`, with their place in the flat arrays."""
        first = 0
        while first < len(self.offsets) - 1:
            last = int(np.searchsorted(self.offsets, self.offsets[first] + tokens, side="right")) - 1
            last = max(last, first + 1)
            where = slice(int(self.offsets[first]), int(self.offsets[last]))
            offsets = self.offsets[first : last + 1] - self.offsets[first]
            yield ExpertScores(offsets, self.log_probs[where], self.statistics[where]), where
            first = last

    def documents(self, index: Any) -> "ExpertScores":
        """The documents at `index`, in that order."""
        index = np.asarray(index)
        lengths = np.diff(self.offsets)[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][index] - offsets[:-1], lengths)
        return ExpertScores(offsets, np.asarray(self.log_probs[rows]), np.asarray(self.statistics[rows]))

    def select(self, experts: Sequence[int]) -> "ExpertScores":
        """The scores of some of the experts."""
        chosen: Any = list(experts)
        if chosen and chosen == list(
            range(chosen[0], chosen[0] + len(chosen))
        ):  # neighbours are a view, nothing is copied
            chosen = slice(chosen[0], chosen[0] + len(chosen))
        return ExpertScores(self.offsets, self.log_probs[:, chosen], self.statistics[:, chosen])


def score_experts(experts: Sequence[Any], documents: Documents) -> ExpertScores:
    """Score `documents` under every expert; n-gram experts of one order share their look-ups.

    Args:
        experts: K language models over the same tokens.
        documents: what to score.

    Returns:
        The scores.

    Raises:
        InvalidInputError: where there is no expert or no document, or an expert gives a probability above one or a NaN.

    Guarantee: none.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel
        >>> docs = Documents.from_texts(["a b"])
        >>> bool((score_experts([NgramModel.fit(docs)], docs).log_probs <= 0).all())
        True
    """
    from corollary.models import NgramModel, NgramQueries

    if not experts or len(documents) == 0:
        raise InvalidInputError(
            f"{len(experts)} experts and {len(documents)} documents were given; give one of each at least"
        )
    total = len(documents.tokens)
    log_probs = np.empty((total, len(experts)), dtype=np.float32)
    statistics = np.zeros((total, len(experts), STATISTICS), dtype=np.float16)
    queries: dict[int, NgramQueries] = {}
    for k, expert in enumerate(experts):
        if isinstance(expert, NgramModel):
            if expert.order not in queries:
                queries[expert.order] = NgramQueries(documents, expert.order)
            scores = expert.score(queries[expert.order])
            log_probs[:, k] = scores.log_probs
            statistics[:, k] = context_statistics(scores.matched_order, scores.context_count, scores.escape)
        else:
            log_probs[:, k] = expert.log_probs(documents)
        if not (log_probs[:, k] <= 1e-4).all():
            raise InvalidInputError(
                f"expert {k} gave a log-probability that is NaN or above zero; check that its weights are finite"
            )
    return ExpertScores(documents.offsets, log_probs, statistics)


def context_statistics(matched: Any, count: Any, escape: Any) -> Float16[np.ndarray, "b 3"]:
    """(B, 3) the three statistics of a context in the form that gates read."""
    return np.stack([matched, np.log1p(count), escape], axis=-1).astype(np.float16)


@dataclass(frozen=True, eq=False)
class Block:
    """Documents side by side, longest first, time running down: what recursions over positions work on.

    Args:
        rows: (L, n) index of each token in the flat arrays; repeats of a document's last token where it has ended.
        active: (L,) how many of the n documents have a token at this position.
    """

    rows: Int[np.ndarray, "length n"]
    active: Int[np.ndarray, " length"]

    def scatter(self, values: Any, into: np.ndarray) -> None:
        """Write (L, n, ...) values to the flat array at this block's tokens."""
        filled = np.arange(self.rows.shape[1])[None] < self.active[:, None]
        into[self.rows[filled]] = values[filled]


def blocks(offsets: Int[np.ndarray, " n_plus_1"], *, tokens: int = CHUNK_TOKENS) -> Iterator[Block]:
    """Cut a corpus into blocks of about `tokens` padded tokens, documents of similar length together."""
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 0]
    while len(order):
        longest = int(lengths[order[0]])
        here, order = order[: max(1, tokens // longest)], order[max(1, tokens // longest) :]
        time = np.arange(longest)
        rows = offsets[here][None] + np.minimum(time[:, None], lengths[here][None] - 1)
        active = np.searchsorted(-lengths[here], -time, side="left")  # documents longer than `time`
        yield Block(rows, active)


def before(
    values: Float[np.ndarray, "total ..."], offsets: Int[np.ndarray, " n_plus_1"]
) -> Float[np.ndarray, "total ..."]:
    """Sum of `values` over the earlier tokens of the same document, in float64."""
    running = np.cumsum(values, axis=0, dtype=np.float64) - values
    lengths = np.diff(offsets)
    return running - np.repeat(running[offsets[:-1][lengths > 0]], lengths[lengths > 0], axis=0)
