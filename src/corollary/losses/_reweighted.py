r"""The peers of GLA and GCA: class weights, logit adjustment, LDAM, class-balanced, VS, equalization, LADE.

Symbols: m_k training counts, p_k priors, n classes, s the softmax.
Each formula follows the authors' public code, named in its Reference, and was written anew. Predict with the raw logits
for all of them; only post-hoc `logit_adjust` changes inference.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._balanced import classes_of, gla, on_classes
from corollary.losses._interface import surrogate
from corollary.losses._module import checked_number
from corollary.losses._priors import checked_prior
from corollary.losses._softmax_rows import softmax_rows


def logit_adjusted_cross_entropy(
    logits: Tensor, target: Tensor, *, prior: Any, strength: float = 1.0, **options: Any
) -> Float[Tensor, "..."]:
    r"""Cross-entropy of logits shifted by the log-priors; `gla` at q = 0.

    .. math:: \ell(z, y) = -\log \mathrm{softmax}(z + t \log p)_y

    Args:
        logits, target: scores and labels or class weights.
        prior: (n,) class probabilities of the training data.
        strength: t.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: Bayes-consistent for the balanced error at t = 1 (Menon et al. 2021).

    Example:
        >>> round(logit_adjusted_cross_entropy(torch.zeros(1, 2), torch.tensor([1]), prior=[0.9, 0.1]).item(), 4)
        2.3026

    Reference: Menon et al. (ICLR 2021), google-research/logit_adjustment; authors' code read in notes.
    """
    return gla(logits, target, prior=prior, q=0.0, strength=strength, **options)


def logit_adjust(logits: Tensor, *, prior: Any, strength: float = 1.0) -> Float[Tensor, "..."]:
    r"""Post-hoc logit adjustment of a model trained with plain cross-entropy: \(z_y - t \log p_y\).

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        prior: (n,) class probabilities of the training data.
        strength: t.

    Guarantee: exact for the balanced error where softmax(z) is the distribution of the label.

    Example:
        >>> logit_adjust(torch.tensor([[0.9, 0.1]]).log(), prior=[0.95, 0.05]).argmax()
        tensor(1)

    Reference: Menon et al. (ICLR 2021).
    """
    log_p = checked_prior(prior, classes_of(logits), logits).log()
    return logits - float(strength) * on_classes(log_p, logits)


def balanced_softmax(logits: Tensor, target: Tensor, *, counts: Any, **options: Any) -> Float[Tensor, "..."]:
    r"""Balanced softmax: cross-entropy of \(z + \log m\), the same function as logit adjustment at strength 1.

    Args:
        logits, target: scores and labels or class weights.
        counts: (n,) training counts, all positive.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: `logit_adjusted_cross_entropy`.

    Example:
        >>> round(balanced_softmax(torch.zeros(1, 2), torch.tensor([1]), counts=[9, 1]).item(), 4)
        2.3026

    Reference: Ren et al. (NeurIPS 2020), jiawei-ren/BalancedMetaSoftmax-Classification; authors' code read in notes.
    """
    m = torch.as_tensor(counts, dtype=torch.float64)
    return gla(logits, target, prior=m / m.sum(), **options)


def weighted_cross_entropy(
    logits: Tensor, target: Tensor, *, prior: Any, power: float = 1.0, **options: Any
) -> Float[Tensor, "..."]:
    r"""Class-weighted cross-entropy \(-w_y \log s_y\), \(w \propto p^{-power}\).

    The mean is plain; the weights are normalised to mean one under the training distribution, so at power 1 the loss is
    \(-\log s_y / (n p_y)\), `gca` at margin 1. For torch's mean pass `weight=` to `comp_sum` instead.

    Args:
        logits, target: scores and labels or class weights.
        prior: (n,) class probabilities of the training data.
        power: 1 for the balanced error, 1/2 in between, 0 for none.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: at power 1 that of `gca` with equal margins.

    Example:
        >>> round(weighted_cross_entropy(torch.zeros(1, 2), torch.tensor([1]), prior=[0.9, 0.1]).item(), 4)
        3.4657
    """
    p = checked_prior(prior, classes_of(logits), logits)
    w = p**-power
    w = w / (p * w).sum()
    return _weighted(logits, target, w, **options)


def class_balanced(
    logits: Tensor, target: Tensor, *, counts: Any, beta: float = 0.999, **options: Any
) -> Float[Tensor, "..."]:
    r"""Class-balanced cross-entropy: weights by the effective number of samples.

    .. math:: w_k \propto (1 - \beta)/(1 - \beta^{m_k}), \quad \sum_k w_k = n

    Args:
        logits, target: scores and labels or class weights.
        counts: (n,) training counts; an empty class gets the weight of one sample.
        beta: in [0, 1): 0 no weights, towards 1 the weights 1/m_k. One of .9, .99, .999, .9999.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: none (consistent for the balanced error in the limit beta -> 1).

    Example:
        >>> round(class_balanced(torch.zeros(1, 2), torch.tensor([0]), counts=[5, 5]).item(), 4)
        0.6931

    Reference: Cui et al. (CVPR 2019), vandit15/Class-balanced-loss-pytorch; code read in notes.
    """
    return _weighted(logits, target, effective_number_weights(counts, beta=beta).to(logits.device), **options)


def effective_number_weights(counts: Any, *, beta: float = 0.9999) -> Float[Tensor, " n"]:
    r"""Class weights \((1-\beta)/(1-\beta^{m_k})\), normalised to sum to n.

    Args:
        counts: (n,) training counts; an empty class counts as one sample.
        beta: in [0, 1).

    Guarantee: none.

    Example:
        >>> effective_number_weights([5, 5], beta=0.9)
        tensor([1., 1.], dtype=torch.float64)

    Reference: Cui et al. (CVPR 2019).
    """
    m = torch.as_tensor(counts, dtype=torch.float64).clamp(min=1)
    beta = checked_number("beta", beta, 0.0, 1.0, open_high=True)
    w = (1 - beta) / -torch.expm1(m * torch.log(torch.tensor(beta, dtype=torch.float64)))
    return w * len(w) / w.sum()


def focal(
    logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: Any = None, **options: Any
) -> Float[Tensor, "..."]:
    r"""The focal loss \(-\alpha_y (1 - s_y)^\gamma \log s_y\).

    Args:
        logits, target: scores and labels or class weights.
        gamma: zero or more; 0 is cross-entropy.
        alpha: (n,) class factors; None for one.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: classification-calibrated for the zero-one error (Charoenphakdee et al. 2021), not for the balanced one.

    Example:
        >>> round(focal(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.1733

    Reference: Lin et al. (ICCV 2017), AdeelH/pytorch-multi-class-focal-loss; code read in notes.
    """
    gamma = checked_number("gamma", gamma, 0.0)
    factors = None if alpha is None else torch.as_tensor(alpha, device=logits.device)

    def from_log(log_s: Tensor) -> Tensor:
        return -log_s if gamma == 0 else -_complement(log_s).pow(gamma) * log_s

    def at(z: Tensor, y: Tensor) -> Tensor:
        loss = from_log(torch.log_softmax(z, -1).gather(1, y[:, None])[:, 0])
        return loss if factors is None else factors.to(z.dtype)[y] * loss

    def every(z: Tensor) -> Tensor:
        loss = from_log(torch.log_softmax(z, -1))
        return loss if factors is None else factors.to(z.dtype) * loss

    return surrogate(at, logits, target, every=every, **options)


def _complement(log_s: Tensor) -> Tensor:
    # 1 - s, away from the zero at which a fractional power has an infinite slope
    return -torch.expm1(log_s.clamp(max=-torch.finfo(log_s.dtype).tiny))


def ldam(
    logits: Tensor, target: Tensor, *, counts: Any, largest: float = 0.5, scale: float = 30.0, **options: Any
) -> Float[Tensor, "..."]:
    r"""LDAM: an additive margin on the true logit, larger for rarer classes.

    .. math:: \ell(z, y) = -\log \mathrm{softmax}(s (z - \Delta_y e_y))_y, \quad \Delta_k = largest
        (m_k / \min_j m_j)^{-1/4}

    The logits are cosines (`CosineLinear`); with unbounded ones training may diverge.

    Args:
        logits, target: cosines and labels or class weights (costs n^2 a row).
        counts: (n,) training counts; an empty class counts as one sample.
        largest: margin of the rarest class.
        scale: s.
        options: `weight` (for DRW, `DeferredReweighting`), `ignore_index`, `reduction`.

    Guarantee: none; not consistent for any error (tested: 0.7 to 3 % of random rules wrong).

    Example:
        >>> round(ldam(torch.zeros(1, 2), torch.tensor([1]), counts=[16, 1], scale=1.0).item(), 4)
        0.9741

    Reference: Cao et al. (NeurIPS 2019), kaidic/LDAM-DRW; authors' code read in notes.
    """
    m = torch.as_tensor(counts, dtype=torch.float64).clamp(min=1)
    delta = largest * (m / m.min()) ** -0.25

    def at(z: Tensor, y: Tensor) -> Tensor:
        moved = z.scatter_add(1, y[:, None], -delta.to(z)[y, None])
        return softmax_rows(moved, y, q=0.0, factor=torch.full_like(delta.to(z), scale))

    return surrogate(at, logits, target, **options)


def vector_scaling(
    logits: Tensor, target: Tensor, *, counts: Any, gamma: float = 0.3, strength: float = 1.0, **options: Any
) -> Float[Tensor, "..."]:
    r"""The VS loss: logits scaled and shifted by class.

    .. math:: \ell(z, y) = -\log \mathrm{softmax}(D z + t \log p)_y, \quad D_k = (m_k / m_{max})^\gamma

    Args:
        logits, target: scores and labels or class weights.
        counts: (n,) training counts; an empty class counts as one sample.
        gamma: exponent of the scaling; 0 is logit adjustment.
        strength: t; 0 with gamma > 0 is the CDT loss.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: none for gamma > 0.

    Example:
        >>> round(vector_scaling(torch.zeros(1, 2), torch.tensor([1]), counts=[9, 1]).item(), 4)
        2.3026

    Reference: Kini et al. (NeurIPS 2021), orparask/VS-Loss; authors' code read in notes.
    """
    m = torch.as_tensor(counts, dtype=torch.float64).clamp(min=1)
    factor, shift = (m / m.max()) ** gamma, strength * (m / m.sum()).log()
    return surrogate(
        lambda z, y: softmax_rows(z * factor.to(z), y, q=0.0, shift=shift.to(z)),
        logits,
        target,
        every=lambda z: -torch.log_softmax(z * factor.to(z) + shift.to(z), -1),
        **options,
    )


def equalization(
    logits: Tensor,
    target: Tensor,
    *,
    prior: Any,
    threshold: float = 1.77e-3,
    drop: float = 0.95,
    form: str = "softmax",
    foreground: Tensor | None = None,
    seed: int | torch.Generator = 0,
    **options: Any,
) -> Float[Tensor, "..."]:
    r"""Equalization loss: rare classes are spared the negative gradient of other classes' samples.

    .. math::
        \text{softmax: } -\log \frac{e^{z_y}}{\sum_k w_k e^{z_k}}, \; w_k = 1 - B\,1[p_k < \lambda]\,1[k \ne y]; \quad
        \text{sigmoid: } \sum_k w_k BCE(z_k, 1[k = y])

    with B ~ Bernoulli(drop), drawn anew for every row and class, in the softmax form; in the sigmoid form B = E, one
    for foreground rows.

    Args:
        logits, target: scores and labels or class weights (costs n^2 a row).
        prior: (n,) class frequencies.
        threshold: lambda; classes below it are rare.
        drop: probability of B, in the softmax form.
        form: `"softmax"` or `"sigmoid"`.
        foreground: rows with E = 1, of the shape of the labels; None for all. Sigmoid form only.
        seed: for B; pass one generator to draw anew at every call.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: none.

    Example:
        >>> z, y = torch.zeros(1, 2), torch.tensor([0])
        >>> equalization(z, y, prior=[0.9, 0.1], threshold=0.2, drop=1.0).item()  # the rare class is left out
        0.0

    Reference: Tan et al. (CVPR 2020), tztztztztz/eql.detectron2 for the sigmoid form (code read in notes); softmax form
    from memory of the paper, may differ.
    """
    p = checked_prior(prior, classes_of(logits), logits)
    if form not in ("softmax", "sigmoid"):
        raise InvalidInputError(f"`form` must be 'softmax' or 'sigmoid', got {form!r}")
    drop = checked_number("drop", drop, 0.0, 1.0)
    rare = p < threshold
    rows_on = None if foreground is None else foreground.reshape(-1)

    def at(z: Tensor, y: Tensor) -> Tensor:
        true = torch.arange(z.shape[-1], device=z.device) == y[:, None]
        if form == "softmax":
            # Always or never: no draw, so that the loss stays a function of its arguments.
            kept = rare.expand_as(z) if drop == 1 else rare & (_uniform(z, seed) < drop)
            return torch.logsumexp(z.masked_fill(kept & ~true, float("-inf")), -1) - z.gather(1, y[:, None])[:, 0]
        spared = rare & ~true
        if rows_on is not None:
            spared = spared & rows_on.repeat_interleave(len(z) // len(rows_on))[:, None]
        bce = torch.nn.functional.binary_cross_entropy_with_logits(z, true.to(z.dtype), reduction="none")
        return torch.where(spared, 0.0, bce).sum(-1)

    return surrogate(at, logits, target, **options)


def _uniform(z: Tensor, seed: int | torch.Generator) -> Tensor:
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator(z.device).manual_seed(seed)
    return torch.rand(z.shape, generator=generator, device=z.device)


def lade(
    logits: Tensor,
    target: Tensor,
    *,
    prior: Any,
    strength: float = 0.1,
    penalty: float = 0.1,
    **options: Any,
) -> Float[Tensor, ""]:
    r"""LADE: balanced softmax plus a Donsker-Varadhan estimate that makes each logit a log density ratio.

    .. math::
        CE(z + \log p) - \lambda \sum_c p_c \left( \overline{z_c}_{|y = c} - L_c - \mu L_c^2 \right), \quad
        L_c = \log \frac1N \sum_i e^{z_{ic} - \log p_c - \log n}

    Classes absent from the batch contribute no term; a batch quantity, so the reduction is the mean.

    Args:
        logits: (N, n) or (N, n, d1, ...) scores.
        target: labels.
        prior: (n,) class probabilities of the training data.
        strength: lambda.
        penalty: mu.
        options: `ignore_index`.

    Guarantee: none.

    Example:
        >>> lade(torch.zeros(2, 2), torch.tensor([0, 1]), prior=[0.5, 0.5]).item() > 0
        True

    Reference: Hong et al. (CVPR 2021), usagisukisuki/Imbalanced-Classification; code read in notes.
    """
    p = checked_prior(prior, classes_of(logits), logits)
    if target.is_floating_point():
        raise InvalidInputError("LADE groups rows by class and needs integer labels, got a soft target")
    ignore = options.get("ignore_index", -100)
    base = logit_adjusted_cross_entropy(logits, target, prior=p, ignore_index=ignore)
    n = classes_of(logits)
    z = logits.movedim(0 if logits.ndim == 1 else 1, -1).reshape(-1, n).to(p.dtype)
    y = target.reshape(-1).long()
    valid = (y != ignore).to(z.dtype)
    y = torch.where(y != ignore, y, 0)
    none = z.new_zeros(n)
    count, total = none.index_add(0, y, valid), valid.sum().clamp(min=1)
    mean = none.index_add(0, y, valid * z.gather(1, y[:, None])[:, 0]) / count.clamp(min=1)
    rows = torch.where(valid[:, None] > 0, z, float("-inf"))
    ratio = torch.logsumexp(rows, 0) - p.log() - torch.log(torch.tensor(float(n), dtype=z.dtype)) - total.log()
    bound = torch.where(count > 0, mean - ratio - penalty * ratio.square(), 0.0)
    return base - strength * (p * bound).sum()


def _weighted(logits: Tensor, target: Tensor, per_class: Tensor, **options: Any) -> Tensor:
    """Cross-entropy times a class factor, under the plain mean."""
    return surrogate(
        lambda z, y: per_class.to(z)[y] * softmax_rows(z, y, q=0.0),
        logits,
        target,
        every=lambda z: -per_class.to(z) * torch.log_softmax(z, -1),
        **options,
    )
