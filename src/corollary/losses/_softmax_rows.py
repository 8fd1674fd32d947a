r"""The one kernel of the comp-sum and balanced losses.

.. math:: \ell(z, y) = \Psi_q(\mathrm{softmax}(c_y (z + a))_y), \quad \Psi_q(s) = (1 - s^q)/q, \; \Psi_0(s) = -\log s

with a shift `a` per class and a factor `c` per label (one over the margin). Gradient:
\(\partial\ell/\partial z_j = -c_y s_y^q (1[j = y] - s_j)\).

Two paths, tested equal. The plain one is made of differentiable operations. The blocked one forms loss and gradient
together, a few rows at a time so that they stay in the cache, and keeps one (m, n) tensor; it is chosen in eager mode
only, and falls back on the plain one for a double backward.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from corollary.losses._interface import eager

BLOCK = 2**20  # numbers a block: 4 MiB of float32 stay in the last-level cache, and few blocks mean few waits
FAR = {
    torch.float32: 60.0,
    torch.float64: 600.0,
}  # q log s beyond which Psi goes on linearly, so that nothing overflows
TINY = 1e-30


def psi(log_s: Tensor, q: float) -> Float[Tensor, "..."]:
    r"""\(\Psi_q\) of a probability given by its logarithm.

    For q < 0 the loss grows like \(s^{-|q|}\); where \(|q| \log(1/s)\) exceeds 60 (600 in float64) it goes on linearly
    in \(\log s\), with the slope reached, so that value and gradient stay finite and the gradient does not vanish.

    Args:
        log_s: logarithms of probabilities.
        q: the index, tau - 1.

    Guarantee: exact for \(|q| \log(1/s)\) within that range; convex in \(\log s\) for q <= 0.

    Example:
        >>> psi(torch.tensor(0.5).log(), 1.0)
        tensor(0.5000)
    """
    if q == 0:
        return -log_s
    u = q * log_s
    if q > 0:
        return -torch.expm1(u) / q
    near = u.clamp(max=FAR[u.dtype])
    return -(torch.expm1(near) + near.exp() * (u - near)) / q


def label_log_probs(
    z: Tensor, y: Tensor, *, shift: Tensor | None = None, factor: Tensor | None = None
) -> Float[Tensor, " m"]:
    r"""\(\log \mathrm{softmax}(c_y (z + a))_y\), row by row, by differentiable operations."""
    z = z if shift is None else z + shift
    z = z if factor is None else z * factor[y][:, None]
    return torch.log_softmax(z, -1).gather(1, y[:, None])[:, 0]


def softmax_rows(
    z: Tensor, y: Tensor, *, q: float, shift: Tensor | None = None, factor: Tensor | None = None
) -> Float[Tensor, " m"]:
    r"""The loss of label `y[i]` at scores `z[i]`.

    Args:
        z: (m, n) scores, float32 or float64.
        y: (m,) labels.
        q: index of \(\Psi_q\).
        shift: (n,) added to the scores; None for zero.
        factor: (n,) the factor of each label; None for one.

    Guarantee: the blocked and the plain path agree to round-off.

    Example:
        >>> softmax_rows(torch.zeros(1, 2), torch.tensor([0]), q=1.0)
        tensor([0.5000])
    """
    if _blocked(z, y, shift, factor):
        return _Blocked.apply(z, y, q, shift, None if factor is None else factor[y])
    return psi(label_log_probs(z, y, shift=shift, factor=factor), q)


def _blocked(z: Tensor, y: Tensor, shift: Tensor | None, factor: Tensor | None) -> bool:
    plain = torch.nn.Parameter, Tensor
    if not (eager() and type(z) in plain and z.requires_grad and torch.is_grad_enabled()):
        return False
    if any(t is not None and t.requires_grad for t in (shift, factor)) or z.device.type == "meta":
        return False
    return forward_ad.unpack_dual(z).tangent is None


def blocks(
    z: Tensor, y: Tensor, q: float, shift: Tensor | None, scale: Tensor | None
) -> tuple[Float[Tensor, " m"], Float[Tensor, "m n"], Float[Tensor, " m"] | None]:
    """Loss, s - e_y and slope of every row, a block at a time; the gradient is their product.

    `scale` is (m,), the factor of each row's label. The slope stays apart (None for one), so that the backward pass
    multiplies once, by it and by what comes from outside.
    """
    m, n = z.shape
    loss, away = z.new_empty(m), torch.empty_like(z, memory_format=torch.contiguous_format)
    slope = z.new_empty(m) if q or scale is not None else None
    rows = min(max(1, BLOCK // n), m) if z.device.type == "cpu" else m
    moved = None if shift is None and scale is None else z.new_empty(rows, n)  # one for all blocks
    for first in range(0, m, max(1, rows)):
        part = slice(first, first + rows)
        v, s, label = z[part], away[part], y[part, None]
        if moved is not None:
            out = moved[: len(v)]
            v = v if shift is None else torch.add(v, shift, out=out)
            v = v if scale is None else torch.mul(v, scale[part, None], out=out)
        torch.softmax(v, -1, out=s)
        s_y = s.gather(1, label)
        log_s = s_y.log()
        if z.device.type != "cpu" or bool((s_y < TINY).any()):  # the logarithm of an underflow
            log_s = v.gather(1, label) - torch.logsumexp(v, -1, keepdim=True)
        loss[part] = psi(log_s, q)[:, 0]
        if slope is not None:
            steep = torch.exp((q * log_s[:, 0]).clamp(max=FAR[z.dtype]))
            slope[part] = steep if scale is None else steep * scale[part]
        s.scatter_add_(1, label, s.new_full((), -1.0).expand(label.shape))
    return loss, away, slope


class _Blocked(torch.autograd.Function):
    """Rows of the loss; the gradient is formed in `forward`, handed out once, and formed again if asked for twice."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, y: Tensor, q: float, shift: Tensor | None, scale: Tensor | None
    ) -> Float[Tensor, " m"]:
        loss, *ctx.gradient = blocks(z, y, q, shift, scale)
        ctx.q = q
        ctx.save_for_backward(z, y, shift, scale)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        (z, y, shift, scale), (outer_rows,) = ctx.saved_tensors, outer
        if torch.is_grad_enabled():  # a double backward: differentiable operations all the way
            v = z if shift is None else z + shift
            v = v if scale is None else v * scale[:, None]
            loss = psi(torch.log_softmax(v, -1).gather(1, y[:, None])[:, 0], ctx.q)
            (gradient,) = torch.autograd.grad(loss, z, outer_rows, create_graph=True)
            return gradient, None, None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            _, *gradient = blocks(z, y, ctx.q, shift, scale)
        away, slope = gradient
        factor = outer_rows if slope is None else outer_rows * slope
        return away.mul_(factor[:, None]), None, None, None, None
