r"""GLA, GCA and IMMAX: losses for classes of very different sizes, with consistency.

Symbols: p the priors, q = tau - 1 the index of \(\Psi_q\), rho_y the margin of class y, s the softmax.
The balanced loss is 1[h(x) != y] / p_y; its risk is n times the mean of the per-class errors; its Bayes rule is
argmax eta_y / p_y.

C. Cortes, M. Mohri, Y. Zhong, "Improved Balanced Classification with Theoretically Grounded Loss Functions", NeurIPS
2025 (arXiv 2512.23947): GLA, GCA. C. Cortes, A. Mao, M. Mohri, Y. Zhong, "Balancing the Scales", ICML 2025 (arXiv
2502.10381): IMMAX. Fidelity: reconstructed from abstracts and notes, may differ. The factor 1/(1-q) of GLA, the margin
forms of GCA and its link are derived here; without the factor GLA is not consistent (tested).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._interface import IGNORE, surrogate
from corollary.losses._module import checked_number
from corollary.losses._priors import calibrated_margins, checked_margin, checked_prior
from corollary.losses._softmax_rows import psi, softmax_rows

FORMS = ("scale", "scale_calibrated", "additive")


def classes_of(logits: Tensor) -> int:
    """The number of classes of (n,), (N, n) or (N, n, ...) logits."""
    return logits.shape[0 if logits.ndim == 1 else 1] if logits.ndim else 0


def on_classes(values: Tensor, logits: Tensor) -> Tensor:
    """(n,) values in the shape that broadcasts against (n,), (N, n) or (N, n, d1, ...) logits."""
    return values if logits.ndim <= 2 else values.reshape(-1, *[1] * (logits.ndim - 2))


def gla(
    logits: Tensor,
    target: Tensor,
    *,
    prior: Any,
    q: float = 0.0,
    strength: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    r"""The generalized logit-adjusted loss.

    .. math:: \ell(z, y) = \Psi_q(\mathrm{softmax}(z + a \log p)_y), \quad a = strength / (1 - q)

    Predict with the raw logits.

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        target: labels, or class weights of the shape of `logits`.
        prior: (n,) class probabilities of the training data (`class_priors`).
        q: in [-1, 1); 0 is logit adjustment (balanced softmax). Stay within |q| <= 0.3: the shift grows like 1/(1-q).
        strength: 1 for the balanced error; 0 for the plain one.
        weight: (n,) weights of the labels, as in torch. Do not pass 1/p: the prior would be corrected twice.
        ignore_index: label whose rows count zero.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or one loss a label for `"none"`.

    Raises:
        InvalidInputError: for a prior that is no distribution, or options out of range.

    Guarantee: Bayes-consistent for the balanced error for every q in [-1, 1) at strength 1. For q = 0, complete
        hypothesis sets and all distributions: balanced-loss regret <= (sqrt(2)/p_min) sqrt(R - R*) [derived].

    Example:
        >>> z, y = torch.zeros(1, 2), torch.tensor([1])
        >>> round(gla(z, y, prior=[0.9, 0.1]).item(), 4)  # -log 0.1
        2.3026

    Reference: Cortes, Mohri, Zhong (NeurIPS 2025); reconstructed from abstract and notes, may differ.
    """
    q = checked_number("q", q, -1.0, 1.0, open_high=True)
    shift = (float(strength) / (1 - q)) * checked_prior(prior, classes_of(logits), logits).log()
    return surrogate(
        lambda z, y: softmax_rows(z, y, q=q, shift=shift),
        logits,
        target,
        every=lambda z: psi(torch.log_softmax(z + shift, -1), q),
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def gca(
    logits: Tensor,
    target: Tensor,
    *,
    prior: Any,
    margin: Any = None,
    q: float = 0.0,
    form: str = "scale",
    normalise: bool = True,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    r"""The generalized class-aware loss: class weights times the margin of the true class.

    .. math::
        \text{scale: } \frac{1}{p_y} \Psi_q(\mathrm{softmax}(z/\rho_y)_y), \quad
        \text{scale\_calibrated: } \frac{\rho_y}{p_y} \Psi_q(\mathrm{softmax}(z/\rho_y)_y), \quad
        \text{additive: } \frac{1}{p_y} \Psi_q(\mathrm{softmax}(z - \rho)_y)

    The mean is the plain mean of the theory; it does not divide by the sum of the class weights 1/p_y.

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        target: labels, or class weights of the shape of `logits` (costs n^2 a row unless the form is additive).
        prior: (n,) class probabilities of the training data.
        margin: rho, one number or (n,); default `calibrated_margins(prior)`, largest 1 (try 1, 3, 10, and the exponents
            0, 1/4, 1/3, 1/2, by validation).
        q: in [-1, 1]; 0 is cross-entropy.
        form: `"scale"`, `"scale_calibrated"` or `"additive"`.
        normalise: weight 1/(n p_y), of mean one, so that the learning rate of cross-entropy fits.
        weight: (n,) further weights of the labels, as in torch.
        ignore_index: label whose rows count zero.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or one loss a label for `"none"`.

    Raises:
        InvalidInputError: for a prior, margin, form or q out of range.

    Guarantee: with equal margins, every q <= 1: balanced-loss regret <= n Gamma_{1+q}((R - R*)/n) without normalisation
        [derived], at most sqrt(2/p_min) sqrt(R - R*) for q = 0. With unequal margins the largest score is consistent
        for "scale_calibrated" at q = 0, and not for "scale"; `GCALoss.predict(..., rule="calibrated")` is for both.

    Example:
        >>> z, y = torch.zeros(1, 2), torch.tensor([1])
        >>> round(gca(z, y, prior=[0.9, 0.1], margin=1.0).item(), 4)  # log 2 / (2 * 0.1)
        3.4657

    Reference: Cortes, Mohri, Zhong (NeurIPS 2025); reconstructed from abstract and notes, may differ.
    """
    n, q = classes_of(logits), checked_number("q", q, -1.0, 1.0)
    if form not in FORMS:
        raise InvalidInputError(f"`form` must be one of {', '.join(FORMS)}, got {form!r}")
    p = checked_prior(prior, n, logits)
    rho = checked_margin(calibrated_margins(p) if margin is None else margin, n, logits)
    per_class = 1 / (n * p) if normalise else 1 / p
    if form == "scale_calibrated":
        per_class = per_class * rho
    if form == "additive":
        options: dict[str, Any] = {"shift": -rho}

        def every(z: Tensor) -> Tensor:
            return per_class * psi(torch.log_softmax(z - rho, -1), q)

    else:
        options, every = {"factor": 1 / rho}, None  # type: ignore[assignment]
    return surrogate(
        lambda z, y: per_class[y] * softmax_rows(z, y, q=q, **options),
        logits,
        target,
        every=every,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def immax(
    logits: Tensor,
    target: Tensor,
    *,
    margin: Any,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    r"""The IMMAX surrogate: cross-entropy at the margin of the true class.

    .. math:: \ell(z, y) = \log \sum_{y'} e^{(z_{y'} - z_y)/\rho_y}

    Its target is the ZERO-ONE error on the same imbalanced distribution, not the balanced error. For two classes and
    one score f pass the logits (0, f).

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        target: labels, or class weights of the shape of `logits` (costs n^2 a row).
        margin: rho, one number or (n,); search near `immax_margins(counts)`.
        weight: (n,) weights of the labels, as in torch.
        ignore_index: label whose rows count zero.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Guarantee: log 2 times the class-imbalanced margin loss is at most this loss, so `margin_bound` applies to its
        minimiser; Cortes et al. (ICML 2025).

    Example:
        >>> round(immax(torch.zeros(1, 2), torch.tensor([1]), margin=[1.0, 0.5]).item(), 4)
        0.6931

    Reference: Cortes, Mao, Mohri, Zhong (ICML 2025); training form from memory of the paper, may differ.
    """
    factor = 1 / checked_margin(margin, classes_of(logits), logits)
    return surrogate(
        lambda z, y: softmax_rows(z, y, q=0.0, factor=factor),
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def margin_probabilities(logits: Tensor, *, factor: Tensor, scale: Tensor, q: float = 0.0) -> Float[Tensor, "..."]:
    r"""The distribution of the label at which given scores minimise \(\sum_y \eta_y c_y \Psi_q(softmax(z/\rho_y)_y)\).

    .. math:: \eta_y \propto \pi_y \rho_y / (c_y A_{yy}^q), \quad A_{yj} = \mathrm{softmax}(z/\rho_y)_j, \; \pi A = \pi

    Setting the gradient to zero says that \(v_y = \eta_y c_y A_{yy}^q / \rho_y\) is the stationary distribution of the
    Markov chain A. One linear system of n unknowns a row.

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        factor: (n,) 1/rho.
        scale: (n,) the class factors c.
        q: index of the loss.

    Guarantee: exact at every stationary point of the conditional risk [derived; tested].

    Example:
        >>> ones = torch.ones(2)
        >>> margin_probabilities(torch.tensor([0.8, 0.2]).log(), factor=ones, scale=ones)
        tensor([0.8000, 0.2000])
    """
    z = logits.movedim(0 if logits.ndim == 1 else 1, -1)
    n = z.shape[-1]
    factor, scale = factor.to(z), scale.to(z)
    log_a = torch.log_softmax(z[..., None, :] * factor[:, None], -1)
    system = log_a.exp().mT - torch.eye(n, dtype=z.dtype, device=z.device)
    system[..., -1, :] = 1.0  # the equations are dependent: one gives way to the normalisation
    one = torch.zeros(n, dtype=z.dtype, device=z.device)
    one[-1] = 1.0
    pi = torch.linalg.solve(system, one.expand(z.shape)[..., None])[..., 0].clamp(min=0)
    v = pi / (factor * scale) * torch.exp(-q * torch.diagonal(log_a, dim1=-2, dim2=-1))
    return (v / v.sum(-1, keepdim=True)).movedim(-1, 0 if logits.ndim == 1 else 1)
