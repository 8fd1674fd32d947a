r"""Causal gates that need no training: Bayes posterior, fixed share, static weights, and mixtures of whole predictors.

Symbols: experts \(q_k\), k = 1..K, \(c_{t,k} = \log q_k(x_t | x_{<t})\), weights \(w_{t,k}\) that depend on \(x_{<t}\)
only,
\(\pi(x_t | x_{<t}) = \sum_k w_{t,k} q_k(x_t | x_{<t})\).

- Bayes posterior \(w_{t,k} \propto \lambda_k q_k(x_{<t})\): exactly the sequence-level mixture \(\sum_k \lambda_k
  q_k(x)\), so on every
  document at most \(\log(1/\lambda_k)\) nats above expert k (the chain rule; section 3.5 of the robust-gate paper as
  reconstructed in our notes).
- Fixed share: after each token the posterior keeps 1 - a and shares a among all experts: Herbster and Warmuth,
  "Tracking the
  best expert", Machine Learning 32 (1998). Standard formulas; the paper was not read here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from corollary.errors import InvalidInputError
from corollary.gating._scores import Block, ExpertScores, before, blocks

SMALL = 1024  # numbers below which the calls cost more than the arithmetic
DEFAULT_RATE = 0.005
DEFAULT_RATES = (0.0005, 0.005, 0.02, 0.08)


@runtime_checkable
class PrefixGate(Protocol):
    """Weights over experts that depend on the earlier tokens only, over a corpus or token by token.

    Guarantee: none; each gate states its own. `log_weights` and the stream agree (tested).

    Example:
        >>> isinstance(BayesGate(3), PrefixGate)
        True
    """

    @property
    def experts(self) -> int:
        """K."""
        ...

    def log_weights(self, scores: ExpertScores) -> Float[np.ndarray, "total k"]:
        """(total, K) log-weights before each token; rows sum to one after `exp`."""
        ...

    def start(self, batch: int) -> Any:
        """State of `batch` documents without a token."""
        ...

    def next_log_weights(self, state: Any, statistics: Any) -> Float[np.ndarray, "b k"]:
        """(B, K) log-weights before the next token; `statistics` (B, K, 3) as in `ExpertScores`."""
        ...

    def advance(self, state: Any, log_probs: Any) -> Any:
        """State after a token whose log-probabilities under the experts were (B, K) `log_probs`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Plain settings from which `gate_from_description` makes the gate again."""
        ...


def log_mix(log_weights: Any, log_probs: Any, *, axis: int = -1) -> Float[np.ndarray, "..."]:
    r"""\(\log \sum_k \exp(\log w_k + \log q_k)\) along `axis`, stable, in the wider of the two dtypes."""
    joint = log_weights + log_probs
    if joint.size < SMALL:  # one call in the place of seven
        return np.asarray(np.logaddexp.reduce(joint, axis=axis))
    top = joint.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(joint - top).sum(axis=axis)) + np.squeeze(top, axis))


def gate_log_probs(gate: PrefixGate, scores: ExpertScores) -> Float[np.ndarray, " total"]:
    """(total,) log-probability of every token under the gated mixture of the experts.

    Guarantee: exactly normalised over the next token wherever the experts are.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel
        >>> from corollary.gating import score_experts
        >>> docs = Documents.from_texts(["aba"])
        >>> scores = score_experts([NgramModel.fit(docs)], docs)
        >>> bool(np.allclose(gate_log_probs(BayesGate(1), scores), scores.log_probs[:, 0]))
        True
    """
    if scores.lazy:
        return np.concatenate([gate_log_probs(gate, run) for run, _ in scores.parts()])
    if hasattr(gate, "token_log_probs"):  # gates that never need all weights at once
        return gate.token_log_probs(scores)
    return log_mix(gate.log_weights(scores), scores.log_probs)


def sequence_mixture(
    log_probs: Float[np.ndarray, "total j"], offsets: Int[np.ndarray, " n_plus_1"], prior: Float[np.ndarray, " j"]
) -> Float[np.ndarray, " total"]:
    r"""Run the mixture of whole-sequence models causally, by prefix posteriors.

    \(\log \pi(x_t|x_{<t})\) of \(\pi(x) = \sum_j \lambda_j \pi_j(x)\): weights \(\propto \lambda_j \pi_j(x_{<t})\) at
    every prefix.

    Args:
        log_probs: (total, J) log-probability of each token under each model.
        offsets: (N + 1,) where documents begin and end.
        prior: (J,) weights that sum to one; zero switches a model off.

    Returns:
        (total,) log-probability of each token.

    Guarantee: the tokens of a document sum to \(\log \sum_j \lambda_j \pi_j(x)\), hence are at most
        \(\log(1/\lambda_j)\) nats above
        any model j on EVERY document (deterministic, chain rule).

    Example:
        >>> out = sequence_mixture(np.log([[.9, .1], [.9, .1]]), np.array([0, 2]), np.array([.5, .5]))
        >>> bool(np.isclose(out.sum(), np.log(.5 * .81 + .5 * .01)))
        True
    """
    with np.errstate(divide="ignore"):
        past = before(log_probs, offsets) + np.log(prior)
    return log_mix(past, log_probs) - log_mix(past, 0.0)


@dataclass(frozen=True)
class BayesGate:
    r"""The posterior over experts: \(w_{t,k} \propto \lambda_k \prod_{s<t} q_k(x_s|x_{<s})\).

    Args:
        experts: K.
        prior: K weights that sum to one; None for uniform. Zero-weight experts are never used.

    Guarantee: on every document at most \(\log(1/\lambda_k)\) nats above expert k, for every k with a weight.

    Example:
        >>> BayesGate(2).next_log_weights(BayesGate(2).start(1), None).round(3).tolist()
        [[-0.693, -0.693]]

    Reference: chain rule; a constant whole-sequence gate is realised exactly (our notes on the robust gate, section
        3.5).
    """

    experts: int
    prior: tuple[float, ...] | None = None

    def _log_prior(self) -> np.ndarray:
        prior = (
            np.full(self.experts, 1 / self.experts) if self.prior is None else np.asarray(self.prior, dtype=np.float64)
        )
        with np.errstate(divide="ignore"):
            return np.log(checked_weights(prior, self.experts))

    def log_weights(self, scores: ExpertScores) -> Float[np.ndarray, "total k"]:
        """(total, K) log-posterior before each token."""
        joint = before(scores.log_probs, scores.offsets) + self._log_prior()
        return joint - log_mix(joint, 0.0)[:, None]

    def token_log_probs(self, scores: ExpertScores) -> Float[np.ndarray, " total"]:
        """(total,) log-probability of each token: the mixture of the experts at sequence level, run causally."""
        return sequence_mixture(scores.log_probs, scores.offsets, np.exp(self._log_prior()))

    def start(self, batch: int) -> Float[np.ndarray, "b k"]:
        """(B, K) log of prior times likelihood so far."""
        return np.tile(self._log_prior(), (batch, 1))

    def next_log_weights(self, state: Any, statistics: Any) -> Float[np.ndarray, "b k"]:
        """(B, K) log-posterior."""
        return state - log_mix(state, 0.0)[:, None]

    def advance(self, state: Any, log_probs: Any) -> Float[np.ndarray, "b k"]:
        """Bayes' rule."""
        return state + log_probs

    def describe(self) -> dict[str, Any]:
        """Plain settings."""
        return {"kind": "bayes", "experts": self.experts, "prior": None if self.prior is None else list(self.prior)}


