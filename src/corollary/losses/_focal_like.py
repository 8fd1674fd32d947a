r"""Losses that weigh by how easy a row or a label is: dual focal, and asymmetric for one label or several.

Symbols: s the softmax, p_k the sigmoid of logit k, y the label, g+ and g- the exponents of right and wrong classes.
"""

from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._interface import surrogate
from corollary.losses._module import SurrogateLoss, checked_number


def away_from_one(log_s: Tensor) -> Float[Tensor, "..."]:
    """1 - s from log s, away from the zero at which a fractional power has an infinite slope."""
    return -torch.expm1(log_s.clamp(max=-torch.finfo(log_s.dtype).tiny))


def dual_focal(logits: Tensor, target: Tensor, *, gamma: float = 2.0, **options: Any) -> Float[Tensor, "..."]:
    r"""The dual focal loss: the weight also looks at the strongest class below the label.

    .. math:: \ell(z, y) = -(1 - s_y + s_j)^\gamma \log s_y, \quad s_j = \max \{ s_k : s_k < s_y \} \cup \{0\}

    Args:
        logits, target: scores and labels or class weights (costs n^2 a row).
        gamma: zero or more; 0 is cross-entropy.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: at least the focal loss, at most cross-entropy; not continuous where the label ties with another class.

    Example:
        >>> round(dual_focal(torch.tensor([[0.0, 0.0]]), torch.tensor([0])).item(), 4)
        0.1733

    Reference: Tao, Dong, Xu (ICML 2023), Linwei94/DualFocalLoss; code read in notes.
    """
    gamma = checked_number("gamma", gamma, 0.0)

    def at(z: Tensor, y: Tensor) -> Tensor:
        log_s = torch.log_softmax(z, -1)
        own, s = log_s.gather(1, y[:, None]), log_s.exp()
        below = torch.where(s < s.gather(1, y[:, None]), s, 0.0).amax(-1)
        return -((away_from_one(own[:, 0]) + below) ** gamma if gamma else 1.0) * own[:, 0]

    return surrogate(at, logits, target, **options)


def asymmetric(
    logits: Tensor,
    target: Tensor,
    *,
    positive: float = 0.0,
    negative: float = 4.0,
    smoothing: float = 0.1,
    **options: Any,
) -> Float[Tensor, "..."]:
    r"""The asymmetric loss for one label a row.

    .. math:: \ell(z, y) = -\sum_k t_k w_k \log s_k, \quad w_y = (1 - s_y)^{g_+}, \; w_k = s_k^{g_-}, \;
        t = (1 - \epsilon) e_y + \epsilon / n

    Args:
        logits, target: scores and labels or class weights (costs n^2 a row).
        positive, negative: g+ and g-, zero or more.
        smoothing: epsilon in [0, 1).
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: none.

    Example:
        >>> round(asymmetric(torch.zeros(1, 2), torch.tensor([0]), smoothing=0.0).item(), 4)
        0.6931

    Reference: Ridnik et al. (ICCV 2021), Alibaba-MIIL/ASL; code read in notes.
    """
    right, wrong = checked_number("positive", positive, 0.0), checked_number("negative", negative, 0.0)
    share = checked_number("smoothing", smoothing, 0.0, 1.0, open_high=True)

    def at(z: Tensor, y: Tensor) -> Tensor:
        log_s, true = torch.log_softmax(z, -1), torch.arange(z.shape[-1], device=z.device) == y[:, None]
        easy = away_from_one(log_s) ** right if right else torch.ones_like(z)
        weight = torch.where(true, easy, torch.exp(wrong * log_s))
        return -((1 - share) * true.to(z) + share / z.shape[-1]).mul(weight).mul(log_s).sum(-1)

    return surrogate(at, logits, target, **options)


