r"""Peers of the calibrated rejector: Chow's rule, MaxProb, a selective (SelectiveNet-style) loss, confidence deferral.

Symbols: class probabilities p of the fixed predictor, \(p_{max}\) the largest; c the price of rejecting; selection
\(g = \sigma(r)\).

Chow (1970): with the true probabilities, accept iff \(p_{max} > 1 - c\). Geifman and El-Yaniv, "SelectiveNet", ICML
2019: selective risk \(\sum g \ell / \sum g\) plus \(\lambda (\kappa - \overline g)_+^2\); here the predictor is fixed,
so only the selection head is trained, and its auxiliary head has nothing to do. Textbook; the papers were
not read here.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from corollary.deferral._rejection import judged
from corollary.errors import InvalidInputError


def max_probability(probabilities: Any) -> Float[np.ndarray, " n"]:
    """MaxProb: the largest probability of the fixed predictor, as an acceptance score.

    Args:
        probabilities: (N, n) class probabilities, rows summing to one.

    Raises:
        InvalidInputError: for other than probabilities.

    Guarantee: none; how well it orders depends on the predictor's own calibration.

    Example:
        >>> max_probability([[0.9, 0.1], [0.4, 0.6]]).tolist()
        [0.9, 0.6]
    """
    p = np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or 0 in p.shape or not (p >= 0).all() or not np.allclose(p.sum(1), 1.0, atol=1e-3):
        raise InvalidInputError(f"`probabilities` must be (N, n) rows that sum to one, got shape {p.shape}")
    return p.max(axis=1)


def chow_scores(probabilities: Any, *, cost: float) -> Float[np.ndarray, " n"]:
    r"""Chow's rule as a score that accepts above 0.

    .. math:: p_{max} - (1 - c)

    Args:
        probabilities: (N, n) class probabilities of the fixed predictor.
        cost: price c of rejecting, in (0, 1/2).

    Raises:
        InvalidInputError: for other than probabilities, or a price out of range.

    Guarantee: the best rule where the probabilities are the true ones; with estimated ones none.

    Example:
        >>> chow_scores([[0.95, 0.05], [0.6, 0.4]], cost=0.1).round(2).tolist()
        [0.05, -0.3]
    """
    if not 0 < cost < 0.5:
        raise InvalidInputError(f"`cost` must lie in (0, 1/2), got {cost}")
    return max_probability(probabilities) - (1 - cost)


def selective_loss(scores: Any, acceptable: Any, *, coverage: float, penalty: float = 32.0) -> Float[Tensor, ""]:
    r"""The selective risk of a soft selection at a wanted coverage, for a fixed predictor.

    .. math:: \frac{\sum_i \sigma(r_i) 1[a_i = -1]}{\sum_i \sigma(r_i)}
              + \lambda (\kappa - \tfrac1N \sum_i \sigma(r_i))_+^2

    Args:
        scores: (N,) scores r.
        acceptable: (N,) judgements.
        coverage: \(\kappa\), share to be accepted, in (0, 1].
        penalty: \(\lambda\).

    Raises:
        InvalidInputError: for a coverage outside (0, 1].

    Guarantee: none; a peer.

    Example:
        >>> round(selective_loss([9.0, -9.0], [True, False], coverage=0.5).item(), 3)
        0.0
    """
    if not 0 < coverage <= 1:
        raise InvalidInputError(f"`coverage` must lie in (0, 1], got {coverage}")
    r, a = judged(scores, acceptable)
    g = torch.sigmoid(r)
    risk = (g * (a < 0)).sum() / g.sum().clamp_min(1e-12)
    return risk + penalty * (coverage - g.mean()).clamp_min(0) ** 2


def confidence_deferral(
    probabilities: Any, *, threshold: float | None = None, expert_accuracy: Any = None
) -> Bool[np.ndarray, " n"]:
    r"""Defer by the predictor's confidence alone.

    .. math:: p_{max} < \tau, \qquad \text{or} \quad p_{max} < \hat P(\text{the expert is right} | x)

    Args:
        probabilities: (N, n) class probabilities of the predictor.
        threshold: \(\tau\) (selective prediction).
        expert_accuracy: an estimate of how often the expert is right, a number or (N,) (compare confidence).

    Returns:
        (N,) whether to defer.

    Raises:
        InvalidInputError: unless exactly one of the two is given.

    Guarantee: none; a peer. Comparing true probabilities is optimal for one expert without a price.

    Example:
        >>> confidence_deferral([[0.9, 0.1], [0.4, 0.6]], threshold=0.7).tolist()
        [False, True]
    """
    if (threshold is None) == (expert_accuracy is None):
        raise InvalidInputError("give either `threshold` or `expert_accuracy`")
    sure = max_probability(probabilities)
    bar = np.asarray(threshold if expert_accuracy is None else expert_accuracy, dtype=np.float64)
    if bar.ndim > 1 or (bar.ndim == 1 and bar.shape != sure.shape) or not ((bar >= 0) & (bar <= 1)).all():
        raise InvalidInputError(f"the bar must be a share in [0, 1], one or one an input, got shape {bar.shape}")
    return sure < bar
