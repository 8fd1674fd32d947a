r"""Two classes, the whole batch at once: EnsLoss and AnyLoss.

Symbols: m the margin of a row, \(z_y\) less the other score; a its slope; p the probability of class 1.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._interface import IGNORE, surrogate
from corollary.losses._module import SurrogateLoss, checked_number

FAINT = 1e-6  # keeps every slope below zero
TINY = 1e-12


def _two_classes(logits: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (m, 2), labels (m,), and which rows count; refuses what is not a batch of two classes and labels."""
    if target.is_floating_point() or logits.ndim < 2 or logits.shape[1] != 2:
        raise InvalidInputError(
            f"this loss takes logits (N, 2, ...) and labels 0 and 1, got shapes {tuple(logits.shape)} and "
            f"{tuple(target.shape)} of {target.dtype}; for one score f pass the logits (0, f)"
        )
    surrogate(lambda z, y: z[:, 0], logits, target, ignore_index=ignore_index)  # its checks of shapes and labels
    z, y = logits.movedim(1, -1).reshape(-1, 2), target.reshape(-1).long()
    z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    return z, torch.where(y == ignore_index, 0, y), y != ignore_index


def ensemble_slopes(margins: Tensor, *, power: float = 0.0, seed: int | torch.Generator = 0) -> Float[Tensor, " m"]:
    r"""Slopes of a random convex loss, calibrated for the zero-one error, at the margins of a batch.

    .. math:: a = \max(-B_\lambda^{-1}(g), -1), \; g \sim N(0, 1), \quad
        B_\lambda^{-1}(g) = (\lambda g + 1)_+^{1/\lambda}, \; e^g \text{ at } \lambda = 0

    The steepest slope goes to the smallest margin, so that the slopes are those of a convex function; beyond margin 1
    they are divided by the margin, and 1e-6 keeps all of them negative.

    Args:
        margins: (m,) margins.
        power: lambda in [-1, 1].
        seed: of the draw; pass one generator to draw anew at every call.

    Guarantee: negative and non-decreasing in the margin: the slopes of some convex loss with a negative slope at zero,
        which is classification-calibrated (Bartlett, Jordan, McAuliffe 2006).

    Example:
        >>> a = ensemble_slopes(torch.tensor([-1.0, 0.0, 2.0]))
        >>> bool((a < 0).all() and (a.diff() >= 0).all())
        True

    Reference: Dai et al. (ICML 2025), statmlben/ensLoss; code read in notes. That the slopes are clipped from below, at
    -1, is how we read them.
    """
    power = checked_number("power", power, -1.0, 1.0)
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator(margins.device).manual_seed(seed)
    g = torch.randn(margins.shape, generator=generator, device=margins.device, dtype=torch.float64)
    inverse = g.exp() if power == 0 else (power * g + 1).clamp(min=TINY) ** (1 / power)
    ordered = (-inverse).clamp(min=-1.0).sort().values.to(margins)
    a = torch.empty_like(margins).scatter(0, margins.detach().argsort(), ordered)
    return a / margins.detach().clamp(min=1.0) - FAINT


def ensemble_loss(
    logits: Tensor,
    target: Tensor,
    *,
    power: float = 0.0,
    seed: int | torch.Generator = 0,
    ignore_index: int = IGNORE,
) -> Float[Tensor, ""]:
    r"""EnsLoss: the gradient of a loss drawn anew for every batch.

    .. math:: \frac1m \sum_i a_i m_i, \text{ the slopes } a_i \text{ held fixed}

    Only its gradient means anything: with respect to the margins it is that of a convex calibrated loss.

    Args:
        logits: (N, 2) or (N, 2, d1, ...) scores.
        target: labels 0 and 1.
        power, seed: as in `ensemble_slopes`.
        ignore_index: label whose rows count zero.

    Guarantee: that of `ensemble_slopes`.

    Example:
        >>> z = torch.zeros(4, 2, requires_grad=True)
        >>> ensemble_loss(z, torch.tensor([0, 0, 1, 1])).backward()
        >>> bool((z.grad[:2, 0] < 0).all())  # the score of the label rises
        True

    Reference: Dai et al. (ICML 2025), statmlben/ensLoss; code read in notes.
    """
    z, y, kept = _two_classes(logits, target, ignore_index)
    m = ((z[:, 1] - z[:, 0]) * (2 * y - 1))[kept]
    return (ensemble_slopes(m, power=power, seed=seed) * m).sum() / max(1, len(m))


Metric = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
METRICS: dict[str, Metric] = {
    "accuracy": lambda tp, fp, fn, tn: tp + tn,
    "balanced accuracy": lambda tp, fp, fn, tn: (tp / (tp + fn + TINY) + tn / (tn + fp + TINY)) / 2,
    "f1": lambda tp, fp, fn, tn: 2 * tp / (2 * tp + fp + fn + TINY),
    "f2": lambda tp, fp, fn, tn: 5 * tp / (5 * tp + fp + 4 * fn + TINY),
    "g-mean": lambda tp, fp, fn, tn: torch.sqrt(tp / (tp + fn + TINY) * tn / (tn + fp + TINY) + TINY),
    "jaccard": lambda tp, fp, fn, tn: tp / (tp + fp + fn + TINY),
}


