r"""Label-distributionally robust losses: the worst distribution over labels near the uniform one.

.. math:: \max_{p} \sum_k p_k \delta_k - \lambda KL(p \,|\, 1/n), \quad \delta_k = z_k - z_y + c\,1[k \ne y]

Symbols: lambda the temperature, c the margin, alpha how far the adaptive temperature may fall.
"""

import math
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._interface import eager, surrogate
from corollary.losses._module import SurrogateLoss, checked_number

STEPS = 40  # of the iteration for the temperatures; most rows need fewer than ten
SHORT = 0.2  # least denominator of its steps, which are Newton's where that allows


def _gaps(z: Tensor, y: Tensor, margin: float) -> Tensor:
    true = torch.arange(z.shape[-1], device=z.device) == y[:, None]
    return z - z.gather(1, y[:, None]) + torch.where(true, 0.0, margin)


def _smooth_max(gaps: Tensor, temperature: Any) -> Tensor:
    """The temperature times log mean exp(delta / temperature), a number or (m,)."""
    t = temperature[:, None] if isinstance(temperature, Tensor) else temperature
    return temperature * (torch.logsumexp(gaps / t, -1) - math.log(gaps.shape[-1]))


def ldr_kl(
    logits: Tensor, target: Tensor, *, temperature: float = 1.0, margin: float = 0.0, **options: Any
) -> Float[Tensor, "..."]:
    r"""The LDR-KL loss.

    .. math:: \ell(z, y) = \lambda \log \frac1n \sum_k e^{(z_k - z_y + c 1[k \ne y]) / \lambda}

    Args:
        logits, target: scores and labels or class weights (costs n^2 a row).
        temperature: lambda above zero; towards 0 the Crammer-Singer loss with margin c, towards infinity the mean of
            the gaps; 1 with c = 0 is cross-entropy less log n.
        margin: c, zero or more.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: convex; consistent for the zero-one error for every temperature and margin [derived: by exchange].

    Example:
        >>> round(ldr_kl(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), temperature=1e-3).item(), 2)
        1.0

    Reference: Zhu, Ying, Yang (ICML 2023), Optimization-AI/ICML2023_LDR; code read in notes, where the scores are
    first made positive and divided by their mean: do that outside.
    """
    t, c = _checked_temperature(temperature), checked_number("margin", margin, 0.0)
    return surrogate(lambda z, y: _smooth_max(_gaps(z, y, c), t), logits, target, **options)


def aldr_kl(
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float = 1.0,
    alpha: float = 2.0,
    margin: float = 0.0,
    **options: Any,
) -> Float[Tensor, "..."]:
    r"""The adaptive LDR-KL loss: every row has a temperature of its own, lower where one rival stands out.

    .. math:: \ell(z, y) = LDR_\lambda(z, y) - \frac{\alpha \log n}{2 \lambda_0} (\lambda - \lambda_0)^2, \quad
        \lambda = \lambda_0 - \frac{\lambda_0}{\alpha \log n} KL(p_\lambda \,|\, 1/n), \quad p_\lambda \propto
        e^{\delta/\lambda}

    The notes give both lines; that the second is the stationarity condition of the first in lambda, so that the
    gradient is that of LDR-KL at the row's temperature, and that iterating it from lambda_0 falls monotonically to its
    largest solution, is derived here.

    Args:
        logits, target: scores and labels or class weights (costs n^2 a row).
        temperature: lambda_0 above zero.
        alpha: above 1; temperatures stay in [lambda_0 (1 - 1/alpha), lambda_0]; towards infinity `ldr_kl`.
        margin: c, zero or more.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: between `ldr_kl` at lambda_0 and the same at the lowest temperature.

    Example:
        >>> z, y = torch.tensor([[0.0, 1.0]]), torch.tensor([0])
        >>> bool(aldr_kl(z, y) > ldr_kl(z, y))
        True

    Reference: Zhu, Ying, Yang (ICML 2023), Optimization-AI/ICML2023_LDR; code read in notes, solution derived.
    """
    t, c = _checked_temperature(temperature), checked_number("margin", margin, 0.0)
    alpha = _checked_alpha(alpha)

    def at(z: Tensor, y: Tensor) -> Tensor:
        gaps, log_n = _gaps(z, y, c), math.log(z.shape[-1])

        def step(local: Tensor) -> tuple[Tensor, Tensor]:
            log_p = torch.log_softmax(gaps / local[:, None], -1)
            p = log_p.exp()
            mean = (p * gaps).sum(-1)
            divergence = (p * log_p).sum(-1) + log_n
            spread = (p * (gaps - mean[:, None]) ** 2).sum(-1)
            slope = t / (alpha * log_n) * spread / local**3  # of the step in the temperature
            return t - t / (alpha * log_n) * divergence, slope

        with torch.no_grad():
            local, slope = torch.full_like(gaps[:, 0], t), gaps[:, 0]
            for _ in range(STEPS):
                before, (proposed, slope) = local, step(local)
                local = local + (proposed - local) / (1 - slope).clamp(min=SHORT)
                if eager(z) and bool(((local - before).abs() <= 1e-15 * t).all()):
                    break
        # One more step, that is differentiated: the gradient of the loss is exact, and so is its own.
        local = local + (step(local)[0] - local) / (1 - slope).clamp(min=SHORT)
        return _smooth_max(gaps, local) - alpha * log_n / (2 * t) * (local - t) ** 2

    return surrogate(at, logits, target, **options)