@dataclass(frozen=True)
class StaticGate:
    r"""The same weights before every token: \(w_{t,k} = \lambda_k\) (mixing per token, not per sequence).

    Args:
        weights: K weights that sum to one.

    Guarantee: none beyond \(\log(1/\lambda_k)\) nats PER TOKEN above expert k.

    Example:
        >>> StaticGate((0.25, 0.75)).experts
        2
    """

    weights: tuple[float, ...]

    @property
    def experts(self) -> int:
        """K."""
        return len(self.weights)

    def _log_weights(self) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(checked_weights(np.asarray(self.weights, dtype=np.float64), self.experts))

    def log_weights(self, scores: ExpertScores) -> Float[np.ndarray, "total k"]:
        """(total, K) the same row everywhere."""
        return np.broadcast_to(self._log_weights(), scores.log_probs.shape).copy()

    def token_log_probs(self, scores: ExpertScores) -> Float[np.ndarray, " total"]:
        """(total,) without a copy of the weights for every token."""
        return log_mix(self._log_weights(), scores.log_probs)

    def start(self, batch: int) -> Float[np.ndarray, "b k"]:
        """(B, K) the weights."""
        return np.tile(self._log_weights(), (batch, 1))

    def next_log_weights(self, state: Any, statistics: Any) -> Float[np.ndarray, "b k"]:
        """(B, K) the weights."""
        return state

    def advance(self, state: Any, log_probs: Any) -> Float[np.ndarray, "b k"]:
        """Nothing is learnt."""
        return state

    def describe(self) -> dict[str, Any]:
        """Plain settings."""
        return {"kind": "static", "weights": list(self.weights)}


