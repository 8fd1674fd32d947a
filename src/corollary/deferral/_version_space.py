r"""Budgeted deferral over a finite class of routers: pay only for the costs on which plausible routers disagree.

Symbols: routers \(r \in R\), bounded losses \(\ell(r, x, k) \in [0, 1]\) of expert k, gains \(g_k = 1 - c_k\) (COMPSUM)
or costs \(g_k = c_k\) (EC, \(\ell = softmax_k\)); \(E(r) = E[\sum_k g_k \ell(r, x, k)]\). At step t the
alive routers give

    p_{t,k} = max_{r, r'} |l(r, x_t, k) - l(r', x_t, k)|,   Q ~ Bernoulli(p),   g_{t,k} is bought where Q = 1,
    F_t(r) = (1/t) sum_s sum_k (Q/p) g l(r, x_s, k),
    Delta_t = C_0 K sqrt((8/t) ln(2 t (t+1) |R|^2 / delta)),
    alive_{t+1} = {r alive: F_t(r) <= min F_t + Delta_t}.

G1 differences of F_t between alive routers are unbiased; G2 for C_0 = 1, with probability 1 - delta,
\(|F_t(f) - F_t(g) - E(f) + E(g)| \le \Delta_t\) for all t and all alive pairs (Azuma: increments lie in [-K, K], since
p is at least the difference of losses); G3 the best router is then never removed, and every survivor is within
\(2 \Delta_t\) of it; G4 \(E[queries] \le K + 4 \theta \kappa \sum_t (E(r^*) + \Delta_t)\).

Bernstein's form [derived here]: the square of an increment has conditional mean at most that of \(W = P + (P + f)^2\),
P the sum of the query probabilities, f the spread of the losses that are free. W lies in [0, M] and is seen, so with
probability \(1 - \delta/2\), at all times, \(\sum E[W_s] \le V_t = \frac{e}{e - 1} (\sum W_s + M \ln (2/\delta))\), and

    Delta_t = C_0 (1/t) min_j (L_j + psi(lambda_j) V_t) / lambda_j,  lambda_j = 2^-j / 2K,
    psi(l) = (l^2 / 2) / (1 - 2Kl / 3),  L_j = ln(2 |R|^2 (j+1)(j+2) / delta)

for all t, j and pairs at once (Freedman's supermartingale, Ville's inequality); K counts the label's term, if any.

DeSalvo, C. Mohri, M. Mohri, Zhong, "Budgeted Multiple-Expert Deferral", arXiv:2510.26706: abstract and a summary were
read; the algorithm is importance-weighted active learning (Beygelzimer, Dasgupta, Langford 2009) carried over to
experts. Constants (the factor K, theta, kappa) are derived here and may differ from the paper's.
"""

from math import e, log, log1p, sqrt
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from corollary.errors import InvalidInputError


def bounded_losses(scores: Any, *, kind: str = "mae", limit: float = 5.0) -> Float[np.ndarray, "*n k"]:
    r"""Losses of every expert in [0, 1] from scores.

    .. math:: 1 - p_k \;(mae), \qquad p_k \;(ec), \qquad
              \frac{\log(1 + \sum_{i \ne k} e^{r_i - r_k})}{\log(1 + (K - 1) e^{2 B})} \;(log)

    Args:
        scores: (..., K) scores r.
        kind: "mae"; "log", scores clipped to [-B, B]; or "ec", to be weighted by the costs themselves, best where some
            router makes no mistakes.
        limit: B.

    Raises:
        InvalidInputError: for an unknown kind, one expert, or NaN.

    Guarantee: values in [0, 1], which the theory of `VersionSpace` needs.

    Example:
        >>> bounded_losses([0.0, 0.0]).tolist(), bounded_losses([5.0, -5.0], kind="log").round(3).tolist()
        ([0.5, 0.5], [0.0, 1.0])
    """
    r = np.asarray(scores, dtype=np.float64)
    if r.ndim < 1 or r.shape[-1] < 2 or not np.isfinite(r).all():
        raise InvalidInputError(f"`scores` must be finite (..., K) with K >= 2, got shape {r.shape}")
    if kind not in ("mae", "log", "ec") or not limit > 0:
        raise InvalidInputError(f"`kind` must be 'mae', 'log' or 'ec' and `limit` positive, got {kind!r}, {limit}")
    if kind == "log":
        r = np.clip(r, -limit, limit)
    top = r.max(-1, keepdims=True)
    log_p = r - top - np.log(np.exp(r - top).sum(-1, keepdims=True))
    if kind == "log":
        return np.clip(-log_p / log1p((r.shape[-1] - 1) * np.exp(2 * limit)), 0.0, 1.0)
    return np.exp(log_p) if kind == "ec" else -np.expm1(log_p)


