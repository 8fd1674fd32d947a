"""Peers of GLA and GCA with probabilities: logit adjustment, balanced softmax, class weights. See `_reweighted.py`."""

from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.losses._balanced import on_classes
from corollary.losses._module import SurrogateLoss, checked_number
from corollary.losses._priors import prior_of
from corollary.losses._reweighted import (
    balanced_softmax,
    class_balanced,
    effective_number_weights,
    logit_adjusted_cross_entropy,
    vector_scaling,
    weighted_cross_entropy,
)


class ByCounts(SurrogateLoss):
    """A loss that depends on training counts, kept as a buffer."""

    equivariant = False
    counts: Tensor

    def __init__(self, *, counts: Any, **common: Any) -> None:
        super().__init__(**common)
        prior_of(None, counts, 1.0)  # refuses counts that mean nothing
        self.register_buffer("counts", torch.as_tensor(counts).to(torch.float64).clamp(min=1))


class ByPrior(SurrogateLoss):
    """A loss that depends on priors, kept as a buffer."""

    equivariant = False
    prior: Tensor

    def __init__(self, *, prior: Any = None, counts: Any = None, smoothing: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.register_buffer("prior", prior_of(prior, counts, smoothing))


class LogitAdjustedLoss(ByPrior):
    """`logit_adjusted_cross_entropy` as a module.

    Args:
        prior, counts, smoothing: as in `GLALoss`.
        strength: as in `logit_adjusted_cross_entropy`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: Bayes-consistent for the balanced error at strength 1.

    Example:
        >>> LogitAdjustedLoss(counts=[9, 1])(torch.zeros(1, 2), torch.tensor([1])).item() > 2.3
        True

    Reference: Menon et al. (ICLR 2021).
    """

    convex, proper, consistent_for = True, True, "balanced"
    reduces_to = "cross-entropy (strength 0), balanced softmax (1)"
    limits = MappingProxyType({"cross-entropy": {"strength": 0.0}})
    guarantee = "that of GLALoss at q = 0"

    def __init__(self, *, strength: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.strength = float(strength)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return logit_adjusted_cross_entropy(logits, target, prior=self.prior, strength=self.strength, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """Probabilities under the training priors."""
        log_p = on_classes(self.prior.to(logits).log(), logits)
        return torch.softmax(logits + self.strength * log_p, 0 if logits.ndim == 1 else 1)

    def consistency_bound(self, *, classes: int | None = None) -> Any:
        """That of GLA at q = 0."""
        from corollary.losses.consistency import gla_bound

        return gla_bound(self.prior)


class BalancedSoftmaxLoss(ByCounts):
    """`balanced_softmax` as a module.

    Args:
        counts: (n,) training counts; an empty class counts as one sample.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: Bayes-consistent for the balanced error.

    Example:
        >>> BalancedSoftmaxLoss(counts=[9, 1])(torch.zeros(1, 2), torch.tensor([1])).item() > 2.3
        True

    Reference: Ren et al. (NeurIPS 2020).
    """

    convex, proper, consistent_for = True, True, "balanced"
    reduces_to = "cross-entropy (equal counts)"
    guarantee = "that of GLALoss at q = 0"

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return balanced_softmax(logits, target, counts=self.counts, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """Probabilities under the training priors."""
        return torch.softmax(logits + on_classes(self.counts.to(logits).log(), logits), 0 if logits.ndim == 1 else 1)


class WeightedCrossEntropyLoss(ByPrior):
    """`weighted_cross_entropy` as a module.

    Args:
        prior, counts, smoothing: as in `GLALoss`.
        power: as in `weighted_cross_entropy`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: at power 1 that of `GCALoss` with equal margins.

    Example:
        >>> WeightedCrossEntropyLoss(counts=[9, 1])(torch.zeros(1, 2), torch.tensor([1])).item() > 3.4
        True
    """

    convex, proper = True, True
    reduces_to = "cross-entropy (power 0)"
    limits = MappingProxyType({"cross-entropy": {"power": 0.0}})

    def __init__(self, *, power: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.power = float(power)

    @property
    def consistent_for(self) -> str | None:  # type: ignore[override]
        """Balanced at power 1, zero-one at power 0."""
        return {1.0: "balanced", 0.0: "zero-one"}.get(self.power)

    @property
    def guarantee(self) -> str:  # type: ignore[override]
        """That of GCA at power 1."""
        return "that of GCALoss with equal margins and q = 0" if self.power == 1 else "none"

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return weighted_cross_entropy(logits, target, prior=self.prior, power=self.power, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """Probabilities under the training priors."""
        log_w = self.power * on_classes(self.prior.to(logits).log(), logits)
        return torch.softmax(logits + log_w, 0 if logits.ndim == 1 else 1)

    def consistency_bound(self, *, classes: int | None = None) -> Any:
        """That of GCA with equal margins, at power 1."""
        from corollary.losses.consistency import gca_bound

        return gca_bound(self.prior) if self.power == 1 else super().consistency_bound(classes=len(self.prior))


class ClassBalancedLoss(ByCounts):
    """`class_balanced` as a module.

    Args:
        counts: (n,) training counts.
        beta: as in `class_balanced`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none.

    Example:
        >>> ClassBalancedLoss(counts=[5, 5])(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(0.6931)

    Reference: Cui et al. (CVPR 2019).
    """

    convex, proper = True, True
    reduces_to = "cross-entropy (beta 0), weights 1/m (beta -> 1)"
    limits = MappingProxyType({"cross-entropy": {"beta": 0.0}})

    def __init__(self, *, beta: float = 0.999, **common: Any) -> None:
        super().__init__(**common)
        self.beta = checked_number("beta", beta, 0.0, 1.0, open_high=True)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return class_balanced(logits, target, counts=self.counts, beta=self.beta, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """Probabilities under the training priors."""
        log_w = effective_number_weights(self.counts, beta=self.beta).to(logits).log()
        return torch.softmax(logits - on_classes(log_w, logits), 0 if logits.ndim == 1 else 1)


class VectorScalingLoss(ByCounts):
    """`vector_scaling` as a module.

    Args:
        counts: (n,) training counts.
        gamma, strength: as in `vector_scaling`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none for gamma > 0.

    Example:
        >>> VectorScalingLoss(counts=[9, 1])(torch.zeros(1, 2), torch.tensor([1])).round(decimals=4)
        tensor(2.3026)

    Reference: Kini et al. (NeurIPS 2021).
    """

    convex, proper = True, True
    reduces_to = "logit adjustment (gamma 0), CDT (strength 0)"
    limits = MappingProxyType({"cross-entropy": {"gamma": 0.0, "strength": 0.0}})

    def __init__(self, *, gamma: float = 0.3, strength: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.gamma, self.strength = float(gamma), float(strength)
        self.shift_invariant = self.gamma == 0

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return vector_scaling(
            logits, target, counts=self.counts, gamma=self.gamma, strength=self.strength, **self.common
        )

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """Probabilities under the training priors."""
        m = self.counts.to(logits)
        scaled = logits * on_classes((m / m.max()) ** self.gamma, logits)
        return torch.softmax(scaled + self.strength * on_classes(m.log(), logits), 0 if logits.ndim == 1 else 1)
