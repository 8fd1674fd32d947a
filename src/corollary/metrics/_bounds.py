r"""From a surrogate's excess to the metric's: the chain of bounds behind METRO.

Symbols: c_FN, c_FP the costs at level M; \(\bar c = \pi c_{FN} + (1-\pi) c_{FP}\); \(\Gamma = T^{-1}\) the surrogate's
transform; \(\lambda^* = -M^*\); \(l_\beta\) the denominator.

G6: \(R_\lambda(h) - R_\lambda^* \le \bar c\, \Gamma((R_\Phi(f) - R_\Phi^*) / \bar c)\) over all measurable f, by
Jensen's inequality with the weights W(x) = eta c_FN + (1 - eta) c_FP.
G7: \(M^* - M(h) \le (R_{\lambda^*}(h) - R^*_{\lambda^*}) / E[l_\beta(h)]\) (Theorem 3.2).
G8: uniform convergence over \(\|w\| \le \Lambda, \|x\| \le r\), whose Rademacher complexity is at most
\(\Lambda r / \sqrt m\).

[derived], each tested on thousands of random instances; G8 textbook (Mohri, Rostamizadeh and Talwalkar, chapter 5).
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError
from corollary.metrics._metric import Costs
from corollary.metrics._surrogates import inverse_transform

RADEMACHER_FACTOR = 2.0


def cost_excess_bound(
    surrogate_excess: ArrayLike, *, costs: Costs, prevalence: float, surrogate: str = "logistic"
) -> Float[np.ndarray, "..."]:
    r"""G6: the cost-sensitive excess that a surrogate excess allows.

    .. math:: \bar c \, \Gamma(\Delta R_\Phi / \bar c)

    Args:
        surrogate_excess: (...) R_Phi(f) - R_Phi^* over all measurable f, zero or more.
        costs: costs of the two errors.
        prevalence: share of positives.
        surrogate: one of the five.

    Guarantee: G6, over all measurable functions; restricted classes add minimizability gaps.

    Example:
        >>> cost_excess_bound(0.02, costs=Costs(1.0, 1.0), prevalence=0.5, surrogate="hinge").round(3).item()
        0.02
    """
    mean = prevalence * costs.fn + (1 - prevalence) * costs.fp
    return np.asarray(mean * inverse_transform(np.asarray(surrogate_excess) / mean, surrogate))


def metric_excess_bound(cost_excess: ArrayLike, denominator: ArrayLike) -> Float[np.ndarray, "..."]:
    r"""G7: \(M^* - M(h)\) from the excess of the costs at level M*, and the denominator of h as a rate.

    Guarantee: Theorem 3.2, exact: G7.

    Example:
        >>> metric_excess_bound(0.25, 0.5).item()
        0.5
    """
    below = np.asarray(denominator, dtype=np.float64)
    if not (below > 0).all():
        raise InvalidInputError("the denominator must be positive; the bound says nothing about a ratio over 0")
    return np.asarray(np.asarray(cost_excess, dtype=np.float64) / below)


def linear_risk_bound(
    empirical: ArrayLike, count: int, *, norm: float, radius: float, costs: Costs, delta: float = 0.05
) -> Float[np.ndarray, "..."]:
    r"""G8: an upper bound on the weighted logistic risk of every linear classifier of bounded norm.

    .. math:: R_\Phi(f) \le R_{\Phi,S}(f) + 2 c_{\max} \frac{\Lambda r}{\sqrt m}
        + c_{\max} B \sqrt{\frac{\log(1/\delta)}{2m}}, \quad B = \log(1 + e^{\Lambda r})

    Args:
        empirical: (...) mean weighted logistic loss on the sample.
        count: m, rows of the sample.
        norm: Lambda, the largest norm of (w, b) in the class, fixed beforehand.
        radius: r, the largest norm of (x, 1).
        costs: costs of the two errors.
        delta: probability of failure.

    Guarantee: holds for all classifiers of the class at once with probability 1 - delta over independent rows.

    Example:
        >>> linear_risk_bound(0.3, 10_000, norm=2.0, radius=1.0, costs=Costs(1.0, 0.5)).round(3).item()
        0.366
    """
    c = max(costs)
    deviation = np.sqrt(np.log(1 / delta) / (2 * count))
    width = RADEMACHER_FACTOR * norm * radius / np.sqrt(count)
    return np.asarray(np.asarray(empirical) + c * (width + np.logaddexp(0.0, norm * radius) * deviation))
