"""Fine-tuning on refusals: the log-loss of "I don't know" to the questions that are to be forgotten."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class IdkNLL:
    """Mean token log-loss of the refusals.

    Guarantee: none.

    Example:
        >>> IdkNLL().needs_alternative
        True

    Reference: TOFU's IDK baseline (formulas from the specification).
    """

    needs_frozen: ClassVar[bool] = False
    needs_alternative: ClassVar[bool] = True

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        return step.alternative.mean_nll
