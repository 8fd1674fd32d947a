r"""From a price sweep to one certified policy: a budget held, or a quality reached, with confidence 1 - delta.

Three disjoint sets of rows: those the router learned from, those on which policies are put in order and targets fixed
("choosing"), those on which they are tested ("certifying"). The sequence runs from the policy that most surely passes
to the one that would be best: for a budget from cheap to dear, for a quality from dear to cheap.

With gaps in the log: where propensities are known, doubly robust values
\(\hat q(x, a) + \frac{1[a\ asked]}{p} (q - \hat q(x, a))\), unbiased whatever \(\hat q\); else only requests whose
chosen model was asked, under the stated assumption that models were asked whatever the prompt and the outcome.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from corollary.certificates import Assumption, Certificate, Reference, Undecided, digest, refuse_reuse
from corollary.deferral._certificate import bounds, passed
from corollary.deferral.routing._log import RoutingLog
from corollary.deferral.routing._metrics import sweep_choices
from corollary.deferral.routing._prompt_router import PromptRouter
from corollary.errors import InvalidInputError

SEQUENCE = 8  # policies tried; each costs nothing but the chance to stop early
SAFE, BOLD = 2.5, 0.0  # standard errors of room beyond the bound's own width, for the first and the last policy
RULE = "deferral.cost_and_quality"
LTT = Reference(
    "Angelopoulos, Bates, Candes, Jordan, Lei (2021), Learn then Test; Waudby-Smith and Ramdas (2024), betting",
    "fixed-sequence testing of joint nulls",
    "reconstructed from the published method",
)


class Calibrated(NamedTuple):
    """The price that was certified, the certificate, its evidence.

    Example:
        >>> Calibrated._fields
        ('price', 'certificate', 'evidence')
    """

    price: float
    certificate: Certificate
    evidence: dict[str, np.ndarray]


def outcomes(log: RoutingLog, choice: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, J) cost and quality of the chosen models; NaN where nothing is known (see the module head)."""
    rows = np.arange(len(log))[:, None]
    quality, cost = log.quality[rows, choice], log.costs[rows, choice]
    if log.propensity is None:
        return (np.where(np.isnan(quality), np.nan, cost) if _varies(log) else cost), quality
    seen = ~np.isnan(quality)
    weight = np.where(seen, 1 / np.where(seen, log.propensity[rows, choice], 1.0), 0.0)
    guess = values[rows, choice]
    robust = guess + weight * (np.where(seen, quality, guess) - guess)
    if _varies(log):
        mean = log.costs.mean(0)[choice]
        cost = mean + weight * (np.where(seen, cost, mean) - mean)
    return cost, robust


