r"""What a calibrated router certifies, and how it is derived again; imports no solver and no trainer.

`deferral.cost_and_quality` [confidence 1 - delta]: on exchangeable traffic, for this one policy, mean cost <= B and
mean quality >= Q. Policies 1..J were put in order, and all targets fixed, on other rows. Policy j is tested at level
delta for "mean cost > B or mean quality < Q_j", which is rejected only where both one-sided bounds at level delta
clear their target (the larger p-value counts). Testing goes on while every test rejects (fixed sequence), so the
probability that any policy passed is a bad one is at most delta. The statement is about the last that passed.

Learn then Test: Angelopoulos, Bates, Candes, Jordan, Lei (2021), fixed-sequence testing; betting bounds after
Waudby-Smith and Ramdas (2024). Reconstructed from the published method.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from corollary.certificates import Claim, Rule, Undecided, betting, register_rule, require_units
from corollary.deferral import _ledger_certificate, _rejection_certificate  # noqa: F401  (register their rules)


def bounds(
    cost: np.ndarray, quality: np.ndarray, rows: np.ndarray, *, delta: float, ranges: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """(J,) upper bounds of the mean costs and lower bounds of the mean qualities, each at level delta.

    Args:
        cost, quality: (n, J) of every unit under every policy; NaN where the answer was never seen.
        rows: (n,) content hashes; they fix the order of the bets.
        delta: level of every single bound.
        ranges: `cost` and `quality`: [low, high] that no unit can leave.

    Example:
        >>> x = np.full((400, 1), 0.5)
        >>> upper, lower = bounds(x, x, np.arange(400), delta=0.1, ranges={"cost": [0, 1], "quality": [0, 1]})
        >>> bool(0.5 < upper[0] < 0.6), bool(0.4 < lower[0] < 0.5)
        (True, True)
    """
    order = np.argsort(rows, kind="stable")
    upper, lower = np.empty(cost.shape[1]), np.empty(cost.shape[1])
    for j in range(cost.shape[1]):
        upper[j] = _bound(cost[order, j], rows[order], "cost", delta, ranges)
        lower[j] = _bound(quality[order, j], rows[order], "quality", delta, ranges)
    return upper, lower


def _bound(values: np.ndarray, rows: np.ndarray, name: str, delta: float, ranges: Mapping[str, Any]) -> float:
    """Upper bound of a mean cost or lower bound of a mean quality, over the units where it was seen."""
    low, high = ranges[name]
    seen = ~np.isnan(values)
    require_units(len(np.unique(rows[seen])), f"distinct requests with a known {name}")
    x = values[seen]
    if not high > low or x.min() < low - 1e-12 or x.max() > high + 1e-12:
        raise Undecided(f"a {name} lies outside [{low:g}, {high:g}], the range that was fixed beforehand")
    clipped = np.clip(x, low, high)
    if name == "cost":
        return float(betting(clipped, delta=delta, low=low, high=high, side="upper").upper)
    return float(betting(clipped, delta=delta, low=low, high=high, side="lower").lower)


def passed(upper: np.ndarray, lower: np.ndarray, budget: float, quality: np.ndarray) -> int:
    """How many policies pass before the first that fails.

    Example:
        >>> passed(np.array([0.1, 0.2, 0.4]), np.array([0.5, 0.6, 0.7]), 0.3, np.array([0.5, 0.5, 0.5]))
        2
    """
    good = (upper <= budget) & (lower >= quality)
    return int(np.argmin(good)) if not good.all() else len(good)


def cost_and_quality(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `cost`, `quality` (n, J) and `rows` (n,)."""
    target = np.asarray(witness["quality"], dtype=np.float64)
    if evidence["cost"].shape != evidence["quality"].shape or evidence["cost"].shape[1] != len(target):
        raise Undecided("costs, qualities and targets are not of the same policies")
    upper, lower = bounds(
        evidence["cost"], evidence["quality"], evidence["rows"], delta=witness["delta"], ranges=witness["ranges"]
    )
    budget = float("inf") if witness["budget"] is None else float(witness["budget"])
    count = passed(upper, lower, budget, target)
    chosen = int(witness["chosen"])
    if count == 0:
        raise Undecided(
            f"already the first policy fails: cost <= {upper[0]:.4g} against {budget:.4g}, "
            f"quality >= {lower[0]:.4g} against {target[0]:.4g}"
        )
    claims = [
        Claim("policies of the fixed sequence that pass, up to this one", min(count, chosen + 1), ">=", chosen + 1)
    ]
    if witness["budget"] is not None:
        name = f"mean cost per request, {witness['unit']}"
        claims.append(Claim(name, upper[chosen], "<=", budget, 0.0, witness["dearest"]))
    if witness["state_quality"]:
        claims.append(Claim("mean quality", lower[chosen], ">=", target[chosen], 0.0, witness["cheapest_quality"]))
    return claims


register_rule(
    Rule(
        "deferral.cost_and_quality",
        needs=("cost", "quality", "rows"),
        derive=cost_and_quality,
        tolerances={"claims": 1e-9},
    )
)
