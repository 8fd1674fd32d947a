r"""Smooth adversarial comp-sum losses, ADV-COMP-SUM, and its peers TRADES and PGD-AT.

.. math::
    \tilde\ell^{smooth}(h, x, y) = \Phi^\tau\Big(\sum_{y' \ne y} e^{-\Delta_h(x, y, y')/\rho}\Big)
    + \nu \sup_{\|x' - x\| \le \gamma} \|\bar\Delta_h(x', y) - \bar\Delta_h(x, y)\|_2

Symbols: Delta(x, y, y') = h_y - h_y', rho a margin, nu the weight of the smooth term, at least sqrt(n-1)/rho in theory.

Mao, Mohri, Zhong (ICML 2023). Fidelity: reconstructed from abstract and notes, may differ; that the smooth loss bounds
the adversarial one, and the constant 1/Phi^tau(1), were derived again and are tested.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from corollary.errors import InvalidInputError
from corollary.losses._attacks import evaluation_mode, pgd
from corollary.losses._comp_sum import comp_sum
from corollary.losses._module import checked_number
from corollary.losses._softmax_rows import psi

Model = Callable[[Tensor], Tensor]
ROOT = 1e-12  # under the root, whose slope at zero is infinite


def deviation(moved: Tensor, logits: Tensor, target: Tensor) -> Float[Tensor, " m"]:
    r"""\(\|\bar\Delta(x', y) - \bar\Delta(x, y)\|_2\) from the logits at x' and x.

    Args:
        moved, logits: (m, n) scores at the perturbed and the clean inputs.
        target: (m,) labels.

    Guarantee: exact up to 1e-6, since 1e-12 is added under the root.

    Example:
        >>> deviation(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2), torch.tensor([0]))
        tensor([1.])
    """
    d = moved - logits
    t = d - d.gather(1, target[:, None])
    return torch.sqrt((t * t).sum(1) + ROOT)


def smooth_adversarial(
    logits: Tensor,
    moved: Tensor,
    target: Tensor,
    *,
    tau: float = 1.0,
    rho: float = 1.0,
    nu: float = 1.0,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    """The smooth adversarial comp-sum loss from the logits at clean and perturbed inputs.

    Args:
        logits, moved: (m, n) scores at x and at x' (found by `pgd`); gradients flow through both.
        target: (m,) labels.
        tau, rho, nu: index, margin, weight of the smooth term.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Guarantee: with x' the true supremum and nu >= sqrt(n-1)/rho it is at least the adversarial ramp loss, hence at
        least Phi^tau(1) times the adversarial error.

    Example:
        >>> z = torch.zeros(1, 2)
        >>> smooth_adversarial(z, z, torch.tensor([0])).round(decimals=4)
        tensor(0.6931)
    """
    rows = comp_sum(logits / rho, target, tau=tau, reduction="none") + nu * deviation(moved, logits, target)
    if reduction not in ("mean", "sum", "none"):
        raise InvalidInputError(f"`reduction` must be 'mean', 'sum' or 'none', got {reduction!r}")
    return rows if reduction == "none" else rows.sum() if reduction == "sum" else rows.sum() / max(1, len(rows))


def ramp_comp_sum(logits: Tensor, target: Tensor, *, tau: float = 1.0, rho: float = 1.0) -> Float[Tensor, " m"]:
    r"""The comp-sum loss of ramps, \(\Phi^\tau(\sum_{y' \ne y} \Phi_\rho(z_y - z_{y'}))\), bounded and not convex.

    Its supremum over the ball is the adversarial comp-sum loss, which the smooth one bounds.

    Args:
        logits: (m, n) scores.
        target: (m,) labels.
        tau, rho: index and margin.

    Guarantee: at least Phi^tau(1) where the largest score is not the label's.

    Example:
        >>> ramp_comp_sum(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
        tensor([0.])
    """
    gap = logits.gather(1, target[:, None]) - logits
    ramp = (1 - gap / rho).clamp(0, 1).scatter(1, target[:, None], 0.0)
    return psi(-torch.log1p(ramp.sum(1)), tau - 1)


def theoretical_weight(*, classes: int, rho: float = 1.0) -> float:
    r"""The nu that theory asks for, \(\sqrt{n-1}/\rho\); in practice it is tuned far smaller.

    Guarantee: none; see the functions that use it.

    Example:
        >>> theoretical_weight(classes=10)
        3.0
    """
    return math.sqrt(classes - 1) / rho


class AdversarialCompSum:
    r"""ADV-COMP-SUM: the training loss of a model on a batch, with the perturbed inputs found by PGD.

    Args:
        eps: radius gamma of the ball; step: length of a PGD step (eps/4); steps: K (10).
        tau, rho, nu: as in `smooth_adversarial`; nu one of .3, 1, 3 by validation.
        warmup: calls over which nu rises from 0.
        norm: `"linf"` or `"l2"`.
        low, high: range of valid inputs.
        seed: of the random starts.

    Guarantee: `losses.consistency.adversarial_bound`, for the supremum in the place of PGD.

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> loss = AdversarialCompSum(eps=0.1)
        >>> loss(model, torch.rand(4, 2), torch.tensor([0, 1, 2, 0])).item() > 0
        True

    Reference: Mao, Mohri, Zhong (ICML 2023); reconstructed from notes, may differ.
    """

    def __init__(
        self,
        *,
        eps: float,
        step: float | None = None,
        steps: int = 10,
        tau: float = 1.0,
        rho: float = 1.0,
        nu: float = 1.0,
        warmup: int = 0,
        norm: str = "linf",
        low: float | None = 0.0,
        high: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        self.tau, self.nu = checked_number("tau", tau, 0.0), checked_number("nu", nu, 0.0)
        self.rho = checked_number("rho", rho, 1e-6)
        self.warmup, self.calls = warmup, 0
        self.attack = _Attack(eps=eps, step=step, steps=steps, norm=norm, low=low, high=high, seed=seed)

    def perturb(self, model: Model, x: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """Inputs of the ball that move the score differences most."""
        with evaluation_mode(model), torch.no_grad():
            clean = model(x)
        return self.attack(model, x, lambda z: deviation(z, clean, target))

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """The loss of a batch."""
        moved = self.perturb(model, x, target)
        self.calls += 1
        nu = self.nu * min(1.0, self.calls / self.warmup) if self.warmup else self.nu
        return smooth_adversarial(model(x), model(moved), target, tau=self.tau, rho=self.rho, nu=nu)


class Trades:
    r"""TRADES: cross-entropy plus beta times the divergence to the worst perturbed prediction.

    .. math:: CE(z(x), y) + \beta \, KL(softmax\, z(x) \,\|\, softmax\, z(x'))

    Args:
        eps, step, steps, norm, low, high, seed: as in `AdversarialCompSum`.
        beta: 1 to 10, usually 6.

    Guarantee: none here.

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> Trades(eps=0.1)(model, torch.rand(4, 2), torch.tensor([0, 1, 2, 0])).item() > 0
        True

    Reference: Zhang et al. (ICML 2019), yaodongyu/TRADES; authors' code read in notes.
    """

    def __init__(self, *, eps: float, beta: float = 6.0, **attack: Any) -> None:
        self.beta, self.attack = checked_number("beta", beta, 0.0), _Attack(eps=eps, **attack)

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """The loss of a batch."""
        with evaluation_mode(model), torch.no_grad():
            clean = torch.softmax(model(x), 1)
        moved = self.attack(model, x, lambda z: _divergence(clean, z))
        z, shifted = model(x), model(moved)
        return F.cross_entropy(z, target) + self.beta * _divergence(torch.softmax(z, 1), shifted).mean()


class AdversarialTraining:
    """PGD-AT: cross-entropy at inputs perturbed to make it large.

    Args:
        eps, step, steps, norm, low, high, seed: as in `AdversarialCompSum`.

    Guarantee: none here.

    Example:
        >>> model = torch.nn.Linear(2, 3)
        >>> AdversarialTraining(eps=0.1)(model, torch.rand(4, 2), torch.tensor([0, 1, 2, 0])).item() > 0
        True

    Reference: Madry et al. (ICLR 2018).
    """

    def __init__(self, *, eps: float, **attack: Any) -> None:
        self.attack = _Attack(eps=eps, **attack)

    def __call__(self, model: Model, x: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """The loss of a batch."""
        moved = self.attack(model, x, lambda z: F.cross_entropy(z, target, reduction="none"))
        return F.cross_entropy(model(moved), target)


def _divergence(p: Tensor, z: Tensor) -> Tensor:
    return (torch.xlogy(p, p) - p * torch.log_softmax(z, 1)).sum(1)


class _Attack:
    """PGD with settings that stay, and one stream of random starts."""

    def __init__(
        self,
        *,
        eps: float,
        step: float | None = None,
        steps: int = 10,
        norm: str = "linf",
        low: float | None = 0.0,
        high: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        if not 0 <= eps < math.inf:
            raise InvalidInputError(f"`eps` must be zero or more, got {eps}")
        self.options = {
            "eps": eps,
            "step": step if step is not None else max(eps / 4, 1e-8),
            "steps": steps,
            "norm": norm,
            "low": low,
            "high": high,
        }
        self.seed = seed
        self.generator: torch.Generator | None = None

    def __call__(self, model: Model, x: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
        if self.generator is None or self.generator.device != x.device:
            self.generator = torch.Generator(x.device).manual_seed(self.seed)
        with evaluation_mode(model):
            return pgd(lambda v: objective(model(v)), x, seed=self.generator, **self.options)  # type: ignore[arg-type]
