"""Lightning: what a module's `configure_optimizers` returns."""

import math
from typing import Any

import torch
from torch import nn

from corollary.optim import make_optimizer


def configure_optimizers(
    module: nn.Module, name: str = "leon", *, lr: float = 1e-3, steps: int | None = None, **options: Any
) -> Any:
    """Return this from `LightningModule.configure_optimizers`.

    Args:
        module: the Lightning module.
        name, lr, **options: as in `corollary.optim.make_optimizer`.
        steps: with a number, a cosine over so many steps is added (stepped each batch).

    Returns:
        An optimizer, or the dictionary with a schedule that Lightning reads.

    Guarantee: that of the optimizer.

    Example:
        >>> found = configure_optimizers(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), steps=10)
        >>> sorted(found), found["lr_scheduler"]["interval"]
        (['lr_scheduler', 'optimizer'], 'step')
    """
    optimizer = make_optimizer(name, module, lr=lr, **options)
    if steps is None:
        return optimizer
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: (1 + math.cos(math.pi * min(t / steps, 1))) / 2)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
