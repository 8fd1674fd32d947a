"""One evaluation for every router: all policies of its price sweep, the floors and ceilings, with intervals."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from corollary.deferral.routing._bootstrap import intervals
from corollary.deferral.routing._log import RoutingLog
from corollary.deferral.routing._metrics import (
    Curve,
    aiq,
    apgr,
    cost_at,
    cpt,
    hull,
    oracle_curve,
    price_grid,
    quality_at,
    routellm_curve,
    routellm_optimal,
    sweep_choices,
)
from corollary.errors import InvalidInputError

ORACLE, RANDOM = "oracle", "random"
COSTS = (25, 50, 75)  # percent of the way from the cheapest to the dearest model's cost
QUALITIES = (90, 95, 99)  # percent of the best single model's quality


def evaluate(
    log: RoutingLog, values: Mapping[str, Any], *, repeats: int = 200, seed: int = 0, against: str | None = None
) -> dict[str, Any]:
    """Measure routers on a log.

    Args:
        log: with every model asked on every prompt.
        values: name -> (N, K) what each model is worth by that router.
        repeats: bootstrap samples (whole groups where the log has groups); 0 for none.
        seed: of the bootstrap and of random routing.
        against: a name in `values`: paired intervals of all differences to it are added.

    Returns:
        Plain values: for each router `aiq`, `quality_at_25` (mean quality where a quarter of the way from the cheapest
        to the dearest model's cost is spent; 50, 75), `cost_at_90` (mean cost that reaches 90 % of the best single
        model's quality, None where nothing does; 95, 99), `frontier` (mean cost, quality), `interval`, and for two
        models `apgr`, `cpt20`, `cpt50`, `cpt80` (percent); the same for random mixing of single models and for the
        oracle; the models' own cost and quality.

    Raises:
        InvalidInputError: where a model was not asked on every prompt.

    Guarantee: none; bootstrap intervals are asymptotic.

    Example:
        >>> log = RoutingLog(("a", "b", "c"), ("cheap", "dear"), np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 1.0]]))
        >>> out = evaluate(log, {"knows": log.quality}, repeats=0)
        >>> round(out["routers"]["knows"]["aiq"], 4), round(out["routers"]["random"]["aiq"], 4)
        (0.7778, 0.6667)
    """
    if not log.complete:
        raise InvalidInputError("evaluation needs every model on every prompt; use `calibrate` for logs with gaps")
    n, cost = len(log), log.costs
    price = cost.mean(0)
    routers = {name: np.asarray(v, dtype=np.float64) for name, v in values.items()} | {ORACLE: log.quality}
    tables = {name: _policies(v, price, log.quality, cost) for name, v in routers.items()}
    pair = (1 - log.dearer, log.dearer) if len(log.models) == 2 else None
    shuffled = np.random.default_rng(seed).random(n)

    def measure(rows: np.ndarray) -> dict[str, float]:
        single_cost, single_quality = cost[rows].mean(0), log.quality[rows].mean(0)
        ends = _ends(single_cost, single_quality)
        curves = {RANDOM: Curve(single_cost, single_quality)}
        curves |= {name: Curve(c[rows].mean(0), q[rows].mean(0)) for name, (c, q) in tables.items()}
        found = {}
        for name, curve in curves.items():
            found[f"{name}|aiq"] = aiq(curve, *ends)
            found |= {f"{name}|{k}": v for k, v in _readings(curve, *ends, float(single_quality.max())).items()}
        if pair:
            w, s = log.quality[rows][:, pair[0]], log.quality[rows][:, pair[1]]
            for name, v in (*routers.items(), (RANDOM, None)):
                score = shuffled[rows] if v is None else v[rows, pair[1]] - v[rows, pair[0]]
                curve = oracle_curve(w, s) if name == ORACLE else routellm_curve(score, w, s)
                found |= {f"{name}|{k}": x for k, x in _two(curve, w.mean(), s.mean()).items()}
        if against is not None:
            found |= {
                f"{k}|over {against}": v - found[f"{against}|{k.rpartition('|')[2]}"]
                for k, v in list(found.items())
                if not k.startswith(f"{against}|") and k.endswith(("|aiq", "|apgr"))
            }
        return found

    point = measure(np.arange(n))
    spread = intervals(measure, n, group=log.group, repeats=repeats, seed=seed) if repeats else {}
    out: dict[str, Any] = {name: {"interval": {}} for name in (*routers, RANDOM)}
    for key, value in point.items():
        name, _, metric = key.partition("|")
        out[name][metric] = value if np.isfinite(value) else None
        if key in spread:
            out[name]["interval"][metric] = spread[key]
    for name, (c, q) in tables.items():
        shape = hull(c.mean(0), q.mean(0))
        out[name]["frontier"] = [{"cost": float(a), "quality": float(b)} for a, b in zip(*shape, strict=True)]
    result: dict[str, Any] = {
        "prompts": n,
        "unit": log.unit,
        "models": {
            m: {"cost": float(price[k]), "quality": float(log.quality[:, k].mean())} for k, m in enumerate(log.models)
        },
        "routers": out,
    }
    if pair:
        curve = routellm_optimal(log.quality[:, pair[0]], log.quality[:, pair[1]])
        result["routellm_optimal_apgr"] = apgr(curve, *(float(log.quality[:, i].mean()) for i in pair))
    return result


def at_budget(points: list[dict[str, float]], budget: float) -> float | None:
    """Quality of a frontier at a mean cost; None below its cheapest point.

    Example:
        >>> at_budget([{"cost": 0.0, "quality": 0.5}, {"cost": 1.0, "quality": 0.7}], 0.25)
        0.55
    """
    if budget < points[0]["cost"]:
        return None
    return float(np.interp(budget, [p["cost"] for p in points], [p["quality"] for p in points]))


def _policies(v: np.ndarray, price: np.ndarray, quality: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, M) cost and quality of every policy of the sweep, prompt by prompt."""
    if v.shape != quality.shape or not np.isfinite(v).all():
        raise InvalidInputError(f"a router's values must be finite and of shape {quality.shape}, got {v.shape}")
    choice = sweep_choices(v, price, price_grid(v, price))
    rows = np.arange(len(v))[:, None]
    return cost[rows, choice], quality[rows, choice]


def _ends(cost: np.ndarray, quality: np.ndarray) -> tuple[tuple[float, float], float]:
    cheapest = np.lexsort((-quality, cost))[0]
    return (float(cost[cheapest]), float(quality[cheapest])), float(cost.max())


def _readings(curve: Curve, cheapest: tuple[float, float], dearest: float, best: float) -> dict[str, float]:
    """Quality at shares of the range of costs, cost at shares of the best single model's quality."""
    span = dearest - cheapest[0]
    found = {f"quality_at_{s}": quality_at(curve, cheapest, cheapest[0] + s / 100 * span) for s in COSTS}
    return found | {f"cost_at_{s}": cost_at(curve, cheapest, s / 100 * best) for s in QUALITIES}


def _two(curve: Curve, weak: float, strong: float) -> dict[str, float]:
    out = {"apgr": apgr(curve, float(weak), float(strong))}
    return out | {f"cpt{p}": cpt(curve, float(weak), float(strong), p / 100) for p in (20, 50, 80)}