def deviation_radius(t: int, *, size: int, terms: int, delta: float = 0.05, multiplier: float = 1.0) -> float:
    r"""How far a difference of weighted averages may be from its mean, for all pairs and all times at once.

    .. math:: \Delta_t = C_0\, K \sqrt{\tfrac{8}{t} \ln \tfrac{2 t (t + 1) |R|^2}{\delta}}

    Args:
        t: number of examples so far.
        size: |R|, the number of routers.
        terms: K: terms of one example (the experts; plus one for the label in one stage).
        delta: probability that it fails anywhere.
        multiplier: \(C_0\). 1 is the theorem's, and 1/2 is enough (the range of an increment is 2K, not 4K). At a few
            thousand examples either prunes nothing, and .03 to .1 is used, without a guarantee.

    Raises:
        InvalidInputError: for numbers out of range.

    Guarantee: G2 of the module head at `multiplier` 1/2 and above (Hoeffding's lemma); none below.

    Example:
        >>> round(deviation_radius(10_000, size=100, terms=2), 3)
        0.317

    Reference: Beygelzimer, Dasgupta, Langford (2009), from memory; the factor K is derived.
    """
    if t < 1 or size < 1 or terms < 1 or not 0 < delta < 1 or not multiplier >= 0:
        raise InvalidInputError(f"t, size, terms >= 1, 0 < delta < 1, multiplier >= 0 are needed, got {t=}, {delta=}")
    return multiplier * terms * sqrt(8 / t * (log(2 * t * (t + 1) / delta) + 2 * log(size)))


def bernstein_deviation(spread: float, *, size: int, terms: int, delta: float = 0.05) -> float:
    r"""Bernstein's form of t Delta_t, from the sum of W so far; see the module head.

    Args:
        spread: sum of \(W = P + (P + f)^2\).
        size: |R|.
        terms: K (plus one in one stage).
        delta: probability that it fails anywhere.

    Guarantee: G2 of the module head, at all times at once.

    Example:
        >>> bernstein_deviation(10.0, size=100, terms=2) < bernstein_deviation(1000.0, size=100, terms=2)
        True

    Reference: Freedman (1975) and Ville's inequality, textbook; their use here is derived.
    """
    largest = terms + terms**2  # of W
    v = e / (e - 1) * (spread + largest * log(2 / delta))
    best = float("inf")
    for j in range(40):
        scale = 2.0**-j  # 2 K lambda; e^s - 1 - s <= (s^2 / 2) / (1 - s / 3), which does not cancel for small s
        psi = scale**2 / 2 / (1 - scale / 3) / (2 * terms) ** 2
        budget = log(2 * (j + 1) * (j + 2) / delta) + 2 * log(size)
        best = min(best, (budget + psi * v) * 2 * terms / scale)
    return best


class VersionSpace:
    """The routers that are still plausible, and what they would pay to know.

    Args:
        size: number of routers.
        terms: experts (plus one in one stage).
        delta, multiplier: as in `deviation_radius`.
        bound: "azuma", or "bernstein": about as large at the start, far smaller once little is still bought.

    Guarantee: at multiplier 1 (or 1/2), G1 to G3 of the module head, whatever the rule of pruning times.

    Example:
        >>> space = VersionSpace(2, terms=2, multiplier=0.0)
        >>> losses = np.array([[[0.0, 1.0]], [[1.0, 0.0]]])  # two routers that disagree, one example, two experts
        >>> p = space.probabilities(losses)
        >>> space.update(losses, weighted_gains=np.array([[0.0, 1.0]]))
        >>> p.tolist(), space.alive.tolist(), space.best
        ([[1.0, 1.0]], [False, True], 1)

    Reference: as the module head.
    """

    def __init__(
        self, size: int, *, terms: int, delta: float = 0.05, multiplier: float = 1.0, bound: str = "azuma"
    ) -> None:
        deviation_radius(1, size=size, terms=terms, delta=delta, multiplier=multiplier)
        if bound not in ("azuma", "bernstein"):
            raise InvalidInputError(f"`bound` must be 'azuma' or 'bernstein', got {bound!r}")
        self.bound, self.spread = bound, 0.0  # the sum of W
        self.terms, self.delta, self.multiplier = terms, delta, multiplier
        self.alive: Bool[np.ndarray, " r"] = np.ones(size, dtype=bool)
        self.total: Float[np.ndarray, " r"] = np.zeros(size)  # t F_t, also of those no longer alive
        self.t = 0

    def probabilities(self, losses: Float[np.ndarray, "r n k"]) -> Float[np.ndarray, "n k"]:
        """(n, K) query probabilities: the spread of the alive routers' losses."""
        alive = losses[self.alive]
        return alive.max(0) - alive.min(0)

    def update(
        self,
        losses: Float[np.ndarray, "r n k"],
        *,
        weighted_gains: Float[np.ndarray, "n k"],
        free: Float[np.ndarray, "r n"] | None = None,
    ) -> None:
        """Take in examples, then prune.

        Args:
            losses: of every router.
            weighted_gains: (Q / p) g, zero where it was not bought.
            free: losses that are known without paying (the label's, in one stage).
        """
        if self.bound == "bernstein":
            paid = self.probabilities(losses).sum(1)
            known = 0.0 if free is None else free[self.alive].max(0) - free[self.alive].min(0)
            self.spread += float((paid + (paid + known) ** 2).sum())
        self.t += losses.shape[1]
        self.total += np.einsum("rnk,nk->r", losses, weighted_gains)
        if free is not None:
            self.total += free.sum(1)
        f = self.average
        self.alive &= f <= f[self.alive].min() + self.radius

    @property
    def average(self) -> Float[np.ndarray, " r"]:
        """F_t of every router."""
        return self.total / max(self.t, 1)

    @property
    def radius(self) -> float:
        """Delta_t."""
        size, t = len(self.alive), max(self.t, 1)
        if self.bound == "bernstein":
            return self.multiplier * bernstein_deviation(self.spread, size=size, terms=self.terms, delta=self.delta) / t
        return deviation_radius(t, size=size, terms=self.terms, delta=self.delta, multiplier=self.multiplier)

    @property
    def best(self) -> int:
        """The alive router of least weighted average."""
        return int(np.argmin(np.where(self.alive, self.total, np.inf)))


