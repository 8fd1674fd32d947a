r"""The recurrence \(h_t = M_{x_t} h_{t-1} + u_t\) computed, without gradients: step by step, or in blocks of words.

`steps` does T products of a matrix and a vector. `blocks` reads k symbols at once: the product of each DISTINCT word of
k symbols is made once (words are named by doubling, so that equal words share a product), the state is carried from
block to block, and the states inside all blocks are filled in side by side: T / k dependent steps instead of T.
Everything is time-major here: symbols (T, B), states (T, B, d).
"""

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

SEGMENT = 1 << 22  # numbers gathered at once: T B d^2 of them are never held together


def steps(
    matrices: Shaped[Tensor, "v d d"],
    symbols: Int[Tensor, "t b"],
    initial: Shaped[Tensor, "b d"],
    inputs: Shaped[Tensor, "t b d"] | None,
) -> Shaped[Tensor, "t b d"]:
    """One product a step; on a CPU through NumPy, whose call costs a third of torch's."""
    (T, B), d = symbols.shape, initial.shape[1]
    out = initial.new_empty(T, B, d) if inputs is None else inputs.clone(memory_format=torch.contiguous_format)
    state, segment = initial[..., None], max(1, SEGMENT // max(1, B * d * d))
    plain = out.device.type == "cpu" and out.dtype in (torch.float32, torch.float64)
    loop = _numpy_loop if plain else _torch_loop
    with np.errstate(all="ignore"):  # infinities are numbers here, as in torch
        for first in range(0, T, segment):
            gathered, part = matrices[symbols[first : first + segment]], out[first : first + segment, ..., None]
            loop(gathered, state, part, inputs is not None)
            state = part[-1]
    return out


def _numpy_loop(gathered: Tensor, state: Tensor, out: Tensor, add: bool) -> None:
    product, h, space = np.matmul, state.contiguous().numpy(), np.empty(tuple(state.shape), out.numpy().dtype)
    if not add:
        for M, target in zip(list(gathered.numpy()), list(out.numpy()), strict=True):
            h = product(M, h, out=target)
        return
    for M, target in zip(list(gathered.numpy()), list(out.numpy()), strict=True):
        product(M, h, out=space)
        target += space
        h = target


def _torch_loop(gathered: Tensor, state: Tensor, out: Tensor, add: bool) -> None:
    h = state
    for M, target in zip(gathered.unbind(0), out.unbind(0), strict=True):
        target.copy_(torch.baddbmm(target, M, h) if add else torch.bmm(M, h))
        h = target


def blocks(
    matrices: Shaped[Tensor, "v d d"],
    symbols: Int[Tensor, "t b"],
    initial: Shaped[Tensor, "b d"],
    inputs: Shaped[Tensor, "t b d"] | None,
    size: int,
) -> Shaped[Tensor, "t b d"]:
    """Blocks of `size` symbols, a power of two; what is left over at the end is done step by step."""
    (T, B), d = symbols.shape, initial.shape[1]
    N = T // size
    whole = N * size
    if size == 1 or N < 2:
        return steps(matrices, symbols, initial, inputs)
    words, products = name_words(matrices, symbols[:whole], size)
    inside = symbols[:whole].view(N, size, B)
    given = None if inputs is None else inputs[:whole].reshape(N, size, B, d)
    ends = None if given is None else fill(matrices, inside, given[:, 0].clone(), given)[:, -1]
    starts = torch.cat([initial[None], steps(products, words, initial, ends)])
    first = _apply(matrices, inside[:, 0], starts[:-1])
    if given is not None:
        first += given[:, 0]
    out = fill(matrices, inside, first, given).view(whole, B, d)
    if whole == T:
        return out
    rest = steps(matrices, symbols[whole:], starts[-1], None if inputs is None else inputs[whole:])
    return torch.cat([out, rest])


def fill(matrices: Tensor, inside: Tensor, first: Tensor, inputs: Tensor | None) -> Shaped[Tensor, "n k b d"]:
    """The states inside of all blocks, from the state after the first symbol of each."""
    out = first.new_empty(inside.shape[0], inside.shape[1], *first.shape[1:])
    out[:, 0] = h = first
    for i in range(1, inside.shape[1]):
        h = _apply(matrices, inside[:, i], h)
        if inputs is not None:
            h += inputs[:, i]
        out[:, i] = h
    return out


def _apply(matrices: Tensor, symbols: Tensor, states: Tensor) -> Shaped[Tensor, "n b d"]:
    """`M_{x} h` for many pairs: one large product with all matrices where these are few, else a gather."""
    V, d, _ = matrices.shape
    flat = states.reshape(-1, d)
    if V <= 8:
        everything = (flat @ matrices.reshape(V * d, d).T).view(-1, V, d)
        index = symbols.reshape(-1, 1, 1).expand(-1, 1, d)
        return everything.gather(1, index).view(states.shape)
    size = max(1, SEGMENT // (d * d))
    pairs = zip(symbols.reshape(-1).split(size), flat.split(size), strict=True)
    return torch.cat([torch.bmm(matrices[x], h[..., None])[..., 0] for x, h in pairs]).view(states.shape)


def name_words(
    matrices: Shaped[Tensor, "v d d"], symbols: Int[Tensor, "t b"], size: int
) -> tuple[Int[Tensor, "n b"], Shaped[Tensor, "w d d"]]:
    """A number for each distinct word of `size` symbols, and its product; the later matrix stands to the left."""
    names, products = symbols, matrices
    while size > 1:
        pairs = names[0::2] * len(products) + names[1::2]
        found, names = pairs.unique(return_inverse=True)
        later, earlier = found % len(products), found // len(products)
        products = torch.bmm(products[later], products[earlier])
        size //= 2
    return names, products


def block_size(T: int, B: int, V: int, *, device: str = "cpu") -> int:
    """How many symbols to read at once: a power of two.

    On a CPU blocks pay where there are few distinct words (measured: fewer than one for sixteen places, and 256
    steps); elsewhere a step costs a launch whatever its size, so about the square root of T.
    """
    if device != "cpu":
        return 1 << max(0, (max(1, T).bit_length() - 1) // 2)
    size = 1
    while T >= 256 and size < 8 and V <= 8 and V ** (2 * size) * 16 <= T * B:
        size *= 2
    return size