def calibrate(
    router: PromptRouter,
    log: RoutingLog,
    *,
    budget: float | None = None,
    quality: float | None = None,
    delta: float = 0.05,
    largest_cost: float | None = None,
    trained_on: Any = None,
    share: float = 0.5,
    attempts: int = 1,
    provenance: Mapping[str, Any] | None = None,
) -> Calibrated:
    """Choose a price for a budget or a quality target, and certify it.

    Args:
        router: fitted; its price sweep gives the policies.
        log: rows that the router has not seen.
        budget: mean cost per request, in the log's unit.
        quality: mean quality wanted, as a share of the best single model's (e.g. .95); its mean quality is measured on
            the choosing rows, which turns the share into a fixed number.
        delta: probability that the statement is false.
        largest_cost: what no request can cost more than; by default one and a half times the largest in the choosing
            rows where costs vary, the dearest price where they are fixed.
        trained_on: hashes of the rows that the router learned from; they are refused here.
        share: of the rows that choose; the rest certifies.
        attempts: how often this log was used to certify, this time included.
        provenance: for the reader.

    Returns:
        The price, the certificate (undecided where nothing could be certified), and its evidence.

    Raises:
        InvalidInputError: where neither or a senseless target is given.
        ReusedRowsError: for rows that the router was trained on.

    Guarantee: for independent (exchangeable) requests the certified statement is false with probability at most delta,
        over the certifying rows.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> hard = rng.random(3000) < 0.5
        >>> log = RoutingLog(tuple(f"{'hard' if h else 'easy'} {i}" for i, h in enumerate(hard)), ("cheap", "dear"),
        ...                  np.stack([rng.random(3000) < 0.9 - 0.6 * hard, rng.random(3000) < 0.9], 1) * 1.0)
        >>> router = PromptRouter().fit(log.select(slice(0, 1000)))
        >>> found = calibrate(router, log.select(slice(1000, None)), budget=0.6)
        >>> found.certificate.check(**found.evidence).status.name
        'HOLDS'

    Reference: as the module head; the order and the margins are ours.
    """
    if (budget is None) == (quality is None):
        raise InvalidInputError("give either `budget`, in the log's unit, or `quality`, a share of the best model's")
    if (budget is not None and not budget >= 0) or (quality is not None and not 0 < quality <= 1.5):
        raise InvalidInputError(f"`budget` must be at least 0 and `quality` a share, got {budget}, {quality}")
    if tuple(log.models) != router.models:
        raise InvalidInputError(
            f"the log's models are {', '.join(log.models)}, the router's {', '.join(router.models)}"
        )
    if not 0 < delta < 1 or not 0 < share < 1:
        raise InvalidInputError(f"`delta` and `share` must lie strictly between 0 and 1, got {delta}, {share}")
    rows = log.row_hashes()
    if trained_on is not None:
        refuse_reuse(rows, training=trained_on)
    # equal prompts always fall on the same side
    choosing = (rows >> np.uint64(20)) % np.uint64(10_000) < share * 10_000
    if min(choosing.sum(), (~choosing).sum()) < 2:
        raise InvalidInputError(f"{len(log)} rows are too few to choose and to certify; give at least 60")
    first, second = log.select(choosing), log.select(~choosing)
    worth = router.values(log.prompts, log.given)
    plan = _plan(router, first, worth[choosing], len(second), delta=delta, budget=budget, quality=quality)
    choice = sweep_choices(worth[~choosing], router.costs, plan["prices"])
    cost, good = outcomes(second, choice, worth[~choosing])
    evidence = {"cost": cost, "quality": good, "rows": rows[~choosing]}
    ranges = _ranges(first, largest_cost)
    count = _passed(evidence, budget, plan["targets"], delta=delta, ranges=ranges)
    chosen = max(count - 1, 0)
    keep = slice(0, chosen + 1)
    evidence = {"cost": cost[:, keep], "quality": good[:, keep], "rows": rows[~choosing]}
    # Policies after the chosen one played no part in the statement, so the evidence stops at it.
    price = float(plan["prices"][chosen])
    witness = {
        "delta": delta,
        "budget": budget,
        "unit": log.unit,
        "quality": plan["targets"][keep].tolist(),
        "prices": [p if np.isfinite(p) else "infinite" for p in plan["prices"][keep].tolist()],
        "chosen": chosen,
        "ranges": ranges,
        "state_quality": True,
        "dearest": float(router.costs.max()),
        "cheapest_quality": plan["cheapest_quality"],
    }
    certificate = Certificate.issue(
        RULE,
        statement=_statement(witness, count, delta),
        evidence=evidence,
        witness=witness,
        reference=LTT,
        assumptions=_assumptions(log, ranges),
        confidence=1 - delta,
        pins={"router": router.fingerprint(price=price), "choosing": digest(rows=rows[choosing])},
        attempts=attempts,
        provenance=provenance,
    )
    return Calibrated(price, certificate, evidence)


def _plan(
    router: PromptRouter,
    first: RoutingLog,
    worth: np.ndarray,
    size: int,
    *,
    delta: float,
    budget: float | None,
    quality: float | None,
) -> dict[str, Any]:
    """Prices in the order of testing, and the quality each must reach: all from the choosing rows."""
    grid = router.sweep
    cost, good = outcomes(first, sweep_choices(worth, router.costs, grid), worth)
    (mean_cost, error_cost, width_cost), (mean_good, error_good, width_good) = (
        _moments(x, size, delta) for x in (cost, good)
    )
    mean_good = np.where(np.isfinite(mean_good), mean_good, -np.inf)
    steps = np.linspace(SAFE, BOLD, SEQUENCE)
    if budget is not None:
        fits = [_last(mean_cost + width_cost + s * error_cost <= budget, -mean_cost) for s in steps]
        picks = np.array(list(dict.fromkeys(p for p in fits if p is not None)) or [int(np.argmin(mean_cost))])
        targets = np.maximum(mean_good[picks] - width_good[picks] - SAFE * error_good[picks], 0.0)
    else:
        wanted = (quality or 0.0) * float(first.mean_quality.max())
        fits = [_last(mean_good - width_good - s * error_good >= wanted, mean_cost) for s in steps]
        picks = np.array(list(dict.fromkeys(p for p in fits if p is not None)) or [int(np.argmax(mean_good))])
        targets = np.full(len(picks), wanted)
    cheapest = int(np.argmin(router.costs))
    return {"prices": grid[picks], "targets": targets, "cheapest_quality": float(first.mean_quality[cheapest])}


