r"""The normaliser of a whole-sequence gate, estimated from samples of the experts without bias.

Symbols: \(Z = \sum_x \sum_k g(x, k) q_k(x)\), proposal \(r = \sum_k c_k q_k\) with c the shares of the experts in the
samples.

.. math:: Z = \sum_k \mathbb{E}_{q_k}[g(x, k)] = \mathbb{E}_r\Bigl[\frac{\pi_g(x)}{r(x)}\Bigr]

The second form conditions the first on x (Rao-Blackwell), so its variance is no larger; its terms lie in [0, 1 / min
c].
Sums over the training documents are no estimate of Z: the experts put nearly all of their mass elsewhere.

Source: derived; arXiv:2602.17554 requires Z = 1 in section 2, its own estimator was not seen.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from corollary.certificates import Assumption, Certificate, Reference
from corollary.errors import InvalidInputError
from corollary.gating import _finite_certificate  # noqa: F401  registers the rule


class Normaliser(NamedTuple):
    """An estimate of Z and its standard error."""

    value: float
    standard_error: float


def log_density(log_gate: Tensor, log_likelihoods: Tensor) -> Float[Tensor, " n"]:
    """Log pi_g of each row, before normalisation."""
    return torch.logsumexp(log_gate + log_likelihoods, -1)


def log_proposal(log_likelihoods: Tensor, shares: Tensor) -> Float[Tensor, " n"]:
    """Log r of each row."""
    return torch.logsumexp(log_likelihoods + shares.log(), -1)


def pooled_ratios(log_gate: Tensor, log_likelihoods: Tensor, shares: Tensor) -> Float[Tensor, " n"]:
    """pi_g / r of each sample."""
    return torch.exp(log_density(log_gate, log_likelihoods) - log_proposal(log_likelihoods, shares))


def per_expert_ratios(log_gate: Tensor, expert: Tensor, shares: Tensor) -> Float[Tensor, " n"]:
    """g(x, k) / c_k of each sample x of expert k; their mean is the sum of the experts' means."""
    own = log_gate.gather(-1, expert[:, None])[:, 0]
    return torch.exp(own - shares[expert].log())


def certify_normaliser(
    log_gate: ArrayLike, log_likelihoods: ArrayLike, *, limit: float, delta: float = 0.05
) -> Certificate:
    r"""A certificate that \(|\log Z|\) is at most `limit`, from fresh samples of the experts.

    Args:
        log_gate: (S, p) log-weights of the gate at each sample; rows sum to one.
        log_likelihoods: (S, p) log-likelihoods of each sample under every expert, in nats.
        limit: what to claim, in nats.
        delta: probability of failure.

    Returns:
        Certificate by the rule `gating.normaliser`, checked with `log_gate=` and `log_likelihoods=`.

    Raises:
        InvalidInputError: for a limit or level without meaning.

    Guarantee: with probability at least 1 - delta over samples drawn independently, each from an expert chosen
        uniformly,
        |log Z| <= limit (betting bounds; the ratios pi_g / r lie in [0, p]).

    Example:
        >>> uniform = np.log(np.full((400, 2), 0.5))
        >>> certificate = certify_normaliser(uniform, np.zeros((400, 2)), limit=0.1)
        >>> bool(certificate.check(log_gate=uniform, log_likelihoods=np.zeros((400, 2))))
        True

    Reference: derived; the bound is that of Waudby-Smith and Ramdas (2024).
    """
    if not (limit > 0 and 0 < delta < 1):
        raise InvalidInputError(f"`limit` must be positive and `delta` in (0, 1), got {limit} and {delta}")
    gate, logq = np.asarray(log_gate, dtype=np.float64), np.asarray(log_likelihoods, dtype=np.float64)
    if gate.ndim != 2 or gate.shape != logq.shape or 0 in gate.shape:
        raise InvalidInputError(
            f"`log_gate` and `log_likelihoods` must both be (S, p), got {gate.shape} and {logq.shape}"
        )
    return Certificate.issue(
        "gating.normaliser",
        statement=f"The gated model sums to one up to a factor of exp({limit:g}) over all sequences.",
        evidence={"log_gate": gate, "log_likelihoods": logq},
        witness={"limit": limit, "delta": delta},
        reference=Reference("derived; bounds of Waudby-Smith and Ramdas (2024)", "Z = E[pi_g / r]", "derived here"),
        assumptions=[
            Assumption("the samples were drawn independently, each from an expert chosen uniformly at random"),
            Assumption("the gate had not seen these samples when it was trained"),
        ],
        confidence=1 - delta,
    )


def estimate(ratios: Tensor, weight: Tensor | None = None) -> Normaliser:
    """Mean of the ratios and its standard error (zero where the samples are a weighted census)."""
    if weight is not None:
        return Normaliser(float((weight * ratios).sum() / weight.sum()), 0.0)
    spread = float(ratios.std()) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.inf
    return Normaliser(float(ratios.mean()), spread)