def any_loss(
    logits: Tensor,
    target: Tensor,
    *,
    metric: str | Metric = "f1",
    amplify: float = 10.0,
    ignore_index: int = IGNORE,
) -> Float[Tensor, ""]:
    r"""AnyLoss: one less a metric of the soft confusion matrix of the batch.

    .. math:: 1 - M(TP, FP, FN, TN), \quad TP = \mathrm{mean}\, A(p)\, 1[y = 1], \dots, \quad
        A(p) = 1/(1 + e^{-L (p - 1/2)})

    Take large batches; not convex, and without gradient where A saturates. `metrics.MetroClassifier` maximises ratio
    metrics by costs instead, with a certificate.

    Args:
        logits: (N, 2) or (N, 2, d1, ...) scores; class 1 is the positive one.
        target: labels 0 and 1.
        metric: one of `"accuracy"`, `"balanced accuracy"`, `"f1"`, `"f2"`, `"g-mean"`, `"jaccard"`, or a function of
            (tp, fp, fn, tn), shares of the batch.
        amplify: L above zero; towards infinity the metric of the hard predictions. 73 is the value usually quoted.
        ignore_index: label whose rows count zero.

    Guarantee: none.

    Example:
        >>> z, y = torch.tensor([[4.0, -4.0], [-4.0, 4.0]]), torch.tensor([0, 1])
        >>> round(any_loss(z, y, amplify=73.0).item(), 6)
        0.0

    Reference: Han, Moniz, Chawla (KDD 2024), from a secondary source; further metrics are ours.
    """
    measure = _checked_metric(metric)
    sharp = checked_number("amplify", amplify, 1e-6)
    z, y, kept = _two_classes(logits, target, ignore_index)
    positive = torch.sigmoid(sharp * (torch.softmax(z, -1)[:, 1] - 0.5))
    weight = kept.to(z) / kept.sum().clamp(min=1)
    tp, fn, fp, tn = ((weight * a * b).sum() for b in (y, 1 - y) for a in (positive, 1 - positive))
    return (1 - measure(tp, fp, fn, tn)) * kept.any()


def _checked_metric(metric: str | Metric) -> Metric:
    if callable(metric):
        return metric
    if metric not in METRICS:
        raise InvalidInputError(f"`metric` must be a function or one of {', '.join(METRICS)}, got {metric!r}")
    return METRICS[metric]


class _Batch(SurrogateLoss):
    """A quantity of a batch of two classes: no weights, and the mean only."""

    rowwise = False

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        if self.weight is not None or self.reduction != "mean":
            raise InvalidInputError("a quantity of the batch takes no `weight`, and its reduction is 'mean'")


class EnsLoss(_Batch):
    """`ensemble_loss` as a module that draws anew at every call.

    Args:
        power: lambda; or
        period: draw lambda anew, uniformly from [-1, 1], every so many calls of `step` (epochs); None keeps it.
        seed: of the draws.
        common: `ignore_index`.

    Guarantee: `ensemble_slopes`.

    Example:
        >>> loss = EnsLoss(period=1)
        >>> before = loss.power
        >>> loss.step()
        >>> loss.power != before
        True

    Reference: Dai et al. (ICML 2025), statmlben/ensLoss; code read in notes.
    """

    nonnegative = False
    guarantee = "every draw is the gradient of a convex loss that is calibrated for the zero-one error"

    def __init__(self, *, power: float = 0.0, period: int | None = None, seed: int = 0, **common: Any) -> None:
        super().__init__(**common)
        if period is not None and period < 1:
            raise InvalidInputError(f"`period` must be at least 1, got {period}")
        self.power, self.period, self.seed, self.epochs = checked_number("power", power, -1.0, 1.0), period, seed, 0
        self._draw: torch.Generator | None = None

    def step(self) -> None:
        """Count an epoch; draw lambda anew after every `period` of them."""
        self.epochs += 1
        if self.period is not None and self.epochs % self.period == 0:
            generator = torch.Generator().manual_seed(self.seed + self.epochs)
            self.power = 2 * torch.rand((), generator=generator).item() - 1

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """The loss of logits (N, 2, ...) at labels (N, ...)."""
        if self._draw is None or self._draw.device != logits.device:
            self._draw = torch.Generator(logits.device).manual_seed(self.seed)
        return ensemble_loss(logits, target, power=self.power, seed=self._draw, ignore_index=self.ignore_index)


class AnyLoss(_Batch):
    """`any_loss` as a module.

    Args:
        metric, amplify: as in `any_loss`.
        common: `ignore_index`.

    Guarantee: none.

    Example:
        >>> AnyLoss(metric="accuracy")(torch.zeros(2, 2), torch.tensor([0, 1]))
        tensor(0.5000)

    Reference: Han, Moniz, Chawla (KDD 2024), from a secondary source.
    """

    bounded = True
    equivariant = False

    def __init__(self, *, metric: str | Metric = "f1", amplify: float = 10.0, **common: Any) -> None:
        super().__init__(**common)
        _checked_metric(metric)
        self.metric, self.amplify = metric, checked_number("amplify", amplify, 1e-6)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, ""]:
        """The loss of logits (N, 2, ...) at labels (N, ...)."""
        return any_loss(logits, target, metric=self.metric, amplify=self.amplify, ignore_index=self.ignore_index)
