r"""A learner on a stream: its regret, the theorem's bound, the exact decomposition, and the certificate.

Lemma 2, for gradient-based prediction with potentials \(\tilde\Phi_t\):

.. math:: \mathrm{Reg}_T = D (\|S_T\|_* - \tilde\Phi_T(S_T)) + D \sum_{t<T} B_{\tilde\Phi_t}(S_{t+1} \| S_t)
    + D \sum_{t<T} [\tilde\Phi_{t+1}(S_{t+1}) - \tilde\Phi_t(S_{t+1})] + D \tilde\Phi_1(G_1)

Paper: Jiang, Mhammedi, Mohri, Mokhtari, COLT 2026 (PMLR 336), lemma 2; read in full.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from corollary.certificates import Assumption, Certificate, Reference
from corollary.errors import InvalidInputError
from corollary.optim._bounds import CERTIFIED, realised_regret
from corollary.optim._learners import MatrixLearner, _Predicting

PAPER = "Jiang, Mhammedi, Mohri, Mokhtari, COLT 2026 (PMLR 336)"
THEOREMS = {
    "faml": "theorem 8",
    "ftrl": "theorem 4",
    "one_sided_shampoo": "proposition 18 and lemma 19",
    "shampoo": "theorem 16",
}


@dataclass(frozen=True)
class Decomposition:
    """The four terms of lemma 2, each times D; they sum to the regret.

    Args:
        overestimation: D (||S_T||_* - potential): not positive, since the potential dominates.
        stability: D times the sum of Bregman divergences between rounds.
        drift: D times the rise of the potential from round to round.
        first: D times the first potential at the first gradient.

    Guarantee: an identity, exact up to rounding.

    Example:
        >>> Decomposition(-1.0, 2.0, 0.5, 1.0).total
        2.5
    """

    overestimation: float
    stability: float
    drift: float
    first: float

    @property
    def total(self) -> float:
        """The regret."""
        return self.overestimation + self.stability + self.drift + self.first


@dataclass(frozen=True)
class Play:
    """What a learner did on a stream.

    Args:
        learner: as it was before the first round.
        actions: (T, m, n); gradients: (T, m, n).

    Guarantee: that of the learner.

    Example:
        >>> from corollary.optim import FAML
        >>> game = play(FAML((1, 2)), [[[1.0, 0.0]]] * 3)
        >>> game.regret <= game.bound
        True
    """

    learner: MatrixLearner
    actions: Float[np.ndarray, "t m n"]
    gradients: Float[np.ndarray, "t m n"]

    @cached_property
    def regret(self) -> float:
        """Realised regret."""
        return realised_regret(self.actions, self.gradients, radius=self.learner.radius)

    @cached_property
    def bound(self) -> float | None:
        """The theorem's bound on this stream (in expectation for FTPL); None where there is none."""
        return self.learner.bound(self.gradients)

    @property
    def regrets(self) -> Float[np.ndarray, " t"]:
        """(T,) regret after each round."""
        played = np.cumsum((self.actions * self.gradients).sum((1, 2)))
        sums = np.cumsum(self.gradients, axis=0)
        return played + self.learner.radius * np.linalg.svd(sums, compute_uv=False).sum(-1)

    @property
    def evidence(self) -> dict[str, np.ndarray]:
        """What the certificate is checked against."""
        return {"actions": self.actions, "gradients": self.gradients}

    def decompose(self) -> Decomposition:
        """The terms of lemma 2, for learners that predict by the gradient of a potential.

        Raises:
            InvalidInputError: for a learner that projects, or discounts.
        """
        if not isinstance(self.learner, _Predicting) or self.learner.discount < 1:
            raise InvalidInputError(
                f"lemma 2 is about undiscounted learners with a potential, and `{self.learner.name}` is none; take "
                f"FollowTheLeader, FAML, FTPL or FTRL"
            )
        D, learner, last = self.learner.radius, self.learner.restarted(), len(self.gradients) - 1
        assert isinstance(learner, _Predicting)
        stability = drift = first = overestimation = 0.0
        known = None
        for t, G in enumerate(self.gradients):
            learner.update(G)
            potential, L, S = learner.potential(), learner.factor(), learner.S
            if known is None:
                first = D * float(potential.value(S, L))
            else:
                before, L_before, S_before = known
                stability += D * float(before.bregman(S, S_before, L_before))
                drift += D * float(potential.value(S, L) - before.value(S, L_before))
            if t == last:
                overestimation = D * float(torch.linalg.matrix_norm(S, "nuc") - potential.value(S, L))
            known = potential, L, S
        return Decomposition(overestimation, stability, drift, first)

    @cached_property
    def certificate(self) -> Certificate:
        """Regret at most the theorem's bound on this stream; check it with `**evidence`.

        Raises:
            InvalidInputError: for follow the leader (no bound), FTPL (a bound in expectation says nothing of one
                stream), and discounted learners.
        """
        learner = self.learner
        if learner.name not in CERTIFIED or learner.discount < 1:
            raise InvalidInputError(
                f"no bound holds for one stream of `{learner.name}`"
                f"{' with a discount' if learner.discount < 1 else ''}; certify {', '.join(CERTIFIED)}"
            )
        T, m, n = self.gradients.shape
        return Certificate.issue(
            "optim.regret",
            statement=(
                f"Over these {T} rounds the regret against every fixed {m} x {n} matrix of operator norm at most "
                f"{learner.radius:g} is at most {self.regret:.6g}, within the theorem's {self.bound:.6g}."
            ),
            evidence=self.evidence,
            witness={"learner": learner.name, "radius": learner.radius, "grad_bound": learner.grad_bound},
            reference=Reference(PAPER, THEOREMS[learner.name], "paper read in full"),
            assumptions=[Assumption("each action was played before its gradient was seen")],
        )


