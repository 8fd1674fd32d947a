"""Hugging Face's Trainer (transformers 5): its optimizer factory gets the whole model and can read its graph."""

from typing import Any

import torch
from torch import nn

from corollary.optim import make_optimizer


class HuggingFaceOptimizer:
    """Optimizer factory: `Trainer(optimizer_cls_and_kwargs=(HuggingFaceOptimizer, {"name": "leon", "lr": 1e-3}))`.

    The Trainer makes one and calls it with the model and the other keywords; one optimizer object comes back, whose
    state and rates the Trainer saves and schedules like any other's.

    Guarantee: that of the optimizer; refuses models whose matrices it would not touch.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> type(HuggingFaceOptimizer()(model, name="leon", lr=1e-3)).__name__
        'Leon'
    """

    def __call__(
        self, model: nn.Module, *, name: str = "leon", lr: float = 1e-3, weight_decay: float = 0.0, **options: Any
    ) -> torch.optim.Optimizer:
        """The optimizer for a model; see `corollary.optim.make_optimizer`."""
        return make_optimizer(name, model, lr=lr, weight_decay=weight_decay, **options)
