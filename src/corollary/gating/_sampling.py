r"""Sampling from a whole-sequence gate: exactly by rejection, approximately by resampling.

Symbols: gate g(x, k), model \(\pi_g = \sum_k g(\cdot, k) q_k\), normaliser Z, proposal \(r = \frac1p \sum_k q_k\).
Drawing k uniformly, x from q_k, and keeping x with probability g(x, k) leaves exactly \(\pi_g / Z\); a share Z / p is
kept,
so one sample costs about p sequences of the experts, and nothing can be streamed.

Source: derived; arXiv:2602.17554 names rejection and importance sampling in section 6, which was not seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.numerics import log_sum_exp

Draw = Callable[[np.ndarray, np.random.Generator], tuple[Any, np.ndarray]]
Gate = Callable[[np.ndarray, Any], np.ndarray]


@dataclass(frozen=True, eq=False)
class GateSamples:
    """Sequences drawn from a gated model.

    Args:
        sequences: what `draw` gave, for the samples kept: an array where it gave arrays, a list otherwise.
        log_likelihoods: (M, p) under every expert, in nats.
        proposals: sequences that the experts had to produce.
        acceptance: share of the proposals kept; 1/p in expectation for a normalised gate. For resampling, the
            effective share, effective sample size over proposals.
        effective_size: number of independent samples they are worth; M for rejection.

    Example:
        >>> GateSamples(np.array([3]), np.zeros((1, 2)), 2, 0.5, 1.0).acceptance
        0.5
    """

    sequences: Any
    log_likelihoods: Float[np.ndarray, "m p"]
    proposals: int
    acceptance: float
    effective_size: float


def rejection_sample(
    draw: Draw,
    gate: Gate,
    *,
    size: int,
    experts: int,
    seed: int | np.random.Generator = 0,
    batch: int = 1024,
    max_proposals: int | None = None,
) -> GateSamples:
    r"""Exact samples of \(\pi_g / Z\): k uniform, x from q_k, kept with probability g(x, k).

    Args:
        draw: `(k, generator) -> (sequences, log_likelihoods)`: one sequence of expert k[i] each, as an array or a list,
            and their (len(k), p) log-likelihoods under every expert.
        gate: `(log_likelihoods, sequences) -> (n, p)` weights that sum to one.
        size: number of samples M.
        experts: number of experts p.
        seed: seed or generator.
        batch: proposals drawn at a time.
        max_proposals: give up after this many; 1000 p per sample where None.

    Returns:
        `GateSamples`.

    Raises:
        InvalidInputError: for a gate that is no probability, or one that accepts too rarely.

    Guarantee: the samples are independent draws of pi_g / Z, whatever the gate.

    Example:
        >>> q = np.array([[0.9, 0.1], [0.1, 0.9]])
        >>> def draw(k, generator):
        ...     x = (generator.random(len(k)) < q[k, 1]).astype(int)
        ...     return x, np.log(q[:, x].T)
        >>> drawn = rejection_sample(draw, lambda logq, x: np.full((len(x), 2), 0.5), size=1000, experts=2)
        >>> bool(abs(drawn.sequences.mean() - 0.5) < 0.1), bool(abs(drawn.acceptance - 0.5) < 0.1)
        (True, True)
    """
    _check_sizes(size, experts, batch)
    generator = np.random.default_rng(seed)
    limit = 1000 * experts * size if max_proposals is None else max_proposals
    kept: list[Any] = []
    scores: list[np.ndarray] = []
    found = proposals = accepted = 0
    while found < size:
        if proposals >= limit:
            raise InvalidInputError(
                f"{proposals} proposals gave {found} of the {size} samples asked for; the gate accepts too "
                f"rarely: check "
                "that its weights sum to one, or raise max_proposals"
            )
        k = generator.integers(experts, size=batch)
        sequences, logq, g = _proposals(draw, gate, k, generator, experts)
        keep = np.flatnonzero(generator.random(batch) < g[np.arange(batch), k])
        proposals, accepted = proposals + batch, accepted + len(keep)
        keep = keep[: size - found]
        found += len(keep)
        kept.append(_take(sequences, keep))
        scores.append(logq[keep])
    return GateSamples(_join(kept), np.concatenate(scores), proposals, accepted / proposals, float(size))


def importance_resample(
    draw: Draw,
    gate: Gate,
    *,
    size: int,
    experts: int,
    proposals: int,
    seed: int | np.random.Generator = 0,
) -> GateSamples:
    r"""Sampling-importance-resampling: draws of r, chosen by their weights \(w = \pi_g / r \in [0, p]\).

    Args:
        draw: as in `rejection_sample`.
        gate: as in `rejection_sample`.
        size: number of samples M; much smaller than `proposals`.
        experts: number of experts p.
        proposals: number N of sequences drawn.
        seed: seed or generator.

    Returns:
        `GateSamples` with the effective sample size \((\sum w)^2 / \sum w^2\).

    Raises:
        InvalidInputError: for a gate that is no probability, or sizes that mean nothing.

    Guarantee: none at finite N; exact as N grows.

    Example:
        >>> def draw(k, generator):
        ...     return k, np.log(np.where(np.arange(2) == k[:, None], 0.999, 0.001))
        >>> drawn = importance_resample(
        ...     draw, lambda logq, x: np.full((len(x), 2), 0.5), size=10, experts=2, proposals=500)
        >>> round(drawn.effective_size)
        500
    """
    _check_sizes(size, experts, proposals)
    generator = np.random.default_rng(seed)
    sequences, logq, g = _proposals(draw, gate, generator.integers(experts, size=proposals), generator, experts)
    weight = np.exp(log_sum_exp(logq, weights=g) - log_sum_exp(logq - np.log(experts)))
    if not weight.sum() > 0:
        raise InvalidInputError("every proposal has weight zero under the gate; check the gate, or draw more proposals")
    weight = weight / weight.max()
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    chosen: Int[np.ndarray, " m"] = generator.choice(proposals, size=size, p=weight / weight.sum())
    return GateSamples(_take(sequences, chosen), logq[chosen], proposals, effective / proposals, effective)


def _check_sizes(size: int, experts: int, batch: int) -> None:
    if min(size, experts, batch) < 1:
        raise InvalidInputError(f"sizes must be at least 1, got size {size}, {experts} experts, {batch} proposals")


def _proposals(
    draw: Draw, gate: Gate, k: np.ndarray, generator: np.random.Generator, experts: int
) -> tuple[Any, np.ndarray, np.ndarray]:
    sequences, scores = draw(k, generator)
    logq = np.asarray(scores, dtype=np.float64)
    if logq.shape != (len(k), experts) or len(sequences) != len(k) or np.isnan(logq).any():
        raise InvalidInputError(
            f"`draw` must give {len(k)} sequences and ({len(k)}, {experts}) log-likelihoods, got "
            f"{len(sequences)} and {logq.shape}"
        )
    g = np.asarray(gate(logq, sequences), dtype=np.float64)
    if g.shape != logq.shape or not ((g >= 0).all() and (np.abs(g.sum(1) - 1) < 1e-6).all()):
        raise InvalidInputError(
            f"`gate` must give {logq.shape} weights that sum to one in each row, got shape {g.shape}"
        )
    return sequences, logq, g


def _take(sequences: Any, index: np.ndarray) -> Any:
    return sequences[index] if isinstance(sequences, np.ndarray) else [sequences[i] for i in index]


def _join(parts: list[Any]) -> Any:
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [s for part in parts for s in part]


def sample_gate(
    gate: Any,
    experts: Sequence[Any],
    *,
    size: int,
    method: str = "rejection",
    proposals: int | None = None,
    max_tokens: int = 400,
    batch: int = 256,
    seed: int = 0,
) -> GateSamples:
    r"""Documents from a trained whole-sequence gate over language models: the teacher of a causal gate.

    Args:
        gate: a fitted `RobustGate`, also one that reads the text.
        experts: its p experts, in order.
        size: number of documents M.
        method: "rejection" (exact, p proposals a document) or "resampling" (SIR: a fixed number of proposals).
        proposals: N of the resampling; 4 M where None.
        max_tokens: longest document; longer ones are cut, by experts and model alike.
        batch: documents that the experts speak at a time.
        seed: of all draws.

    Returns:
        `GateSamples`; `sequences` is a list of byte strings. Score them with `score_experts` and give them to
        `CausalGate.fit`.

    Raises:
        InvalidInputError: for an unknown method, or sizes that mean nothing.

    Guarantee: by rejection, independent draws of pi_g / Z over documents of at most `max_tokens`. By resampling exact
        as N grows, up to the probabilities of the documents' ends, which experts do not score.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.gating import RobustGate, score_experts
        >>> from corollary.models import NgramModel
        >>> docs = Documents.from_texts(["aab", "bba"] * 4)
        >>> experts = [NgramModel.fit(docs.select([0])), NgramModel.fit(docs.select([1]))]
        >>> gate = RobustGate(steps=3, normalisation="none").fit(score_experts(experts, docs), np.tile([0, 1], 4))
        >>> len(sample_gate(gate, experts, size=5, max_tokens=8).sequences)
        5

    Reference: arXiv:2602.17554, section 6 by its titles; derived.
    """
    from corollary.gating._document_encoders import ENCODERS
    from corollary.gating._scores import score_experts
    from corollary.models import sample

    if method not in ("rejection", "resampling"):
        raise InvalidInputError(f"`method` must be 'rejection' or 'resampling', got {method!r}")

    def draw(k: np.ndarray, generator: np.random.Generator) -> tuple[list[bytes], np.ndarray]:
        spoken: list[bytes] = [b""] * len(k)
        for j, expert in enumerate(experts):
            mine = np.flatnonzero(k == j)
            found = sample(expert, len(mine), max_tokens=max_tokens, seed=int(generator.integers(2**31)))
            for i, document in zip(mine, found, strict=True):
                spoken[i] = document
        return spoken, score_experts(experts, Documents.from_texts(spoken)).totals()

    def weigh(log_likelihoods: np.ndarray, documents: Any) -> np.ndarray:
        features = Documents.from_texts(documents) if getattr(gate, "gate", None) in ENCODERS else None
        return gate.log_gate(log_likelihoods, features).exp().numpy()

    shared = {"size": size, "experts": len(experts), "seed": seed}
    if method == "rejection":
        return rejection_sample(draw, weigh, batch=batch, **shared)
    return importance_resample(draw, weigh, proposals=proposals or 4 * size, **shared)
