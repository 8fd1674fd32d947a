r"""The comp-sum losses: sum-exponential, cross-entropy, generalized cross-entropy, mean absolute error.

With s = softmax(z) and tau >= 0,

.. math:: \ell_\tau(z, y) = \Phi^\tau(1/s_y - 1) = \frac{1 - s_y^{\tau - 1}}{\tau - 1}, \quad \ell_1(z, y) = -\log s_y

Symbols: eta the distribution of the label at one point, C* the least conditional risk, T and Gamma the transforms of
`losses.consistency`.

A. Mao, M. Mohri, Y. Zhong, "Cross-Entropy Loss Functions: Theoretical Analysis and Applications", ICML 2023
(arXiv 2304.07288). Fidelity: reconstructed from abstract and notes, may differ; every formula was derived again and is
tested against numerical minimisation.
"""

from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._interface import IGNORE, surrogate
from corollary.losses._module import SurrogateLoss, checked_number
from corollary.losses._softmax_rows import psi, softmax_rows

REFERENCE = "Mao, Mohri, Zhong (ICML 2023)"


def comp_sum(
    logits: Tensor,
    target: Tensor,
    *,
    tau: float = 1.0,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    r"""The comp-sum loss of index tau.

    .. math:: \ell_\tau(z, y) = (1 - s_y^{\tau-1})/(\tau-1), \qquad \ell_1(z, y) = -\log s_y

    tau = 0 is the sum-exponential loss, 1 cross-entropy, between 1 and 2 the generalized cross-entropy with q = tau -
    1, 2 the mean absolute error 1 - s_y.

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        target: labels, or class weights of the shape of `logits`.
        tau: index, zero or more. Above 1 hard and mislabelled rows count less (1.5 to 1.7 under heavy label noise),
            below 1 more. With many classes and tau near 2 start from 1 (`TauWarmup`), or the gradient vanishes.
        weight: (n,) weights of the labels, as in torch.
        ignore_index: label whose rows count zero.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or one loss a label for `"none"`.

    Raises:
        InvalidInputError: for shapes, labels or options that fit nothing.

    Guarantee: for symmetric and complete hypothesis sets
        \(R_{01}(h) - R^*_{01} + M_{01} \le \Gamma_\tau(R_\tau(h) - R^*_\tau + M_\tau)\), every h and distribution;
        Gamma in `losses.consistency`. For tau < 1 the loss goes on linearly in log s once |1 - tau| log(1/s) exceeds
        60.

    Example:
        >>> z = torch.tensor([[2.0, 0.0, 0.0]])
        >>> [round(comp_sum(z, torch.tensor([0]), tau=tau).item(), 4) for tau in (0, 1, 2)]
        [0.2707, 0.2395, 0.213]

    Reference: Mao, Mohri, Zhong (ICML 2023); reconstructed from abstract and notes, may differ.
    """
    q = checked_number("tau", tau, 0.0) - 1.0
    return surrogate(
        lambda z, y: softmax_rows(z, y, q=q),
        logits,
        target,
        every=lambda z: psi(torch.log_softmax(z, -1), q),
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
    )


def cross_entropy(logits: Tensor, target: Tensor, **options: Any) -> Float[Tensor, "..."]:
    """Cross-entropy, `comp_sum` at tau = 1; equal to `torch.nn.functional.cross_entropy`.

    Guarantee: that of `comp_sum` at tau = 1.

    Example:
        >>> round(cross_entropy(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.6931
    """
    return comp_sum(logits, target, tau=1.0, **options)


def sum_exponential(logits: Tensor, target: Tensor, **options: Any) -> Float[Tensor, "..."]:
    r"""The sum-exponential loss \(\sum_{y' \ne y} e^{z_{y'} - z_y}\), `comp_sum` at tau = 0.

    Guarantee: that of `comp_sum` at tau = 0.

    Example:
        >>> sum_exponential(torch.zeros(1, 3), torch.tensor([0]))
        tensor(2.)
    """
    return comp_sum(logits, target, tau=0.0, **options)


def generalized_cross_entropy(
    logits: Tensor, target: Tensor, *, q: float = 0.7, **options: Any
) -> Float[Tensor, "..."]:
    r"""The generalized cross-entropy \((1 - s_y^q)/q\), `comp_sum` at tau = 1 + q.

    Guarantee: that of `comp_sum` at tau = 1 + q.

    Example:
        >>> round(generalized_cross_entropy(torch.zeros(1, 2), torch.tensor([0])).item(), 4)
        0.5492

    Reference: Zhang, Sabuncu (NeurIPS 2018); authors' code not read, formula as published.
    """
    return comp_sum(logits, target, tau=1.0 + checked_number("q", q, 0.0, 1.0), **options)


def mean_absolute_error(logits: Tensor, target: Tensor, **options: Any) -> Float[Tensor, "..."]:
    r"""The mean absolute error \(1 - s_y\) (half the l1 distance to the one-hot label), `comp_sum` at tau = 2.

    Guarantee: that of `comp_sum` at tau = 2.

    Example:
        >>> mean_absolute_error(torch.zeros(1, 4), torch.tensor([0]))
        tensor(0.7500)
    """
    return comp_sum(logits, target, tau=2.0, **options)


def comp_sum_gradient(logits: Tensor, target: Tensor, *, tau: float = 1.0) -> Float[Tensor, "m n"]:
    r"""The gradient of every row's loss in its logits, in closed form.

    .. math:: \partial \ell_\tau / \partial z_j = -s_y^{\tau - 1} (1[j = y] - s_j)

    Args:
        logits: (m, n) scores.
        target: (m,) labels.
        tau: index.

    Guarantee: exact; tested against automatic differentiation.

    Example:
        >>> comp_sum_gradient(torch.zeros(1, 2), torch.tensor([0]))
        tensor([[-0.5000,  0.5000]])
    """
    log_s = torch.log_softmax(logits, -1)
    one_hot = torch.nn.functional.one_hot(target, logits.shape[-1]).to(logits.dtype)
    return -torch.exp((tau - 1) * log_s.gather(1, target[:, None])) * (one_hot - log_s.exp())


def comp_sum_minimiser(eta: Tensor, *, tau: float = 1.0) -> Float[Tensor, "... n"]:
    r"""The softmax values that minimise \(\sum_y \eta_y \ell_\tau\) over all scores.

    .. math:: s_y \propto \eta_y^{1/(2 - \tau)} \quad (\tau < 2), \qquad s = e_{\arg\max\eta} \quad (\tau \ge 2)

    Args:
        eta: (..., n) nonnegative, not all zero.
        tau: index.

    Guarantee: exact for complete hypothesis sets (for tau >= 2 an infimum, approached as the scores grow).

    Example:
        >>> comp_sum_minimiser(torch.tensor([0.8, 0.2]), tau=1.5)
        tensor([0.9412, 0.0588])
    """
    _check_simplex(eta)
    if checked_number("tau", tau, 0.0) >= 2:
        return torch.nn.functional.one_hot(eta.argmax(-1), eta.shape[-1]).to(eta.dtype)
    return torch.softmax(eta.log() / (2 - tau), -1)


def comp_sum_optimum(eta: Tensor, *, tau: float = 1.0) -> Float[Tensor, "..."]:
    r"""The least conditional risk C* of a complete hypothesis set.

    .. math:: C^* = \frac{(\sum_y \eta_y^{1/(2-\tau)})^{2-\tau} - 1}{1 - \tau} \; (\tau < 2), \quad
        \frac{1 - \max_y \eta_y}{\tau - 1} \; (\tau \ge 2)

    at tau = 1 the entropy of eta.

    Args:
        eta: (..., n) distributions of the label.
        tau: index.

    Guarantee: exact [derived; tested against numerical minimisation].

    Example:
        >>> round(comp_sum_optimum(torch.tensor([0.5, 0.5])).item(), 4)
        0.6931
    """
    _check_simplex(eta)
    if checked_number("tau", tau, 0.0) == 1:
        return torch.special.entr(eta).sum(-1)
    if tau >= 2:
        return (1 - eta.amax(-1)) / (tau - 1)
    power = (2 - tau) * torch.logsumexp(eta.log() / (2 - tau), -1)
    return torch.expm1(power) / (1 - tau)


def comp_sum_probabilities(logits: Tensor, *, tau: float = 1.0) -> Float[Tensor, "..."]:
    r"""The inverse link: probabilities of the classes from scores trained with `comp_sum`.

    .. math:: \hat\eta_y \propto s_y^{2 - \tau}

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        tau: index, below 2.

    Raises:
        InvalidInputError: for tau >= 2, whose minimiser keeps nothing but the likeliest class.

    Guarantee: at the conditional minimiser, the distribution of the label exactly.

    Example:
        >>> comp_sum_probabilities(torch.tensor([[0.9412, 0.0588]]).log(), tau=1.5)
        tensor([[0.8000, 0.2000]])
    """
    if not checked_number("tau", tau, 0.0) < 2:
        raise InvalidInputError(f"the comp-sum loss with tau = {tau} gives no probabilities; train with tau below 2")
    return torch.softmax((2 - tau) * logits, 0 if logits.ndim == 1 else 1)


def _check_simplex(eta: Tensor) -> None:
    if eta.ndim == 0 or bool((eta < 0).any()) or not bool((eta.sum(-1) > 0).all()):
        raise InvalidInputError("`eta` must hold nonnegative numbers, not all zero, along its last axis")


class CompSumLoss(SurrogateLoss):
    """`comp_sum` as a module.

    Args:
        tau: index, zero or more; may be changed during training (`TauWarmup`).
        weight, ignore_index, reduction: as in `comp_sum`.

    Guarantee: `comp_sum`; `consistency_bound(classes=n)` maps a surrogate excess to an excess of error and back.

    Example:
        >>> loss = CompSumLoss(tau=1.5)
        >>> loss.convex, loss.bounded, loss.proper
        (False, True, True)
        >>> loss(torch.zeros(2, 3), torch.tensor([0, 2])).item() > 0
        True

    Reference: Mao, Mohri, Zhong (ICML 2023); reconstructed from abstract and notes, may differ.
    """

    consistent_for = "zero-one"
    calibrated = True
    reduces_to = "sum-exponential (tau=0), cross-entropy (1), generalized cross-entropy (1+q), mean absolute error (2)"
    limits = MappingProxyType({"cross-entropy": {"tau": 1.0}, "mean absolute error": {"tau": 2.0}})
    guarantee = (
        "R_01 - R*_01 + M_01 <= Gamma_tau(R_tau - R*_tau + M_tau) for symmetric and complete hypothesis sets, "
        f"every distribution; {REFERENCE}"
    )

    def __init__(self, *, tau: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.tau = checked_number("tau", tau, 0.0)

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """Convex for tau <= 1: a convex increasing function of log-sum-exp minus a linear one."""
        return self.tau <= 1

    @property
    def bounded(self) -> bool:  # type: ignore[override]
        """By 1/(tau - 1), for tau > 1."""
        return self.tau > 1

    @property
    def proper(self) -> bool:  # type: ignore[override]
        """With the inverse link of `comp_sum_probabilities`, for tau < 2."""
        return self.tau < 2

    @property
    def symmetric(self) -> bool:  # type: ignore[override]
        """At tau = 2 the losses of all labels add up to n - 1."""
        return self.tau == 2

    def at(self, z: Tensor, y: Tensor) -> Float[Tensor, " m"]:
        """Losses of labels (m,) at scores (m, n)."""
        return softmax_rows(z, y, q=self.tau - 1)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return comp_sum(logits, target, tau=self.tau, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """Probabilities of the classes by the inverse link; an error for tau >= 2."""
        return comp_sum_probabilities(logits, tau=self.tau)

    def consistency_bound(self, *, classes: int) -> Any:
        """The bound of the family, as `losses.consistency.ConsistencyBound`."""
        from corollary.losses.consistency import comp_sum_bound

        return comp_sum_bound(tau=self.tau, classes=classes)


class TauWarmup:
    r"""Raise tau linearly from `start` to its value over the first steps.

    .. math:: \tau_t = start + (\tau - start) \min(1, t / steps)

    For tau > 1 the gradient carries \(s_y^{\tau-1}\), which at initialisation is about \(n^{1-\tau}\): with tau = 2 and
    100 classes training does not start.

    Args:
        loss: a `CompSumLoss`; its present `tau` is the final value.
        steps: number of calls of `step` until it is reached.
        start: first value.

    Guarantee: none; a schedule.

    Example:
        >>> loss = CompSumLoss(tau=2.0)
        >>> warmup = TauWarmup(loss, steps=2)
        >>> taus = [loss.tau]
        >>> for _ in range(3):
        ...     warmup.step()
        ...     taus.append(loss.tau)
        >>> taus
        [1.0, 1.5, 2.0, 2.0]
    """

    def __init__(self, loss: CompSumLoss, *, steps: int, start: float = 1.0) -> None:
        if steps < 1:
            raise InvalidInputError(f"`steps` must be at least 1, got {steps}")
        self.loss, self.steps, self.start, self.final = loss, steps, checked_number("start", start, 0.0), loss.tau
        self.done = 0
        loss.tau = self.start

    def step(self) -> None:
        """Advance by one step (a batch or an epoch, as the caller decides)."""
        self.done += 1
        self.loss.tau = self.start + (self.final - self.start) * min(1.0, self.done / self.steps)

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint needs."""
        return {"done": self.done, "steps": self.steps, "start": self.start, "final": self.final}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Continue from a checkpoint."""
        self.done, self.steps = int(state["done"]), int(state["steps"])
        self.start, self.final = state["start"], state["final"]
        self.loss.tau = self.start + (self.final - self.start) * min(1.0, self.done / self.steps)
