"""Peers of GLA and GCA without: focal, LDAM with its schedule and layer, equalization, LADE. See `_reweighted.py`."""

from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.losses._adjusted_modules import ByCounts, ByPrior
from corollary.losses._module import SurrogateLoss, checked_number
from corollary.losses._reweighted import effective_number_weights, equalization, focal, lade, ldam


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
    limits = MappingProxyType({"cross-entropy": {"gamma": 0.0, "alpha": None}})
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


class LDAMLoss(ByCounts):
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
    limits = MappingProxyType({"cross-entropy": {"largest": 0.0, "scale": 1.0}})

    def __init__(self, *, largest: float = 0.5, scale: float = 30.0, **common: Any) -> None:
        super().__init__(**common)
        self.largest, self.scale = checked_number("largest", largest, 0.0), checked_number("scale", scale, 0.0)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of cosines (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return ldam(logits, target, counts=self.counts, largest=self.largest, scale=self.scale, **self.common)


class EqualizationLoss(ByPrior):
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

    reduces_to = "cross-entropy (drop 0)"
    limits = MappingProxyType({"cross-entropy": {"drop": 0.0, "form": "softmax"}})

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


class LADELoss(ByPrior):
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
