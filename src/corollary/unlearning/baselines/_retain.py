r"""Retain terms: log-loss, or closeness to the model as it was (section 7 of the notes)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class RetainNLL:
    r"""\(\mathrm{NLL}\) of the retained answers, averaged over tokens: the retain term of GradDiff and most others.

    Guarantee: none.

    Example:
        >>> RetainNLL().needs_frozen
        False

    Reference: open-unlearning (formulas from the specification).
    """

    needs_frozen: ClassVar[bool] = False
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to retain."""
        return step.mean_nll


@dataclass(frozen=True)
class RetainKL:
    r"""\(\mathrm{KL}(p_{\theta_0} \| p_\theta)\) of the next answer token, averaged over answer tokens.

    Guarantee: none; zero exactly where the model is as it was.

    Example:
        >>> RetainKL().needs_frozen
        True

    Reference: TOFU's KL minimisation (formulas from the specification; there over all positions, here over answers).
    """

    needs_frozen: ClassVar[bool] = True
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to retain."""
        now, before = step.logits.log_softmax(-1), step.frozen.logits.log_softmax(-1)
        return functional.kl_div(now, before, log_target=True, reduction="batchmean")
