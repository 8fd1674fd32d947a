r"""Cross-entropy with one more term: squentropy, label smoothing, MaxSup, PolyLoss, log-partition penalty.

Symbols: z the logits, s the softmax, y the label, n classes.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.losses._interface import surrogate
from corollary.losses._module import SurrogateLoss, checked_number


def squentropy(logits: Tensor, target: Tensor, **options: Any) -> Float[Tensor, "..."]:
    r"""\(-\log s_y + \frac{1}{n-1} \sum_{j \ne y} z_j^2\): cross-entropy and the mean square of the wrong logits.

    Args:
        logits, target: scores and labels or class weights.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: none here.

    Example:
        >>> squentropy(torch.tensor([[0.0, 1.0]]), torch.tensor([0])).round(decimals=4)
        tensor(2.3133)

    Reference: Hui, Belkin, Wright (ICML 2023); formula from the wording of the abstract, may differ.
    """

    def every(z: Tensor) -> Tensor:
        return -torch.log_softmax(z, -1) + ((z * z).sum(-1, keepdim=True) - z * z) / (z.shape[-1] - 1)

    return _of_every(every, logits, target, options)


def label_smoothing(logits: Tensor, target: Tensor, *, a: float = 0.1, **options: Any) -> Float[Tensor, "..."]:
    r"""\(-\log s_y + a (z_y - \bar z)\), which is cross-entropy at the target (1 - a) e_y + a/n.

    Args:
        logits, target: scores and labels or class weights.
        a: in [0, 1).
        options: `weight` (by the true class only), `ignore_index`, `reduction`.

    Guarantee: consistent for the zero-one error: the smoothed label distribution keeps the order of the classes.

    Example:
        >>> z, y = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([0])
        >>> smoothed = torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1)
        >>> torch.allclose(label_smoothing(z, y, a=0.1), smoothed)
        True

    Reference: Szegedy et al. (CVPR 2016); textbook.
    """
    a = checked_number("a", a, 0.0, 1.0, open_high=True)

    def every(z: Tensor) -> Tensor:
        return -torch.log_softmax(z, -1) + a * (z - z.mean(-1, keepdim=True))

    return _of_every(every, logits, target, options)


def max_sup(logits: Tensor, target: Tensor, *, a: float = 0.1, **options: Any) -> Float[Tensor, "..."]:
    r"""\(-\log s_y + a (\max_k z_k - \bar z)\): smoothing of the largest logit, whether right or wrong.

    Args:
        logits, target: scores and labels or class weights.
        a: weight, zero or more; raised from .1 to .2 over training by its authors.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: equal to label smoothing wherever the prediction is right; convex.

    Example:
        >>> z, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> torch.allclose(max_sup(z, y), label_smoothing(z, y))
        True

    Reference: Zhou et al., ZhouYuxuanYX/Maximum-Suppression-Regularization; authors' code read in notes.
    """
    a = checked_number("a", a, 0.0)

    def every(z: Tensor) -> Tensor:
        return -torch.log_softmax(z, -1) + a * (z.amax(-1) - z.mean(-1))[:, None]

    return _of_every(every, logits, target, options)


def poly(logits: Tensor, target: Tensor, *, e: float = 1.0, gamma: float = 0.0, **options: Any) -> Float[Tensor, "..."]:
    r"""Poly-1: \(-\log s_y + e (1 - s_y)\), or focal: \((1-s_y)^g (-\log s_y) + e (1 - s_y)^{g+1}\).

    Args:
        logits, target: scores and labels or class weights.
        e: -1 or more. gamma: g, zero or more.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: consistent for the zero-one error at gamma 0 and e >= 0 (a sum of comp-sum losses).

    Example:
        >>> poly(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(1.1931)

    Reference: Leng et al. (ICLR 2022), abhuse/polyloss-pytorch; code read in notes.
    """
    e, gamma = checked_number("e", e, -1.0), checked_number("gamma", gamma, 0.0)

    def every(z: Tensor) -> Tensor:
        ce = -torch.log_softmax(z, -1)
        away = -torch.expm1(-ce.clamp(min=torch.finfo(ce.dtype).tiny))
        return ce + e * away if gamma == 0 else away**gamma * (ce + e * away)

    return _of_every(every, logits, target, options)


def penalised_partition(logits: Tensor, target: Tensor, *, c: float = 1e-4, **options: Any) -> Float[Tensor, "..."]:
    r"""\(-\log s_y + c (\log \sum_k e^{z_k})^2\): cross-entropy with the log-partition penalty.

    Args:
        logits, target: scores and labels or class weights.
        c: weight, zero or more, about 1e-4.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: the penalty moves the shift of the logits only, so the minimiser is that of cross-entropy.

    Example:
        >>> penalised_partition(torch.zeros(1, 2), torch.tensor([0]), c=1.0).round(decimals=4)
        tensor(1.1736)

    Reference: from memory of large-model training reports, may differ.
    """
    c = checked_number("c", c, 0.0)

    def every(z: Tensor) -> Tensor:
        total = torch.logsumexp(z, -1, keepdim=True)
        return total - z + c * total**2

    return _of_every(every, logits, target, options)


def _of_every(
    every: Callable[[Tensor], Tensor], logits: Tensor, target: Tensor, options: dict[str, Any]
) -> Float[Tensor, "..."]:
    return surrogate(lambda z, y: every(z).gather(1, y[:, None])[:, 0], logits, target, every=every, **options)


class SquentropyLoss(SurrogateLoss):
    """`squentropy` as a module.

    Args:
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none here.

    Example:
        >>> SquentropyLoss()(torch.tensor([[0.0, 1.0]]), torch.tensor([0])).round(decimals=4)
        tensor(2.3133)

    Reference: Hui, Belkin, Wright (ICML 2023); formula from the wording of the abstract, may differ.
    """

    convex = True
    shift_invariant = False

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return squentropy(logits, target, **self.common)


class LabelSmoothingLoss(SurrogateLoss):
    """`label_smoothing` as a module.

    Args:
        a: in [0, 1).
        common: `weight` (by the true class only), `ignore_index`, `reduction`.

    Guarantee: consistent for the zero-one error: the smoothed label distribution keeps the order of the classes.

    Example:
        >>> z, y = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([0])
        >>> smoothed = torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1)
        >>> torch.allclose(LabelSmoothingLoss(a=0.1)(z, y), smoothed)
        True

    Reference: Szegedy et al. (CVPR 2016); textbook.
    """

    convex = proper = calibrated = True
    consistent_for = "zero-one"
    reduces_to = "cross-entropy (a = 0)"
    limits = MappingProxyType({"cross-entropy": {"a": 0.0}})
    guarantee = "consistent for the zero-one error (derived here)"

    def __init__(self, *, a: float = 0.1, **common: Any) -> None:
        super().__init__(**common)
        self.a = checked_number("a", a, 0.0, 1.0, open_high=True)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return label_smoothing(logits, target, a=self.a, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        r"""\((s - a/n)/(1 - a)\), clipped to the simplex and normalised."""
        axis = 0 if logits.ndim == 1 else 1
        raw = (torch.softmax(logits, axis) - self.a / logits.shape[axis]).clamp(min=0)
        return raw / raw.sum(axis, keepdim=True)


class MaxSupLoss(SurrogateLoss):
    """`max_sup` as a module.

    Args:
        a: weight, raised from .1 to .2 over training by its authors; may be changed.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: equal to label smoothing wherever the prediction is right; convex.

    Example:
        >>> z, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
        >>> torch.allclose(MaxSupLoss()(z, y), LabelSmoothingLoss()(z, y))
        True

    Reference: Zhou et al., ZhouYuxuanYX/Maximum-Suppression-Regularization; authors' code read in notes.
    """

    convex = True
    reduces_to = "cross-entropy (a = 0), label smoothing (right predictions)"
    limits = MappingProxyType({"cross-entropy": {"a": 0.0}})

    def __init__(self, *, a: float = 0.1, **common: Any) -> None:
        super().__init__(**common)
        self.a = checked_number("a", a, 0.0)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return max_sup(logits, target, a=self.a, **self.common)


class PolyLoss(SurrogateLoss):
    """`poly` as a module.

    Args:
        e: above -1; 1 by default. gamma: g, zero or more.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: consistent for the zero-one error at gamma 0 and e >= 0 (a sum of comp-sum losses).

    Example:
        >>> PolyLoss()(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(1.1931)

    Reference: Leng et al. (ICLR 2022), abhuse/polyloss-pytorch; code read in notes.
    """

    reduces_to = "cross-entropy (e = 0), focal (gamma > 0)"
    limits = MappingProxyType({"cross-entropy": {"e": 0.0, "gamma": 0.0}})

    def __init__(self, *, e: float = 1.0, gamma: float = 0.0, **common: Any) -> None:
        super().__init__(**common)
        self.e, self.gamma = checked_number("e", e, -1.0), checked_number("gamma", gamma, 0.0)

    @property
    def calibrated(self) -> bool:  # type: ignore[override]
        """At gamma 0 and e >= 0."""
        return self.gamma == 0 and self.e >= 0

    @property
    def consistent_for(self) -> str | None:  # type: ignore[override]
        """At gamma 0 and e >= 0."""
        return "zero-one" if self.calibrated else None

    @property
    def nonnegative(self) -> bool:  # type: ignore[override]
        """For every e of at least -1, since -log s is at least 1 - s."""
        return True

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return poly(logits, target, e=self.e, gamma=self.gamma, **self.common)


class LogPartitionLoss(SurrogateLoss):
    """`penalised_partition` as a module.

    Args:
        c: weight, about 1e-4.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: the penalty moves the shift of the logits only, so the minimiser is that of cross-entropy.

    Example:
        >>> LogPartitionLoss(c=1.0)(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(1.1736)

    Reference: from memory of large-model training reports, may differ.
    """

    proper = calibrated = True
    consistent_for = "zero-one"
    shift_invariant = False
    reduces_to = "cross-entropy (c = 0)"
    limits = MappingProxyType({"cross-entropy": {"c": 0.0}})
    guarantee = "that of cross-entropy: at the optimum the penalty is zero"

    def __init__(self, *, c: float = 1e-4, **common: Any) -> None:
        super().__init__(**common)
        self.c = checked_number("c", c, 0.0)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return penalised_partition(logits, target, c=self.c, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """The softmax."""
        return torch.softmax(logits, 0 if logits.ndim == 1 else 1)