def share_step(weights: Any, probs: Any, rates: Any) -> tuple[Float[np.ndarray, "n r k"], Float[np.ndarray, "n r"]]:
    r"""One step of fixed share: \(w'_k = (1-a) w_k q_k / \sum_j w_j q_j + a/K\), for every rate a.

    Args:
        weights: (n, R, K) weights before the token.
        probs: (n, K) probabilities of the token, up to a factor a row.
        rates: (R,) sharing rates a.

    Returns:
        The weights after the token, and (n, R) the mixed probability \(\sum_j w_j q_j\), up to the same factor.
    """
    posterior = weights * probs[:, None, :]
    mixed = posterior.sum(-1)
    posterior *= ((1 - rates) / mixed)[:, :, None]
    posterior += (rates / posterior.shape[-1])[:, None]
    return posterior, mixed


def fixed_share_weights(scores: ExpertScores, rates: Sequence[float]) -> Float[np.ndarray, "total r k"]:
    """(total, R, K) weights of fixed share at every rate, before each token.

    The recursion runs over positions, all documents of a block and all rates side by side.

    Args:
        scores: the experts' scores.
        rates: R sharing rates in (0, 1); for rate 0 use `BayesGate`, which needs logarithms.

    Guarantee: rows sum to one, and none falls below its rate over K.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel
        >>> from corollary.gating import score_experts
        >>> docs = Documents.from_texts(["aba", "b"])
        >>> scores = score_experts([NgramModel.fit(docs), NgramModel.fit(docs, order=1)], docs)
        >>> fixed_share_weights(scores, [0.01]).shape
        (4, 1, 2)
    """
    out = np.empty((len(scores.log_probs), len(rates), scores.experts), dtype=np.float32)
    for block, weights, _ in _share_paths(scores, rates, keep_weights=True):
        block.scatter(weights, out)
    return out


def fixed_share_log_probs(scores: ExpertScores, rates: Sequence[float]) -> Float[np.ndarray, "total r"]:
    """(total, R) log-probability of each token under fixed share at every rate; the weights are never stored."""
    out = np.empty((len(scores.log_probs), len(rates)), dtype=np.float32)
    for block, _, mixed in _share_paths(scores, rates, keep_weights=False):
        block.scatter(mixed, out)
    return out


def _share_paths(
    scores: ExpertScores, rates: Sequence[float], *, keep_weights: bool
) -> Iterator[tuple[Block, np.ndarray, np.ndarray]]:
    """For every block: (L, n, R, K) weights (empty unless kept) and (L, n, R) log-probabilities of the tokens."""
    shares = _checked_rates(rates)
    for block in blocks(scores.offsets):
        log_probs = scores.log_probs[block.rows]
        top = log_probs.max(-1)
        probs = np.exp(log_probs - top[:, :, None])
        weights = np.full((block.rows.shape[1], len(shares), scores.experts), 1 / scores.experts, dtype=np.float32)
        path = np.empty((*block.rows.shape, *weights.shape[1:]) if keep_weights else 0, dtype=np.float32)
        mixed = np.ones((*block.rows.shape, len(shares)), dtype=np.float32)
        for t, n in enumerate(block.active):
            if keep_weights:
                path[t, :n] = weights[:n]
            weights[:n], mixed[t, :n] = share_step(weights[:n], probs[t, :n], shares)
        yield block, path, np.log(mixed) + top[:, :, None]


