r"""Class priors, class weights and margins from training counts.

Symbols: m_k the count of class k, p_k its prior, rho_k its margin, r_k the radius of its inputs.
Count the TRAINING labels, once: not a batch, not the validation set.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._interface import eager


def class_counts(target: Tensor, *, classes: int, group: Any = None) -> Int[Tensor, " n"]:
    """How often each label occurs, over all processes where torch.distributed runs.

    Args:
        target: labels of any shape; negative ones (ignored rows) are skipped.
        classes: number of classes n.
        group: process group; None for the default one.

    Returns:
        (n,) counts on the device of `target`; the same on every process.

    Raises:
        InvalidInputError: for labels of n or more.

    Guarantee: exact.

    Example:
        >>> class_counts(torch.tensor([0, 2, 2, -100]), classes=3)
        tensor([1, 0, 2])
    """
    y = target.reshape(-1)
    y = y[y >= 0].long()
    if y.numel() and int(y.max()) >= classes:
        raise InvalidInputError(f"`target` holds label {int(y.max())}, and there are {classes} classes")
    counts = torch.bincount(y, minlength=classes)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(counts, group=group)
    return counts


def class_priors(counts: Any, *, smoothing: float = 1.0) -> Float[Tensor, " n"]:
    r"""Priors \(p_k = m_k / \sum_j m_j\) from training counts; an empty class counts as `smoothing` samples.

    Args:
        counts: (n,) counts, as a tensor, array or list.
        smoothing: what an empty class counts as, above zero.

    Returns:
        (n,) probabilities in float64, all positive.

    Raises:
        InvalidInputError: for negative, infinite or all-zero counts.

    Guarantee: none; the estimate of the prior is the user's sample.

    Example:
        >>> class_priors([8, 2]), class_priors([9, 0])
        (tensor([0.8000, 0.2000], dtype=torch.float64), tensor([0.9000, 0.1000], dtype=torch.float64))
    """
    m = torch.as_tensor(counts).to(torch.float64)
    if m.ndim != 1 or len(m) < 2 or not bool(torch.isfinite(m).all()) or bool((m < 0).any()) or not bool((m > 0).any()):
        raise InvalidInputError(
            f"`counts` must hold at least two finite numbers, none negative, not all zero; got {m.tolist()}"
        )
    if not smoothing > 0:
        raise InvalidInputError(f"`smoothing` must be above zero, got {smoothing}; an empty class has no logarithm")
    m = torch.where(m == 0, smoothing, m)
    return m / m.sum()


def checked_prior(prior: Any, classes: int, like: Tensor | None = None) -> Float[Tensor, " n"]:
    """`prior` as a tensor in the dtype and on the device of `like`, refused unless it is a distribution."""
    p = torch.as_tensor(prior)
    p = p.to(torch.float64) if like is None else p.to(like.device, torch.promote_types(like.dtype, torch.float32))
    if p.ndim != 1 or len(p) != classes:
        raise InvalidInputError(f"`prior` must have shape ({classes},), one probability a class, got {tuple(p.shape)}")
    if eager(p) and not (bool((p > 0).all()) and abs(float(p.sum()) - 1) < 1e-4):
        raise InvalidInputError(
            "`prior` must hold positive probabilities that sum to one; make it from counts with `class_priors`, which "
            "also takes care of empty classes"
        )
    return p


def prior_of(prior: Any, counts: Any, smoothing: float) -> Float[Tensor, " n"]:
    """The prior of a module that takes `prior=` or `counts=`."""
    if (prior is None) == (counts is None):
        raise InvalidInputError("pass either `prior` (probabilities) or `counts` (training counts)")
    if counts is not None:
        return class_priors(counts, smoothing=smoothing)
    p = torch.as_tensor(prior)
    return checked_prior(p, len(p) if p.ndim else 0)


def calibrated_margins(
    prior: Any, *, exponent: float = 1 / 3, largest: float = 1.0, radius: Any = None
) -> Float[Tensor, " n"]:
    r"""Margins that minimise the complexity term of the balanced margin bound: larger for rarer classes.

    .. math:: \rho_k \propto p_k^{-1/3} r_k^{2/3}

    For norm-bounded linear scores and class weights \(1/p_k\) the term is
    \((\Lambda/m) \sqrt{\sum_k m_k r_k^2 p_k^{-2} / \rho_k^2}\); this is its minimiser under a fixed \(\sum_k \rho_k\).

    Args:
        prior: (n,) probabilities.
        exponent: 1/3 by the bound; 0, 1/4, 1/2 are worth trying on validation data.
        largest: the largest margin. Gradients grow like 1/rho: keep every margin above 0.1.
        radius: (n,) radii of the classes in feature space; None for equal ones.

    Guarantee: [derived; tested by numerical minimisation].

    Example:
        >>> calibrated_margins([0.9, 0.1]).round(decimals=3)
        tensor([0.4810, 1.0000], dtype=torch.float64)
    """
    p = torch.as_tensor(prior, dtype=torch.float64)
    rho = p**-exponent
    if radius is not None:
        rho = rho * torch.as_tensor(radius, dtype=torch.float64) ** (2 * exponent)
    return largest * rho / rho.max()


def immax_margins(counts: Any, *, largest: float = 1.0, radius: Any = None) -> Float[Tensor, " n"]:
    r"""Margins of IMMAX: larger for the MORE frequent classes, since its target is the plain zero-one error.

    .. math:: \rho_k \propto m_k^{1/3} r_k^{2/3}

    Args:
        counts: (n,) training counts; an empty class counts as one sample.
        largest: the largest margin.
        radius: (n,) radii of the classes in feature space; None for equal ones.

    Guarantee: minimises the complexity term of the unweighted margin bound under a fixed sum of margins [derived].

    Example:
        >>> immax_margins([1000, 100, 10]).round(decimals=3)
        tensor([1.0000, 0.4640, 0.2150], dtype=torch.float64)
    """
    p = class_priors(counts)
    rho = p ** (1 / 3)
    if radius is not None:
        rho = rho * torch.as_tensor(radius, dtype=torch.float64) ** (2 / 3)
    return largest * rho / rho.max()


def checked_margin(margin: Any, classes: int, like: Tensor) -> Float[Tensor, " n"]:
    """`margin` as an (n,) tensor in the dtype and on the device of `like`; one number stands for all classes."""
    rho = torch.as_tensor(margin).to(like.device, torch.promote_types(like.dtype, torch.float32))
    rho = rho.expand(classes) if rho.ndim == 0 else rho
    if tuple(rho.shape) != (classes,):
        raise InvalidInputError(f"`margin` must be one number or have shape ({classes},), got {tuple(rho.shape)}")
    if eager(rho) and not bool((rho > 0).all() & torch.isfinite(rho).all()):
        raise InvalidInputError("`margin` must be positive and finite; margins divide the scores")
    return rho