def play(learner: MatrixLearner, stream: Any, *, rounds: int | None = None) -> Play:
    """Run a learner on a stream.

    Args:
        learner: before its first round.
        stream: (T, m, n) gradients, or a function (t, action) -> gradient for an adversary that sees the action.
        rounds: T where the stream is a function.

    Returns:
        The actions, gradients, and what follows from them.

    Raises:
        InvalidInputError: for a learner that has played, an empty stream, or gradients above the bound.

    Guarantee: that of the learner.

    Example:
        >>> from corollary.optim import FAML
        >>> game = play(FAML((1, 2)), [[[1.0, 0.0]]] * 3)
        >>> abs(game.regret - game.decompose().total) < 1e-12, game.certificate.check(**game.evidence).status.name
        (True, 'HOLDS')
    """
    if learner.rounds:
        raise InvalidInputError(f"the learner has played {learner.rounds} rounds; give a new one")
    start = learner.restarted()
    adaptive: Callable[[int, Any], Any] = stream if callable(stream) else lambda t, X: stream[t]
    T = rounds if callable(stream) else len(stream)
    if not T:
        raise InvalidInputError("the stream has no rounds; give gradients (T, m, n), or `rounds` with a function")
    actions, gradients = [], []
    for t in range(T):
        X = learner.predict()
        G = torch.as_tensor(adaptive(t, X), dtype=torch.float64)
        learner.update(G)
        actions.append(X.numpy().copy())
        gradients.append(G.numpy().copy())
    return Play(start, np.stack(actions), np.stack(gradients))


def alternating_stream(T: int, shape: tuple[int, int], *, seed: int = 0) -> Float[np.ndarray, "t m n"]:
    """A stream that makes follow the leader lose D m in each round: U / 2, then -U, U, -U, ... with U orthonormal rows.

    Args:
        T: rounds.
        shape: (m, n).
        seed: of U.

    Returns:
        (T, m, n) gradients of operator norm at most 1.

    Guarantee: the regret of `FollowTheLeader` is at least D min(m, n) (T - 2) on it.

    Example:
        >>> from corollary.optim import FollowTheLeader
        >>> play(FollowTheLeader((2, 3)), alternating_stream(50, (2, 3))).regret >= 2 * 48
        True
    """
    m, n = sorted(shape)
    U = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, m)))[0].T
    signs = np.where(np.arange(T) % 2, -1.0, 1.0)
    if T:
        signs[0] = 0.5
    G = signs[:, None, None] * U
    return G.transpose(0, 2, 1) if shape[0] > shape[1] else G