def _moments(x: np.ndarray, size: int, delta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each column: mean, standard error of its difference to `size` further rows, width of a bound there."""
    seen = ~np.isnan(x)
    count = np.maximum(seen.sum(0), 1)
    mean = np.where(seen.any(0), np.where(seen, x, 0.0).sum(0) / count, np.inf)
    spread = np.sqrt(np.where(seen, (x - np.where(seen.any(0), mean, 0.0)) ** 2, 0.0).sum(0) / count)
    certifying = count / len(x) * size
    log = np.log(1 / delta) / np.maximum(certifying, 1)
    least = 2 * float(np.nanmax(np.abs(x), initial=0.0)) * log  # what a betting bound needs even where nothing varies
    width = np.maximum(spread * np.sqrt(2 * log), least)
    return mean, spread * np.sqrt(1 / count + 1 / np.maximum(certifying, 1)), width


def _last(fits: np.ndarray, cost: np.ndarray) -> int | None:
    """The policy of least `cost` among those that fit; None where none does."""
    return int(np.flatnonzero(fits)[np.argmin(cost[fits])]) if fits.any() else None


def _varies(log: RoutingLog) -> bool:
    if log.cost is None:
        return False
    return bool((np.nanstd(log.cost, axis=0) > 1e-12 * np.nanmax(log.cost)).any())


def _ranges(first: RoutingLog, largest: float | None) -> dict[str, list[float]]:
    top = float(np.nanmax(first.costs)) * (1.5 if _varies(first) else 1.0)
    top = largest if largest is not None else max(top, 1e-12)
    if first.propensity is None:
        return {"cost": [0.0, top], "quality": [0.0, 1.0]}
    weight = 1 / float(np.nanmin(np.where(np.isnan(first.quality), np.nan, first.propensity)))
    spread = [top * (1 - weight), top * weight] if _varies(first) else [0.0, top]
    return {"cost": spread, "quality": [1 - weight, weight]}


def _passed(
    evidence: dict[str, np.ndarray], budget: float | None, targets: np.ndarray, *, delta: float, ranges: dict[str, Any]
) -> int:
    """How many policies of the sequence pass; 0 where the rows decide nothing."""
    try:
        upper, lower = bounds(evidence["cost"], evidence["quality"], evidence["rows"], delta=delta, ranges=ranges)
    except Undecided:
        return 0
    return passed(upper, lower, np.inf if budget is None else budget, targets)


def _statement(witness: Mapping[str, Any], count: int, delta: float) -> str:
    if count == 0:
        return "Nothing could be certified for this router at these targets."
    cost = "" if witness["budget"] is None else f"a mean cost of at most {witness['budget']:g} ({witness['unit']}) and "
    return (
        f"On traffic exchangeable with the certifying rows this one policy has {cost}a mean quality of at least "
        f"{witness['quality'][witness['chosen']]:.4f}, with confidence {1 - delta:g}."
    )


def _assumptions(log: RoutingLog, ranges: Mapping[str, Any]) -> list[Assumption]:
    found = [
        Assumption("requests are independent and come from the traffic that the log was drawn from"),
        Assumption(
            "nothing saw the certifying rows before", "row hashes against the router's training and choosing rows"
        ),
        Assumption(f"no request costs more than {ranges['cost'][1]:g}", "on every certifying row"),
    ]
    if not log.complete and log.propensity is None:
        found.append(
            Assumption("models were asked at random, whatever the prompt and whatever they would have answered")
        )
    if log.propensity is not None:
        found.append(Assumption("the logged propensities are those with which models were asked"))
    return found
