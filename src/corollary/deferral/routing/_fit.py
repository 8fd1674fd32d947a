"""The job of `corollary route fit`: split, learn, measure, certify, and write the run folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from corollary.certificates import Certificate, digest, save_certificate
from corollary.deferral.routing._averaged import AveragedRouter
from corollary.deferral.routing._baselines import LengthRouter, NeighbourRouter
from corollary.deferral.routing._calibration import Calibrated, calibrate
from corollary.deferral.routing._evaluation import evaluate
from corollary.deferral.routing._features import Features
from corollary.deferral.routing._log import RoutingLog
from corollary.deferral.routing._monitor import value_gap
from corollary.deferral.routing._prompt_router import PromptRouter
from corollary.errors import InvalidInputError
from corollary.runs import RunFolder, read_json, read_tensors, write_json, write_tensors

HELD_OUT = 0.2  # of the rows, for the figures of a fit without a target
KEPT_ASIDE = 0.4  # of the rows, for choosing and certifying where a target is given
ROUTER = "router"
AVERAGED = "averaged"  # in the place of features: several routers, each with its own
Peers = tuple[LengthRouter, NeighbourRouter]


def fit_run(
    run: RunFolder,
    log: RoutingLog,
    *,
    budget: float | None = None,
    quality: float | None = None,
    features: str = "hash",
    loss: str = "value",
    l2: float = 2.0,
    delta: float = 0.05,
    repeats: int = 100,
    seed: int = 0,
    tell: Callable[[str, float], Any] = lambda what, share: None,
) -> tuple[dict[str, Any], Certificate | None]:
    """Fit a router on a log and write it, its peers, its figures and, for a target, its certificate.

    Without a target the figures come from a fit on 80 % of the rows, and the stored router learns from all of them;
    with one the stored router learns from 60 %, and the rest chooses and certifies.
    """
    certifying = budget is not None or quality is not None
    aside = split_rows(log, KEPT_ASIDE if certifying else HELD_OUT, seed=seed)
    learning, rest = log.select(~aside), log.select(aside)
    tell("learning", 0.2)
    router, peers = _learn(learning, features=features, loss=loss, l2=l2)
    tell("measuring", 0.6)
    metrics: dict[str, Any] = {}
    if rest.complete:
        metrics = evaluate_router(router, rest, peers=peers, repeats=repeats, seed=seed)
    else:
        metrics = {
            "prompts": len(rest),
            "unit": log.unit,
            "note": "not measured: the log has gaps",
            "models": {},
            "routers": {},
        }
    if not certifying:
        tell("learning from all rows", 0.75)
        learning = log
        router, peers = _learn(log, features=features, loss=loss, l2=l2)
    certificate = None
    _write_router(run.path, router, peers, learning)
    if certifying:
        tell("certifying", 0.9)
        certificate = calibrate_run(run.path, router, rest, budget=budget, quality=quality, delta=delta).certificate
        if rest.complete:  # the figures of the policy that was certified, not of the price before
            metrics["policy"] = policy_of(router, rest)
    metrics["roles"] = dict(log.roles)
    write_json(run.inside("metrics.json"), metrics)
    return metrics, certificate


def calibrate_run(
    folder: Path, router: PromptRouter, log: RoutingLog, *, budget: float | None, quality: float | None, delta: float
) -> Calibrated:
    """Certify a policy on rows the router never saw, store the certificate, and make the policy the router's own."""
    place = folder / ROUTER if (folder / ROUTER).is_dir() else folder
    trained = read_tensors(place / "trained.safetensors")["rows"]
    attempts = _attempts(folder, digest(rows=log.row_hashes()), f"{budget} {quality} {delta}")
    found = calibrate(
        router, log, budget=budget, quality=quality, delta=delta, trained_on=trained, attempts=attempts,
        provenance={"prompts": len(log)},
    )  # fmt: skip
    if found.certificate.claims:
        router.price = found.price
        router.save(place)
    certified = np.isin(log.row_hashes(), found.evidence["rows"])
    if certified.any():  # what a drift monitor compares new traffic with
        scores = value_gap(router.values(log.prompts, log.given)[certified], router.costs)
        write_tensors(place / "drift.safetensors", {"scores": scores})
    save_certificate(folder, found.certificate, found.evidence)
    return found


def evaluate_router(
    router: PromptRouter, log: RoutingLog, *, peers: Peers | None, repeats: int, seed: int
) -> dict[str, Any]:
    """`evaluate` for a router and its peers; the router's own figures also at the top."""
    if tuple(log.models) != router.models:
        raise InvalidInputError(
            f"the log's models are {', '.join(log.models)}, the router's {', '.join(router.models)}"
        )
    x = router.features.transform(log.prompts, log.given)
    values = {"router": router.values(log.prompts, log.given)}
    if peers is not None:
        values |= {"length": peers[0].values(_lengths(log)), "nearest neighbours": peers[1].values(x)}
    metrics = evaluate(log, values, repeats=repeats, seed=seed, against=None)
    own = metrics["routers"]["router"]
    top = {k: own[k] for k in ("aiq", "apgr", "cpt20", "cpt50", "cpt80", "frontier", "interval") if k in own}
    calibration = calibration_of(values["router"], log)
    return {**top, "policy": policy_of(router, log), "calibration": calibration, **metrics}


