r"""Losses for wrong labels: symmetric cross-entropy, reverse and normalised cross-entropy, AGCE, AUL.

Symbols: s the softmax, y the label, n classes.
Each formula follows Optimization-AI/ICML2023_LDR (loss.py, read in notes).
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._module import SurrogateLoss, checked_number


def _log_label(z: Tensor, y: Tensor) -> Tensor:
    return torch.log_softmax(z, -1).gather(1, y[:, None])[:, 0]


class SymmetricCrossEntropyLoss(SurrogateLoss):
    r"""\((1 - b) (-\log s_y) + b A (1 - s_y)\): cross-entropy and a multiple of the mean absolute error.

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
    guarantee = "consistent for the zero-one error (derived here)"

    def __init__(self, *, share: float = 0.5, scale: float = 4.0, **common: Any) -> None:
        super().__init__(**common)
        self.share, self.scale = checked_number("share", share, 0.0, 1.0), checked_number("scale", scale, 0.0)

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        """At share 1."""
        return self.share == 1

    def at(self, z: Tensor, y: Tensor) -> Float[Tensor, " m"]:
        """Losses (m,)."""
        log_s = _log_label(z, y)
        return -(1 - self.share) * log_s - self.share * self.scale * torch.expm1(log_s)


class ReverseCrossEntropyLoss(SurrogateLoss):
    r"""\(-\sum_k s_k \log \max(1[k = y], 10^{-4})\), which is \(-\log(10^{-4}) (1 - s_y)\).

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
    guarantee = "that of the comp-sum loss at tau = 2, scaled"

    def __init__(self, *, floor: float = 1e-4, **common: Any) -> None:
        super().__init__(**common)
        if not 0 < floor < 1:
            raise InvalidInputError(f"`floor` must lie strictly between 0 and 1, got {floor}")
        self.floor = float(floor)

    def at(self, z: Tensor, y: Tensor) -> Float[Tensor, " m"]:
        """Losses (m,)."""
        return math.log(self.floor) * torch.expm1(_log_label(z, y))


class NormalisedCrossEntropyLoss(SurrogateLoss):
    r"""\(\log s_y / \sum_k \log s_k\): the losses of all labels add up to one.

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

    def at(self, z: Tensor, y: Tensor) -> Float[Tensor, " m"]:
        """Losses (m,)."""
        log_s = torch.log_softmax(z, -1)
        return log_s.gather(1, y[:, None])[:, 0] / log_s.sum(-1)


class AGCELoss(SurrogateLoss):
    r"""Asymmetric generalized cross-entropy \(((a+1)^q - (a+s_y)^q)/q\).

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

    def __init__(self, *, a: float = 1.0, q: float = 2.0, **common: Any) -> None:
        super().__init__(**common)
        self.a, self.q = checked_number("a", a, 0.0), checked_number("q", q, 1e-6)

    def at(self, z: Tensor, y: Tensor) -> Float[Tensor, " m"]:
        """Losses (m,)."""
        log_s = _log_label(z, y)
        if self.a == 0:  # the power of an underflow has no finite slope
            return -torch.expm1(self.q * log_s) / self.q
        return ((self.a + 1) ** self.q - (self.a + log_s.exp()) ** self.q) / self.q


class AULLoss(SurrogateLoss):
    r"""Asymmetric unhinged loss \(((a - s_y)^q - (a - 1)^q)/q\).

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

    def __init__(self, *, a: float = 1.5, q: float = 0.9, **common: Any) -> None:
        super().__init__(**common)
        self.a, self.q = checked_number("a", a, 1.0 + 1e-6), checked_number("q", q, 1e-6)

    @property
    def symmetric(self) -> bool:  # type: ignore[override]
        """At q = 1."""
        return self.q == 1

    def at(self, z: Tensor, y: Tensor) -> Float[Tensor, " m"]:
        """Losses (m,)."""
        return ((self.a - _log_label(z, y).exp()) ** self.q - (self.a - 1) ** self.q) / self.q
