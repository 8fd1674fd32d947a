r"""SatImp: gradient ascent weighted by saturation and importance, \(p^{\beta_1} (1 - p)^{\beta_2}\), detached."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class SatImp:
    r"""\(-\mathrm{mean}_t\, p^{\beta_1} (1 - p)^{\beta_2}\, \mathrm{NLL}_t\) with \(p = p_\theta(y_t)\).

    Args:
        beta1: power of p.
        beta2: power of 1 - p.

    Guarantee: none.

    Example:
        >>> SatImp().beta1, SatImp().beta2
        (5.0, 1.0)

    Reference: Yang et al. (2025) (formulas from the specification).
    """

    beta1: float = 5.0
    beta2: float = 1.0
    needs_frozen: ClassVar[bool] = False
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        p = (-step.nll.detach()).exp()
        return -(p**self.beta1 * (1 - p) ** self.beta2 * step.nll).mean()
