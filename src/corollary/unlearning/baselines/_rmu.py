r"""RMU: \(\|a_\theta(x_f) - c u\|^2\) at one layer, and \(\|a_\theta(x_r) - a_{\theta_0}(x_r)\|^2\) to retain."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.unlearning.baselines._step import Step


def _mean_square(step: Step, difference: Float[Tensor, "b t d"]) -> Float[Tensor, ""]:
    return difference[step.batch.scored].square().mean()


@dataclass(frozen=True)
class RMUForget:
    r"""Steer the activations of forget answers towards one random direction: \(\|a_\theta - c u\|^2\), a mean.

    Args:
        layer: index of the block.
        scale: c, the length of the target.
        seed: of the unit vector u, uniform random entries before it is normalised.

    Guarantee: none.

    Example:
        >>> RMUForget(layer=1).scale
        2.0

    Reference: Li et al. (2024), as in open-unlearning (formulas from the specification).
    """

    layer: int = -1
    scale: float = 2.0
    seed: int = 0
    needs_frozen: ClassVar[bool] = False
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        found = step.activations(self.layer)
        u = torch.rand(found.shape[-1], generator=torch.Generator().manual_seed(self.seed)).to(found)
        return _mean_square(step, found - self.scale * u / u.norm())


@dataclass(frozen=True)
class RMURetain:
    r"""Keep the activations of retained answers: \(\|a_\theta - a_{\theta_0}\|^2\), a mean.

    Args:
        layer: index of the block.

    Guarantee: none; zero where the model is as it was.

    Example:
        >>> RMURetain().needs_frozen
        True

    Reference: Li et al. (2024), as in open-unlearning (formulas from the specification).
    """

    layer: int = -1
    needs_frozen: ClassVar[bool] = True
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to retain."""
        with torch.no_grad():
            before = step.frozen.activations(self.layer)
        return _mean_square(step, step.activations(self.layer) - before)
