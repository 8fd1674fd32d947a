r"""UNDIAL: self-distillation towards \(\mathrm{softmax}(z_{\theta_0} - \beta e_y)\), the answer's old logit lowered."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class Undial:
    r"""Cross-entropy to the old distribution with the logit of the answer token lowered by beta, a mean over tokens.

    Args:
        beta: how far the logit is lowered.

    Guarantee: none.

    Example:
        >>> Undial().beta
        10.0

    Reference: Dong et al. (2024) (formulas from the specification).
    """

    beta: float = 10.0
    needs_frozen: ClassVar[bool] = True
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        with torch.no_grad():
            z = step.frozen.logits.clone()
            z[torch.arange(len(z)), step.targets] -= self.beta
            wanted = z.softmax(-1)
        return -(wanted * step.logits.log_softmax(-1)).sum(-1).mean()
