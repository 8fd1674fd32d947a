r"""Losses of scores without a scale: the Z-loss, and the harmonic layer, whose scores are distances.

Symbols: z the scores, \(\bar z\) and std their mean and deviation over the classes of one row, w_k class centres.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.losses._interface import surrogate
from corollary.losses._module import SurrogateLoss, checked_number

NOISE = 1e-5  # added to the variance, so that equal scores have a gradient


def z_loss(logits: Tensor, target: Tensor, *, a: float = 1.0, b: float = 2.0, **options: Any) -> Float[Tensor, "..."]:
    r"""The Z-loss: a softplus of the standardised score of the label.

    .. math:: \ell(z, y) = \frac1a \log(1 + e^{a (b - \zeta_y)}), \quad \zeta = (z - \bar z) / std(z)

    It needs only the sum, the sum of squares and the label's score. Not to be confused with the penalty on the
    log-partition (`LogPartitionLoss`), which is called the same.

    Args:
        logits, target: scores and labels or class weights.
        a: steepness above zero; towards infinity the hinge max(0, b - zeta_y).
        b: the standardised score to aim at; the largest possible one is sqrt(n - 1).
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: invariant to shift and, up to a variance of 1e-5, to scale; classification-calibrated for the zero-one
        error [derived: by exchange, since mean and deviation do not depend on the order of the scores].

    Example:
        >>> z, y = torch.tensor([[3.0, 1.0, -1.0]]), torch.tensor([0])
        >>> torch.allclose(z_loss(z, y), z_loss(10 * z, y), atol=1e-4)
        True

    Reference: de Brebisson and Vincent (2016); formula from a secondary source, defaults ours.
    """
    a, b = _checked_a(a), float(b)

    def every(z: Tensor) -> Tensor:
        spread = (z.var(-1, correction=0, keepdim=True) + NOISE).sqrt()
        return nn.functional.softplus(a * (b - (z - z.mean(-1, keepdim=True)) / spread)) / a

    return surrogate(lambda z, y: every(z).gather(1, y[:, None])[:, 0], logits, target, every=every, **options)


def _checked_a(value: float) -> float:
    return checked_number("a", value, 1e-6)


class ZLoss(SurrogateLoss):
    """`z_loss` as a module.

    Args:
        a, b: as in `z_loss`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: `z_loss`.

    Example:
        >>> ZLoss(b=0.0)(torch.zeros(1, 2), torch.tensor([0])).round(decimals=4)
        tensor(0.6931)

    Reference: de Brebisson and Vincent (2016).
    """

    bounded = calibrated = True
    consistent_for = "zero-one"
    reduces_to = "a hinge of the standardised score (a -> infinity)"
    guarantee = "classification-calibrated for the zero-one error (derived here); no rate"

    def __init__(self, *, a: float = 1.0, b: float = 2.0, **common: Any) -> None:
        super().__init__(**common)
        self.a, self.b = _checked_a(a), float(b)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return z_loss(logits, target, a=self.a, b=self.b, **self.common)


def harmonic_logits(x: Tensor, centres: Tensor, *, exponent: float, noise: float = 1e-4) -> Float[Tensor, "*b k"]:
    r"""Logits whose softmax is the harmonic one: \(-N \log d_k\) with \(d_k = |w_k - x|\).

    .. math:: \mathrm{softmax}_k = d_k^{-N} / \sum_j d_j^{-N}

    Args:
        x: (..., d) features.
        centres: (n, d) class centres.
        exponent: N above zero, about the root of d.
        noise: added to the squared distances; 0 makes the probabilities invariant to the scale of x and w.

    Guarantee: none; the loss of a row has a finite optimum, x at its centre.

    Example:
        >>> z = harmonic_logits(torch.tensor([[1.0]]), torch.tensor([[0.0], [3.0]]), exponent=1.0, noise=0.0)
        >>> torch.softmax(z, -1).round(decimals=4)  # distances 1 and 2
        tensor([[0.6667, 0.3333]])

    Reference: Baek et al. (2025), KindXiaoming/grow-crystals; code read in notes.
    """
    power = checked_number("exponent", exponent, 1e-6)
    noise = checked_number("noise", noise, 0.0)
    if x.shape[-1:] != centres.shape[-1:] or centres.ndim != 2:
        raise InvalidInputError(
            f"`x` {tuple(x.shape)} and `centres` {tuple(centres.shape)} must share their last axis, and `centres` "
            f"have shape (n, d)"
        )
    # Differences, not squares less products: close to a centre the product form loses all digits.
    squares = (x[..., None, :] - centres).square().sum(-1)
    return -0.5 * power * torch.log(squares + noise)


class HarmonicLinear(nn.Module):
    r"""The last layer of the harmonic loss; put any softmax loss on its logits, cross-entropy for the original.

    Args:
        inputs: number of features d.
        classes: n.
        exponent: N; default the root of d.
        noise: as in `harmonic_logits`.
        seed: of the initial centres, normal with variance 1/d.

    Guarantee: none.

    Example:
        >>> layer = HarmonicLinear(4, 3, seed=0)
        >>> torch.nn.functional.cross_entropy(layer(torch.zeros(2, 4)), torch.tensor([0, 2])).item() > 0
        True

    Reference: Baek et al. (2025), KindXiaoming/grow-crystals; code read in notes.
    """

    def __init__(
        self, inputs: int, classes: int, *, exponent: float | None = None, noise: float = 1e-4, seed: int = 0
    ) -> None:
        super().__init__()
        drawn = torch.randn(classes, inputs, generator=torch.Generator().manual_seed(seed))
        self.centres = nn.Parameter(drawn / math.sqrt(inputs))
        self.exponent, self.noise = math.sqrt(inputs) if exponent is None else exponent, noise

    def forward(self, x: Tensor) -> Float[Tensor, "*b k"]:
        """Logits of features (..., d)."""
        return harmonic_logits(x, self.centres, exponent=self.exponent, noise=self.noise)