def policy_of(router: PromptRouter, log: RoutingLog) -> dict[str, Any]:
    """What the router does at its own price: mean cost and quality, who gets what share."""
    choice = router.route(log.prompts, given=log.given)
    rows = np.arange(len(log))
    return {
        "price": router.price if np.isfinite(router.price) else "infinite",
        "cost": float(log.costs[rows, choice].mean()),
        "quality": float(log.quality[rows, choice].mean()),
        "share": {m: float((choice == k).mean()) for k, m in enumerate(log.models)},
    }


def calibration_of(values: np.ndarray, log: RoutingLog, *, bins: int = 10) -> dict[str, dict[str, list[float]]]:
    """What the router held each model to be worth against what it was worth: means over bins of equal size.

    Example:
        >>> log = RoutingLog(tuple("abcd"), ("x", "y"), np.array([[0.0, 1], [0, 1], [1, 1], [1, 1]]))
        >>> calibration_of(np.array([[0.1, 0.9], [0.1, 0.9], [0.8, 0.9], [0.8, 0.9]]), log, bins=2)["x"]
        {'worth': [0.1, 0.8], 'quality': [0.0, 1.0]}
    """
    found = {}
    for k, model in enumerate(log.models):
        order = np.array_split(np.argsort(values[:, k], kind="stable"), min(bins, len(values)))
        found[model] = {
            "worth": [float(values[rows, k].mean()) for rows in order],
            "quality": [float(log.quality[rows, k].mean()) for rows in order],
        }
    return found


def split_rows(log: RoutingLog, share: float, *, seed: int) -> Bool[np.ndarray, " n"]:
    """(N,) which rows are kept aside: whole groups where the log has groups; equal prompts stay together.

    Example:
        >>> log = RoutingLog(tuple("abcdefghij"), ("x", "y"), np.ones((10, 2)))
        >>> int(split_rows(log, 0.4, seed=0).sum())
        4
    """
    keys = np.asarray(log.prompts if log.group is None else log.group)
    _, label = np.unique(keys, return_inverse=True)
    order = np.random.default_rng(seed).permutation(label.max() + 1)
    size = np.bincount(label)[order]
    aside = order[np.cumsum(size) <= round(share * len(log))]
    found = np.isin(label, aside)
    if found.all() or not found.any():
        raise InvalidInputError(f"{len(log)} rows cannot be split in two; give more, or smaller groups")
    return found


def load_peers(folder: Path) -> Peers | None:
    """The peers stored beside a router; None where there are none."""
    place = folder / ROUTER if (folder / ROUTER).is_dir() else folder
    if not (place / "peers.safetensors").exists():
        return None
    arrays = read_tensors(place / "peers.safetensors")
    length = LengthRouter()
    length.edges, length.table = arrays["length/edges"], arrays["length/table"]
    near = {n.removeprefix("near/"): a for n, a in arrays.items() if n.startswith("near/")}
    return length, NeighbourRouter().restore(near)


def _learn(log: RoutingLog, *, features: str, loss: str, l2: float) -> tuple[PromptRouter, Peers]:
    if features == AVERAGED:
        router: PromptRouter = AveragedRouter()
    else:
        router = PromptRouter(features=Features(features), loss=loss, l2=l2)
    x = router.features.fit_transform(log.prompts, log.given)
    router.fit_features(x, log)
    return router, (LengthRouter().fit(_lengths(log), log.quality), NeighbourRouter().fit(x, log.quality))


def _write_router(folder: Path, router: PromptRouter, peers: Peers, learning: RoutingLog) -> None:
    place = router.save(folder / ROUTER)
    write_tensors(place / "trained.safetensors", {"rows": learning.row_hashes()})
    arrays: Mapping[str, np.ndarray] = {f"near/{n}": a for n, a in peers[1].arrays().items()}
    write_tensors(
        place / "peers.safetensors", {**arrays, "length/edges": peers[0].edges, "length/table": peers[0].table}
    )


def _lengths(log: RoutingLog) -> np.ndarray:
    return np.array([len(p) for p in log.prompts])


def _attempts(folder: Path, split: str, setting: str) -> int:
    """How often statements were drawn from these rows; the same targets again count once."""
    path = folder / "attempts.json"
    seen = read_json(path) if path.exists() else {}
    tried = seen.get(split[:16], [])
    if setting not in tried:
        tried = [*tried, setting]
        write_json(path, seen | {split[:16]: tried})
    return len(tried)