@dataclass(frozen=True)
class FixedShareGate:
    """Fixed share, at one rate or as the Bayes mixture of several rates (each rate a predictor of the whole document).

    Args:
        experts: K.
        rates: sharing rates in (0, 1); with several, the sequence-level mixture of their predictors with equal priors.

    Guarantee: with R rates on every document at most log R nats above the best rate (deterministic); with one rate a,
        against experts that switch s times in T tokens, at most the bound of Herbster and Warmuth (1998).

    Example:
        >>> gate = FixedShareGate(2, (0.01,))
        >>> gate.next_log_weights(gate.start(1), None).round(3).tolist()
        [[-0.693, -0.693]]

    Reference: Herbster and Warmuth (1998); standard formulas as generally known, paper not read here.
    """

    experts: int
    rates: tuple[float, ...] = (DEFAULT_RATE,)

    def _of_rates(self, scores: ExpertScores) -> tuple[np.ndarray, np.ndarray]:
        """(total, R, K) weights of each rate, (total, R) log-probability of the token under each."""
        return np.log(fixed_share_weights(scores, self.rates)), fixed_share_log_probs(scores, self.rates)

    def log_weights(self, scores: ExpertScores) -> Float[np.ndarray, "total k"]:
        """(total, K) log-weights before each token."""
        weights, log_probs = self._of_rates(scores)
        past = before(log_probs, scores.offsets)
        past -= log_mix(past, 0.0)[:, None]
        return log_mix(past[:, :, None], weights, axis=1)

    def token_log_probs(self, scores: ExpertScores) -> Float[np.ndarray, " total"]:
        """(total,) log-probability of each token, without the weights."""
        log_probs = fixed_share_log_probs(scores, self.rates)
        if len(self.rates) == 1:
            return log_probs[:, 0]
        return sequence_mixture(log_probs, scores.offsets, np.full(len(self.rates), 1 / len(self.rates)))

    def start(self, batch: int) -> dict[str, np.ndarray]:
        """Weights of each rate, and the log-likelihood of each so far."""
        uniform = np.full((batch, len(self.rates), self.experts), 1 / self.experts, dtype=np.float32)
        return {"weights": uniform, "past": np.zeros((batch, len(self.rates)))}

    def next_log_weights(self, state: Any, statistics: Any) -> Float[np.ndarray, "b k"]:
        """(B, K) log-weights before the next token."""
        past = state["past"] - log_mix(state["past"], 0.0)[:, None]
        return log_mix(past[:, :, None], np.log(state["weights"]), axis=1)

    def advance(self, state: Any, log_probs: Any) -> dict[str, np.ndarray]:
        """One step of fixed share at every rate, and Bayes' rule over the rates."""
        top = log_probs.max(-1, keepdims=True)
        probs = np.exp(log_probs - top).astype(np.float32)
        weights, mixed = share_step(state["weights"], probs, _checked_rates(self.rates))
        return {"weights": weights, "past": state["past"] + np.log(mixed) + top}

    def describe(self) -> dict[str, Any]:
        """Plain settings."""
        return {"kind": "fixed_share", "experts": self.experts, "rates": list(self.rates)}


def checked_weights(weights: Any, experts: int) -> Float[np.ndarray, " k"]:
    """Weights over experts, nonnegative and summing to one."""
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (experts,) or not (array >= 0).all() or abs(array.sum() - 1) > 1e-6:
        raise InvalidInputError(
            f"weights over {experts} experts must be nonnegative and sum to one, got {np.asarray(weights).tolist()}"
        )
    return array / array.sum()


def _checked_rates(rates: Sequence[float]) -> np.ndarray:
    shares = np.asarray(rates, dtype=np.float32)
    if shares.ndim != 1 or not len(shares) or not ((shares > 0) & (shares < 1)).all():
        raise InvalidInputError(
            f"sharing rates must lie strictly between 0 and 1, got {list(rates)}; 0.005 suits bytes"
        )
    return shares


def gate_from_description(data: dict[str, Any]) -> PrefixGate:
    """The gate that `describe` told of (the learned one is stored as a model: `CausalGate.load`).

    Example:
        >>> gate_from_description({"kind": "bayes", "experts": 2, "prior": None})
        BayesGate(experts=2, prior=None)
    """
    kind = data.get("kind")
    if kind == "bayes":
        return BayesGate(data["experts"], None if data["prior"] is None else tuple(data["prior"]))
    if kind == "static":
        return StaticGate(tuple(data["weights"]))
    if kind == "fixed_share":
        return FixedShareGate(data["experts"], tuple(data["rates"]))
    raise InvalidInputError(f"no gate is of kind {kind!r}; known are bayes, static, fixed_share")
