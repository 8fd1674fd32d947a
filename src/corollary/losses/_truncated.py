r"""The truncated generalized cross-entropy, and which rows its pruning keeps.

Symbols: s the softmax, y the label, k the threshold, \(\Psi_q(s) = (1 - s^q)/q\).
"""

import math
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._interface import surrogate
from corollary.losses._module import SurrogateLoss, checked_number


def _log_label(z: Tensor, y: Tensor) -> Tensor:
    return torch.log_softmax(z, -1).gather(1, y[:, None])[:, 0]


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
    limits = MappingProxyType({"mean absolute error": {"q": 1.0, "k": 1e-30}})
    guarantee = "classification-calibrated for the zero-one error (derived here); no rate"

    def __init__(self, *, q: float = 0.7, k: float = 0.5, **common: Any) -> None:
        super().__init__(**common)
        self.q, self.k = _checked_share("q", q), _checked_k(k)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return truncated_cross_entropy(logits, target, q=self.q, k=self.k, **self.common)
