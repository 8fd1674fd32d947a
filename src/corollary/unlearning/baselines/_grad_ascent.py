r"""Gradient ascent: \(-L_f\), the mean token log-loss of the forget answers driven up (section 7 of the notes)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class GradAscent:
    r"""\(-\mathrm{NLL}\), averaged over answer tokens; with a retain term it is GradDiff.

    Guarantee: none; unbounded below, so that it destroys the model if trained long.

    Example:
        >>> GradAscent().needs_alternative
        False

    Reference: as in TOFU and open-unlearning (formulas from the specification).
    """

    needs_frozen: ClassVar[bool] = False
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        return -step.mean_nll
