r"""Losses for wrong labels: symmetric, reverse and normalised cross-entropy, AGCE, AUL.

Symbols: s the softmax, y the label, n classes.
Each formula follows Optimization-AI/ICML2023_LDR (loss.py, read in notes).
"""

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._interface import surrogate
from corollary.losses._module import SurrogateLoss, checked_number


def symmetric_cross_entropy(
    logits: Tensor, target: Tensor, *, share: float = 0.5, scale: float = 4.0, **options: Any
) -> Float[Tensor, "..."]:
    r"""\((1 - b) (-\log s_y) + b A (1 - s_y)\): cross-entropy and a multiple of the mean absolute error.

    Args:
        logits, target: scores and labels or class weights.
        share: b in [0, 1]. scale: A, zero or more.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: consistent for the zero-one error (both parts are comp-sum losses with the same order of optima).

    Example:
        >>> symmetric_cross_entropy(torch.zeros(1, 2), torch.tensor([0]), share=0.0).round(decimals=4)
        tensor(0.6931)

    Reference: Wang et al. (ICCV 2019); code read in notes.
    """
    b, a = checked_number("share", share, 0.0, 1.0), checked_number("scale", scale, 0.0)
    return _of_label(lambda log_s: -(1 - b) * log_s - b * a * torch.expm1(log_s), logits, target, options)


def reverse_cross_entropy(
    logits: Tensor, target: Tensor, *, floor: float = 1e-4, **options: Any
) -> Float[Tensor, "..."]:
    r"""\(-\sum_k s_k \log \max(1[k = y], 10^{-4})\), which is \(-\log(10^{-4}) (1 - s_y)\).

    Args:
        logits, target: scores and labels or class weights.
        floor: in the place of log 0, strictly between 0 and 1.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: a multiple of the mean absolute error, so its bound is that of tau = 2.

    Example:
        >>> reverse_cross_entropy(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(4.6052)

    Reference: Wang et al. (ICCV 2019); code read in notes.
    """
    height = math.log(_checked_floor(floor))
    return _of_label(lambda log_s: height * torch.expm1(log_s), logits, target, options)


def normalised_cross_entropy(logits: Tensor, target: Tensor, **options: Any) -> Float[Tensor, "..."]:
    r"""\(\log s_y / \sum_k \log s_k\): the losses of all labels add up to one.

    Args:
        logits, target: scores and labels or class weights.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: symmetric, so uniform label noise leaves its minimiser unchanged.

    Example:
        >>> normalised_cross_entropy(torch.zeros(1, 4), torch.tensor([0]))
        tensor(0.2500)

    Reference: Ma et al. (ICML 2020); code read in notes.
    """

    def every(z: Tensor) -> Tensor:
        log_s = torch.log_softmax(z, -1)
        return log_s / log_s.sum(-1, keepdim=True)

    return surrogate(lambda z, y: every(z).gather(1, y[:, None])[:, 0], logits, target, every=every, **options)


def agce(logits: Tensor, target: Tensor, *, a: float = 1.0, q: float = 2.0, **options: Any) -> Float[Tensor, "..."]:
    r"""Asymmetric generalized cross-entropy \(((a+1)^q - (a+s_y)^q)/q\).

    Args:
        logits, target: scores and labels or class weights.
        a: zero or more. q: above zero. a = 0 and q in (0, 1] is the generalized cross-entropy.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: none here.

    Example:
        >>> agce(torch.zeros(1, 2), torch.tensor([0]), a=0.0, q=1.0)
        tensor(0.5000)

    Reference: Zhou et al. (ICML 2021); code read in notes.
    """
    a, q = checked_number("a", a, 0.0), checked_number("q", q, 1e-6)

    def from_log(log_s: Tensor) -> Tensor:
        if a == 0:  # the power of an underflow has no finite slope
            return -torch.expm1(q * log_s) / q
        return ((a + 1) ** q - (a + log_s.exp()) ** q) / q

    return _of_label(from_log, logits, target, options)


def aul(logits: Tensor, target: Tensor, *, a: float = 1.5, q: float = 0.9, **options: Any) -> Float[Tensor, "..."]:
    r"""Asymmetric unhinged loss \(((a - s_y)^q - (a - 1)^q)/q\).

    Args:
        logits, target: scores and labels or class weights.
        a: above 1. q: above zero; 1 is the mean absolute error.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: none here.

    Example:
        >>> aul(torch.zeros(1, 2), torch.tensor([0]), q=1.0)
        tensor(0.5000)

    Reference: Zhou et al. (ICML 2021); code read in notes.
    """
    a, q = checked_number("a", a, 1.0 + 1e-6), checked_number("q", q, 1e-6)
    return _of_label(lambda log_s: ((a - log_s.exp()) ** q - (a - 1) ** q) / q, logits, target, options)


