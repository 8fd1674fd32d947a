r"""Gates as modules: from an input to log-weights over the experts.

Symbols: scores s(x) in R^p, \(\log g(x, \cdot) = \log((1 - \gamma) \mathrm{softmax}(s(x)) + \gamma / p)\). Sequence
log-likelihoods
differ by tens or hundreds of nats, so the scores have a direct term \(a \, (\log q - \max \log q)\) with a = 0 at the
start:
a = 1 and a constant give the Bayes posterior.

Source: arXiv:2602.17554 leaves the gate's architecture to an appendix that was not seen; this one is ours.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

DEEPEST = -1e4  # an impossible expert counts as this many nats behind in the scores (its model stays impossible)


def floored_log_softmax(scores: Float[Tensor, "n p"], floor: float) -> Float[Tensor, "n p"]:
    """Log-weights with every weight at least floor / p."""
    log_g = torch.log_softmax(scores, -1)
    if floor == 0:
        return log_g
    least = torch.full_like(log_g, math.log(floor / scores.shape[-1]))
    return torch.logaddexp(math.log1p(-floor) + log_g, least)


class TabularGate(nn.Module):
    """One free weight vector for each state; trained by mirror steps on the weights themselves."""

    def __init__(self, states: int, experts: int, *, floor: float) -> None:
        super().__init__()
        self.floor = floor
        self.log_weights = nn.Parameter(torch.full((states, experts), -math.log(experts), dtype=torch.float64))

    def log_gate(self, log_weights: Tensor, state: Tensor) -> Float[Tensor, "n p"]:
        """Log-weights of the rows, from a table of log-weights that sum to one."""
        return floored_log_softmax(log_weights[state], self.floor)

    def forward(self, log_likelihoods: Tensor, state: Tensor) -> Float[Tensor, "n p"]:
        """Log-weights of the rows with these state numbers."""
        return self.log_gate(self.log_weights, state)


class NetworkGate(nn.Module):
    """A perceptron on features and on the experts' log-likelihood differences, uniform before training."""

    def __init__(self, features: int, experts: int, *, hidden: tuple[int, ...], floor: float) -> None:
        super().__init__()
        self.floor = floor
        widths = [features + experts, *hidden]
        layers: list[nn.Module] = []
        for inner, outer in pairwise(widths):
            layers += [nn.Linear(inner, outer, dtype=torch.float64), nn.GELU()]
        last = nn.Linear(widths[-1], experts, dtype=torch.float64)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.centre: Tensor
        self.spread: Tensor
        self.perceptron = nn.Sequential(*layers, last)
        self.trust = nn.Parameter(torch.zeros(experts, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(features, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(features, dtype=torch.float64))

    def standardise(self, features: Tensor) -> None:
        """Remember the mean and the spread of the training features."""
        if features.shape[1]:
            self.centre.copy_(features.mean(0))
            self.spread.copy_(features.std(0, unbiased=False).clamp_min(1e-6))

    def forward(self, log_likelihoods: Tensor, features: Tensor) -> Float[Tensor, "n p"]:
        """Log-weights from log-likelihoods (n, p) and features (n, d)."""
        behind = (log_likelihoods - log_likelihoods.amax(-1, keepdim=True)).clamp_min(DEEPEST)
        seen = torch.cat([(features - self.centre) / self.spread, -torch.log1p(-behind)], -1)
        return floored_log_softmax(self.perceptron(seen) + self.trust * behind, self.floor)