def _checked_temperature(value: float) -> float:
    return checked_number("temperature", value, 1e-6)


def _checked_alpha(value: float) -> float:
    if not 1 < value < math.inf:
        raise InvalidInputError(f"`alpha` must be a number above 1, got {value}: temperatures would reach zero")
    return float(value)


def _entropy_less_log(z: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(z, y) - math.log(z.shape[1])


class LDRKLLoss(SurrogateLoss):
    """`ldr_kl` as a module, with the link to probabilities.

    Args:
        temperature, margin: as in `ldr_kl`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: `ldr_kl`; the link is exact at the minimiser [derived; tested].

    Example:
        >>> LDRKLLoss()(torch.zeros(1, 2), torch.tensor([0])).abs()
        tensor(0.)

    Reference: Zhu, Ying, Yang (ICML 2023).
    """

    convex = proper = calibrated = True
    nonnegative = False
    consistent_for = "zero-one"
    reduces_to = "cross-entropy less log n (temperature 1, margin 0), Crammer-Singer (temperature -> 0)"
    limits = MappingProxyType({"cross-entropy less log n": ({"temperature": 1.0, "margin": 0.0}, _entropy_less_log)})
    guarantee = "consistent for the zero-one error, every temperature and margin (derived here); no rate"

    def __init__(self, *, temperature: float = 1.0, margin: float = 0.0, **common: Any) -> None:
        super().__init__(**common)
        self.temperature, self.margin = _checked_temperature(temperature), checked_number("margin", margin, 0.0)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return ldr_kl(logits, target, temperature=self.temperature, margin=self.margin, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        r"""\(\hat\eta_k \propto s_k (1 - (1 - e^{-c/\lambda}) s_k)\) with s the softmax at temperature lambda."""
        axis = 0 if logits.ndim == 1 else 1
        s = torch.softmax(logits / self.temperature, axis)
        eta = s * (1 + math.expm1(-self.margin / self.temperature) * s)
        return eta / eta.sum(axis, keepdim=True)


class ALDRKLLoss(SurrogateLoss):
    """`aldr_kl` as a module.

    Args:
        temperature, alpha, margin: as in `aldr_kl`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: `aldr_kl`.

    Example:
        >>> ALDRKLLoss()(torch.zeros(1, 2), torch.tensor([0])).abs()
        tensor(0.)

    Reference: Zhu, Ying, Yang (ICML 2023).
    """

    nonnegative = False
    reduces_to = "LDR-KL (alpha -> infinity)"
    limits = MappingProxyType(
        {"cross-entropy less log n": ({"temperature": 1.0, "margin": 0.0, "alpha": 1e12}, _entropy_less_log)}
    )

    def __init__(self, *, temperature: float = 1.0, alpha: float = 2.0, margin: float = 0.0, **common: Any) -> None:
        super().__init__(**common)
        self.temperature, self.margin = _checked_temperature(temperature), checked_number("margin", margin, 0.0)
        self.alpha = _checked_alpha(alpha)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        own: dict[str, Any] = {"temperature": self.temperature, "alpha": self.alpha, "margin": self.margin}
        return aldr_kl(logits, target, **own, **self.common)
