r"""What TreeCal's calibration error is at most, on every sequence; and what holds without any method.

Labelled nodes n of rounds \(T_n\), forecast \(p_n\), outcomes' mean \(\nu_n\); \(\tilde p_n\) = mean of the parent's
outcomes up to and including n (be the leader), \(h_n\) = earlier siblings. With R 1-strongly convex in the norm:

1. be the leader: \(\mathrm{Cal}^{D_R}(\tilde p) \le V / L\), V = T (mean R(y) - R(mean y)) of the epoch. The sums over
   levels telescope, \(\sum_n T_n D_R(\nu_n | \tilde p_n) \le V_{l-1} - V_l\); so the constant is 1, for any T.
2. the leader is close: \(\tilde p_n - p_n = T_n (\nu_n - p_n) / (\ldots)\), hence
   \(\sum_n (T_n / L) \|\tilde p_n - p_n\|^2 \le \mathrm{diam}^2 A\), \(A = \frac1L \sum_n T_n / (h_n + 1)^2\).
3. Minkowski's inequality in the weighted l2 norm over nodes:

.. math:: \mathrm{Cal}^{\|\cdot\|^2} \le \Big( \sqrt{V / L} + \mathrm{diam} \sqrt A \Big)^2, \quad V \le T \sigma \le T
          \rho, \quad A \le \frac{\pi^2}{6} \frac{T}{H} \text{ for } T = H^L

Merging equal forecasts only lowers it. Restarts add up; \(\mathrm{Cal}^{\|\cdot\|} \le \sqrt{T\,
\mathrm{Cal}^{\|\cdot\|^2}}\). Fishelson, Golowich, Mohri and Schneider, arXiv:2505.21460, Theorem 3.1 and Corollary C.5
(read in full) have 3 rho T / L in step 1 and print 2 diam^2 T / H^2 in step 2, where their own derivation gives T / H:
`corrected_bound` keeps their first constant and mends the second. The form above is derived here.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from corollary.calibration._groups import announced, group
from corollary.calibration._measures import error_of
from corollary.calibration._norms import norm_name, norm_values, order_of
from corollary.calibration._regularisers import Regulariser, known_regularisers
from corollary.calibration._replay import stream
from corollary.calibration._schedule import Epoch, Schedule
from corollary.calibration._sets import ConvexSet
from corollary.errors import InvalidInputError


class Bound(NamedTuple):
    """Upper bounds on the calibration error a round: the theorem's, and what holds for any forecasts in the set.

    Guarantee: none of its own; see `calibration_bound`.

    Example:
        >>> Bound(error=1.2, squared=1.44, trivial=2.0).vacuous
        False
    """

    error: float
    squared: float
    trivial: float

    @property
    def vacuous(self) -> bool:
        """Whether the theorem says no more than the diameter of the set."""
        return self.error >= self.trivial


def corrected_bound(rho: float, diameter: float, *, levels: int, branching: int) -> float:
    r"""The squared calibration error a round of TreeCal over T = H^L rounds, with the paper's constants mended.

    .. math:: \frac{6 \rho}{L} + \frac{\pi^2}{3} \frac{\mathrm{diam}^2}{H}

    Args:
        rho: rate of a 1-strongly convex regulariser.
        diameter: of the set, in the same norm.
        levels: L.
        branching: H.

    Guarantee: holds for every sequence; weaker than `calibration_bound` in both terms.

    Example:
        >>> round(corrected_bound(4.0, 2.0, levels=48, branching=64), 4)
        0.7056

    Reference: arXiv:2505.21460, Theorem 3.1 (read in full), its chain (9)-(11) corrected.
    """
    return 6 * rho / levels + np.pi**2 / 3 * diameter**2 / branching


def closeness(epoch: Epoch, rounds: int) -> float:
    r"""\(A = \frac1L \sum_n T_n / (h_n + 1)^2\) over the nodes of one tree that ran for `rounds` rounds.

    Example:
        >>> epoch = Schedule(2, 4).epoch(0, 0)
        >>> round(closeness(epoch, 16), 6), round(16 / 4 * (1 + 1 / 4 + 1 / 9 + 1 / 16), 6)
        (5.694444, 5.694444)
    """
    share = 1 / np.square(np.arange(1.0, epoch.branching + 1))
    total = 0.0
    for block in epoch.blocks:
        parents, rest = divmod(rounds, block * epoch.branching)
        children, last = divmod(rest, block)
        total += parents * block * share.sum() + block * share[:children].sum()
        total += last * share[children] if last else 0.0
    return float(total / epoch.levels)


def calibration_bound(
    domain: ConvexSet,
    rounds: int,
    levels: int = 4,
    branching: int = 8,
    horizon: int | None = None,
    *,
    norm: Any = 1,
    leaf: int = 1,
    mixing: float = 0.0,
    outcomes: ArrayLike | None = None,
    regularisers: Iterable[Regulariser] | None = None,
) -> Bound:
    r"""What the calibration error of `TreeCal` with these arguments is at most, on any sequence of that many rounds.

    .. math:: \sum_{epochs} \Big( \sqrt{V / L} + \mathrm{diam} \sqrt A + \gamma\, r \sqrt T \Big)^2

    Args:
        domain: the set of the outcomes.
        rounds: T.
        levels, branching, horizon, leaf, mixing: as in `TreeCal`.
        norm: of the error: p of an l_p norm.
        outcomes: (T, d) the realised outcomes, where they are known: V is then their own Jensen gap instead of the
            largest possible one. The result stays an upper bound for the forecasts made on these outcomes.
        regularisers: candidates, each 1-strongly convex in the norm; the best is taken. None for those known.

    Returns:
        The bound on the error, on the squared error, and the trivial one; each a round's share.

    Raises:
        InvalidInputError: for no rounds, or a norm that is not l_p.

    Guarantee: holds for every sequence, deterministic, in every norm at once.

    Example:
        >>> from corollary.calibration import Simplex
        >>> bound = calibration_bound(Simplex(2), 4096, levels=2, branching=64)
        >>> round(bound.error, 3), bound.trivial, bound.vacuous
        (1.026, 2.0, False)

    Reference: derived here from the proof of arXiv:2505.21460, Theorem 3.1 (read in full); tested on random and
        adversarial sequences.
    """
    if rounds < 1:
        raise InvalidInputError(f"`rounds` must be at least 1, got {rounds}")
    if order_of(norm) is None:
        raise InvalidInputError("bounds are known in l_p norms only; give the number p")
    made = tuple(known_regularisers(domain, norm).values()) if regularisers is None else tuple(regularisers)
    y = None if outcomes is None else stream(outcomes, domain)[:rounds]
    diameter = domain.diameter(norm)
    pull = mixing * domain.farthest(domain.centre, norm)
    squared = 0.0
    for epoch, count in Schedule(levels, branching, horizon, leaf).epochs(rounds):
        part = None if y is None else y[epoch.begin : epoch.begin + count]
        gap = min(min(r.spread, r.rate, np.inf if part is None else r.gap(part)) for r in made)
        root = np.sqrt(gap * count / levels) + diameter * np.sqrt(closeness(epoch, count)) + pull * np.sqrt(count)
        squared += min(root**2, diameter**2 * count)
    squared /= rounds
    return Bound(float(np.sqrt(squared)), float(squared), diameter)


def pure_excess(diameter: float, rounds: int, levels: int = 4, branching: int = 8, *, samples: int = 16) -> float:
    r"""How far the expected pure l2 calibration error of `SampleTreeCal` lies above TreeCal's, at most; a total.

    .. math:: \mathrm{diam} \sum_n \sqrt{T_n (1/L)(1 - 1/L)}

    Args:
        diameter: of the set, in l2.
        rounds: T.
        levels, branching, samples: as in `SampleTreeCal`.

    Guarantee: the draws of a node are independent of its outcomes given the past; the deviation of a node is a
        martingale whose steps have conditional second moment at most diam^2 (1/L)(1 - 1/L); Jensen's inequality.

    Example:
        >>> round(pure_excess(2.0, 4096, 2, 8, samples=64) / 4096, 4)
        0.1692

    Reference: derived; the paper's version is Theorem E.1 of arXiv:2505.21460.
    """
    total = 0.0
    for epoch, count in Schedule(levels, branching, None, samples).epochs(rounds):
        for block in epoch.blocks:
            full, rest = divmod(count, block)
            total += full * np.sqrt(block) + np.sqrt(rest)
    return float(diameter * total * np.sqrt((1 - 1 / levels) / levels))


class NormRow(NamedTuple):
    """One norm's error of a run, with the bounds beside it; each a round's share.

    Guarantee: none; see `every_norm`.

    Example:
        >>> NormRow("l1", 0.1, 1.2, 2.0, "simplex").norm
        'l1'
    """

    norm: str
    error: float
    theorem: float
    trivial: float
    domain: str


def every_norm(
    forecasts: ArrayLike,
    weights: ArrayLike | None,
    outcomes: ArrayLike,
    domain: ConvexSet | Sequence[ConvexSet],
    *,
    norms: Iterable[Any] = (1, 1.5, 2, 4, np.inf),
    **tree: Any,
) -> list[NormRow]:
    """One run's forecasts checked in every norm and over every set that holds the outcomes: it was told none of them.

    Args:
        forecasts, weights, outcomes: as in `calibration_error`.
        domain: the set of the outcomes, or several.
        norms: which.
        tree: the arguments of `TreeCal` that the forecasts were made with.

    Guarantee: for forecasts of TreeCal on these outcomes, begun inside of the sets, `error <= theorem` in every row.

    Example:
        >>> import numpy as np
        >>> from corollary.calibration import Ball, Simplex, replay
        >>> run = replay(np.eye(3)[np.arange(64) % 3], levels=2, branching=8)
        >>> found = every_norm(run.forecasts(), None, run.outcomes, (Simplex(3), Ball(3)), levels=2, branching=8)
        >>> [row.norm for row in found[:5]], all(row.error <= row.theorem for row in found), found[9].domain
        (['l1', 'l1.5', 'l2', 'l4', 'linf'], True, 'ball')
    """
    data = announced(forecasts, weights, outcomes)
    groups, T = group(data), len(data.outcomes)
    chosen, rows = tuple(norms), []
    for held in [domain] if isinstance(domain, ConvexSet) else domain:
        for norm in chosen:
            bound = calibration_bound(held, T, norm=norm, outcomes=data.outcomes, **tree)
            error = error_of(groups, norm=norm) / T
            rows.append(NormRow(norm_name(norm), error, bound.error, bound.trivial, type(held).__name__.lower()))
    return rows


def leader_errors(run: Any, norm: Any = 2) -> tuple[float, float, float]:
    """Squared labelled errors of a replay: TreeCal's, be-the-leader's, and between the two forecasts; totals.

    Example:
        >>> import numpy as np
        >>> from corollary.calibration import replay
        >>> ftl, btl, between = leader_errors(replay(np.eye(2)[np.arange(16) % 2], levels=2, branching=4))
        >>> bool(np.sqrt(ftl) <= np.sqrt(btl) + np.sqrt(between))
        True
    """
    means = run.sums / run.rounds[:, None]
    ahead = be_the_leader(run)
    weight = run.rounds / run.levels
    return tuple(  # type: ignore[return-value]
        float(weight @ norm_values(a - b, norm) ** 2)
        for a, b in ((means, run.points), (means, ahead), (ahead, run.points))
    )


def be_the_leader(run: Any) -> np.ndarray:
    """(N, d) mean of the parent's outcomes up to and including each node of a replay."""
    out = np.empty_like(run.sums)
    for epoch, count in run.epochs:
        inside = (run.first >= epoch.begin) & (run.first < epoch.begin + count)
        for level, block in enumerate(epoch.blocks):
            mine = np.flatnonzero(inside & (run.level == level))
            parent = (run.first[mine] - epoch.begin) // (block * epoch.branching)
            sums, rounds = np.cumsum(run.sums[mine], 0), np.cumsum(run.rounds[mine])
            begins = np.searchsorted(parent, parent)  # first child of the same parent
            before = np.vstack([np.zeros_like(sums[:1]), sums])[begins]
            earlier = np.append(0, rounds)[begins]
            out[mine] = (sums - before) / (rounds - earlier)[:, None]
    return out
