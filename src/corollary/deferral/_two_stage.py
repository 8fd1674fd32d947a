r"""Surrogate losses of two-stage deferral: the experts are fixed, the router is learned.

Symbols: scores \(r \in R^K\) of one input, one for each expert; costs \(c \in [0, 1]^K\); \(p = softmax(r)\). The
router sends the input to \(\arg\max_k r_k\) and pays \(L_{tdef} = \sum_k c_k 1[\arg\max r = k]\).

- COMPSUM: \(\sum_k (1 - c_k) \ell(r, k)\) with \(\ell\) = exp \(\sum_{i \ne k} e^{r_i - r_k}\), log \(-\log p_k\),
  GCE \((1 - p_k^q) / q\), MAE \(1 - p_k\). Mao, C. Mohri, M. Mohri, Zhong, "Two-Stage Learning to Defer with Multiple
  Experts", NeurIPS 2023: the table of losses seen in a summary, not the paper.
- EC \(\sum_k c_k p_k\); T2 \(-\sum_k c_k \log(1 - p_k)\); T1 \(\sum_i (c_{(i+1)} - c_{(i)}) (-\log(p_{(1)} + .. +
  p_{(i)}))\), experts sorted by cost. Realizable members, after Mao, Mohri, Zhong, "Mastering Multiple-Expert Routing",
  ICML 2025, of which only the abstract could be read: the formulas are derived here, and may differ from the print.
- VALUE \(-\sum_k (1 - c_k) \log \sigma(r_k) + c_k \log(1 - \sigma(r_k))\): K binary comp-sum losses, one an expert, so
  \(\sigma(r_k)\) estimates \(E[1 - c_k | x]\) and a price can be subtracted after training. With \(v^* = E[1 - c | x]\)
  its excess is \(\sum_k KL(v^*_k \| v_k) \ge 2 (d_a^2 + d_b^2) \ge (d_a + d_b)^2\) by Pinsker for any two experts a, b
  (d = distance of the estimates from the truth), and routing to a instead of b loses at most \(d_a + d_b\).
- SQUARED \(\sum_k (r_k - (1 - c_k))^2\): r_k itself estimates \(E[1 - c_k | x]\); its excess is
  \(d_a^2 + d_b^2\) or more, at least \((d_a + d_b)^2 / 2\). Ridge regression, where the scores are linear.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.deferral._inputs import as_tensor, check_costs, check_q, check_scores, reduce
from corollary.errors import InvalidInputError


@dataclass(frozen=True)
class Properties:
    r"""What is proved, or refuted, about a surrogate; the tests verify both.

    Args:
        bayes: minimising it over all functions picks an action of least expected cost.
        realizable: if some router of a class closed under scaling has zero cost, minimising over the class finds one.
        convex: in the scores, for every number of experts.
        bounded: by a constant, for costs in [0, 1].
        bound: excess deferral cost as a function of (excess surrogate, K, W), \(W = E[\sum_k (1 - c_k)]\); None where
            no constant is claimed.

    Guarantee: none; it records the theorems of the loss.

    Example:
        >>> properties("compsum-log").realizable, properties("ec").bound(0.01, 3, 1.0)
        (False, 0.03)
    """

    bayes: bool
    realizable: bool
    convex: bool
    bounded: bool
    bound: Callable[[float, int, float], float] | None = None


PROPERTIES: dict[str, Properties] = {
    "compsum-exp": Properties(bayes=True, realizable=False, convex=True, bounded=False),
    "compsum-log": Properties(
        bayes=True, realizable=False, convex=True, bounded=False, bound=lambda e, k, w: sqrt(2 * w * e)
    ),
    "compsum-gce": Properties(bayes=True, realizable=False, convex=False, bounded=True),
    "compsum-mae": Properties(bayes=True, realizable=True, convex=False, bounded=True, bound=lambda e, k, w: k * e),
    "ec": Properties(bayes=True, realizable=True, convex=False, bounded=True, bound=lambda e, k, w: k * e),
    "t1": Properties(bayes=False, realizable=True, convex=False, bounded=False),
    "t2": Properties(bayes=True, realizable=True, convex=False, bounded=False),
    "value": Properties(bayes=True, realizable=False, convex=True, bounded=False, bound=lambda e, k, w: sqrt(e)),
    "squared": Properties(bayes=True, realizable=False, convex=True, bounded=False, bound=lambda e, k, w: sqrt(2 * e)),
}


def properties(kind: str) -> Properties:
    """The declared properties of a member of the family.

    Raises:
        InvalidInputError: for an unknown kind.

    Guarantee: none; see the functions that use it.

    Example:
        >>> properties("t1").bayes
        False
    """
    if kind not in PROPERTIES:
        raise InvalidInputError(f"`kind` must be one of {', '.join(PROPERTIES)}, got {kind!r}")
    return PROPERTIES[kind]


def two_stage_loss(
    scores: Any,
    costs: Any,
    *,
    kind: str = "compsum-log",
    q: float = 0.7,
    weight: Any = None,
    cell_weight: Any = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    r"""Surrogate of the two-stage deferral cost \(\sum_k c_k 1[\arg\max r = k]\).

    .. math:: \sum_k (1 - c_k)\,\ell(r, k), \quad \sum_k c_k p_k, \quad -\sum_k c_k \log(1 - p_k), \quad
              \sum_i (c_{(i+1)} - c_{(i)}) (-\log P_i)

    for COMPSUM, EC, T2 and T1, with \(p = softmax(r)\) and \(P_i\) the mass of the i cheapest experts.

    Args:
        scores: (N, K) scores r.
        costs: (N, K) costs in [0, 1], error and price together.
        kind: "compsum-log" (convex, the default and the warm start of the others), "compsum-exp", "compsum-gce",
            "compsum-mae", "ec", "t1" or "t2" (the last three where some router makes no mistakes), or "value" or
            "squared" (where prices are set after training).
        q: exponent of "compsum-gce", in (0, 1).
        weight: (N,) weight of each sample.
        cell_weight: (N, K) weight of each cost, zero where it was never seen (its cost is then ignored, NaN too), one
            over its probability where it was sampled; not for "t1", which compares costs.
        reduction: "mean" (weighted: the weighted mean), "sum" or "none".

    Returns:
        A scalar, or (N,) for "none".

    Raises:
        InvalidInputError: for shapes that do not match, NaN, or costs outside [0, 1].

    Guarantee: `properties(kind)`: EC and COMPSUM-MAE: excess cost <= K * excess; COMPSUM-log: excess cost <=
        sqrt(2 W * excess), \(W = E[\sum_k (1 - c_k) | x]\); VALUE: excess cost <= sqrt(excess); SQUARED:
        sqrt(2 * excess). Pointwise in x, for all
        measurable routers. Cell weights of mean one leave the expectation unchanged.

    Example:
        >>> scores, costs = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])
        >>> two_stage_loss(scores, costs).item() == torch.log(torch.tensor(2.0)).item()
        True

    Reference: Mao, C. Mohri, M. Mohri, Zhong (NeurIPS 2023) and Mao, Mohri, Zhong (ICML 2025); reconstructed from
        abstracts and notes, may differ.
    """
    properties(kind)
    r = check_scores(scores)
    cells = None if cell_weight is None else as_tensor(cell_weight, like=r)
    if cells is not None:
        if kind == "t1":
            raise InvalidInputError("`t1` sorts the costs of a sample, so none may be missing; choose another kind")
        costs = as_tensor(costs, like=r)
        if cells.shape != costs.shape or not (torch.isfinite(cells).all() and (cells >= 0).all()):
            raise InvalidInputError("`cell_weight` must be finite, not negative, and of the shape of `costs`")
        costs = torch.where(cells > 0, costs, torch.ones_like(costs))
    c = check_costs(costs, like=r)
    if kind == "compsum-gce":
        check_q(q)
    if kind == "t1":
        return reduce(_t1(r, c), weight, reduction)
    terms = _TERMS[kind](r, c, q)
    return reduce((terms if cells is None else cells * terms).sum(1), weight, reduction)


def two_expert_loss(
    scores: Any, costs: Any, *, form: str = "sum", phi: str = "logistic", weight: Any = None, reduction: str = "mean"
) -> Float[Tensor, "..."]:
    r"""Margin losses for two experts, \(s = r_1 - r_2\).

    .. math:: c_1 \Phi(-s) + c_2 \Phi(s) \;(sum), \qquad (c_2 - c_1)_+ \Phi(s) + (c_1 - c_2)_+ \Phi(-s) \;(gap)

    Args:
        scores: (N, 2) scores r.
        costs: (N, 2) costs in [0, 1].
        form: "sum", or "gap": binary classification weighted by the cost gap, better conditioned where both are wrong.
        phi: "logistic" log(1 + e^-u), "exponential" e^-u, "squared-hinge" (1 - u)_+^2, "hinge" (1 - u)_+.
        weight: (N,) weight of each sample.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or (N,) for "none".

    Raises:
        InvalidInputError: for other than two experts, NaN, or costs outside [0, 1].

    Guarantee: logistic, form "sum": excess cost <= sqrt(2 (E[c_1|x] + E[c_2|x]) * excess); both forms are convex,
        Bayes-consistent and realizable. With the logistic Phi they are T2 and T1 at K = 2.

    Example:
        >>> two_expert_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), phi="hinge").item()
        0.0

    Reference: derived here after Mao, Mohri, Zhong (ICML 2025), abstract and notes.
    """
    r = check_scores(scores)
    c = check_costs(costs, like=r)
    if r.shape[1] != 2:
        raise InvalidInputError(f"`two_expert_loss` is for two experts, got {r.shape[1]}; use two_stage_loss")
    if phi not in _PHI:
        raise InvalidInputError(f"`phi` must be one of {', '.join(_PHI)}, got {phi!r}")
    if form not in ("sum", "gap"):
        raise InvalidInputError(f"`form` must be 'sum' or 'gap', got {form!r}")
    s, margin_loss = r[:, 0] - r[:, 1], _PHI[phi]
    away, keep = (
        (c[:, 0], c[:, 1]) if form == "sum" else ((c[:, 0] - c[:, 1]).clamp_min(0), (c[:, 1] - c[:, 0]).clamp_min(0))
    )
    return reduce(away * margin_loss(-s) + keep * margin_loss(s), weight, reduction)


def two_stage_cost(scores: Any, costs: Any, *, reduction: str = "mean") -> Float[Tensor, "..."]:
    r"""The deferral cost itself, \(\sum_k c_k 1[\arg\max r = k]\).

    Args:
        scores: (N, K) scores; ties go to the first expert.
        costs: (N, K) costs in [0, 1].
        reduction: "mean", "sum" or "none".

    Guarantee: none; it is the target.

    Example:
        >>> two_stage_cost(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.5]])).item()
        0.5
    """
    r = check_scores(scores)
    c = check_costs(costs, like=r)
    return reduce(c.gather(1, r.argmax(1, keepdim=True)).squeeze(1), None, reduction)


class TwoStageLoss(torch.nn.Module):
    """`two_stage_loss` as a module.

    Args:
        kind, q, reduction: as in `two_stage_loss`.

    Guarantee: `self.properties`.

    Example:
        >>> TwoStageLoss(kind="ec")(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])).item()
        0.5

    Reference: as `two_stage_loss`.
    """

    def __init__(self, *, kind: str = "compsum-log", q: float = 0.7, reduction: str = "mean") -> None:
        super().__init__()
        self.properties = properties(kind)
        self.kind, self.q, self.reduction = kind, check_q(q), reduction

    def forward(self, scores: Any, costs: Any, *, weight: Any = None, cell_weight: Any = None) -> Float[Tensor, "..."]:
        """The loss of a batch."""
        options = {"weight": weight, "cell_weight": cell_weight, "reduction": self.reduction}
        return two_stage_loss(scores, costs, kind=self.kind, q=self.q, **options)

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        return f"kind={self.kind!r}, q={self.q}, reduction={self.reduction!r}"


def _comp_sum(ell: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda r, c, q: (1 - c) * ell(torch.log_softmax(r, 1), q)


def _t1(r: Tensor, c: Tensor) -> Tensor:
    c, order = c.sort(dim=1, stable=True)
    log_mass = torch.logcumsumexp(r.gather(1, order), 1) - torch.logsumexp(r, 1, keepdim=True)
    return -(c.diff(dim=1) * log_mass[:, :-1]).sum(1)


def _t2(r: Tensor, c: Tensor, q: float) -> Tensor:
    # log(1 - p_k) from the other scores: 1 - p_k itself would round to 0 for a confident router
    k = r.shape[1]
    others = ~torch.eye(k, dtype=torch.bool, device=r.device)
    rest = r[:, None, :].expand(-1, k, -1)[:, others].reshape(len(r), k, k - 1)
    return -c * (torch.logsumexp(rest, 2) - torch.logsumexp(r, 1, keepdim=True))


def _value(r: Tensor, c: Tensor, q: float) -> Tensor:
    return torch.nn.functional.binary_cross_entropy_with_logits(r, 1 - c, reduction="none")


_TERMS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "compsum-exp": _comp_sum(lambda log_p, q: torch.expm1(-log_p)),
    "compsum-log": _comp_sum(lambda log_p, q: -log_p),
    "compsum-gce": _comp_sum(lambda log_p, q: -torch.expm1(q * log_p) / q),
    "compsum-mae": _comp_sum(lambda log_p, q: -torch.expm1(log_p)),
    "ec": lambda r, c, q: c * torch.softmax(r, 1),
    "t2": _t2,
    "value": _value,
    "squared": lambda r, c, q: (r - (1 - c)) ** 2,
}
_PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "logistic": lambda u: torch.nn.functional.softplus(-u),
    "exponential": lambda u: torch.exp(-u),
    "squared-hinge": lambda u: (1 - u).clamp_min(0) ** 2,
    "hinge": lambda u: (1 - u).clamp_min(0),
}
