"""Accelerate: the optimizer is built from the prepared model, so that sharded parameters are the ones it holds."""

from typing import Any

from torch import nn

from corollary.errors import InvalidInputError
from corollary.optim import make_optimizer


def prepare(
    accelerator: Any, model: nn.Module, *others: Any, name: str = "leon", lr: float = 1e-3, **options: Any
) -> Any:
    """`accelerator.prepare` of a model with an optimizer of this library.

    Args:
        accelerator: an `accelerate.Accelerator`.
        model: the network, before `prepare`.
        *others: loaders and schedules to prepare with it.
        name, lr, **options: as in `corollary.optim.make_optimizer`.

    Returns:
        (model, optimizer, *others), prepared.

    Raises:
        InvalidInputError: where the object has no `prepare`.

    Guarantee: that of the optimizer.

    Example:
        >>> class Plain:
        ...     def prepare(self, *things):
        ...         return things if len(things) > 1 else things[0]
        >>> model, optimizer = prepare(Plain(), nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
        >>> type(optimizer).__name__
        'Leon'
    """
    if not hasattr(accelerator, "prepare"):
        raise InvalidInputError(f"`accelerator` must be an accelerate.Accelerator, got a {type(accelerator).__name__}")
    prepared = accelerator.prepare(model)
    optimizer = make_optimizer(name, prepared, lr=lr, **options)
    found = accelerator.prepare(optimizer, *others)
    return (prepared, *found) if isinstance(found, tuple) else (prepared, found)
