"""DDP and FSDP2: matrices gathered for their direction, directions computed everywhere or shared out among ranks.

Under FSDP2 a parameter is a DTensor: its momentum stays sharded as it is, gradient and momentum are gathered for the
time of a step, the second moment is kept whole on each rank. "replicate" computes each direction on all ranks;
"round_robin" computes each batch on one rank and broadcasts it. Both leave the same weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MODES = ("replicate", "round_robin")


def is_sharded(x: Any) -> bool:
    """Whether x is a DTensor (without importing the distributed package where none is used)."""
    return hasattr(x, "full_tensor") and hasattr(x, "placements")


def full(x: Tensor) -> Tensor:
    """The whole tensor, gathered."""
    return x.full_tensor() if is_sharded(x) else x  # type: ignore[attr-defined]


def local(x: Tensor) -> Tensor:
    """This rank's part, as a view."""
    return x.to_local() if is_sharded(x) else x  # type: ignore[attr-defined]


def like(p: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros, sharded as p is."""
    return torch.zeros_like(p, dtype=dtype, memory_format=torch.preserve_format)


def local_part(p: Tensor, whole: Tensor) -> Tensor:
    """The part of a whole tensor that this rank holds of p; no communication."""
    if not is_sharded(p):
        return whole
    from torch.distributed.tensor import DTensor, Replicate

    mesh = p.device_mesh  # type: ignore[attr-defined]
    replicated = DTensor.from_local(whole, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return replicated.redistribute(mesh, p.placements).to_local()  # type: ignore[attr-defined]


class Gathered:
    """A tensor gathered once, when it is first needed."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.whole = x, None if is_sharded(x) else x

    def tensor(self) -> Tensor:
        """The whole."""
        if self.whole is None:
            self.whole = full(self.x)
        return self.whole


class Written:
    """Weights to which directions are applied block by block."""

    def __init__(self, p: Tensor, form: str, splits: Any, blocks: Callable[..., list[Tensor]]) -> None:
        self.p, self.form, self.splits, self.blocks = p, form, splits, blocks
        self.change: Tensor | None = None

    def write(self, part: int, P: Tensor, rate: float, keep: float) -> None:
        """Weights <- keep * weights - rate * P."""
        if not is_sharded(self.p) and self.p.is_contiguous():
            weights = self.blocks(self.p.data, self.form, self.splits)[part]
            weights.mul_(keep).add_(P.to(weights.dtype), alpha=-rate)
            return
        if self.change is None:
            self.change = torch.zeros(self.p.shape, dtype=P.dtype, device=P.device)
        parts = self.blocks(self.change, self.form, self.splits)
        parts[part].copy_(P).mul_(rate)  # which differs between splits of different shape
        if part == len(parts) - 1:
            own = local(self.p.data)
            own.mul_(keep).sub_(local_part(self.p, self.change).to(own.dtype))


def shared(batches: list[Any], compute: Callable[[Any], Tensor], *, mode: str) -> list[Tensor]:
    """The directions of all batches, each computed here or on the rank whose turn it is."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    if mode == "replicate" or not ready or torch.distributed.get_world_size() == 1:
        return [compute(batch) for batch in batches]
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for batch in batches:
        for e in batch:
            e.momentum()  # gathered on all ranks, since gathering needs all
    found, waits = [], []
    for i, batch in enumerate(batches):
        g = batch[0].gradient
        shape = (sum(e.count for e in batch), *batch[0].shape)
        mine = i % world == rank
        P = compute(batch).contiguous() if mine else torch.empty(shape, dtype=g.dtype, device=g.device)
        found.append(P)
    for i, P in enumerate(found):
        waits.append(torch.distributed.broadcast(P, src=i % world, async_op=True))
    for wait in waits:
        wait.wait()
    return found


def agree(good: list[bool], params: list[Tensor]) -> list[bool]:
    """All ranks' verdict on sharded parameters, so that none steps where another does not."""
    if not any(is_sharded(p) for p in params):
        return good
    verdict = torch.tensor(good, dtype=torch.int32, device=local(params[0]).device)
    torch.distributed.all_reduce(verdict, op=torch.distributed.ReduceOp.MIN)
    return [bool(v) for v in verdict.tolist()]
