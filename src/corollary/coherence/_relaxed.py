r"""Partly coherent models: each view keeps some of its own opinion, and the gain is still known exactly.

.. math:: f_i \propto q_i^{1-t} g^{t} \;\text{(kl)}, \quad f_i = (q_i + \lambda \bar q)/(1 + \lambda) \text{ (squared)}

Symbols: g the projection of `_projection`; t in [0, 1] or \(\lambda \ge 0\) the strength. For every truth p that the
views share the mean drop is \(t (-\log Z) + \sum_i w_i (-\log Z_i)\) with \(Z_i = \sum_k q_{ik}^{1-t} g_k^t \le 1\),
and \((1 - (1+\lambda)^{-2}) \sum_i w_i \|q_i - \bar q\|^2\). [derived here]

The squared form minimises \(E D(f \| f_0) + \lambda \Omega(f)\), \(\Omega(f) = \sum_i w_i \|f_i - \bar f\|^2\).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.coherence._inputs import as_views, as_weights
from corollary.coherence._projection import project
from corollary.errors import InvalidInputError

HALVINGS = 60


@dataclass(frozen=True, eq=False)
class Relaxed:
    """Views drawn towards their projection.

    Args:
        log_probs: (V, N, K) log-probabilities of each view after it.
        gain: (N,) drop in expected divergence over the views, for every truth they share.
        incoherence: (N,) what is left: sum_i w_i KL(g || f_i), or the variance within the orbit.
        strength: (N,) t or lambda.

    Guarantee: the identities above.

    Example:
        >>> views = np.log([[[0.9, 0.1]], [[0.5, 0.5]]])
        >>> half = relax(views, strength=0.5)
        >>> bool(0 < half.gain[0] < project(views).gain[0])
        True
    """

    log_probs: Float[np.ndarray, "v n k"]
    gain: Float[np.ndarray, " n"]
    incoherence: Float[np.ndarray, " n"]
    strength: Float[np.ndarray, " n"]


def relax(
    log_probs: ArrayLike,
    *,
    strength: float | None = None,
    limit: float | None = None,
    weights: ArrayLike | None = None,
    divergence: str = "kl",
    floor: float | None = None,
) -> Relaxed:
    r"""Draw views towards their projection: penalised (`strength`), or as little as brings them below a `limit`.

    Args:
        log_probs: (V, N, K) log-probabilities.
        strength: t in [0, 1] for kl (0 changes nothing, 1 projects), lambda >= 0 for squared.
        limit: the incoherence allowed to remain, instead of a strength; the least strength that meets it is taken.
        weights: (V,) or (V, N).
        divergence: kl or squared.
        floor: as in `project`.

    Raises:
        InvalidInputError: for both or neither of `strength` and `limit`, or values out of range.

    Guarantee: `gain` is exact for every truth the views share, and never negative.

    Example:
        >>> views = np.log([[[0.9, 0.1]], [[0.5, 0.5]]])
        >>> float(relax(views, limit=0.01).incoherence[0].round(4))
        0.01

    Reference: Mohri, Schneider and Wu (2025), relaxed constraints; formulas derived here.
    """
    if (strength is None) == (limit is None):
        raise InvalidInputError("give either `strength` or `limit`")
    if divergence not in ("kl", "squared"):
        raise InvalidInputError(f"`divergence` must be kl or squared here, got {divergence!r}")
    top = 1.0 if divergence == "kl" else np.inf
    if strength is not None and not 0 <= strength <= top:
        raise InvalidInputError(f"`strength` must lie in [0, {top:g}], got {strength}")
    if limit is not None and not limit >= 0:
        raise InvalidInputError(f"`limit` must be zero or more, got {limit}")
    views = as_views(log_probs, floor=floor)
    w = as_weights(weights, *views.shape[:2])
    whole = project(views, weights=w, divergence=divergence)
    if divergence == "squared":
        return _squared(views, w, whole.probs, whole.gain, strength, limit)
    if np.isneginf(views).any():
        raise InvalidInputError("a view gives a class probability zero; relaxing by kl needs a floor, e.g. floor=1e-6")
    if strength is not None:
        return _geodesic(views, w, whole.log_probs, whole.gain, np.full(views.shape[1], float(strength)))
    low, high = np.zeros(views.shape[1]), np.ones(views.shape[1])
    start = _geodesic(views, w, whole.log_probs, whole.gain, low)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        over = _geodesic(views, w, whole.log_probs, whole.gain, middle).incoherence > limit
        low, high = np.where(over, middle, low), np.where(over, high, middle)
    return _geodesic(views, w, whole.log_probs, whole.gain, np.where(start.incoherence <= limit, 0.0, high))


def _geodesic(views: np.ndarray, w: np.ndarray, g: np.ndarray, gain: np.ndarray, t: np.ndarray) -> Relaxed:
    mixed = (1 - t)[:, None] * views + t[:, None] * g
    top = mixed.max(-1, keepdims=True)
    log_z = top + np.log(np.exp(mixed - top).sum(-1, keepdims=True))
    f = mixed - log_z
    won = t * gain + np.einsum("vn,vn->n", w, np.maximum(-log_z[..., 0], 0.0))
    left = np.einsum("vn,vn->n", w, (np.exp(g) * (g - f)).sum(-1))
    return Relaxed(f, won, np.maximum(left, 0.0), t)


def _squared(
    views: np.ndarray,
    w: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    strength: float | None,
    limit: float | None,
) -> Relaxed:
    if limit is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            shrink = np.where(variance > limit, np.sqrt(limit / variance), 1.0)
    else:
        assert strength is not None
        shrink = np.full(len(variance), 1 / (1 + float(strength)))
    f = mean + shrink[:, None] * (np.exp(views) - mean)
    with np.errstate(divide="ignore"):
        return Relaxed(np.log(f), variance * (1 - shrink**2), variance * shrink**2, 1 / np.maximum(shrink, 1e-300) - 1)
