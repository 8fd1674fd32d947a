r"""Learning to reject with a fixed predictor: a separate score r accepts an output (r > 0) or rejects it.

Symbols: \(a \in \{-1, +1\}\), is the output acceptable; c in (0, 1/2), price of rejecting;
\(L_{rej} = 1[a = -1] 1[r > 0] + c\, 1[r \le 0]\). Best: accept iff \(P(a = -1 | x) < c\). Surrogate

.. math:: L = e^{(\alpha / 2)(r - a)} + c\, e^{-\beta r}, \qquad I_c = c\, e^{\alpha/2} + (1 - c)\, e^{-\alpha/2},
          \qquad \beta = \alpha I_c / (2 c)

with which the conditional minimiser is positive iff \(P(a = -1 | x) < c\): no threshold is left to tune.

Mohri, Andor, Choi, Collins, Mao, Zhong, "Learning to Reject with a Fixed Predictor", ICLR 2024. Abstract, reviews and a
figure's caption read; formulas and bound derived here and checked, the printed constants were not seen.

Hinge form [derived here]: \(\max(0, 1 + \frac\alpha2 (r - a)) + c \max(0, 1 - \beta r)\) with \(\alpha > 2\), where a
good output costs nothing at r = 0, and \(\beta = \alpha / 2\). The conditional loss then has slope
\(\frac\alpha2 (P(bad) - c)\) on both sides of 0, down to r = -1 - 2/alpha and up to min(2/alpha, 1 - 2/alpha), so the
excess of any r of the wrong sign is at least \(|P(bad) - c| \min(1, \alpha/2 - 1)\): a linear bound.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from corollary.deferral._inputs import as_tensor, reduce
from corollary.errors import InvalidInputError

FORMS = ("exponential", "hinge")
LIMIT = 60.0  # exponents beyond it are continued linearly: e^60 is far from overflow in float32


def calibrated_beta(cost: float, alpha: float, *, form: str = "exponential") -> float:
    r"""\(\beta = \alpha I_c / (2 c)\): with it the sign of the best score is the best decision.

    Args:
        cost: price c of rejecting, in (0, 1/2).
        alpha: slope of the first term, above 0; above 2 for the hinge, whose \(\beta\) is \(\alpha / 2\).
        form: "exponential" or "hinge".

    Raises:
        InvalidInputError: outside these ranges.

    Guarantee: G2, see `rejection_loss`.

    Example:
        >>> [round(calibrated_beta(c, a), 3) for c, a in ((0.05, 1.0), (0.05, 4.0), (0.1, 2.0))]
        [6.586, 19.921, 6.029]
    """
    if form not in FORMS:
        raise InvalidInputError(f"`form` must be one of {', '.join(FORMS)}, got {form!r}")
    least = 2 if form == "hinge" else 0
    if not 0 < cost < 0.5 or not alpha > least:
        raise InvalidInputError(f"`cost` must lie in (0, 1/2) and `alpha` above {least}, got {cost}, {alpha}")
    if form == "hinge":
        return alpha / 2
    return alpha * _mixed(cost, alpha) / (2 * cost)


def rejection_loss(
    scores: Any,
    acceptable: Any,
    *,
    cost: float,
    alpha: float = 1.0,
    beta: float | None = None,
    form: str = "exponential",
    weight: Any = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    r"""Surrogate of \(1[a = -1] 1[r > 0] + c\, 1[r \le 0]\) for a fixed predictor.

    .. math:: e^{(\alpha/2)(r - a)} + c\, e^{-\beta r}

    Args:
        scores: (N,) scores r; positive accepts.
        acceptable: (N,) judgements of the outputs: booleans, 0/1, or -1/+1.
        cost: price c of rejecting, in (0, 1/2): outputs are to be accepted where they are bad with probability < c.
        alpha: slope; smaller is safer against outliers (1 here; the paper's main text uses 4).
        beta: None for the calibrated value.
        form: "exponential", or "hinge" (alpha above 2): linear in outliers, where judgements may be wrong.
        weight: (N,) weight of each sample.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or (N,) for "none".

    Raises:
        InvalidInputError: for shapes that do not match, NaN, or judgements that are neither.

    Guarantee: L >= L_rej pointwise. With the calibrated beta the conditional minimiser has the sign of
        c - P(a = -1 | x), and \(excess_{rej} \le \frac1S \sqrt{2 I_c \frac{c + I_c}{c} M^{(2 + g)/(1 + g)} e}\), e
        the excess of L,
        \(S = e^{\alpha/2} - e^{-\alpha/2}\), \(g = I_c / c\), \(M = \max(1, e^{\alpha/2} / I_c)\), over all
        measurable scores. Hinge: \(excess_{rej} \le e / \min(1, \alpha/2 - 1)\).

    Example:
        >>> bool(rejection_loss([1.0], [False], cost=0.1) > 1.0)
        True

    Reference: Mohri et al. (ICLR 2024); reconstructed from abstract, reviews and notes, may differ.
    """
    beta = calibrated_beta(cost, alpha, form=form) if beta is None else beta
    if not beta > 0:
        raise InvalidInputError(f"`beta` must be above 0, got {beta}")
    r, a = judged(scores, acceptable)
    if form == "hinge":
        values = (1 + alpha / 2 * (r - a)).clamp_min(0) + cost * (1 - beta * r).clamp_min(0)
        return reduce(values, weight, reduction)
    return reduce(_exp(alpha / 2 * (r - a)) + cost * _exp(-beta * r), weight, reduction)


def rejection_cost(scores: Any, acceptable: Any, *, cost: float, reduction: str = "mean") -> Float[Tensor, "..."]:
    r"""The rejection loss itself, \(1[a = -1] 1[r > 0] + c\, 1[r \le 0]\).

    Args:
        scores, acceptable, cost, reduction: as in `rejection_loss`.

    Guarantee: none; it is the target.

    Example:
        >>> round(rejection_cost([1.0, -1.0], [False, True], cost=0.25, reduction="sum").item(), 2)
        1.25
    """
    r, a = judged(scores, acceptable)
    return reduce(torch.where(r > 0, (a < 0).to(r), torch.full_like(r, cost)), None, reduction)


def rejection_bound(excess: float, *, cost: float, alpha: float, form: str = "exponential") -> float:
    r"""Largest excess rejection loss for an excess of the calibrated surrogate (see `rejection_loss`).

    Args:
        excess: of the surrogate, at least 0.
        cost, alpha, form: as in `rejection_loss`.

    Guarantee: for all measurable scores; attained in the limit.

    Example:
        >>> rejection_bound(0.0, cost=0.1, alpha=2.0)
        0.0
    """
    calibrated_beta(cost, alpha, form=form)
    if form == "hinge":
        return max(excess, 0.0) / min(1.0, alpha / 2 - 1)
    i = _mixed(cost, alpha)
    m = max(1.0, np.exp(alpha / 2) / i)
    g = i / cost
    spread = np.exp(alpha / 2) - np.exp(-alpha / 2)
    return float(np.sqrt(2 * i * (cost + i) / cost * m ** ((2 + g) / (1 + g)) * max(excess, 0.0)) / spread)


class RejectionLoss(torch.nn.Module):
    """`rejection_loss` as a module.

    Args:
        cost, alpha, beta, form, reduction: as in `rejection_loss`.

    Guarantee: as `rejection_loss`.

    Example:
        >>> round(RejectionLoss(cost=0.1, alpha=2.0).beta, 3)
        6.029

    Reference: as `rejection_loss`.
    """

    def __init__(
        self,
        *,
        cost: float,
        alpha: float = 1.0,
        beta: float | None = None,
        form: str = "exponential",
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.cost, self.alpha, self.form, self.reduction = cost, alpha, form, reduction
        self.beta = calibrated_beta(cost, alpha, form=form) if beta is None else beta

    def forward(self, scores: Any, acceptable: Any, *, weight: Any = None) -> Float[Tensor, "..."]:
        """The loss of a batch."""
        options = {"cost": self.cost, "alpha": self.alpha, "beta": self.beta, "form": self.form, "weight": weight}
        return rejection_loss(scores, acceptable, reduction=self.reduction, **options)


def _mixed(c: float, alpha: float) -> float:
    return float(c * np.exp(alpha / 2) + (1 - c) * np.exp(-alpha / 2))


def _exp(t: Tensor) -> Tensor:
    """exp, continued by its tangent beyond `LIMIT`: still convex, never infinite, and its gradient does not vanish."""
    low = t.clamp_max(LIMIT)
    return torch.exp(low) * (1 + (t - low))


def judged(scores: Any, acceptable: Any) -> tuple[Tensor, Tensor]:
    """Finite scores (N,), and judgements as -1 and +1."""
    r = as_tensor(scores)
    a = as_tensor(torch.as_tensor(acceptable).to(r.dtype), like=r)
    if r.ndim != 1 or len(r) == 0 or a.shape != r.shape:
        raise InvalidInputError(f"scores and judgements must be (N,) alike, got {tuple(r.shape)} and {tuple(a.shape)}")
    if not torch.isfinite(r).all():
        raise InvalidInputError("`scores` holds NaN or infinite values; lower the learning rate, or clip the scores")
    if not (((a == 0) | (a == 1)).all() or ((a == -1) | (a == 1)).all()):
        raise InvalidInputError("`acceptable` must be booleans, 0/1, or -1/+1")
    return r, torch.where(a > 0, torch.ones_like(a), -torch.ones_like(a))
