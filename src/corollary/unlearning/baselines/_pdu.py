r"""PDU: flatten the logits on the forget set, \(\mathrm{mean} (\max z - \mathrm{mean}\, z)^2\), under a constraint.

The weight of the retain loss is a dual variable: \(\alpha \leftarrow \max(0, \alpha + \eta (L_r - \epsilon))\).
"""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class Flatness:
    r"""\(\mathrm{mean}_t (\max_v z_{tv} - \mathrm{mean}_v z_{tv})^2\) over answer tokens.

    Guarantee: none; zero for uniform predictions.

    Example:
        >>> Flatness().needs_frozen
        False

    Reference: open-unlearning's PDU (formulas from the specification).
    """

    needs_frozen: ClassVar[bool] = False
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        z = step.logits
        return (z.max(-1).values - z.mean(-1)).square().mean()


class DualRetain:
    r"""\(\alpha L_r\) with \(\alpha \leftarrow \max(0, \alpha + \eta (L_r - \epsilon))\) after each batch.

    Args:
        eps: the log-loss a token that is allowed on the retain set.
        step_size: eta.
        alpha: where the dual variable starts.

    Guarantee: none.

    Example:
        >>> DualRetain(eps=0.1).alpha
        1.0

    Reference: open-unlearning's PDU (formulas from the specification).
    """

    needs_frozen: ClassVar[bool] = False
    needs_alternative: ClassVar[bool] = False

    def __init__(self, *, eps: float = 0.1, step_size: float = 1.0, alpha: float = 1.0) -> None:
        self.eps, self.step_size, self.alpha = eps, step_size, alpha

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to retain; moves the dual variable."""
        loss = step.mean_nll
        weighted = self.alpha * loss
        self.alpha = max(0.0, self.alpha + self.step_size * (loss.item() - self.eps))
        return weighted
