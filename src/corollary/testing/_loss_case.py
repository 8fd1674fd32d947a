"""A loss under test, with other options and on fixed draws."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROWS = 6
Loss = Callable[..., Tensor]


class NotApplicable(Exception):
    """A check that says nothing about this loss; the message is the reason."""


@dataclass
class Case:
    """The loss under test with its options, and the draws of the suite."""

    loss: Any
    classes: int
    seed: int

    def make(self, **options: Any) -> Loss:
        """The loss with other options: a copy of a module with other attributes, or a function with arguments."""
        if isinstance(self.loss, torch.nn.Module):
            module = copy.deepcopy(self.loss)
            for name, value in options.items():
                if not hasattr(module, name):
                    raise NotApplicable(f"the module has no `{name}`")
                setattr(module, name, value)
            return module
        return functools.partial(self.loss, **options)

    def rows(self, **options: Any) -> Loss:
        """The loss of every row."""
        if not self.declares("rowwise", True):
            raise NotApplicable("the loss is a quantity of the batch")
        return self.make(reduction="none", **options)

    def declares(self, name: str, default: Any = None) -> Any:
        """What the loss says of itself."""
        return getattr(self.loss, name, default)

    def draw(self, rows: int = ROWS, scale: float = 2.0, offset: int = 0, dtype: Any = torch.float64) -> Tensor:
        """Random logits."""
        generator = torch.Generator().manual_seed(self.seed + offset)
        return (scale * torch.randn(rows, self.classes, generator=generator, dtype=torch.float64)).to(dtype)

    def labels(self, rows: int = ROWS) -> Tensor:
        """Labels that meet every class where there is room."""
        return torch.arange(rows) % self.classes

    def every(self, loss: Loss, z: Tensor) -> Tensor:
        """Losses of all labels, (m, n)."""
        return torch.stack([loss(z, torch.full((len(z),), k)) for k in range(self.classes)], -1)

    def minimise(self, eta: Tensor) -> Tensor:
        """Scores that minimise the conditional risks of (m, n) distributions."""
        loss, z = self.rows(), torch.zeros_like(eta, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [z], max_iter=120, tolerance_grad=1e-9, tolerance_change=1e-16, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            risk = (self.every(loss, z) * eta).sum()
            risk.backward()
            return risk

        optimiser.step(closure)
        return z.detach()


def close(got: Tensor, expected: Tensor, what: str, tolerance: float = 1e-9) -> None:
    got, expected = got.detach(), expected.detach()
    scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    if got.shape != expected.shape or not bool(((got - expected).abs() <= tolerance * scale).all()):
        raise AssertionError(f"{what}: {got.flatten()[:4].tolist()} where {expected.flatten()[:4].tolist()} is right")
