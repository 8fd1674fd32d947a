r"""LegendreTron: a proper loss that is learned together with the scores.

.. math:: p = \mathrm{softmax}^+(\nabla f(v)), \quad v_k = z_k - z_n \; (k < n), \quad \ell(z, y) = -\log p_y,
    \quad f(v) = \tfrac{a}{2} |v|^2 + \sum_u \mathrm{softplus}(\langle A_u, v\rangle + b_u)

Symbols: softmax+ the map \(e^{u_k} / (1 + \sum_j e^{u_j})\) onto the interior of the simplex, f the learned potential.

f is a-strongly convex and smooth, so its gradient is one-to-one and onto; softmax+ is, too; the logarithmic loss of
their composition is proper whatever A, b and a > 0 are [derived]. The source gives the composition and takes an
invertible network for the potential; this potential with one layer is ours, the simplest with those properties.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.losses._interface import surrogate
from corollary.losses._module import SurrogateLoss


def _log_probabilities(z: Tensor, matrix: Tensor, bias: Tensor, curvature: Any) -> Tensor:
    """Log p of rows (m, n)."""
    matrix, bias = matrix.to(z), bias.to(z)
    v = z[:, :-1] - z[:, -1:]
    u = curvature * v + torch.sigmoid(v @ matrix.T + bias) @ matrix
    return torch.log_softmax(nn.functional.pad(u, (0, 1)), -1)


def _checked_map(logits: Tensor, matrix: Tensor, bias: Tensor) -> None:
    n = logits.shape[0 if logits.ndim == 1 else 1] if logits.ndim else 0
    if matrix.ndim != 2 or matrix.shape[1] != n - 1 or bias.shape != matrix.shape[:1]:
        raise InvalidInputError(
            f"for {n} classes `matrix` must have shape (units, {n - 1}) and `bias` (units,), got "
            f"{tuple(matrix.shape)} and {tuple(bias.shape)}"
        )


def legendre_probabilities(
    logits: Tensor, *, matrix: Tensor, bias: Tensor, curvature: Any = 1.0
) -> Float[Tensor, "..."]:
    """The probability map p of the module's head.

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        matrix: A, (units, n - 1); zero is the softmax at curvature 1.
        bias: b, (units,).
        curvature: a above zero.

    Guarantee: one-to-one in the differences of scores, onto the interior of the simplex [derived].

    Example:
        >>> p = legendre_probabilities(torch.tensor([1.0, 0.0]), matrix=torch.zeros(3, 1), bias=torch.zeros(3))
        >>> torch.allclose(p, torch.softmax(torch.tensor([1.0, 0.0]), 0))
        True

    Reference: Lam, Walder, Penev, Nock (ICML 2023); reconstructed from abstract and notes, potential ours.
    """
    _checked_map(logits, matrix, bias)
    axis = 0 if logits.ndim == 1 else 1
    z = logits.movedim(axis, -1)
    log_p = _log_probabilities(z.reshape(-1, z.shape[-1]), matrix, bias, curvature)
    return log_p.exp().reshape(z.shape).movedim(-1, axis)


def legendre_tron(
    logits: Tensor, target: Tensor, *, matrix: Tensor, bias: Tensor, curvature: Any = 1.0, **options: Any
) -> Float[Tensor, "..."]:
    r"""The logarithmic loss of `legendre_probabilities`, \(-\log p_y\).

    Args:
        logits, target: scores and labels or class weights.
        matrix, bias, curvature: the learned map; gradients flow into them.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: proper for every map, so consistent for the zero-one error by the largest probability [derived].

    Example:
        >>> map = {"matrix": torch.zeros(3, 1), "bias": torch.zeros(3)}
        >>> round(legendre_tron(torch.zeros(1, 2), torch.tensor([0]), **map).item(), 4)
        0.6931

    Reference: Lam, Walder, Penev, Nock (ICML 2023); reconstructed from abstract and notes, potential ours.
    """
    _checked_map(logits, matrix, bias)
    return surrogate(
        lambda z, y: -_log_probabilities(z, matrix, bias, curvature).gather(1, y[:, None])[:, 0],
        logits,
        target,
        every=lambda z: -_log_probabilities(z, matrix, bias, curvature),
        **options,
    )


class LegendreTron(SurrogateLoss):
    """`legendre_tron` as a module whose map is learned: give its parameters to the optimiser beside the network's.

    Args:
        classes: n.
        units: of the potential's layer.
        seed: of its initial matrix, of entries of about 1/sqrt(units n); 0 units would be cross-entropy.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: `legendre_tron`.

    Example:
        >>> loss = LegendreTron(classes=3)
        >>> sorted(name for name, _ in loss.named_parameters())
        ['bias', 'log_curvature', 'matrix']

    Reference: Lam, Walder, Penev, Nock (ICML 2023); reconstructed from abstract and notes, potential ours.
    """

    proper = calibrated = True
    equivariant = False  # the last class is the reference, and the map has learned which class is which
    consistent_for = "zero-one"
    reduces_to = "cross-entropy (matrix zero, curvature 1)"
    guarantee = "proper for every map, so consistent for the zero-one error by the largest probability (derived here)"

    def __init__(self, *, classes: int, units: int = 16, seed: int = 0, **common: Any) -> None:
        super().__init__(**common)
        if classes < 2 or units < 1:
            raise InvalidInputError(f"need at least 2 `classes` and 1 of `units`, got {classes} and {units}")
        drawn = torch.randn(units, classes - 1, generator=torch.Generator().manual_seed(seed))
        self.matrix = nn.Parameter(drawn / math.sqrt(units * classes))
        self.bias, self.log_curvature = nn.Parameter(torch.zeros(units)), nn.Parameter(torch.zeros(()))

    @property
    def limits(self) -> dict[str, Any]:  # type: ignore[override]
        """Cross-entropy at a zero matrix."""
        zero = {"matrix": nn.Parameter(torch.zeros_like(self.matrix)), "log_curvature": nn.Parameter(torch.zeros(()))}
        return {"cross-entropy": zero}

    @property
    def map(self) -> dict[str, Tensor]:
        """A, b and a."""
        return {"matrix": self.matrix, "bias": self.bias, "curvature": self.log_curvature.exp()}

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return legendre_tron(logits, target, **self.map, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """The map."""
        return legendre_probabilities(logits, **self.map)

    def predict(self, logits: Tensor) -> Int[Tensor, "..."]:
        """The likeliest class: the order of the scores is not that of the probabilities."""
        return super().predict(self.predict_proba(logits))
