"""Batches for the training of a causal gate: single tokens or whole documents, from memory or from disk.

In memory all features are made once. From a `ScoreCache` a pool of documents, drawn at random from all groups, is read
and its features made; some steps later it is replaced by the next pool. So memory holds a pool, whatever the corpus.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.gating._gate_features import FeatureSettings, corpus_features
from corollary.gating._scores import ExpertScores

POOL_TOKENS = 100_000
POOL_STEPS = 20
LONGEST = 512  # tokens of a document that a recurrent gate is trained on at a time

Batch = tuple[Float[Tensor, "... f"], Float[Tensor, "... k"], Float[Tensor, "..."]]  # features, scores, mask


class Batches:
    """Draws features, the experts' log-probabilities, and which of them count.

    Args:
        groups: scores of groups of documents.
        shares: (G,) how much each group counts.
        document_weights: for each group (N_g,) weights of its documents, or None.
        features: settings of the features.
        sequential: whole documents (B, T, ...) instead of tokens (B, ...).
        generator: all draws come from it.
    """

    def __init__(
        self, groups: Sequence[ExpertScores], shares: np.ndarray, document_weights: Any, features: FeatureSettings,
        *, sequential: bool, generator: np.random.Generator,
    ) -> None:  # fmt: skip
        self.groups, self.shares, self.settings = list(groups), shares, features
        self.sequential, self.generator, self.drawn = sequential, generator, 0
        self.lazy = any(g.lazy for g in groups)
        self.weights = [
            _checked(g, None if document_weights is None else document_weights[i]) for i, g in enumerate(groups)
        ]
        if self.lazy:
            self._refill()
        else:
            self.resident = self.groups
            self._prepare([None if w is None else w for w in self.weights])

    def _refill(self) -> None:
        """Read the next pool: documents of every group, in proportion to its share; each counts as often as drawn."""
        self.resident = []
        room = min(POOL_TOKENS, sum(int(g.offsets[-1]) for g in self.groups))
        for group, weight, share in zip(self.groups, self.weights, self.shares, strict=True):
            lengths = np.diff(group.offsets)
            mass = (lengths > 0) * (1.0 if weight is None else weight)
            mean = max(1.0, float(mass @ lengths) / mass.sum())
            count = max(1, round(share * room / mean))
            ends = np.cumsum(mass)
            drawn = np.searchsorted(ends, self.generator.random(count) * ends[-1], side="right")
            self.resident.append(group.documents(np.sort(drawn)))
        self._prepare([None] * len(self.groups))

    def _prepare(self, weights: list[Any]) -> None:
        self.features = [corpus_features(g, self.settings).astype(np.float16) for g in self.resident]
        self.rows = [
            _documents(g, w) if self.sequential else _tokens(g, w)
            for g, w in zip(self.resident, weights, strict=True)
        ]  # fmt: skip

    def probe(self, count: int) -> Float[np.ndarray, "n f"]:
        """Features of `count` tokens of each group, for their mean and spread."""
        return np.concatenate([f[self.generator.integers(len(f), size=count)] for f in self.features]).astype(
            np.float32
        )

    def draw(self, tokens: int) -> Batch:
        """About `tokens` tokens."""
        if self.lazy and self.drawn and self.drawn % POOL_STEPS == 0:
            self._refill()
        self.drawn += 1
        if not self.sequential:
            counts = self.generator.multinomial(tokens, self.shares)
            picks = [r(self.generator, n) for r, n in zip(self.rows, counts, strict=True)]
            x = np.concatenate([f[i] for f, i in zip(self.features, picks, strict=True)]).astype(np.float32)
            c = np.concatenate([g.log_probs[i] for g, i in zip(self.resident, picks, strict=True)])
            return torch.from_numpy(x), torch.from_numpy(c), torch.ones(len(x))
        spans: list[tuple[int, int, int]] = []
        filled = 0
        while filled < tokens:  # a handful of documents a batch
            g = int(self.generator.choice(len(self.shares), p=self.shares))
            i = int(self.rows[g](self.generator, 1)[0])
            first, last = (int(v) for v in self.resident[g].offsets[i : i + 2])
            last = min(last, first + LONGEST)
            spans.append((g, first, last))
            filled += last - first
        longest = max(last - first for _, first, last in spans)
        experts = self.resident[0].experts
        x = np.zeros((len(spans), longest, self.features[0].shape[1]), dtype=np.float32)
        c, mask = np.zeros((len(spans), longest, experts), dtype=np.float32), np.zeros((len(spans), longest))
        for row, (g, first, last) in enumerate(spans):
            x[row, : last - first] = self.features[g][first:last]
            c[row, : last - first], mask[row, : last - first] = self.resident[g].log_probs[first:last], 1
        return torch.from_numpy(x), torch.from_numpy(c), torch.from_numpy(mask.astype(np.float32))


Drawer = Callable[[np.random.Generator, int], np.ndarray]


def _checked(scores: ExpertScores, document_weights: Any) -> Any:
    if document_weights is None:
        return None
    given, lengths = np.asarray(document_weights, dtype=np.float64), np.diff(scores.offsets)
    if given.shape != lengths.shape or not (given >= 0).all() or not (given * lengths).sum() > 0:
        raise InvalidInputError(f"`document_weights` must be {len(lengths)} nonnegative numbers, not all zero")
    return given


def _tokens(scores: ExpertScores, weights: Any) -> Drawer:
    """Draws token rows: uniformly, or documents in proportion to weight times length."""
    if weights is None:
        total = len(scores.log_probs)
        return lambda generator, count: generator.integers(total, size=count)
    ends = np.cumsum(np.repeat(weights, np.diff(scores.offsets)))
    return lambda generator, count: np.searchsorted(ends, generator.random(count) * ends[-1], side="right")


def _documents(scores: ExpertScores, weights: Any) -> Drawer:
    """Draws documents that have a token, by weight."""
    ends = np.cumsum((np.diff(scores.offsets) > 0) * (1.0 if weights is None else weights))
    return lambda generator, count: np.searchsorted(ends, generator.random(count) * ends[-1], side="right")