def disagreement_coefficient(losses: Any, best: int, *, weight: Any = None) -> float:
    r"""How much of the world routers close to the best one disagree on.

    .. math:: \theta = \sup_a \frac1a E_x \sum_k \sup_{\rho(f, r^*) \le a} |\ell(f, x, k) - \ell(r^*, x, k)|,
              \qquad \rho(f, g) = E_x \sum_k |\ell(f, x, k) - \ell(g, x, k)|

    Args:
        losses: (R, N, K) of every router on every point.
        best: index of \(r^*\).
        weight: (N,) probabilities of the points; uniform by default.

    Raises:
        InvalidInputError: for shapes that do not match.

    Guarantee: exact on this finite class and world; at least 1 where any two routers differ, at most the number of
        routers.

    Example:
        >>> x = np.arange(100) / 100
        >>> left = (x[None] < np.arange(0, 101)[:, None] / 100).astype(float)  # thresholds: who gets expert 0
        >>> round(disagreement_coefficient(np.stack([1 - left, left], 2), 50), 9)
        2.0

    Reference: Beygelzimer, Dasgupta, Langford (2009), carried over to experts here.
    """
    table = np.asarray(losses, dtype=np.float64)
    if table.ndim != 3 or not 0 <= best < len(table):
        raise InvalidInputError(f"`losses` must be (R, N, K) and `best` one of the R, got {table.shape}, {best}")
    mass = np.full(table.shape[1], 1 / table.shape[1]) if weight is None else np.asarray(weight, dtype=np.float64)
    if mass.shape != table.shape[1:2] or (mass < 0).any() or not np.isclose(mass.sum(), 1):
        raise InvalidInputError(f"`weight` must be {table.shape[1]} probabilities that sum to one")
    apart = np.abs(table - table[best])
    rho = np.einsum("rnk,n->r", apart, mass)
    order = np.argsort(rho, kind="stable")
    worst, largest = np.zeros_like(apart[0]), 0.0
    for place, r in enumerate(order):
        worst = np.maximum(worst, apart[r])
        last = place + 1 == len(order) or rho[order[place + 1]] > rho[r]  # the ball is complete at this radius
        if last and rho[r] > 0:
            largest = max(largest, float(np.einsum("nk,n->", worst, mass) / rho[r]))
    return largest


def query_bound(t: int, *, theta: float, kappa: float, least: float, radii: Any, terms: int) -> float:
    r"""G4: the expected number of queries of t examples.

    .. math:: K + 4 \theta \kappa \sum_{s < t} (E(r^*) + \Delta_s)

    Args:
        t: number of examples.
        theta: `disagreement_coefficient`.
        kappa: constant with \(\rho(f, r^*) \le \kappa (E(f) + E(r^*))\).
        least: \(E(r^*)\).
        radii: (t,) \(\Delta_s\).
        terms: K.

    Guarantee: holds in expectation on the event of G2; vacuous above t K.

    Example:
        >>> query_bound(3, theta=1.0, kappa=1.0, least=0.0, radii=[0.5, 0.25, 0.125], terms=2)
        5.0

    Reference: derived.
    """
    return terms + 4 * theta * kappa * float((least + np.asarray(radii, dtype=np.float64)[: t - 1]).sum())
