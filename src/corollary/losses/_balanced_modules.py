"""GLA, GCA and IMMAX as modules: buffers, links, decoding, bounds. Formulas in `_balanced.py`."""

from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._balanced import FORMS, gca, gla, immax, margin_probabilities, on_classes
from corollary.losses._module import SurrogateLoss, checked_number
from corollary.losses._priors import calibrated_margins, checked_margin, immax_margins, prior_of


class GLALoss(SurrogateLoss):
    """`gla` as a module; the prior is a buffer that follows device and checkpoint.

    Args:
        prior: (n,) class probabilities of the training data; or
        counts: (n,) training counts (`class_counts`).
        q, strength: as in `gla`.
        smoothing: what an empty class counts as.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: `gla`.

    Example:
        >>> loss = GLALoss(counts=[90, 10], q=0.1)
        >>> loss(torch.zeros(1, 2), torch.tensor([1])).item() > 2
        True

    Reference: Cortes, Mohri, Zhong (NeurIPS 2025); reconstructed from abstract and notes, may differ.
    """

    equivariant = False
    proper = True
    reduces_to = "logit adjustment and balanced softmax (q=0), generalized cross-entropy (uniform prior)"
    limits = MappingProxyType({"cross-entropy": {"q": 0.0, "strength": 0.0}})
    guarantee = (
        "Bayes-consistent for the balanced error; for q=0 balanced-loss regret <= sqrt(2)/p_min sqrt(R - R*), complete "
        "hypothesis sets, every distribution; Cortes, Mohri, Zhong (NeurIPS 2025), constants derived here"
    )
    prior: Tensor

    def __init__(
        self,
        *,
        prior: Any = None,
        counts: Any = None,
        q: float = 0.0,
        strength: float = 1.0,
        smoothing: float = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.register_buffer("prior", prior_of(prior, counts, smoothing))
        self.q, self.strength = checked_number("q", q, -1.0, 1.0, open_high=True), float(strength)

    @property
    def consistent_for(self) -> str | None:  # type: ignore[override]
        """Balanced at strength 1, zero-one at strength 0."""
        return {1.0: "balanced", 0.0: "zero-one"}.get(self.strength)

    @property
    def calibrated(self) -> bool:  # type: ignore[override]
        """For the zero-one error at strength 0 only."""
        return self.strength == 0

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """For q <= 0."""
        return self.q <= 0

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        """By 1/q, for q > 0."""
        return self.q > 0

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return gla(logits, target, prior=self.prior, q=self.q, strength=self.strength, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        r"""Probabilities under the TRAINING priors: \(\hat\eta \propto e^{(1-q) z} p^{strength}\)."""
        log_p = on_classes(self.prior.to(logits).log(), logits)
        return torch.softmax((1 - self.q) * logits + self.strength * log_p, 0 if logits.ndim == 1 else 1)

    def consistency_bound(self, *, classes: int | None = None) -> Any:
        """For q = 0 and strength 1: balanced error by (sqrt(2) / (n p_min)) sqrt(excess)."""
        from corollary.losses.consistency import gla_bound

        if self.q != 0 or self.strength != 1:
            raise InvalidInputError("a bound is known for q = 0 and strength 1 only; other q are Bayes-consistent")
        return gla_bound(self.prior)


class GCALoss(SurrogateLoss):
    """`gca` as a module; prior and margins are buffers that follow device and checkpoint.

    Args:
        prior: (n,) class probabilities of the training data; or
        counts: (n,) training counts (`class_counts`).
        margin, q, form, normalise: as in `gca`.
        smoothing: what an empty class counts as.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: `gca`.

    Example:
        >>> loss = GCALoss(counts=[90, 10], form="scale_calibrated")
        >>> loss.consistent_for, loss.margin.round(decimals=3)
        ('balanced', tensor([0.4810, 1.0000], dtype=torch.float64))

    Reference: Cortes, Mohri, Zhong (NeurIPS 2025); reconstructed from abstract and notes, may differ.
    """

    equivariant = False
    reduces_to = "class-weighted cross-entropy (margin 1, q=0)"
    prior: Tensor
    margin: Tensor

    def __init__(
        self,
        *,
        prior: Any = None,
        counts: Any = None,
        margin: Any = None,
        q: float = 0.0,
        form: str = "scale",
        normalise: bool = True,
        smoothing: float = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if form not in FORMS:
            raise InvalidInputError(f"`form` must be one of {', '.join(FORMS)}, got {form!r}")
        p = prior_of(prior, counts, smoothing)
        rho = checked_margin(calibrated_margins(p) if margin is None else margin, len(p), p)
        self.register_buffer("prior", p)
        self.register_buffer("margin", rho.clone())
        self.q, self.form, self.normalise = checked_number("q", q, -1.0, 1.0), form, normalise
        self.equal = bool((rho == rho[0]).all())

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """For q <= 0."""
        return self.q <= 0

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        """For q > 0."""
        return self.q > 0

    @property
    def proper(self) -> bool:  # type: ignore[override]
        """For q < 1, by the link of `margin_probabilities`."""
        return self.q < 1

    @property
    def consistent_for(self) -> str | None:  # type: ignore[override]
        """Balanced, for the largest score: with equal margins, or scale_calibrated at q = 0."""
        return "balanced" if self.equal or (self.form == "scale_calibrated" and self.q == 0) else None

    @property
    def limits(self) -> dict[str, Any]:  # type: ignore[override]
        """Cross-entropy at equal priors and margin 1."""
        one = torch.ones_like(self.prior)
        plain = {"q": 0.0, "prior": one / len(one), "margin": one, "normalise": True}
        return {"cross-entropy": plain}

    @property
    def guarantee(self) -> str:  # type: ignore[override]
        """The bound, or why there is none."""
        if self.equal:
            return (
                "balanced-loss regret <= n Gamma_{1+q}(excess/n), every distribution, complete hypothesis sets; "
                "Cortes, Mohri, Zhong (NeurIPS 2025), constant derived here"
            )
        if self.consistent_for:
            return "Bayes-consistent for the balanced error (derived here); no rate is known"
        return (
            "none for the largest score; predict(..., rule='calibrated') is Bayes-consistent for q < 1 (derived here)"
        )

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        options: dict[str, Any] = {"q": self.q, "form": self.form, "normalise": self.normalise}
        return gca(logits, target, prior=self.prior, margin=self.margin, **options, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """Probabilities under the TRAINING priors, by the link of `margin_probabilities`."""
        if self.q >= 1:
            raise InvalidInputError("GCA with q = 1 gives no probabilities; train with q below 1")
        if self.form == "additive":
            one, z = torch.ones_like(self.prior), logits - on_classes(self.margin.to(logits), logits)
            return margin_probabilities(z, factor=one, scale=1 / self.prior, q=self.q)
        scale = 1 / self.prior if self.form == "scale" else self.margin / self.prior
        return margin_probabilities(logits, factor=1 / self.margin, scale=scale, q=self.q)

    def predict(self, logits: Tensor, *, rule: str = "argmax") -> Int[Tensor, "..."]:
        """The largest score, or with `rule="calibrated"` the largest estimated eta_y / p_y, which is consistent."""
        if rule == "argmax":
            return super().predict(logits)
        if rule != "calibrated":
            raise InvalidInputError(f"`rule` must be 'argmax' or 'calibrated', got {rule!r}")
        eta = self.predict_proba(logits)
        return super().predict(eta / on_classes(self.prior.to(eta), eta))

    def consistency_bound(self, *, classes: int | None = None) -> Any:
        """With equal margins: balanced error by Gamma_{1+q}."""
        from corollary.losses.consistency import gca_bound

        if not self.equal or self.form == "additive":
            return super().consistency_bound(classes=len(self.prior))
        unit = 1.0 if self.normalise else float(len(self.prior))
        unit *= float(self.margin[0]) if self.form == "scale_calibrated" else 1.0
        return gca_bound(self.prior, q=self.q, unit=unit)


class IMMAXLoss(SurrogateLoss):
    """`immax` as a module; margins are a buffer.

    Args:
        margin: (n,) margins; or
        counts: (n,) training counts, for `immax_margins(counts, largest=largest)`.
        largest: the largest margin, searched together with the weight decay.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: `immax`, `margin_bound`. Its largest score is not a consistent rule for unequal margins; `predict` with
        `rule="calibrated"` is, for the zero-one error [derived].

    Example:
        >>> IMMAXLoss(counts=[1000, 10]).margin.round(decimals=3)
        tensor([1.0000, 0.2150], dtype=torch.float64)

    Reference: Cortes, Mao, Mohri, Zhong (ICML 2025); training form from memory of the paper, may differ.
    """

    equivariant = False
    convex = True
    proper = True
    reduces_to = "cross-entropy (margin 1)"
    guarantee = "an upper bound of log 2 times the class-imbalanced margin loss, whose margin bound is `margin_bound`"
    margin: Tensor

    def __init__(self, *, margin: Any = None, counts: Any = None, largest: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        if (margin is None) == (counts is None):
            raise InvalidInputError("pass either `margin` or `counts`")
        rho = immax_margins(counts, largest=largest) if margin is None else torch.as_tensor(margin, dtype=torch.float64)
        self.register_buffer("margin", checked_margin(rho, len(rho) if rho.ndim else 0, rho).clone())
        self.equal = bool((rho == rho[0]).all())

    @property
    def limits(self) -> dict[str, Any]:  # type: ignore[override]
        """Cross-entropy at margin 1."""
        return {"cross-entropy": {"margin": torch.ones_like(self.margin)}}

    @property
    def consistent_for(self) -> str | None:  # type: ignore[override]
        """The zero-one error with equal margins; with others by `rule="calibrated"` only."""
        return "zero-one" if self.equal else None

    @property
    def calibrated(self) -> bool:  # type: ignore[override]
        """With equal margins."""
        return self.equal

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return immax(logits, target, margin=self.margin, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """Probabilities by the link of `margin_probabilities`."""
        return margin_probabilities(logits, factor=1 / self.margin, scale=torch.ones_like(self.margin))

    def predict(self, logits: Tensor, *, rule: str = "argmax") -> Int[Tensor, "..."]:
        """The largest score, or with `rule="calibrated"` the likeliest class by `predict_proba`."""
        if rule not in ("argmax", "calibrated"):
            raise InvalidInputError(f"`rule` must be 'argmax' or 'calibrated', got {rule!r}")
        return super().predict(logits if rule == "argmax" else self.predict_proba(logits))