def asymmetric_multilabel(
    logits: Tensor,
    target: Tensor,
    *,
    positive: float = 1.0,
    negative: float = 4.0,
    shift: float = 0.05,
    detach: bool = True,
    **options: Any,
) -> Float[Tensor, "..."]:
    r"""The asymmetric loss for any number of labels a row: weighted and shifted binary cross-entropies, summed.

    .. math:: \ell(z, t) = -\sum_k t_k (1 - p_k)^{g_+} \log p_k + (1 - t_k) \bar p_k^{g_-} \log (1 - \bar p_k), \quad
        \bar p_k = \max(p_k - m, 0)

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores, one binary question a class.
        target: 0 and 1 of the shape of `logits`, as floats; labels mean the one class that holds.
        positive, negative: g+ and g-, zero or more.
        shift: m in [0, 1); negatives below it cost nothing.
        detach: whether the weights carry no gradient, as in the authors' training.
        options: `weight` of the classes, `ignore_index` for labels, `reduction`: `"mean"` over rows (the authors sum).

    Guarantee: none.

    Example:
        >>> t = torch.tensor([[1.0, 1.0, 0.0]])
        >>> round(asymmetric_multilabel(torch.zeros(1, 3), t, positive=0, negative=0, shift=0).item(), 4)  # 3 log 2
        2.0794

    Reference: Ridnik et al. (ICCV 2021), Alibaba-MIIL/ASL; code read in notes.
    """
    right, wrong = checked_number("positive", positive, 0.0), checked_number("negative", negative, 0.0)
    m = checked_number("shift", shift, 0.0, 1.0, open_high=True)

    def parts(z: Tensor) -> tuple[Tensor, Tensor]:
        log_p, log_q = torch.nn.functional.logsigmoid(z), torch.nn.functional.logsigmoid(-z)
        p, q = log_p.exp(), log_q.exp()
        moved = (p - m).clamp(min=0)  # its complement is q + m, which keeps log(1 - p) exact where m is zero
        log_rest = torch.where(moved > 0, torch.log(q + m), 0.0) if m else log_q
        easy = _power(q, right), _power(moved, wrong)
        if detach:
            easy = easy[0].detach(), easy[1].detach()
        return -easy[0] * log_p, -easy[1] * log_rest

    def at(z: Tensor, y: Tensor) -> Tensor:
        yes, no = parts(z)
        true = torch.arange(z.shape[-1], device=z.device) == y[:, None]
        return torch.where(true, yes, no).sum(-1)

    if not target.is_floating_point():
        return surrogate(at, logits, target, **options)
    if target.shape != logits.shape:
        raise InvalidInputError(
            f"a float target says for every class whether it holds and has the shape of the logits, "
            f"{tuple(logits.shape)}; got {tuple(target.shape)}"
        )
    weight, axis = options.pop("weight", None), 0 if logits.ndim == 1 else 1
    holds = target.movedim(axis, -1)

    def several(z: Tensor, _: Tensor) -> Tensor:
        (yes, no), t = parts(z), holds.reshape(z.shape).to(z)
        cost = t * yes + (1 - t) * no
        return (cost if weight is None else cost * weight.to(z)).sum(-1)

    return surrogate(several, logits, torch.zeros_like(holds[..., 0], dtype=torch.long), **options)


def _power(p: Tensor, exponent: float) -> Tensor:
    return p.clamp(min=torch.finfo(p.dtype).tiny) ** exponent if exponent else torch.ones_like(p)


class DualFocalLoss(SurrogateLoss):
    """`dual_focal` as a module.

    Args:
        gamma: as in `dual_focal`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none.

    Example:
        >>> DualFocalLoss(gamma=0.0)(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(0.6931)

    Reference: Tao, Dong, Xu (ICML 2023).
    """

    reduces_to = "cross-entropy (gamma 0)"
    limits = MappingProxyType({"cross-entropy": {"gamma": 0.0}})

    def __init__(self, *, gamma: float = 2.0, **common: Any) -> None:
        super().__init__(**common)
        self.gamma = checked_number("gamma", gamma, 0.0)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return dual_focal(logits, target, gamma=self.gamma, **self.common)


class AsymmetricLoss(SurrogateLoss):
    """`asymmetric` as a module: one label a row.

    Args:
        positive, negative, smoothing: as in `asymmetric`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none.

    Example:
        >>> AsymmetricLoss(smoothing=0.0)(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(0.6931)

    Reference: Ridnik et al. (ICCV 2021).
    """

    reduces_to = "label smoothing (positive = negative = 0), focal (smoothing 0)"
    limits = MappingProxyType({"cross-entropy": {"positive": 0.0, "negative": 0.0, "smoothing": 0.0}})

    def __init__(self, *, positive: float = 0.0, negative: float = 4.0, smoothing: float = 0.1, **common: Any) -> None:
        super().__init__(**common)
        self.positive, self.negative = (
            checked_number("positive", positive, 0.0),
            checked_number("negative", negative, 0.0),
        )
        self.smoothing = checked_number("smoothing", smoothing, 0.0, 1.0, open_high=True)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        exponents = {"positive": self.positive, "negative": self.negative}
        return asymmetric(logits, target, smoothing=self.smoothing, **exponents, **self.common)


class AsymmetricMultiLabelLoss(SurrogateLoss):
    """`asymmetric_multilabel` as a module: any number of labels a row.

    Args:
        positive, negative, shift, detach: as in `asymmetric_multilabel`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none.

    Example:
        >>> loss = AsymmetricMultiLabelLoss()
        >>> loss.predict_labels(torch.tensor([[2.0, -1.0, 0.5]]))
        tensor([[1, 0, 1]])

    Reference: Ridnik et al. (ICCV 2021).
    """

    shift_invariant = False
    reduces_to = "binary cross-entropy, summed over classes (positive = negative = shift = 0)"

    def __init__(
        self,
        *,
        positive: float = 1.0,
        negative: float = 4.0,
        shift: float = 0.05,
        detach: bool = True,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.positive, self.negative = (
            checked_number("positive", positive, 0.0),
            checked_number("negative", negative, 0.0),
        )
        self.shift, self.detach = checked_number("shift", shift, 0.0, 1.0, open_high=True), detach

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at 0/1 floats of their shape, or at labels (N, ...)."""
        own: dict[str, Any] = {"positive": self.positive, "negative": self.negative, "shift": self.shift}
        return asymmetric_multilabel(logits, target, detach=self.detach, **own, **self.common)

    def predict_labels(self, logits: Tensor) -> Int[Tensor, "..."]:
        """1 where the class is likelier to hold than not."""
        return (logits > 0).long()
