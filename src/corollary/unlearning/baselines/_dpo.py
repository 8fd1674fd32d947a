r"""DPO with refusals: prefer "I don't know" to the answer (IdkDPO), measured against the model as it was."""

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from corollary.unlearning.baselines._step import Step


@dataclass(frozen=True)
class DPO:
    r"""Prefer the refusal to the answer, measured against the model as it was.

    .. math:: -\tfrac{2}{\beta} \log \sigma\big(\beta [\log\tfrac{p_\theta}{p_{\theta_0}}(idk) -
              \log\tfrac{p_\theta}{p_{\theta_0}}(y)]\big)

    Args:
        beta: sharpness; log-likelihoods are sums over the answer.

    Guarantee: none; bounded below by zero, and \(\frac{2}{\beta} \log 2\) where the model is as it was.

    Example:
        >>> DPO().needs_alternative
        True

    Reference: TOFU's preference optimisation (formulas from the specification).
    """

    beta: float = 0.1
    needs_frozen: ClassVar[bool] = True
    needs_alternative: ClassVar[bool] = True

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch to forget."""
        lost = step.per_sequence(step.frozen.nll - step.nll)
        other = step.alternative
        won = other.per_sequence(other.frozen.nll - other.nll)
        return -2 / self.beta * functional.logsigmoid(self.beta * (won - lost)).mean()
