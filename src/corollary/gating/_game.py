r"""The game that the robust gate's trainer plays: payoffs, entropies, and the dual value of a tabular gate.

Symbols: cross-entropies \(\mathrm{CE}_k = \mathbb{E}_{p_k}[-\log \pi_g]\), entropies h_k, scales s_k (one, or one over
the mean length), extreme mixtures v, diversities d_v (the Jensen-Shannon divergence of the domains under v),

.. math:: \mathrm{payoff}_v = \sum_k v_k s_k (\mathrm{CE}_k - h_k) - d_v, \qquad
          L(g, \lambda, \mu) = \sum_v \lambda_v \mathrm{payoff}_v + u \mu (Z - 1), \quad u = \bar s.

Source: arXiv:2602.17554, section 5 by title only; derived.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.gating._band import distributions
from corollary.gating._rows import Rows, Samples
from corollary.numerics import entropy


@dataclass(frozen=True, eq=False)
class Game:
    """Everything of the payoffs that does not depend on the gate."""

    entropies: Float[Tensor, " p"]
    scale: Float[Tensor, " p"]
    mixtures: Float[Tensor, "m p"]
    diversity: Float[Tensor, " m"]

    @property
    def unit(self) -> float:
        """What one unit of the normaliser's multiplier weighs."""
        return float(self.scale.mean())

    def payoffs(self, cross_entropies: Float[Tensor, " p"]) -> Float[Tensor, " m"]:
        """The payoff of each extreme mixture."""
        return self.mixtures @ (self.scale * (cross_entropies - self.entropies)) - self.diversity

    def weights(self, lam: Float[Tensor, " m"]) -> Float[Tensor, " p"]:
        """Weight of each domain's cross-entropy in the loss, for weights over the extreme mixtures."""
        return (lam @ self.mixtures) * self.scale


def make_game(
    rows: Rows, held_out: Rows | None, lengths: Any, *, entropy_rule: Any, objective: str, mixtures: ArrayLike
        | None,
    diversity: ArrayLike | None, tabular: bool,
) -> Game:  # fmt: skip
    """Entropies by the rule asked for, scales by the objective, extreme mixtures and their diversities."""
    k, device = rows.domains, rows.logq.device
    scale = torch.ones(k, dtype=torch.float64, device=device)
    if objective == "token":
        size = None if lengths is None else torch.as_tensor(np.asarray(lengths), dtype=torch.float64, device=device)
        if size is None or size.shape != (len(rows),) or not (size > 0).all():
            raise InvalidInputError(f"objective='token' needs `lengths`, ({len(rows)},) positive token counts")
        scale = 1 / rows.means(size[rows.order])
    points = np.eye(k) if mixtures is None else distributions("mixtures", mixtures, sum_to_one=True)
    if points.shape[1] != k:
        raise InvalidInputError(f"mixtures have {points.shape[1]} weights for {k} domains; give one weight a domain")
    spread = entropy(points) if diversity is None else np.asarray(diversity, dtype=np.float64)
    if spread.shape != (len(points),) or not np.isfinite(spread).all():
        raise InvalidInputError(
            f"`diversity` must be {len(points)} finite values, one an extreme mixture, got {spread.shape}"
        )
    v = torch.as_tensor(points, device=device)
    return Game(
        _entropies(rows, held_out, entropy_rule, tabular=tabular),
        scale,
        v,
        torch.as_tensor(spread, device=device) * (v @ scale),
    )


def _entropies(rows: Rows, held_out: Rows | None, rule: Any, *, tabular: bool) -> Float[Tensor, " p"]:
    k, device = rows.domains, rows.logq.device
    if not isinstance(rule, str):
        h = torch.as_tensor(np.asarray(rule), dtype=torch.float64, device=device)
        if h.shape != (k,) or not torch.isfinite(h).all():
            raise InvalidInputError(
                f"`entropy` must be {k} finite values in nats, one a domain, got shape {tuple(h.shape)}"
            )
        return h
    if rule == "expert":
        if rows.logq.shape[1] != k:
            raise InvalidInputError(
                f"entropy='expert' pairs domains and experts, but there are {k} and {rows.logq.shape[1]}; "
                "pass the entropies themselves, or 'empirical'"
            )
        source = held_out or rows
        return source.means(-source.logq.gather(1, source.domain[:, None])[:, 0])
    codes = rows.features if tabular else torch.unique(rows.logq, dim=0, return_inverse=True)[1]
    table = state_masses(rows, codes, int(codes.max()) + 1)
    return -(table * torch.where(table > 0, table, 1.0).log()).sum(1)


def state_masses(rows: Rows, codes: Tensor, states: int) -> Float[Tensor, "p n"]:
    """Mass that each domain's rows put on each state."""
    flat = torch.zeros(rows.domains * states, dtype=torch.float64, device=codes.device)
    return flat.index_add_(0, rows.domain * states + codes, rows.share).reshape(rows.domains, states)


class TabularDual:
    r"""Lower bounds on what any tabular gate reaches on these rows and samples, by weak duality.

    The inner minimum over all gates is \\(\\pi = \\mathrm{clip}(a / (u \\mu c), lo, hi)\\) at each state, with a its
    weighted mass and c what one unit of the model there adds to the estimate of Z.
    """

    def __init__(self, rows: Rows, samples: Samples, game: Game, *, states: int, floor: float) -> None:
        self.game, self.mass = game, state_masses(rows, rows.features, states)
        logq = torch.full((states, rows.logq.shape[1]), -torch.inf, dtype=torch.float64, device=rows.logq.device)
        logq[samples.features] = samples.logq
        logq[rows.features] = rows.logq
        q = logq.exp()
        mean = q.mean(1)
        self.low = (1 - floor) * q.amin(1) + floor * mean
        self.high = (1 - floor) * q.amax(1) + floor * mean
        weight = torch.ones_like(samples.logq[:, 0]) if samples.weight is None else samples.weight
        proposal = torch.logsumexp(samples.logq + samples.shares.log(), -1).exp()
        self.cost = torch.zeros_like(mean).index_add_(0, samples.features, weight / weight.sum() / proposal)

    def value(self, lam: Float[Tensor, " m"], mu: float) -> float:
        """The smallest value of the Lagrangian over all tabular gates."""
        a, price = self.game.weights(lam) @ self.mass, self.game.unit * mu * self.cost
        pi = torch.where(price > 0, a / price.clamp_min(1e-300), torch.where(a > 0, torch.inf, 0.0))
        pi = torch.minimum(torch.maximum(pi, self.low), self.high)
        loss = torch.where(a > 0, -a * pi.clamp_min(1e-300).log(), 0.0).sum() + (price * pi).sum()
        constant = self.game.payoffs(torch.zeros_like(self.game.entropies)) @ lam
        return float(loss + constant - self.game.unit * mu)
