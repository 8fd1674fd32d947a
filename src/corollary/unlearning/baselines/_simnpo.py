r"""SimNPO: \(-\frac{2}{\beta} \log \sigma(\beta (\mathrm{NLL}/|y| - \delta))\): no reference, mean log-loss."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class SimNPO:
    r"""Push the mean log-loss of each answer above a margin.

    .. math:: -\tfrac{2}{\beta} \log \sigma\big(\beta (\mathrm{NLL}(y|x)/|y| - \delta)\big)

    Args:
        beta: sharpness.
        delta: margin in nats a token.

    Guarantee: none; bounded below by zero.

    Example:
        >>> SimNPO().beta
        4.5

    Reference: Fan et al. (2024) (formulas from the specification).
    """

    beta: float = 4.5
    delta: float = 0.0
    needs_frozen: ClassVar[bool] = False
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        mean = step.per_sequence(step.nll, mean=True)
        return -2 / self.beta * functional.logsigmoid(self.beta * (mean - self.delta)).mean()
