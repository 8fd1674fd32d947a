r"""NPO, negative preferences: \(-\frac{2}{\beta} \log \sigma(-\beta \log \frac{p_\theta}{p_{\theta_0}}(y|x))\)."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class NPO:
    r"""Push answers below their former likelihood, with a force that fades once they are.

    .. math:: -\tfrac{2}{\beta} \log \sigma\big(-\beta (\log p_\theta(y|x) - \log p_{\theta_0}(y|x))\big)

    Args:
        beta: small: like gradient ascent; large: stops early. Sums over the answer, means over sequences.

    Guarantee: none; bounded below by zero, and \(\frac{2}{\beta} \log 2\) where the model is as it was.

    Example:
        >>> NPO().beta
        0.1

    Reference: Zhang, Lin, Bai and Mei (2024) (formulas from the specification).
    """

    beta: float = 0.1
    needs_frozen: ClassVar[bool] = True
    needs_alternative: ClassVar[bool] = False

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        log_ratio = step.per_sequence(step.frozen.nll - step.nll)
        return -2 / self.beta * functional.logsigmoid(-self.beta * log_ratio).mean()
