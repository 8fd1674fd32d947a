r"""The scan \(h_t = M_{x_t} h_{t-1} + b_{x_t}\): four exact ways behind one function, with exact gradients.

Mohri, *Rational Transductors* (arXiv:2602.07599), section 6.1, asks for a parallel scan over the associative operator
\((P_2, b_2) \circ (P_1, b_1) = (P_2 P_1, P_2 b_1 + b_2)\). The adjoint is ours: with \(g_t\) the gradient of the
loss in \(h_t\), \(\lambda_T = g_T,\ \lambda_{t-1} = g_{t-1} + M_{x_t}^\top \lambda_t\), and
\(dM_\sigma = \sum_{t: x_t = \sigma} \lambda_t h_{t-1}^\top\) (complex matrices: conjugate transposes): a recurrence
of the same kind, run backwards, so that its own gradient is known too.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from torch.nn import functional

from corollary.automata._kernels import block_size, blocks
from corollary.errors import InvalidInputError

METHODS = ("auto", "sequential", "adjoint", "doubling", "chunked")
STATES = ("inclusive", "exclusive", "both")


def scan(
    matrices: Tensor,
    symbols: Tensor | None,
    initial: Tensor,
    *,
    method: str = "auto",
    state: str = "inclusive",
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    reverse: bool = False,
) -> Shaped[Tensor, "b t s"]:
    r"""All states of the recurrence, differentiable in matrices, bias and initial state.

    .. math:: h_0 = \alpha, \qquad h_t = M_{x_t} h_{t-1} + b_{x_t}

    Args:
        matrices: (V, d, d), one for each symbol; or (B, T, d, d), one for each place, with `symbols` None.
        symbols: (B, T) int64 in [0, V).
        initial: (d,) or (B, d); for a stream, the last inclusive state of what came before.
        method: `sequential` (a plain loop under autograd: the reference), `adjoint` (the loop with the exact adjoint),
            `chunked` (the same in blocks of words, the fastest for small alphabets and long sequences), `doubling`
            (log2 T dependent steps, T log T d^3 work: where launches are dear); `auto` picks by size and device.
        state: `inclusive` gives h_t at place t, `exclusive` h_{t-1}, `both` (B, T, 2d): exclusive, then inclusive.
        bias: (V, d), the affine part; with matrices for each place (B, T, d). It and `initial` take the dtype of the
            matrices: any real or complex one, or integers, which stay exact; one that this would cut is refused.
        mask: (B, T) bool, False where a place is padding and must not advance the state; such a place may hold any
            number.
        reverse: read from the right: h_t = M_{x_t} h_{t+1}; `exclusive` is then the state to the right.

    Returns:
        (B, T, d) states, or (B, T, 2d) for `both`; T = 0 gives an empty tensor.

    Raises:
        InvalidInputError: for shapes that do not fit, a symbol outside of the alphabet, NaN in the matrices, what is no
            tensor, or an unknown option.

    Guarantee: the four methods compute the same sums in different order: equal within 1e-10 in float64 for matrices
        of norm at most one. First derivatives are exact (no truncation); second derivatives exist for every method.
        Autocast is switched off inside: states keep the dtype of the matrices.

    Example:
        >>> import torch
        >>> from corollary.automata import scan
        >>> swap = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])  # parity of the ones
        >>> scan(swap, torch.tensor([[1, 0, 1, 1]]), torch.tensor([1.0, 0.0]))[0, :, 1].tolist()
        [1.0, 1.0, 0.0, 1.0]

    Reference: arXiv:2602.07599 (abstract and notes; scans and adjoint derived and tested here).
    """
    if method not in METHODS or state not in STATES:
        raise InvalidInputError(
            f"`method` is one of {', '.join(METHODS)} and `state` of {', '.join(STATES)}, got {method!r}, {state!r}"
        )
    matrices, x, h0, bias = _prepared(matrices, symbols, initial, bias, mask)
    x = x.flip(0) if reverse else x
    inputs = None
    if bias is not None:  # embedding has the faster gradient, but none for complex numbers
        inputs = bias[x] if bias.is_complex() else functional.embedding(x, bias)
    with full_precision(x.device.type):
        states = run(matrices, x, h0, inputs, method=method)
    if state != "inclusive":
        before = torch.cat([h0[None], states[:-1]]) if len(x) else states
        states = before if state == "exclusive" else torch.cat([before, states], dim=-1)
    return (states.flip(0) if reverse else states).transpose(0, 1)


def full_precision(device: str) -> AbstractContextManager[Any]:
    """No autocast inside: a state of eight bits of mantissa forgets what it counted within a few symbols."""
    cast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if cast else nullcontext()


def run(matrices: Tensor, x: Tensor, h0: Tensor, inputs: Tensor | None, *, method: str) -> Shaped[Tensor, "t b d"]:
    """Time-major states of symbols (T, B), initial (B, d), inputs (T, B, d)."""
    T, B = x.shape
    if T == 0 or B == 0:
        return h0.new_zeros(T, B, h0.shape[1]) + 0 * (h0.sum() + matrices.sum())
    if method == "sequential":
        return _sequential(matrices, x, h0, inputs)
    if method == "doubling":
        return _doubling(matrices, x, h0, inputs)
    size = block_size(T, B, len(matrices), device=x.device.type)
    if method == "chunked":
        size = max(2, size)
    return _Recurrence.apply(matrices, x, h0, inputs, 1 if method == "adjoint" else size)


def _sequential(matrices: Tensor, x: Tensor, h0: Tensor, inputs: Tensor | None) -> Tensor:
    h, out = h0[..., None], []
    added = [None] * len(x) if inputs is None else inputs[..., None].unbind(0)
    for M, u in zip(matrices[x].unbind(0), added, strict=True):
        h = torch.bmm(M, h) if u is None else torch.baddbmm(u, M, h)
        out.append(h)
    return torch.stack(out)[..., 0]


def _doubling(matrices: Tensor, x: Tensor, h0: Tensor, inputs: Tensor | None) -> Tensor:
    """Kogge and Stone: after s rounds each place holds the product of its last 2^s matrices."""
    products, sums, reach = matrices[x], inputs, 1
    while reach < len(x):
        later, earlier = products[reach:], products[:-reach]
        if sums is not None:
            sums = torch.cat([sums[:reach], sums[reach:] + (later @ sums[:-reach, ..., None])[..., 0]])
        products = torch.cat([products[:reach], later @ earlier])
        reach *= 2
    states = (products @ h0[..., None])[..., 0]
    return states if sums is None else states + sums


class _Recurrence(torch.autograd.Function):
    """States forwards; the adjoint, the same recurrence on transposed matrices, backwards."""

    @staticmethod
    def forward(
        ctx: Any, matrices: Tensor, x: Tensor, h0: Tensor, inputs: Tensor | None, size: int
    ) -> Shaped[Tensor, "t b d"]:
        states = blocks(matrices, x, h0, inputs, size)
        ctx.save_for_backward(matrices, x, h0, states)
        ctx.size, ctx.affine = size, inputs is not None
        return states

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with full_precision(gradient.device.type):
            return _Recurrence._adjoint(ctx, gradient)

    @staticmethod
    def _adjoint(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        matrices, x, h0, states = ctx.saved_tensors
        # lambda_T = g_T: a zero state goes in from the right, and the matrix of place t + 1 acts before g_t is added.
        shifted = torch.cat([x[:1], x[1:].flip(0)])
        zero = torch.zeros_like(h0)
        adjoint = _Recurrence.apply(matrices.mH.contiguous(), shifted, zero, gradient.flip(0), ctx.size).flip(0)
        before = torch.cat([h0[None], states[:-1]])
        wanted = ctx.needs_input_grad
        d_matrices = _outer_sums(adjoint, before.conj(), x, len(matrices)) if wanted[0] else None
        d_initial = (matrices[x[0]].mH @ adjoint[0][..., None])[..., 0] if wanted[2] else None
        return d_matrices, None, d_initial, adjoint if ctx.affine and wanted[3] else None, None


def _outer_sums(left: Tensor, right: Tensor, x: Tensor, V: int) -> Shaped[Tensor, "v d d"]:
    r"""\(\sum_{t: x_t = \sigma} l_t r_t^\top\) for each symbol: one product a symbol, or sums of outer products."""
    d = left.shape[-1]
    flat, left, right = x.reshape(-1), left.reshape(-1, d), right.reshape(-1, d)
    if len(flat) < V * 8:  # many symbols, few places each
        return left.new_zeros(V, d, d).index_add(0, flat, left[:, :, None] * right[:, None, :])
    order = flat.argsort()
    counts = torch.bincount(flat, minlength=V).tolist()
    parts = zip(left[order].split(counts), right[order].split(counts), strict=True)
    return torch.stack([a.T @ b for a, b in parts])


def _prepared(
    matrices: Tensor, symbols: Tensor | None, initial: Tensor, bias: Tensor | None, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Checked and in one form: (V, d, d), (T, B), (B, d), (V, d) or None."""
    for name, value in (("matrices", matrices), ("symbols", symbols), ("initial", initial), ("bias", bias)):
        if not isinstance(value, Tensor) and not (value is None and name in ("symbols", "bias")):
            raise InvalidInputError(f"`{name}` must be a tensor, got {type(value).__name__}; see torch.as_tensor")
    if symbols is None:
        if matrices.ndim != 4:
            raise InvalidInputError(
                f"without `symbols` the matrices are (B, T, d, d), got {tuple(matrices.shape)}; or give symbols"
            )
        B, T = matrices.shape[:2]
        symbols = torch.arange(B * T, device=matrices.device).view(B, T)
        matrices = matrices.flatten(0, 1)
        bias = None if bias is None else bias.flatten(0, 1)
    symbols = checked(symbols, len(matrices), mask)
    d = matrices.shape[-1]
    if matrices.ndim != 3 or matrices.shape[1] != d or initial.shape not in ((d,), (len(symbols), d)):
        raise InvalidInputError(
            f"matrices (V, d, d) and an initial state (d,) or (B, d) are needed, got {tuple(matrices.shape)} and "
            f"{tuple(initial.shape)} for {len(symbols)} sequences"
        )
    if bias is not None and bias.shape != matrices.shape[:2]:
        raise InvalidInputError(f"`bias` must be (V, d), got {tuple(bias.shape)} for matrices {tuple(matrices.shape)}")
    for name, value in (("initial", initial), ("bias", bias)):
        if value is not None and not torch.can_cast(value.dtype, matrices.dtype):
            raise InvalidInputError(
                f"`{name}` of {value.dtype} would be cut to the {matrices.dtype} of the matrices; convert these first"
            )
    if not torch.isfinite(matrices.detach()).all():
        raise InvalidInputError("the matrices hold NaN or infinity; lower the learning rate, or constrain the family")
    if mask is not None:
        symbols = symbols.masked_fill(~mask, len(matrices))  # one more symbol, which does nothing
        matrices = torch.cat([matrices, torch.eye(d, dtype=matrices.dtype, device=matrices.device)[None]])
        bias = None if bias is None else functional.pad(bias, (0, 0, 0, 1))
    h0 = initial.to(matrices.dtype).expand(len(symbols), d)
    return matrices, symbols.T.contiguous(), h0, None if bias is None else bias.to(matrices.dtype)


