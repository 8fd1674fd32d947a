r"""What is certified of a realised sequence, and how it is derived again; imports no solver.

`calibration.realised` (deterministic): from the announced forecasts, their weights and the outcomes it derives

- the calibration error a round in each norm, at most what is stated; without any method it is at most the diameter;
- the swap regret of the Brier score, equal to the squared calibration error (Lemma 2.2);
- where the forecasts are TreeCal's: that they are (its trees are run again on the outcomes), and that the error is at
  most the theorem's bound, for every sequence and for the spread of these outcomes.

Fishelson, Golowich, Mohri and Schneider, arXiv:2505.21460 (read in full); constants of the bound derived in `_bounds`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corollary.calibration._bounds import calibration_bound
from corollary.calibration._groups import announced, group
from corollary.calibration._measures import error_of, swap_regret
from corollary.calibration._norms import norm_name, order_of
from corollary.calibration._replay import replay
from corollary.calibration._sets import set_from_plain
from corollary.certificates import Claim, Rule, Undecided, register_rule
from corollary.errors import InvalidInputError

SAME = 1e-9  # distance at which a forecast still is the algorithm's: sums in another order


def realised(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `forecasts` (T, L, d), `weights` (T, L), `outcomes` (T, d)."""
    try:
        domain, data = set_from_plain(witness["set"]), announced(*(evidence[n] for n in NEEDS))
        inside = domain.contains(data.outcomes)
    except InvalidInputError as problem:
        raise Undecided(str(problem)) from None
    if not inside.all():
        raise Undecided(f"round {int(np.argmin(inside)) + 1}: the outcome lies outside of the set")
    groups, T, tree = group(data), len(data.outcomes), witness.get("tree")
    claims = []
    for norm, stated in zip(witness["norms"], witness["errors"], strict=True):
        p = order_of(norm)
        error, trivial = error_of(groups, norm=p) / T, domain.diameter(p)
        name = f"{norm_name(p)} calibration error a round"
        claims.append(Claim(name, error, "<=", stated, 1e-9, trivial))
        if tree:
            known = bounds(witness, data.outcomes, p)
            claims += [
                Claim(f"{name}, the theorem for every sequence", error, "<=", known["every sequence"], 1e-9, trivial),
                Claim(f"{name}, the theorem for this spread", error, "<=", known["this spread"], 1e-9, trivial),
            ]
    squared = error_of(groups, norm="squared")
    regret = swap_regret(*data)
    claims.append(Claim("swap regret of the Brier score, all rounds", regret, "==", squared, 1e-9 * max(1.0, squared)))
    if tree:
        own = replay(data.outcomes, domain=domain, **tree).forecasts()
        same = own.shape == data.forecasts.shape and bool(np.allclose(data.weights, 1 / own.shape[1], atol=SAME))
        gap = float(np.abs(own - data.forecasts).max()) if same else float("inf")
        claims.append(Claim("largest difference of a forecast from TreeCal's", gap, "<=", SAME))
    return claims


def bounds(witness: Mapping[str, Any], outcomes: np.ndarray, norm: Any) -> dict[str, float]:
    """The theorem's bounds on the error a round, before and after the outcomes are known."""
    domain = set_from_plain(witness["set"])
    tree = {k: v for k, v in witness["tree"].items() if k != "start"}
    return {
        "every sequence": calibration_bound(domain, len(outcomes), norm=norm, **tree).error,
        "this spread": calibration_bound(domain, len(outcomes), norm=norm, outcomes=outcomes, **tree).error,
    }


def rescore(run: Path, witness: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Evidence of a run of `corollary calibrate`: its stream read again, its forecaster run again."""
    from corollary.calibration._calibrate import rescored

    return rescored(run)


NEEDS = ("forecasts", "weights", "outcomes")
register_rule(
    Rule("calibration.realised", needs=NEEDS, derive=realised, rescore=rescore, tolerances={"forecasts": SAME})
)
