r"""Consistency bounds as objects: from a surrogate excess to an excess of the target, and back.

Symbols: R - R* the surrogate excess, M the minimizability gap, Gamma concave, W(x) the weight of a point.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from corollary.errors import InvalidInputError
from corollary.losses.consistency._transforms import (
    Curve,
    bisect_inverse,
    checked_excess,
    checked_index,
    comp_sum_inverse,
    comp_sum_transform,
    general_transform,
    tabulate,
    tabulated_inverse,
)


@dataclass(frozen=True)
class ConsistencyBound:
    r"""target excess + its gap <= Gamma(surrogate excess + its gap).

    Args:
        target_name: what is bounded: `"zero-one error"`, `"balanced error"`.
        transform: T, from a target excess to the least surrogate excess.
        inverse: Gamma, from a surrogate excess to the largest target excess.
        formula: the statement in words.
        assumptions: what it rests on.
        reference: the source.

    Guarantee: that of `formula`, under `assumptions`.

    Example:
        >>> from corollary.losses import CompSumLoss
        >>> bound = CompSumLoss(tau=1.0).consistency_bound(classes=10)
        >>> bound.target(0.02).round(4).item(), bound.surrogate(0.2).round(4).item()
        (0.1993, 0.0201)
    """

    target_name: str
    transform: Curve
    inverse: Curve
    formula: str
    assumptions: tuple[str, ...]
    reference: str

    def target(
        self, surrogate_excess: Any, *, surrogate_gap: float = 0.0, target_gap: float = 0.0
    ) -> Float64[np.ndarray, "..."]:
        """The largest target excess that this surrogate excess allows; the gaps are zero for complete sets."""
        value = self.inverse(checked_excess(surrogate_excess) + surrogate_gap) - target_gap
        return np.asarray(np.maximum(value, 0.0))

    def surrogate(self, target_excess: Any) -> Float64[np.ndarray, "..."]:
        """The surrogate excess that a target excess takes at least."""
        return np.asarray(self.transform(target_excess))

    def __str__(self) -> str:
        return f"{self.formula} [{'; '.join(self.assumptions)}; {self.reference}]"


COMPLETE = "the hypothesis set is symmetric and complete (each score takes every real value)"


def comp_sum_bound(*, tau: float, classes: int) -> ConsistencyBound:
    r"""The bound of the comp-sum family.

    .. math:: R_{01} - R^*_{01} + M_{01} \le \Gamma_\tau(R_\tau - R^*_\tau + M_\tau)

    Args:
        tau: index.
        classes: n.

    Guarantee: every hypothesis of a symmetric and complete set, every distribution.

    Example:
        >>> comp_sum_bound(tau=2.0, classes=4).target(0.1).round(6).item()  # n y
        0.4

    Reference: Mao, Mohri, Zhong (ICML 2023); reconstructed from notes, may differ.
    """
    tau, n = checked_index(tau, classes)
    return ConsistencyBound(
        "zero-one error",
        lambda t: comp_sum_transform(t, tau=tau, classes=n),
        lambda y: comp_sum_inverse(y, tau=tau, classes=n),
        f"R_01 - R*_01 + M_01 <= Gamma(R - R* + M), tau = {tau:g}, n = {n}",
        (COMPLETE,),
        "Mao, Mohri, Zhong (ICML 2023)",
    )


def general_bound(psi: Curve, *, classes: int) -> ConsistencyBound:
    """The bound of any loss Psi(s_y) with Psi convex and decreasing, tabulated on 201 points and rounded up.

    Args:
        psi: vectorised function of numpy arrays in (0, 1].
        classes: n.

    Guarantee: that of `general_transform`.

    Example:
        >>> import numpy as np
        >>> general_bound(lambda s: (1 - s) ** 2, classes=2).target(0.0025).round(3).item()  # 2 sqrt(y), rounded up
        0.105
    """

    def transform(t: Any) -> Float64[np.ndarray, "..."]:
        return general_transform(psi, t, classes=classes)

    grid, curve = tabulate(transform)
    return ConsistencyBound(
        "zero-one error",
        transform,
        lambda y: tabulated_inverse(grid, curve, y),
        f"R_01 - R*_01 + M_01 <= Gamma(R - R* + M), Gamma tabulated, n = {classes}",
        (COMPLETE, "the loss is Psi of the softmax of the label, Psi convex and decreasing"),
        "Mao, Mohri, Zhong (NeurIPS 2023)",
    )


def weighted_target(inverse: Curve, surrogate_excess: Any, *, mean_weight: float) -> Float64[np.ndarray, "..."]:
    r"""A bound for weighted targets, where both regrets at x are W(x) times those of a distribution q_x.

    .. math:: \text{target excess} \le E[W] \, \Gamma(\text{surrogate excess} / E[W])

    since \(W \Gamma(D/W)\) is jointly concave (a perspective).

    Args:
        inverse: Gamma, concave.
        surrogate_excess: in the units of the weighted loss.
        mean_weight: E[W].

    Guarantee: [derived; tested for the balanced error].

    Example:
        >>> import numpy as np
        >>> weighted_target(np.sqrt, 0.5, mean_weight=2.0).item()
        1.0
    """
    if not mean_weight > 0:
        raise InvalidInputError(f"`mean_weight` must be above zero, got {mean_weight}")
    return np.asarray(mean_weight * inverse(checked_excess(surrogate_excess) / mean_weight))


def gca_bound(prior: Any, *, q: float = 0.0, unit: float = 1.0) -> ConsistencyBound:
    r"""GCA with equal margins: balanced error - its least value <= Gamma_{1+q}(excess / unit), prior-free.

    Args:
        prior: (n,) class probabilities.
        q: index.
        unit: 1 for the normalised loss (weights 1/(n p_y)), n without normalisation.

    Guarantee: E_x[W Gamma(D/W)] <= E[W] Gamma(E[D]/E[W]) with E[W] = n [derived; tested].

    Example:
        >>> gca_bound([0.9, 0.1]).target(0.02).round(4).item()
        0.1993

    Reference: Cortes, Mohri, Zhong (NeurIPS 2025); constant derived here, may differ from the paper's.
    """
    n = len(np.asarray(prior))
    tau = 1.0 + q
    return ConsistencyBound(
        "balanced error",
        lambda t: unit * comp_sum_transform(t, tau=tau, classes=n),
        lambda y: comp_sum_inverse(np.asarray(y) / unit, tau=tau, classes=n),
        f"balanced error - least <= Gamma_{tau:g}(excess / {unit:g}), n = {n}",
        (COMPLETE, "equal margins", "the priors are those of the distribution"),
        "Cortes, Mohri, Zhong (NeurIPS 2025), constant derived here",
    )


def gla_bound(prior: Any) -> ConsistencyBound:
    r"""GLA at q = 0: balanced error - its least value <= sqrt(2) / (n p_min) sqrt(excess).

    The regret at x is at most \(\|\eta - s\|_1/p_{min} \le \sqrt{2 KL}/p_{min}\), then Jensen.

    Args:
        prior: (n,) class probabilities.

    Guarantee: [derived; tested]. The 1/p_min is needed where two rare classes compete.

    Example:
        >>> gla_bound([0.9, 0.1]).target(0.0002).round(6).item()
        0.1

    Reference: Cortes, Mohri, Zhong (NeurIPS 2025); constant derived here, may differ from the paper's.
    """
    p = np.asarray(prior, dtype=np.float64)
    factor = math.sqrt(2) / (len(p) * float(p.min()))
    return ConsistencyBound(
        "balanced error",
        lambda t: (np.asarray(t, dtype=np.float64) / factor) ** 2,
        lambda y: np.minimum(1.0, factor * np.sqrt(checked_excess(y))),
        f"balanced error - least <= {factor:.4g} sqrt(R - R*)",
        (COMPLETE, "the priors are those of the distribution"),
        "Cortes, Mohri, Zhong (NeurIPS 2025), constant derived here",
    )


def phi_at_one(tau: float) -> float:
    r"""\(\Phi^\tau(1) = (2^{1-\tau} - 1)/(1-\tau)\), log 2 at tau = 1: the surrogate loss of a two-way tie.

    Example:
        >>> phi_at_one(0.0), phi_at_one(2.0)
        (1.0, 0.5)
    """
    return math.log(2) if tau == 1 else math.expm1((1 - tau) * math.log(2)) / (1 - tau)


def adversarial_bound(*, tau: float) -> ConsistencyBound:
    r"""The smooth adversarial comp-sum loss: robust error excess <= (surrogate excess) / Phi^tau(1).

    .. math:: R_\gamma - R^*_\gamma + M_\gamma \le (R_{smooth} - R^*_{\tilde\ell} + M_{\tilde\ell}) / \Phi^\tau(1)

    Args:
        tau: index.

    Guarantee: for symmetric, locally rho-consistent hypothesis sets and nu >= sqrt(n-1)/rho [derived; tested]. The
        starred quantities are those of the non-smooth adversarial loss.

    Example:
        >>> adversarial_bound(tau=2.0).target(0.1).item()
        0.2

    Reference: Mao, Mohri, Zhong (ICML 2023); the constant is derived here (memory shows its reciprocal, which fails).
    """
    constant = phi_at_one(checked_index(tau, 2)[0])
    return ConsistencyBound(
        "robust zero-one error",
        lambda t: constant * np.asarray(t, dtype=np.float64),
        lambda y: np.minimum(1.0, checked_excess(y) / constant),
        f"R_gamma - R*_gamma + M_gamma <= (R_smooth - R* + M) / {constant:.4g}",
        ("the hypothesis set is symmetric and locally rho-consistent", "nu >= sqrt(n-1)/rho"),
        "Mao, Mohri, Zhong (ICML 2023), constant derived here",
    )


def massart_target(surrogate_excess: Any, *, noise: float, transform: Curve) -> Float64[np.ndarray, "..."]:
    r"""Under Massart noise \(|\eta - 1/2| \ge g\): the excess is linear, \((2g/T(2g))\) times the surrogate's.

    A binary zero-one regret is 0 or at least 2g, and T(t)/t does not decrease for convex T with T(0) = 0, so
    \(t \le (2g / T(2g)) T(t)\) for every \(t \ge 2g\).

    Args:
        surrogate_excess: R - R* + M.
        noise: g in (0, 1/2].
        transform: T.

    Guarantee: for convex T with T(0) = 0 [derived]; the notes print 2/T(2g), which is weaker by 1/g.

    Example:
        >>> massart_target(0.1, noise=0.5, transform=lambda t: t**2).item()
        0.1
    """
    if not 0 < noise <= 0.5:
        raise InvalidInputError(f"`noise` must lie in (0, 1/2], got {noise}")
    width = 2 * noise
    return np.asarray(np.minimum(1.0, checked_excess(surrogate_excess) * width / transform(np.asarray(width))))


def margin_bound(
    margin_risk: float,
    *,
    counts: Any,
    margin: Any,
    norm: float,
    radius: Any,
    delta: float = 0.05,
    complexity: Callable[[float], float] | None = None,
) -> float:
    r"""The margin bound of IMMAX for two classes and linear scores of norm at most Lambda.

    .. math:: R(h) \le \hat R_{S,\rho}(h) + \tfrac{2\Lambda}{m} \sqrt{\tfrac{m_+ r_+^2}{\rho_+^2} + \tfrac{m_- r_-^2}
        {\rho_-^2}} + 3\sqrt{\tfrac{\log(2/\delta)}{2m}}

    Args:
        margin_risk: mean of the class-imbalanced ramp loss on the sample (`margin_loss`).
        counts: (2,) rows of each class.
        margin: (2,) margins fixed beforehand.
        norm: Lambda.
        radius: (2,) largest norms of the inputs of each class.
        delta: probability of failure.
        complexity: replaces the middle term (a function of m) where the class is not linear.

    Guarantee: with the empirical Rademacher complexity, hence 3 sqrt(log(2/delta)/2m); Cortes et al. (ICML 2025) for
        two classes, complexity of linear scores derived here.

    Example:
        >>> margin_bound(0.0, counts=[5000, 5000], margin=[1.0, 1.0], norm=1.0, radius=[1.0, 1.0]) < 0.07
        True

    Reference: Cortes, Mao, Mohri, Zhong (ICML 2025); reconstructed, may differ.
    """
    m, rho, r = (np.asarray(v, dtype=np.float64) for v in (counts, margin, radius))
    total = float(m.sum())
    term = 2 * norm / total * math.sqrt(float((m * r**2 / rho**2).sum())) if complexity is None else complexity(total)
    return min(1.0, margin_risk + term + 3 * math.sqrt(math.log(2 / delta) / (2 * total)))


def invert(transform: Curve) -> Curve:
    """Gamma of a nondecreasing T on [0, 1], by bisection from above.

    Example:
        >>> invert(lambda t: t**2)(0.25).round(9).item()
        0.5
    """
    return lambda y: bisect_inverse(transform, y)
