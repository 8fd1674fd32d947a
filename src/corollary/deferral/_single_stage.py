r"""Surrogate losses of single-stage deferral: predict one of n labels, or hand the input to one of J experts.

Symbols: scores \(h \in R^{n + J}\), labels first; \(p = softmax(h)\); costs \(c_j \in [0, 1]\); action \(a =
\arg\max h\). The target is \(L_{def} = 1[a \ne y] 1[a < n] + \sum_j c_j 1[a = n + j]\).

Layer cake [derived here]: draw theta uniform on [0, 1] and call expert j acceptable iff \(c_j < \theta\); then
\(L_{def}\) is the probability that the action lies outside \(A_\theta = \{y\} \cup \{n + j : c_j < \theta\}\).
Replacing \(1[a \notin A]\) by a non-increasing \(\Psi(p(A))\) gives, with the costs sorted and \(c_{(J + 1)} = 1\),

.. math:: L_\Psi = c_{(1)} \Psi(p_y) + \sum_{i=1}^{J} (c_{(i+1)} - c_{(i)})\, \Psi(p_y + p_{n+(1)} + .. + p_{n+(i)}).

One expert: the family of Mao, Mohri, Zhong, "Realizable H-Consistent and Bayes-Consistent Loss Functions for
Learning to Defer", NeurIPS 2024; with \(\Psi = -\log\) and costs in {0, 1} the realizable surrogate of Mozannar et
al. 2023. Abstracts read;
the several-expert form printed by Mao, Mohri, Zhong (ICML 2025) could not be seen and may differ.

Baselines: Mozannar and Sontag (2020), softmax; Verma and Nalisnick (2022), one versus all; Verma, Barrejon,
Nalisnick (2023), both for several experts. Read in public code.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corollary.deferral._inputs import check_costs, check_q, check_scores, reduce
from corollary.errors import InvalidInputError

PSI: dict[str, Callable[[Tensor, float], Tensor]] = {  # of log P; all vanish at P = 1
    "log": lambda log_mass, q: -log_mass,
    "gce": lambda log_mass, q: -torch.expm1(q * log_mass) / q,
    "mae": lambda log_mass, q: -torch.expm1(log_mass),
}
BAYES = {
    "log": False,
    "gce": False,
    "mae": True,
}  # minimised over all functions, is the action optimal? All: realizable


def single_stage_loss(
    scores: Any,
    target: Any,
    costs: Any,
    *,
    psi: str = "mae",
    q: float = 0.7,
    weight: Any = None,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    r"""Layer-cake surrogate of single-stage deferral, for any number of experts and any costs.

    .. math:: c_{(1)} \Psi(p_y) + \sum_i (c_{(i+1)} - c_{(i)})\, \Psi(p_y + p_{n+(1)} + .. + p_{n+(i)})

    Args:
        scores: (N, n + J) scores, the n labels first.
        target: (N,) labels in 0..n-1.
        costs: (N, J) costs of the experts in [0, 1], e.g. `deferral_costs(...)`; J may be 0.
        psi: "mae" \(1 - t\), the member that is Bayes-consistent; "log" \(-\log t\) and "gce" \((1 - t^q)/q\), which
            are realizable only, and easier to optimise.
        q: exponent of "gce", in (0, 1).
        weight: (N,) weight of each sample.
        reduction: "mean", "sum" or "none".

    Returns:
        A scalar, or (N,) for "none".

    Raises:
        InvalidInputError: for shapes that do not match, labels or costs out of range, NaN.

    Guarantee: L >= Psi((J + 1)/(J + 2)) * L_def for every score (all members: realizable H-consistency for classes
        closed under scaling). "mae", any costs: excess deferral cost <= (n + J) * excess, over all measurable scores.
        "log" and "gce" are NOT Bayes-consistent under argmax over n + J scores (a test holds a counter-example).

    Example:
        >>> scores, costs = torch.tensor([[0.0, 0.0, 50.0]]), torch.tensor([[0.25]])
        >>> round(single_stage_loss(scores, [0], costs).item(), 4)
        0.25

    Reference: derived here, after Mao, Mohri, Zhong (NeurIPS 2024, ICML 2025), abstracts and notes; may differ.
    """
    h, y, c = _checked(scores, target, costs)
    if psi not in PSI:
        raise InvalidInputError(f"`psi` must be one of {', '.join(PSI)}, got {psi!r}")
    if psi == "gce":
        check_q(q)
    n = h.shape[1] - c.shape[1]
    c, order = c.sort(dim=1, stable=True)
    chain = torch.cat([h.gather(1, y[:, None]), h.gather(1, n + order)], 1)
    # a mass rounded above 1 would make the loss negative
    log_mass = (torch.logcumsumexp(chain, 1) - torch.logsumexp(h, 1, keepdim=True)).clamp_max(0.0)
    layers = torch.cat([c, torch.ones_like(c[:, :1]) if c.shape[1] else h.new_ones(len(h), 1)], 1)
    layers = layers.diff(dim=1, prepend=torch.zeros_like(layers[:, :1]))
    return reduce((layers * PSI[psi](log_mass, q)).sum(1), weight, reduction)


def single_stage_cost(scores: Any, target: Any, costs: Any, *, reduction: str = "mean") -> Float[Tensor, "..."]:
    r"""The deferral cost itself, \(1[a \ne y] 1[a < n] + \sum_j c_j 1[a = n + j]\); ties go to the first action.

    Args:
        scores, target, costs: as in `single_stage_loss`.
        reduction: "mean", "sum" or "none".

    Guarantee: none; it is the target.

    Example:
        >>> single_stage_cost(torch.tensor([[0.0, 1.0, 2.0]]), [1], torch.tensor([[0.25]])).item()
        0.25
    """
    h, y, c = _checked(scores, target, costs)
    labels = torch.arange(h.shape[1] - c.shape[1], device=h.device)
    every = torch.cat([(labels != y[:, None]).to(h), c], 1)
    return reduce(every.gather(1, h.argmax(1, keepdim=True)).squeeze(1), None, reduction)


def deferral_costs(predictions: Any, target: Any, *, alpha: Any = 1.0, beta: Any = 0.0) -> Float[Tensor, "n j"]:
    r"""Costs of experts from their predictions: \(c_j = \min(1, \alpha_j 1[g_j(x) \ne y] + \beta_j)\).

    Args:
        predictions: (N, J) labels that the experts gave.
        target: (N,) true labels.
        alpha: price of an error, a number or (J,).
        beta: price of asking, a number or (J,).

    Guarantee: none.

    Example:
        >>> deferral_costs([[1, 0]], [1], beta=[0.1, 0.2]).tolist() == [[torch.tensor(0.1).item(), 1.0]]
        True
    """
    g, y = torch.as_tensor(predictions), torch.as_tensor(target)
    if g.ndim != 2 or y.shape != g.shape[:1]:
        raise InvalidInputError(
            f"`predictions` must be (N, J) beside (N,) labels, got {tuple(g.shape)}, {tuple(y.shape)}"
        )
    wrong = (g != y[:, None]).to(torch.get_default_dtype())
    a, b = (torch.as_tensor(v, dtype=wrong.dtype) for v in (alpha, beta))
    if (a < 0).any() or (b < 0).any():
        raise InvalidInputError("`alpha` and `beta` must be at least 0; they are the prices of an error and of asking")
    return (a * wrong + b).clamp_max(1.0)


def softmax_deferral_loss(scores: Any, target: Any, costs: Any, *, reduction: str = "mean") -> Float[Tensor, "..."]:
    r"""Baseline \(-\log p_y - \sum_j (1 - c_j) \log p_{n + j}\).

    Args:
        scores, target, costs, reduction: as in `single_stage_loss`.

    Guarantee: Bayes-consistent; not realizable H-consistent.

    Example:
        >>> round(softmax_deferral_loss(torch.zeros(1, 3), [0], torch.ones(1, 1)).item(), 4)
        1.0986

    Reference: Mozannar and Sontag (2020), Verma, Barrejon, Nalisnick (2023); public code read.
    """
    h, y, c = _checked(scores, target, costs)
    log_p = torch.log_softmax(h, 1)
    experts = ((1 - c) * log_p[:, h.shape[1] - c.shape[1] :]).sum(1)
    return reduce(-log_p.gather(1, y[:, None]).squeeze(1) - experts, None, reduction)


def one_versus_all_deferral_loss(
    scores: Any, target: Any, costs: Any, *, reduction: str = "mean"
) -> Float[Tensor, "..."]:
    r"""Baseline: one binary logistic loss for each label and expert, with targets \(1[k = y]\) and \(1 - c_j\).

    Args:
        scores, target, costs, reduction: as in `single_stage_loss`.

    Guarantee: Bayes-consistent, \(\sigma(h)\) estimates the probability of each label and each expert's \(1 - c\); not
        realizable H-consistent.

    Example:
        >>> round(one_versus_all_deferral_loss(torch.zeros(1, 3), [0], torch.ones(1, 1)).item(), 4)
        2.0794

    Reference: Verma and Nalisnick (2022), Verma, Barrejon, Nalisnick (2023); public code read (it uses base 2).
    """
    h, y, c = _checked(scores, target, costs)
    labels = torch.nn.functional.one_hot(y, h.shape[1] - c.shape[1]).to(h)
    wanted = torch.cat([labels, 1 - c], 1)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(h, wanted, reduction="none")
    return reduce(loss.sum(1), None, reduction)


class SingleStageLoss(torch.nn.Module):
    """`single_stage_loss` as a module.

    Args:
        psi, q, reduction: as in `single_stage_loss`.

    Guarantee: as `single_stage_loss`; `self.bayes_consistent` tells members apart.

    Example:
        >>> SingleStageLoss(psi="log").bayes_consistent
        False

    Reference: as `single_stage_loss`.
    """

    def __init__(self, *, psi: str = "mae", q: float = 0.7, reduction: str = "mean") -> None:
        super().__init__()
        if psi not in PSI:
            raise InvalidInputError(f"`psi` must be one of {', '.join(PSI)}, got {psi!r}")
        self.psi, self.q, self.reduction = psi, check_q(q), reduction
        self.bayes_consistent, self.realizable = BAYES[psi], True

    def forward(self, scores: Any, target: Any, costs: Any, *, weight: Any = None) -> Float[Tensor, "..."]:
        """The loss of a batch."""
        options = {"psi": self.psi, "q": self.q, "weight": weight, "reduction": self.reduction}
        return single_stage_loss(scores, target, costs, **options)


def _checked(scores: Any, target: Any, costs: Any) -> tuple[Tensor, Int[Tensor, " n"], Tensor]:
    h = check_scores(scores)
    y = torch.as_tensor(target, device=h.device)
    if y.shape != h.shape[:1] or y.is_floating_point() or y.dtype == torch.bool:
        raise InvalidInputError(f"`target` must be ({len(h)},) whole labels, got {tuple(y.shape)} of {y.dtype}")
    given = torch.as_tensor(costs)
    if given.ndim != 2:
        raise InvalidInputError(f"`costs` must be ({len(h)}, J), one column for each expert, got {tuple(given.shape)}")
    c = check_costs(given, like=h, columns=given.shape[1])
    n = h.shape[1] - c.shape[1]
    if n < 1 or y.min() < 0 or y.max() >= n:
        raise InvalidInputError(
            f"{h.shape[1]} scores less {c.shape[1]} experts leave {n} labels, but `target` holds "
            f"{int(y.min())}..{int(y.max())}; give scores of all labels first, then of the experts"
        )
    return h, y.long(), c
