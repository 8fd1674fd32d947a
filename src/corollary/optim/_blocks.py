"""Parameters read as blocks of matrices, with the statistics of each."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.optim import _distributed as distributed

FORMS = ("matrix", "transposed", "flatten", "stack")
_USUAL = (2.0**-40, 2.0**40)
_SQUARES = ("second_moment.", "left.", "right.", "square.")  # states of the size of squared gradients


@dataclass
class Entry:
    """One run of equal blocks of one parameter.

    Args:
        shape: (m, n) of a block; count: how many.
        gradient: (count, m, n); second: (count, s, s) or None, part of the state.
        momentum: gives (count, m, n) of S, gathered where it is sharded.
        apply: (directions, rate, keep) -> None, writes weights <- keep * weights - rate * directions.
        number: of the parameter in the optimizer; part: which run of its blocks; step: how many updates it has seen.
    """

    shape: tuple[int, int]
    count: int
    gradient: Tensor
    second: Tensor | None
    momentum: Callable[[], Tensor]
    apply: Callable[[Tensor, float, float], None]
    number: int
    part: int
    step: int
    state: dict[str, Any]

    @property
    def tall(self) -> bool:
        """Whether the Gram matrix is on the columns."""
        return self.shape[0] > self.shape[1]


def blocks_of(x: Tensor, form: str, splits: Any = None) -> list[Tensor]:
    """(count, m, n) views of a tensor; a list, since the splits of a fused projection may differ in size.

    Raises:
        InvalidInputError: where the tensor has no such blocks.
    """
    if form not in FORMS:
        raise InvalidInputError(f"`form` must be one of {', '.join(FORMS)}, got {form!r}")
    if not x.numel():
        raise InvalidInputError(
            f"a parameter of shape {tuple(x.shape)} has no entries; leave it out, or use rule 'adamw'"
        )
    least = 3 if form == "stack" else 2
    if x.ndim < least or (form in ("matrix", "transposed") and x.ndim != 2):
        raise InvalidInputError(
            f"a parameter of shape {tuple(x.shape)} is no {form!r}; use form 'flatten' for convolutions, 'stack' for "
            f"experts (k, m, n), and rule 'adamw' for vectors"
        )
    if form == "flatten":
        x = x.flatten(1)
    if form == "transposed":
        x = x.mT
    if form == "stack":
        if splits is not None:
            raise InvalidInputError("`splits` divide the rows of one matrix; a stack has none to divide")
        return [x.flatten(0, -3)]
    if splits is None:
        return [x[None]]
    sizes = [x.shape[0] // splits] * splits if isinstance(splits, int) and splits > 0 else splits
    whole = isinstance(sizes, list | tuple) and all(isinstance(v, int) and v > 0 for v in sizes)
    if not whole or sum(sizes) != x.shape[0]:
        raise InvalidInputError(
            f"`splits` {splits!r} do not divide the {x.shape[0]} rows; give a number that does, or sizes that add up"
        )
    return [x.unflatten(0, (-1, sizes[0]))] if len(set(sizes)) == 1 else [part[None] for part in x.split(list(sizes))]


def _fit_unit(state: dict[str, Any], peak: float, betas: tuple[float, float], *, limit: int) -> None:
    """Keep the sums, the coming gradient among them, where their squares are in the range of the type.

    Gradients are counted in `unit`s, a power of two on which no direction depends: one as long as the largest entries
    of the sums (`bound`, `bound_of_squares`, from above) stay usual. Where these grow or decay out of that, a spike or
    hundreds of zero gradients later, the sums are multiplied by another power of two; where they would leave the range
    of powers, too, they are forgotten: the unit is 0 as before the first gradient.
    """
    entry = min(peak * state["unit"], 1e150)
    size = betas[0] * state.get("bound", 1.0) + entry
    squares = betas[1] * state.get("bound_of_squares", 1.0) + entry * entry
    largest = max(size, math.sqrt(squares))
    if largest and not _USUAL[0] < largest < _USUAL[1]:
        held = math.frexp(state["unit"])[1] - 1
        wanted = held - math.frexp(largest)[1]
        shift = max(-limit, min(limit, wanted)) - held
        forgotten = not peak and wanted > limit
        for key, value in state.items():
            power = 1 if key == "momentum" else 2 * key.startswith(_SQUARES)
            if power and forgotten:
                value.zero_()
            elif power and shift:
                half = power * shift // 2
                value.mul_(2.0**half).mul_(2.0 ** (power * shift - half))  # the whole may leave the type's range
        state["unit"] *= 0.0 if forgotten else 2.0**shift
        size, squares = size * 2.0**shift, squares * 4.0**shift
    state["bound"], state["bound_of_squares"] = size, squares


def read_entry(
    p: Tensor, grad: Tensor, peak: float, number: int, state: dict[str, Any], group: dict[str, Any], *, second: bool
) -> list[Entry]:
    """Begin the state of a parameter if it has none, add its gradient to the momentum, and give its blocks."""
    wide = torch.float64 if p.dtype == torch.float64 else torch.float32
    form, splits = group["form"], group["splits"]
    if "momentum" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["momentum"] = distributed.like(p, wide)
        state["unit"] = 0.0
        for i, block in enumerate(blocks_of(grad, form, splits) if second else ()):
            s = min(block.shape[-2:])
            state[f"second_moment.{i}"] = torch.zeros(len(block), s, s, dtype=wide, device=grad.device)
    if peak and not state["unit"]:
        state |= {"unit": 1.0, "bound": 0.0, "bound_of_squares": 0.0}
    if state["unit"]:
        _fit_unit(state, peak, group["betas"], limit=900 if wide == torch.float64 else 120)
    if not state["unit"]:
        state["step"] += 1
        return []
    grad = grad.to(wide)
    if state["unit"] != 1.0:
        grad = grad * state["unit"]
    own = distributed.local(state["momentum"])
    own.mul_(group["betas"][0]).add_(distributed.local_part(p, grad))
    state["step"] += 1
    step = int(state["step"])
    whole = distributed.Gathered(state["momentum"])
    weights = distributed.Written(p, form, splits, blocks_of)
    entries = []
    for i, block in enumerate(blocks_of(grad, form, splits)):
        entries.append(
            Entry(
                shape=(block.shape[-2], block.shape[-1]),
                count=len(block),
                gradient=block,
                second=state.get(f"second_moment.{i}"),
                momentum=lambda i=i: blocks_of(whole.tensor(), form, splits)[i],
                apply=lambda P, rate, keep, i=i: weights.write(i, P, rate, keep),
                number=number,
                part=i,
                step=step,
                state=state,
            )
        )
    return entries