def _of_label(
    from_log: Callable[[Tensor], Tensor], logits: Tensor, target: Tensor, options: dict[str, Any]
) -> Float[Tensor, "..."]:
    """A loss that depends on log s_y alone."""
    return surrogate(
        lambda z, y: from_log(torch.log_softmax(z, -1).gather(1, y[:, None])[:, 0]),
        logits,
        target,
        every=lambda z: from_log(torch.log_softmax(z, -1)),
        **options,
    )


def _checked_floor(value: float) -> float:
    if not 0 < value < 1:
        raise InvalidInputError(f"`floor` must lie strictly between 0 and 1, got {value}")
    return float(value)


class SymmetricCrossEntropyLoss(SurrogateLoss):
    """`symmetric_cross_entropy` as a module.

    Args:
        share: b in [0, 1]. scale: A.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: consistent for the zero-one error (both parts are comp-sum losses with the same order of optima).

    Example:
        >>> SymmetricCrossEntropyLoss(share=0.0)(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(0.6931)

    Reference: Wang et al. (ICCV 2019); code read in notes.
    """

    consistent_for, calibrated = "zero-one", True
    reduces_to = "cross-entropy (share 0), a multiple of the mean absolute error (share 1)"
    limits = MappingProxyType({"cross-entropy": {"share": 0.0}, "mean absolute error": {"share": 1.0, "scale": 1.0}})
    guarantee = "consistent for the zero-one error (derived here)"

    def __init__(self, *, share: float = 0.5, scale: float = 4.0, **common: Any) -> None:
        super().__init__(**common)
        self.share, self.scale = checked_number("share", share, 0.0, 1.0), checked_number("scale", scale, 0.0)

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        """At share 1."""
        return self.share == 1

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return symmetric_cross_entropy(logits, target, share=self.share, scale=self.scale, **self.common)


class ReverseCrossEntropyLoss(SurrogateLoss):
    """`reverse_cross_entropy` as a module.

    Args:
        floor: in the place of log 0.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: a multiple of the mean absolute error, so its bound is that of tau = 2.

    Example:
        >>> ReverseCrossEntropyLoss()(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(4.6052)

    Reference: Wang et al. (ICCV 2019); code read in notes.
    """

    bounded = symmetric = calibrated = True
    consistent_for = "zero-one"
    reduces_to = "a multiple of the mean absolute error"
    limits = MappingProxyType({"mean absolute error": {"floor": math.exp(-1)}})
    guarantee = "that of the comp-sum loss at tau = 2, scaled"

    def __init__(self, *, floor: float = 1e-4, **common: Any) -> None:
        super().__init__(**common)
        self.floor = _checked_floor(floor)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return reverse_cross_entropy(logits, target, floor=self.floor, **self.common)


class NormalisedCrossEntropyLoss(SurrogateLoss):
    """`normalised_cross_entropy` as a module.

    Args:
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: symmetric, so uniform label noise leaves its minimiser unchanged.

    Example:
        >>> NormalisedCrossEntropyLoss()(torch.zeros(1, 4), torch.tensor([0]))
        tensor(0.2500)

    Reference: Ma et al. (ICML 2020); code read in notes.
    """

    bounded = symmetric = True
    guarantee = "symmetric: uniform label noise leaves the minimiser unchanged"

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return normalised_cross_entropy(logits, target, **self.common)


class AGCELoss(SurrogateLoss):
    """`agce` as a module.

    Args:
        a, q: above zero; a = 0 and q in (0, 1] is the generalized cross-entropy.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none here.

    Example:
        >>> AGCELoss(a=0.0, q=1.0)(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.5000)

    Reference: Zhou et al. (ICML 2021); code read in notes.
    """

    bounded = True
    reduces_to = "generalized cross-entropy (a = 0)"
    limits = MappingProxyType({"mean absolute error": {"a": 0.0, "q": 1.0}})

    def __init__(self, *, a: float = 1.0, q: float = 2.0, **common: Any) -> None:
        super().__init__(**common)
        self.a, self.q = checked_number("a", a, 0.0), checked_number("q", q, 1e-6)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return agce(logits, target, a=self.a, q=self.q, **self.common)


class AULLoss(SurrogateLoss):
    """`aul` as a module.

    Args:
        a: above 1. q: above zero; 1 is the mean absolute error.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none here.

    Example:
        >>> AULLoss(q=1.0)(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.5000)

    Reference: Zhou et al. (ICML 2021); code read in notes.
    """

    bounded = True
    reduces_to = "mean absolute error (q = 1)"
    limits = MappingProxyType({"mean absolute error": {"q": 1.0}})

    def __init__(self, *, a: float = 1.5, q: float = 0.9, **common: Any) -> None:
        super().__init__(**common)
        self.a, self.q = checked_number("a", a, 1.0 + 1e-6), checked_number("q", q, 1e-6)

    @property
    def symmetric(self) -> bool:  # type: ignore[override]
        """At q = 1."""
        return self.q == 1

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return aul(logits, target, a=self.a, q=self.q, **self.common)
