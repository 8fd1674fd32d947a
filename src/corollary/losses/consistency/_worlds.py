r"""Regrets at a point, finite worlds where every risk is exact, and minimizability gaps.

Symbols: P(x) the points' probabilities (m,), eta the distributions of the label (m, n), C the conditional risk, C* its
least value, M = R*(H) - E_x[C*] the minimizability gap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from corollary.certificates import Assumption, Certificate, Reference
from corollary.errors import InvalidInputError
from corollary.losses._comp_sum import comp_sum_optimum
from corollary.losses._softmax_rows import psi


def zero_one_regret(eta: Any, scores: Any) -> Float64[np.ndarray, "..."]:
    r"""\(\max_y \eta_y - \eta_{\arg\max_y z_y}\), the first of equal scores predicted.

    Args:
        eta: (..., n) distributions.
        scores: (..., n) scores.

    Guarantee: exact.

    Example:
        >>> zero_one_regret([0.5, 0.3, 0.2], [0.0, 1.0, 0.0]).round(6).item()
        0.2
    """
    eta, z = np.asarray(eta, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    chosen = np.take_along_axis(eta, z.argmax(-1)[..., None], -1)[..., 0]
    return np.asarray(eta.max(-1) - chosen)


def balanced_regret(eta: Any, scores: Any, *, prior: Any) -> Float64[np.ndarray, "..."]:
    r"""Regret of the balanced loss at a point: \(\max_y \eta_y/p_y - \eta_{\hat y}/p_{\hat y}\).

    Example:
        >>> balanced_regret([0.6, 0.4], [1.0, 0.0], prior=[0.9, 0.1]).round(4).item()
        3.3333
    """
    return zero_one_regret(np.asarray(eta, dtype=np.float64) / np.asarray(prior, dtype=np.float64), scores)


def comp_sum_regret(eta: Any, scores: Any, *, tau: float) -> Float64[np.ndarray, "..."]:
    r"""\(C_\tau(z) - C^*_\tau\) at a point, for complete hypothesis sets.

    Args:
        eta: (..., n) distributions.
        scores: (..., n) scores.
        tau: index.

    Guarantee: exact; not negative up to round-off.

    Example:
        >>> comp_sum_regret([0.5, 0.5], [0.0, 0.0], tau=1.0).round(9).item()
        0.0
    """
    e, z = (torch.as_tensor(np.asarray(v, dtype=np.float64)) for v in (eta, scores))
    losses = psi(torch.log_softmax(z, -1), tau - 1)
    return np.asarray(((e * losses).sum(-1) - comp_sum_optimum(e, tau=tau)).numpy())


@dataclass(frozen=True)
class FiniteWorld:
    """Finitely many points with known label distributions: every risk, gap and excess is a sum.

    Args:
        point: (m,) probabilities of the points.
        eta: (m, n) distributions of the label.

    Raises:
        InvalidInputError: unless both are distributions.

    Guarantee: exact up to round-off.

    Example:
        >>> import numpy as np
        >>> world = FiniteWorld(np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.2, 0.8]]))
        >>> round(world.zero_one_risk(np.array([[1.0, 0.0], [1.0, 0.0]])), 6), round(world.least_zero_one, 6)
        (0.45, 0.15)
    """

    point: Float64[np.ndarray, " m"]
    eta: Float64[np.ndarray, "m n"]

    def __post_init__(self) -> None:
        if self.point.ndim != 1 or self.eta.ndim != 2 or len(self.point) != len(self.eta):
            raise InvalidInputError(
                f"`point` must be (m,) and `eta` (m, n), got shapes {self.point.shape} and {self.eta.shape}"
            )
        for name, rows in (("point", self.point[None]), ("eta", self.eta)):
            if not (rows >= 0).all() or not np.allclose(rows.sum(-1), 1, atol=1e-9):
                raise InvalidInputError(f"`{name}` must hold probabilities that sum to one")

    @property
    def prior(self) -> Float64[np.ndarray, " n"]:
        """Probabilities of the classes."""
        return self.point @ self.eta

    @property
    def least_zero_one(self) -> float:
        """The Bayes error."""
        return float(self.point @ (1 - self.eta.max(-1)))

    def zero_one_risk(self, scores: Float64[np.ndarray, "m n"]) -> float:
        """Error of the largest scores."""
        return float(self.point @ (1 - np.take_along_axis(self.eta, scores.argmax(-1)[:, None], -1)[:, 0]))

    def balanced_error(self, scores: Float64[np.ndarray, "m n"]) -> float:
        """Mean of the per-class errors of the largest scores."""
        wrong = scores.argmax(-1)[:, None] != np.arange(self.eta.shape[1])
        return float((self.point @ (self.eta * wrong) / self.prior).mean())

    @property
    def least_balanced_error(self) -> float:
        """The least balanced error, that of argmax eta_y / p_y."""
        return self.balanced_error(self.eta / self.prior)

    def risk(self, loss: Callable[..., Tensor], scores: Float64[np.ndarray, "m n"]) -> float:
        """Surrogate risk of scores under any loss of this package (a function or module of logits and targets)."""
        m, n = self.eta.shape
        z, mass = torch.from_numpy(scores), torch.from_numpy(self.point[:, None] * self.eta)
        columns = [torch.stack([loss(z[i], torch.tensor(k)) for i in range(m)]) for k in range(n)]
        return float((torch.stack(columns, -1) * mass).sum())

    def least_comp_sum(self, *, tau: float) -> float:
        """E_x[C*] of the comp-sum loss, complete hypothesis sets."""
        return float(self.point @ comp_sum_optimum(torch.from_numpy(self.eta), tau=tau).numpy())

    def comp_sum_risk(self, scores: Float64[np.ndarray, "m n"], *, tau: float) -> float:
        """R_tau of scores."""
        losses = psi(torch.log_softmax(torch.from_numpy(scores), -1), tau - 1).numpy()
        return float(self.point @ (self.eta * losses).sum(-1))

    def minimizability_gap(self, hypotheses: Float64[np.ndarray, "k m n"], *, tau: float) -> float:
        """M_tau of a finite hypothesis set: its least risk minus E_x[C*] of the complete set."""
        least = min(self.comp_sum_risk(h, tau=tau) for h in hypotheses)
        return least - self.least_comp_sum(tau=tau)

    def gap_bound(self, hypotheses: Float64[np.ndarray, "k m n"], *, tau: float) -> float:
        r"""Jensen's bound on the gap: \(\Phi^\tau(R^*_{\tau=0}(H)) - E_x[C^*_\tau]\)."""
        least = min(self.comp_sum_risk(h, tau=0.0) for h in hypotheses)
        phi = psi(-torch.log1p(torch.tensor(least, dtype=torch.float64)), tau - 1)
        return float(phi) - self.least_comp_sum(tau=tau)

    def certificate(self, scores: Float64[np.ndarray, "m n"], *, tau: float) -> Certificate:
        """The excess form in this world: R_01 - R*_01 <= Gamma(R_tau - E[C*]); checked by `losses.finite_world`."""
        return Certificate.issue(
            "losses.finite_world",
            statement=(
                f"In this world of {len(self.point)} points the error exceeds the Bayes error by at most what the "
                f"comp-sum excess at tau = {tau:g} allows."
            ),
            evidence={"point": self.point, "eta": self.eta, "scores": scores},
            witness={"tau": float(tau)},
            reference=Reference("Mao, Mohri, Zhong (ICML 2023)", "comp-sum consistency bound", "from notes"),
            assumptions=[Assumption("the points and label distributions are the world's", "given as evidence")],
        )


def deterministic_gap(least_risk: float, *, tau: float, bound: float, classes: int) -> float:
    r"""M_tau with deterministic labels and scores in [-L, L]: \(R^*_\tau(H) - \Phi^\tau((n-1) e^{-2L})\).

    Args:
        least_risk: R*_tau(H).
        tau: index.
        bound: L.
        classes: n.

    Guarantee: exact [derived].

    Example:
        >>> round(deterministic_gap(0.5, tau=1.0, bound=1.0, classes=2), 4)
        0.3731
    """
    u = torch.tensor((classes - 1) * np.exp(-2 * bound), dtype=torch.float64)
    return least_risk - float(psi(-torch.log1p(u), tau - 1))
