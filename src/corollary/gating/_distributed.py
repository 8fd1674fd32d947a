"""Several processes as one: every process draws the same batch, works on its part, and the sums are shared.

Nothing here starts processes: `torchrun` and `torch.distributed.init_process_group` do. Without a process group, or
with one process, every function is the identity. Since all processes draw with the same seed and gradients are sums
over the rows of a batch, training by n processes is training by one, up to the rounding of sums in another order.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def ranks() -> tuple[int, int]:
    """This process's number, and how many there are."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def part(count: int) -> slice:
    """The rows of a batch of `count` that this process works on."""
    rank, size = ranks()
    return slice(rank * count // size, (rank + 1) * count // size)


class _Total(torch.autograd.Function):
    """Sum over the processes; backwards each process's own summand, since gradients are summed in the end."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        from torch import distributed

        summed = value.detach().clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def total(value: Tensor) -> Float[Tensor, "..."]:
    """Sum of a local sum over all processes."""
    return _Total.apply(value) if ranks()[1] > 1 else value


def add_gradients(parameters: Iterable[Tensor]) -> None:
    """Give every process the sum of all processes' gradients."""
    if ranks()[1] == 1:
        return
    from torch import distributed

    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad  # every process must take part in every sum
        distributed.all_reduce(p.grad)


def wait() -> None:
    """Go on when every process has come here."""
    if ranks()[1] > 1:
        from torch import distributed

        distributed.barrier()