def checked(symbols: Tensor, V: int, mask: Tensor | None = None) -> Int[Tensor, "b t"]:
    """Symbols as int64, 0 where the mask hides them; raises where the others are no (B, T) integers in [0, V)."""
    whole = isinstance(symbols, Tensor) and not symbols.is_floating_point() and not symbols.is_complex()
    if not whole or symbols.ndim != 2 or symbols.dtype == torch.bool:
        told = f"{tuple(symbols.shape)} {symbols.dtype}" if isinstance(symbols, Tensor) else type(symbols).__name__
        raise InvalidInputError(f"`symbols` must be (B, T) integers, got {told}; encode words first")
    symbols = symbols.long()
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.shape != symbols.shape or mask.dtype != torch.bool:
            told = f"{tuple(mask.shape)} {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
            raise InvalidInputError(f"`mask` must be (B, T) bool, got {told} for symbols {tuple(symbols.shape)}")
        symbols = symbols.masked_fill(~mask, 0)
    if symbols.numel() and (int(symbols.min()) < 0 or int(symbols.max()) >= V):
        raise InvalidInputError(
            f"symbols from {int(symbols.min())} to {int(symbols.max())} were given, the alphabet has {V} "
            f"(0 to {V - 1}); mark padding by `mask`"
        )
    return symbols
