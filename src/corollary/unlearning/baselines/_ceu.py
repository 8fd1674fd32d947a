r"""CE-U: cross-entropy to the model's own distribution without the answer token, which is detached."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class CEU:
    r"""\(-\sum_v q_v \log p_\theta(v)\), q the softmax of the detached logits with the answer's at \(-\infty\).

    The first answer token of each sequence is skipped; the mean goes over the others.

    Guarantee: none.

    Example:
        >>> CEU().needs_frozen
        False

    Reference: Yang (2025) (formulas from the specification).
    """

    needs_frozen: ClassVar[bool] = False
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        z = step.logits.detach().clone()
        z[torch.arange(len(z)), step.targets] = -torch.inf
        loss = -(z.softmax(-1) * step.logits.log_softmax(-1)).sum(-1)
        first = torch.ones_like(step.owner, dtype=torch.bool)
        first[1:] = step.owner[1:] != step.owner[:-1]
        return loss[~first].mean() if (~first).any() else loss.sum() * 0
