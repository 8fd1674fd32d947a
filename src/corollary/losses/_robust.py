r"""Losses for wrong labels: symmetric, reverse and normalised cross-entropy, AGCE, AUL, truncated GCE.

Symbols: s the softmax, y the label, n classes.
Each formula follows Optimization-AI/ICML2023_LDR (loss.py, read in notes).
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._interface import surrogate
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


def kept_rows(logits: Tensor, target: Tensor, *, k: float = 0.5) -> Bool[Tensor, "..."]:
    r"""Rows that the pruning of the truncated loss keeps: \(s_y > k\).

    The authors look at all rows every ten epochs and train on those kept, by the plain loss: pass
    `target.masked_fill(~kept_rows(z, target), -100)` to `generalized_cross_entropy`.

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        target: labels.
        k: threshold in (0, 1).

    Guarantee: none.

    Example:
        >>> kept_rows(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
        tensor([ True, False])

    Reference: Zhang and Sabuncu (NeurIPS 2018), AlanChou/Truncated-Loss; code read in notes.
    """
    log_k = math.log(_checked_k(k))
    return surrogate(lambda z, y: _log_label(z, y), logits, target, reduction="none") > log_k


def truncated_cross_entropy(
    logits: Tensor, target: Tensor, *, q: float = 0.7, k: float = 0.5, **options: Any
) -> Float[Tensor, "..."]:
    r"""The truncated generalized cross-entropy: rows that are all but certainly mislabelled cost a constant.

    .. math:: \ell(z, y) = \Psi_q(\max(s_y, k)), \quad \Psi_q(s) = (1 - s^q)/q

    The authors subtract the constant \(\Psi_q(k)\) and refresh which rows are kept every ten epochs (`kept_rows`); here
    the constant stays, so that the loss is not negative, and the rows are those of the present scores.

    Args:
        logits, target: scores and labels or class weights.
        q: in (0, 1].
        k: in (0, 1); towards 0 the generalized cross-entropy.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: classification-calibrated for the zero-one error [derived: by exchange; some score is always worth
        lifting above k]. Rows below k have no gradient: start from a model trained with the plain loss.

    Example:
        >>> z = torch.tensor([[2.0, 0.0], [9.0, 0.0]])  # both far from label 1: the same, largest cost
        >>> truncated_cross_entropy(z, torch.tensor([1, 1]), q=1.0, reduction="none")
        tensor([0.5000, 0.5000])

    Reference: Zhang and Sabuncu (NeurIPS 2018), AlanChou/Truncated-Loss; code read in notes.
    """
    q, log_k = _checked_share("q", q), math.log(_checked_k(k))

    def from_log(log_s: Tensor) -> Tensor:
        return -torch.expm1(q * log_s.clamp(min=log_k)) / q

    return surrogate(
        lambda z, y: from_log(_log_label(z, y)),
        logits,
        target,
        every=lambda z: from_log(torch.log_softmax(z, -1)),
        **options,
    )


def _checked_share(name: str, value: float) -> float:
    return checked_number(name, value, 1e-6, 1.0)


def _checked_k(value: float) -> float:
    if not 0 < value < 1:
        raise InvalidInputError(f"`k` must lie strictly between 0 and 1, got {value}")
    return float(value)


class TruncatedCrossEntropyLoss(SurrogateLoss):
    """`truncated_cross_entropy` as a module.

    Args:
        q, k: as in `truncated_cross_entropy`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: `truncated_cross_entropy`.

    Example:
        >>> TruncatedCrossEntropyLoss(q=1.0)(torch.zeros(1, 2), torch.tensor([0]))
        tensor(0.5000)

    Reference: Zhang and Sabuncu (NeurIPS 2018).
    """

    bounded = calibrated = True
    consistent_for = "zero-one"
    reduces_to = "generalized cross-entropy (k -> 0)"
    guarantee = "classification-calibrated for the zero-one error (derived here); no rate"

    def __init__(self, *, q: float = 0.7, k: float = 0.5, **common: Any) -> None:
        super().__init__(**common)
        self.q, self.k = _checked_share("q", q), _checked_k(k)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return truncated_cross_entropy(logits, target, q=self.q, k=self.k, **self.common)
