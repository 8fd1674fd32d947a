r"""What the learned causal gate reads before each token, over a corpus or token by token; the two agree.

For each expert: its fixed-share log-weight at several rates (rate 0 is the Bayes posterior), exponential averages of
its recent log-probabilities at several decays, and three statistics of its context. Everything depends on earlier
tokens only.
"""

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from corollary.gating._prefix_gates import BayesGate, fixed_share_weights, share_step
from corollary.gating._scores import STATISTICS, ExpertScores, blocks

FLOOR = -20.0  # log-weights below are alike to the gate
AVERAGE_FLOOR = -12.0  # log-probabilities of a token below are alike


@dataclass(frozen=True)
class FeatureSettings:
    """Rates, the position of the base rate among them, and decays.

    Args:
        rates: sharing rates in (0, 1).
        base: index of the rate whose log-weights are the base that the gate's network corrects.
        decays: of the exponential averages of log-probabilities; 0 is the last token's alone.

    Guarantee: none.

    Example:
        >>> FeatureSettings().width(6)
        66
    """

    rates: tuple[float, ...] = (0.005, 0.02, 0.08)
    base: int = 0
    decays: tuple[float, ...] = (0.0, 0.5, 0.8, 0.95)

    def width(self, experts: int) -> int:
        """Number of features in front of a token."""
        return experts * (1 + len(self.rates) + len(self.decays) + STATISTICS)


def _assemble(log_posterior: Any, share: Any, averages: Any, statistics: Any) -> Float32[np.ndarray, "b f"]:
    """(B, F) features from (B, K), (B, R, K), (B, D, K) and (B, K, 3)."""
    with np.errstate(divide="ignore"):
        parts = [np.maximum(log_posterior, FLOOR)[:, None], np.maximum(np.log(share), FLOOR), averages]
    rows = len(share)
    flat = [np.asarray(p, dtype=np.float32).reshape(rows, -1) for p in (*parts, statistics)]
    return np.concatenate(flat, axis=1)


def recent_averages(scores: ExpertScores, decays: tuple[float, ...]) -> Float32[np.ndarray, "total d k"]:
    r"""(total, D, K) averages \(s_t = \beta s_{t-1} + (1-\beta) c_{t-1}\), zero before the first token."""
    decay = np.asarray(decays, dtype=np.float32)[:, None]
    out = np.empty((len(scores.log_probs), len(decays), scores.experts), dtype=np.float32)
    for block in blocks(scores.offsets):
        c = np.maximum(scores.log_probs[block.rows], AVERAGE_FLOOR)
        state = np.zeros((block.rows.shape[1], len(decays), scores.experts), dtype=np.float32)
        path = np.empty((len(c), *state.shape), dtype=np.float32)
        for t, n in enumerate(block.active):
            path[t, :n] = state[:n]
            state[:n] = average_step(state[:n], c[t, :n], decay)
        block.scatter(path, out)
    return out


def average_step(state: Any, c: Any, decay: Any) -> Float32[np.ndarray, "n d k"]:
    """One step of the averages: (n, D, K) state, (n, K) log-probabilities, (D, 1) decays."""
    return decay * state + (1 - decay) * c[:, None]


def corpus_features(scores: ExpertScores, settings: FeatureSettings) -> Float32[np.ndarray, "total f"]:
    """(total, F) features before every token of a corpus."""
    return _assemble(
        BayesGate(scores.experts).log_weights(scores),
        fixed_share_weights(scores, settings.rates),
        recent_averages(scores, settings.decays),
        scores.statistics,
    )


class StreamFeatures:
    """The same features, one token of each of B documents at a time.

    Args:
        batch: B.
        experts: K.
        settings: as for the corpus.

    Example:
        >>> StreamFeatures(2, 3, FeatureSettings()).read(np.zeros((2, 3, 3))).shape
        (2, 33)
    """

    def __init__(self, batch: int, experts: int, settings: FeatureSettings) -> None:
        self.settings, self.bayes = settings, BayesGate(experts)
        self.likelihood = np.zeros((batch, experts))
        self.share = np.full((batch, len(settings.rates), experts), 1 / experts, dtype=np.float32)
        self.averages = np.zeros((batch, len(settings.decays), experts), dtype=np.float32)

    def select_rows(self, rows: Any) -> "StreamFeatures":
        """The documents at these rows."""
        chosen = copy.copy(self)
        chosen.likelihood, chosen.share = self.likelihood[rows], self.share[rows]
        chosen.averages = self.averages[rows]
        return chosen

    def read(self, statistics: Any) -> Float32[np.ndarray, "b f"]:
        """(B, F) features before the next token."""
        posterior = self.bayes.next_log_weights(self.likelihood, statistics)
        return _assemble(posterior, self.share, self.averages, statistics)

    def push(self, log_probs: Float[np.ndarray, "b k"]) -> None:
        """Take in a token by its (B, K) log-probabilities."""
        c = np.asarray(log_probs, dtype=np.float32)
        self.likelihood = self.likelihood + c
        rates = np.asarray(self.settings.rates, dtype=np.float32)
        self.share, _ = share_step(self.share, np.exp(c - c.max(-1, keepdims=True)), rates)
        decay = np.asarray(self.settings.decays, dtype=np.float32)[:, None]
        self.averages = average_step(self.averages, np.maximum(c, AVERAGE_FLOOR), decay)


class OrderedStream(StreamFeatures):
    """Features of a stream whose gate reads them in order: with the memory of its network.

    Args:
        batch: B.
        experts: K.
        settings: as for the corpus.
        memory: tensors with the documents on their first axis, alone or in a tuple.

    Example:
        >>> OrderedStream(2, 3, FeatureSettings(), np.zeros((2, 5))).select_rows(np.array([1])).memory.shape
        (1, 5)
    """

    def __init__(self, batch: int, experts: int, settings: FeatureSettings, memory: Any) -> None:
        super().__init__(batch, experts, settings)
        self.memory = memory
        self.coming: Any = None  # what the memory becomes with the next token, once it was asked for

    def select_rows(self, rows: Any) -> "OrderedStream":
        """The documents at these rows."""
        chosen = super().select_rows(rows)
        assert isinstance(chosen, OrderedStream)
        chosen.memory, chosen.coming = _at(self.memory, rows), _at(self.coming, rows)
        return chosen


def _at(memory: Any, rows: Any) -> Any:
    if memory is None:
        return None
    return tuple(part[rows] for part in memory) if isinstance(memory, tuple) else memory[rows]
