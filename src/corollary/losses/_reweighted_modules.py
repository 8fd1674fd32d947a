"""The peers of GLA and GCA as modules, the DRW schedule and the cosine layer of LDAM. Formulas in `_reweighted.py`."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.losses._balanced import on_classes
from corollary.losses._module import SurrogateLoss, checked_number
from corollary.losses._priors import prior_of
from corollary.losses._reweighted import (
    balanced_softmax,
    class_balanced,
    effective_number_weights,
    equalization,
    focal,
    lade,
    ldam,
    logit_adjusted_cross_entropy,
    vector_scaling,
    weighted_cross_entropy,
)


class _ByCounts(SurrogateLoss):
    """A loss that depends on training counts, kept as a buffer."""

    equivariant = False
    counts: Tensor

    def __init__(self, *, counts: Any, **common: Any) -> None:
        super().__init__(**common)
        prior_of(None, counts, 1.0)  # refuses counts that mean nothing
        self.register_buffer("counts", torch.as_tensor(counts).to(torch.float64).clamp(min=1))


class _ByPrior(SurrogateLoss):
    """A loss that depends on priors, kept as a buffer."""

    equivariant = False
    prior: Tensor

    def __init__(self, *, prior: Any = None, counts: Any = None, smoothing: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.register_buffer("prior", prior_of(prior, counts, smoothing))


class LogitAdjustedLoss(_ByPrior):
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


class BalancedSoftmaxLoss(_ByCounts):
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


class WeightedCrossEntropyLoss(_ByPrior):
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


class ClassBalancedLoss(_ByCounts):
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


class FocalLoss(SurrogateLoss):
    """`focal` as a module.

    Args:
        gamma, alpha: as in `focal`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: classification-calibrated for the zero-one error without alpha.

    Example:
        >>> FocalLoss(gamma=0.0)(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(0.6931)

    Reference: Lin et al. (ICCV 2017); Charoenphakdee et al. (CVPR 2021) for calibration.
    """

    reduces_to = "cross-entropy (gamma 0)"
    guarantee = "classification-calibrated for the zero-one error without alpha (Charoenphakdee et al. 2021)"

    def __init__(self, *, gamma: float = 2.0, alpha: Any = None, **common: Any) -> None:
        super().__init__(**common)
        self.gamma = checked_number("gamma", gamma, 0.0)
        self.register_buffer("alpha", None if alpha is None else torch.as_tensor(alpha))
        self.alpha: Tensor | None

    @property
    def equivariant(self) -> bool:  # type: ignore[override]
        """Without alpha."""
        return self.alpha is None

    @property
    def calibrated(self) -> bool:  # type: ignore[override]
        """Without alpha."""
        return self.alpha is None

    @property
    def consistent_for(self) -> str | None:  # type: ignore[override]
        """The zero-one error, without alpha."""
        return "zero-one" if self.alpha is None else None

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """At gamma = 0."""
        return self.gamma == 0

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return focal(logits, target, gamma=self.gamma, alpha=self.alpha, **self.common)


class LDAMLoss(_ByCounts):
    """`ldam` as a module; use it on a `CosineLinear` layer, and set its `weight` by `DeferredReweighting`.

    Args:
        counts: (n,) training counts.
        largest, scale: as in `ldam`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none; not consistent.

    Example:
        >>> LDAMLoss(counts=[16, 1], scale=1.0)(torch.zeros(1, 2), torch.tensor([1])).round(decimals=4)
        tensor(0.9741)

    Reference: Cao et al. (NeurIPS 2019).
    """

    convex = True
    reduces_to = "cross-entropy (largest 0, scale 1)"

    def __init__(self, *, largest: float = 0.5, scale: float = 30.0, **common: Any) -> None:
        super().__init__(**common)
        self.largest, self.scale = checked_number("largest", largest, 0.0), checked_number("scale", scale, 0.0)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of cosines (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return ldam(logits, target, counts=self.counts, largest=self.largest, scale=self.scale, **self.common)


class VectorScalingLoss(_ByCounts):
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


class EqualizationLoss(_ByPrior):
    """`equalization` as a module; the softmax form draws anew at every call.

    Args:
        prior, counts, smoothing: as in `GLALoss`.
        threshold, drop, form: as in `equalization`.
        seed: of the generator that the softmax form draws from.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none.

    Example:
        >>> EqualizationLoss(counts=[9, 1], threshold=0.2, drop=1.0)(torch.zeros(1, 2), torch.tensor([0])).item()
        0.0

    Reference: Tan et al. (CVPR 2020).
    """

    def __init__(
        self,
        *,
        threshold: float = 1.77e-3,
        drop: float = 0.95,
        form: str = "softmax",
        seed: int = 0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.threshold, self.drop, self.form, self.seed = threshold, drop, form, seed
        self.shift_invariant, self.convex = form == "softmax", True
        self._draw: int | torch.Generator = seed

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        if self.form == "softmax" and self.drop < 1 and not isinstance(self._draw, torch.Generator):
            self._draw = torch.Generator(logits.device).manual_seed(self.seed)
        options: dict[str, Any] = {
            "threshold": self.threshold,
            "drop": self.drop,
            "form": self.form,
            "seed": self._draw,
        }
        return equalization(logits, target, prior=self.prior, **options, **self.common)


class LADELoss(_ByPrior):
    """`lade` as a module.

    Args:
        prior, counts, smoothing: as in `GLALoss`.
        strength, penalty: as in `lade`.
        ignore_index: label whose rows count zero.

    Guarantee: none.

    Example:
        >>> LADELoss(counts=[5, 5])(torch.zeros(2, 2), torch.tensor([0, 1])).item() > 0
        True

    Reference: Hong et al. (CVPR 2021).
    """

    shift_invariant = nonnegative = rowwise = False

    def __init__(self, *, strength: float = 0.1, penalty: float = 0.1, **common: Any) -> None:
        super().__init__(**common)
        if self.weight is not None or self.reduction != "mean":
            raise InvalidInputError(
                "LADE is a quantity of the batch: it takes no `weight`, and its reduction is 'mean'"
            )
        self.strength, self.penalty = float(strength), float(penalty)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """The loss of logits (N, n, ...) at labels (N, ...)."""
        options: dict[str, Any] = {
            "strength": self.strength,
            "penalty": self.penalty,
            "ignore_index": self.ignore_index,
        }
        return lade(logits, target, prior=self.prior, **options)


class DeferredReweighting:
    """DRW: no class weights at first, class-balanced ones from a given epoch on.

    Args:
        loss: any loss with a `weight`.
        counts: (n,) training counts.
        start: first epoch with weights (160 of 200 in the authors' code: 80 % of training).
        beta: as in `effective_number_weights`.

    Guarantee: none; a schedule.

    Example:
        >>> loss = LDAMLoss(counts=[100, 10])
        >>> schedule = DeferredReweighting(loss, counts=[100, 10], start=2)
        >>> seen = []
        >>> for epoch in range(3):
        ...     schedule.step(epoch)
        ...     seen.append(loss.weight is not None)
        >>> seen
        [False, False, True]

    Reference: Cao et al. (NeurIPS 2019), kaidic/LDAM-DRW; authors' code read in notes.
    """

    def __init__(self, loss: SurrogateLoss, *, counts: Any, start: int, beta: float = 0.9999) -> None:
        self.loss, self.start = loss, start
        self.late = effective_number_weights(counts, beta=beta)

    def step(self, epoch: int) -> None:
        """Set the weights for the epoch that begins."""
        self.loss.weight = self.late if epoch >= self.start else None


class CosineLinear(nn.Module):
    r"""A linear layer of cosines \(\langle x, w_k\rangle / (|x| |w_k|)\), as LDAM needs.

    Args:
        inputs: number of features.
        classes: number of classes.
        seed: of the initial weights, uniform on the sphere.

    Guarantee: outputs lie in [-1, 1].

    Example:
        >>> layer = CosineLinear(3, 2, seed=0)
        >>> bool((layer(torch.randn(5, 3)).abs() <= 1).all())
        True

    Reference: Cao et al. (NeurIPS 2019).
    """

    def __init__(self, inputs: int, classes: int, *, seed: int = 0) -> None:
        super().__init__()
        drawn = torch.randn(classes, inputs, generator=torch.Generator().manual_seed(seed))
        self.weights = nn.Parameter(nn.functional.normalize(drawn, dim=1))

    def forward(self, x: Tensor) -> Float[Tensor, "*n k"]:
        """Cosines of the rows of x with every class vector."""
        return nn.functional.linear(nn.functional.normalize(x, dim=-1), nn.functional.normalize(self.weights, dim=-1))
