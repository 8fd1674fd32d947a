r"""Heads that commute need no products of matrices: cumulative sums of angles, and of logarithms and signs.

Diagonal: \(h_t = h_0 \prod_{s \le t} a_{x_s}\), by cumulative products in the logarithm with the signs apart.
Rotations: \(h_t = R(\sum_{s \le t} \theta_{x_s}) h_0\), exact, O(T); they track commutative groups only
(mod k, never S5).
"""

import torch
from jaxtyping import Float
from torch import Tensor


def diagonal_states(
    factors: Tensor, symbols: Tensor, initial: Tensor, *, mask: Tensor | None = None, reverse: bool = False
) -> Float[Tensor, "b t d"]:
    """(B, T, d) states of a diagonal head with (V, d) factors, none of them zero."""
    each = _placed(factors, symbols, mask, 1.0)
    # a sum of logarithms in float64, since hundreds of factors are added up
    sums = _running(each.abs().double().log(), reverse=reverse)
    flips = _running((each.detach() < 0).to(torch.int64), reverse=reverse) % 2
    size = sums.exp().to(factors.dtype)
    h0 = initial.expand(len(symbols), initial.shape[-1])[:, None]
    return torch.where(flips == 1, -size, size) * h0


def rotation_states(
    angle: Tensor, symbols: Tensor, initial: Tensor, *, mask: Tensor | None = None, reverse: bool = False
) -> Float[Tensor, "b t d"]:
    """(B, T, d) states of a rotation head with (V, d / 2) angles."""
    total = _running(_placed(angle, symbols, mask, 0.0).double(), reverse=reverse)
    cos, sin = total.cos().to(angle.dtype), total.sin().to(angle.dtype)
    h0 = initial.expand(len(symbols), initial.shape[-1]).unflatten(-1, (-1, 2))[:, None]
    turned = torch.stack([cos * h0[..., 0] - sin * h0[..., 1], sin * h0[..., 0] + cos * h0[..., 1]], dim=-1)
    return turned.flatten(-2)


def _placed(values: Tensor, symbols: Tensor, mask: Tensor | None, idle: float) -> Tensor:
    each = values[symbols]
    return each if mask is None else each.masked_fill(~mask[..., None], idle)


def _running(x: Tensor, *, reverse: bool) -> Tensor:
    return x.flip(1).cumsum(1).flip(1) if reverse else x.cumsum(1)
