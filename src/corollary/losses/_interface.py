"""What every loss shares: targets hard and soft, any number of trailing axes, weights, ignored labels, reduction.

A loss is given by its rows: `at(z, y)`, the loss of label `y` at scores `z`, both flattened to `(m, n)` and `(m,)`;
and, where a soft target is cheaper than n calls of `at`, by `every(z)`, the losses of all labels, `(m, n)`.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError

Reduction = Literal["mean", "sum", "none"]
IGNORE = -100
LARGEST_EXPANSION = 2**28  # elements that a soft target may need at once

At = Callable[[Tensor, Tensor], Tensor]
Every = Callable[[Tensor], Tensor]


def eager(*tensors: Tensor | None) -> bool:
    """Whether values can be looked at: not under compilation, nor inside a `torch.func` transform, nor on `meta`."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return all(t is None or t.device.type == "cpu" for t in tensors)


def surrogate(
    at: At,
    logits: Tensor,
    target: Tensor,
    *,
    every: Every | None = None,
    weight: Tensor | None = None,
    ignore_index: int = IGNORE,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    r"""Apply a loss given by its rows, with the semantics of `torch.nn.functional.cross_entropy`.

    Args:
        at: `(m, n), (m,) -> (m,)`: the loss of the label at the scores.
        logits: (n,), (N, n) or (N, n, d1, ...) scores; half precision is computed in float32.
        target: labels of shape (), (N,) or (N, d1, ...), or class weights t of the shape of `logits`, for which the
            loss is \(\sum_y t_y \ell(z, y)\).
        every: `(m, n) -> (m, n)`: the losses of all labels; default n calls of `at` in one, of size m n^2.
        weight: (n,) weights of the labels. As in torch, with labels `"mean"` divides by the sum of their weights; with
            soft targets by the number of rows.
        ignore_index: label whose rows count zero.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or the shape of the labels for `"none"`. The mean of no rows is zero (in torch it is NaN).

    Raises:
        InvalidInputError: for shapes, labels or a reduction that fit nothing.

    Guarantee: none.

    Example:
        >>> z, y = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
        >>> surrogate(lambda z, y: -z.gather(1, y[:, None])[:, 0], z, y)
        tensor(-2.)
    """
    soft = _checked(logits, target, weight, reduction)
    axis = 0 if logits.ndim == 1 else 1
    n = logits.shape[axis]
    z = logits.movedim(axis, -1)
    shape = z.shape[:-1]
    z = z.reshape(-1, n)
    if z.dtype in (torch.float16, torch.bfloat16):
        z = z.float()
    weight = None if weight is None else weight.to(z)
    if soft:
        t = target.movedim(axis, -1).reshape(-1, n).to(z.dtype)
        t = t if weight is None else t * weight
        losses = every(z) if every else _expand(at, z)
        rows = (torch.where(t == 0, 0.0, losses) * t).sum(-1)
        if reduction == "none":
            return rows.reshape(shape)
        return rows.sum() / max(1, len(rows)) if reduction == "mean" else rows.sum()
    y = target.reshape(-1).long()
    valid = y != ignore_index
    y = torch.where(valid, y, 0)
    if eager(y) and y.numel() and not 0 <= int(y.min()) <= int(y.max()) < n:
        raise InvalidInputError(
            f"`target` holds labels from {int(y.min())} to {int(y.max())}, the logits have {n} classes; "
            f"labels run from 0 to {n - 1}, and `ignore_index` ({ignore_index}) marks rows to skip"
        )
    scale = valid.to(z.dtype) if weight is None else torch.where(valid, weight[y], 0.0)
    rows = torch.where(valid, at(z, y), 0.0)
    rows = rows if weight is None else rows * scale
    if reduction == "none":
        return rows.reshape(shape)
    if reduction == "sum":
        return rows.sum()
    total = scale.sum()
    return rows.sum() / torch.where(total > 0, total, 1.0)


def _expand(at: At, z: Tensor) -> Tensor:
    m, n = z.shape
    if m * n * n > LARGEST_EXPANSION:
        raise InvalidInputError(
            f"a soft target of this loss costs rows x classes^2 = {m * n * n:.2g} numbers, more than "
            f"{LARGEST_EXPANSION:.2g}; split the batch, or pass labels"
        )
    y = torch.arange(n, device=z.device).repeat(m)
    return at(z.repeat_interleave(n, 0), y).reshape(m, n)


def _checked(logits: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> bool:
    """Refuse what does not fit; True for a soft target."""
    if reduction not in ("mean", "sum", "none"):
        raise InvalidInputError(f"`reduction` must be 'mean', 'sum' or 'none', got {reduction!r}")
    if not logits.is_floating_point() or logits.ndim == 0:
        raise InvalidInputError(
            f"`logits` must be floating point of shape (n,), (N, n) or (N, n, d1, ...), got {logits.dtype} "
            f"of shape {tuple(logits.shape)}"
        )
    axis = 0 if logits.ndim == 1 else 1
    n = logits.shape[axis]
    if n < 2:
        raise InvalidInputError(f"`logits` have {n} class on axis {axis}, and a loss compares at least two")
    soft = target.is_floating_point()
    labels = tuple(logits.movedim(axis, -1).shape[:-1])
    if tuple(target.shape) != (tuple(logits.shape) if soft else labels):
        raise InvalidInputError(
            f"`target` has shape {tuple(target.shape)}; for logits of shape {tuple(logits.shape)} pass integer labels "
            f"of shape {labels}, or class weights of shape {tuple(logits.shape)}"
        )
    if not soft and target.dtype == torch.bool:
        raise InvalidInputError("`target` is boolean; pass integer labels (`target.long()`) or float class weights")
    if weight is not None and tuple(weight.shape) != (n,):
        raise InvalidInputError(f"`weight` must have shape ({n},), one number a class, got {tuple(weight.shape)}")
    return soft
