r"""WGA: gradient ascent weighted by confidence, \(-\mathrm{mean}\, p^\beta \mathrm{NLL}\), weights detached."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class WGA:
    r"""\(-\mathrm{mean}_t\, p_\theta(y_t)^\beta\, \mathrm{NLL}_t\): tokens already forgotten count less.

    Args:
        beta: 0 is gradient ascent.

    Guarantee: none.

    Example:
        >>> WGA().beta
        1.0

    Reference: Wang et al. (2025) (formulas from the specification).
    """

    beta: float = 1.0
    needs_frozen: ClassVar[bool] = False
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        weight = (-self.beta * step.nll.detach()).exp()
        return -(weight * step.nll).mean()
