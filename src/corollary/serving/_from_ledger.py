"""From a gateway's ledger to a routing log: judged requests with the probabilities of the draws of their models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corollary.deferral import OffPolicy, off_policy
from corollary.deferral._ledger_schema import NANO
from corollary.deferral.routing import PromptRouter, RoutingLog, read_log
from corollary.errors import InvalidInputError
from corollary.serving._ledger import GatewayLedger
from corollary.serving._wanted import prompt_hash


def judged(ledger: GatewayLedger) -> list[dict[str, Any]]:
    """Requests that the router sent, whose drawn model answered, and that were judged."""
    return [
        row for row in ledger.requests()
        if row["propensity"] and row["score"] is not None and row["served"] == row["drawn"]
        and row["propensity"].get(row["drawn"], 0) > 0
    ]  # fmt: skip


def ledger_log(ledger: GatewayLedger, *, prompts: Sequence[str] | None = None, unit: str = "money") -> RoutingLog:
    """A `RoutingLog` of the judged requests of a ledger.

    Args:
        ledger: of a gateway with feedback.
        prompts: texts by which hashed prompts are found again; None: the ledger must hold them.
        unit: of the money.

    Returns:
        One row a request; quality and cost of the model that answered, propensities of all.

    Raises:
        InvalidInputError: where there is no judged request, or prompts are hashed and not given.

    Guarantee: none; for requests judged whatever their answer was worth, weighting by one over the propensities is
        unbiased.

    Example:
        >>> import tempfile
        >>> ledger = GatewayLedger(f"{tempfile.mkdtemp()}/gateway.sqlite")
        >>> ledger_log(ledger)
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidInputError: the ledger holds no judged request that the router sent; give feedback first
        >>> ledger.close()
    """
    rows = judged(ledger)
    if not rows:
        raise InvalidInputError("the ledger holds no judged request that the router sent; give feedback first")
    known = {prompt_hash(text): text for text in prompts or ()}
    texts = [row["prompt"] if row["prompt"] is not None else known.get(row["hash"]) for row in rows]
    kept = [i for i, text in enumerate(texts) if text is not None]
    if not kept:
        raise InvalidInputError(
            'the ledger holds hashes of prompts only; set [ledger] prompts = "text", or give the texts with --texts'
        )
    drawn = sorted({rows[i]["drawn"] for i in kept})
    named = sorted({m for i in kept for m in rows[i]["propensity"]})
    if len(drawn) < 2:
        raise InvalidInputError(f"only {drawn[0]} was ever asked and judged; set [routing] exploration, e.g. 0.05")
    shape = (len(kept), len(drawn))
    quality, cost, chance = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    for r, i in enumerate(kept):
        row, k = rows[i], drawn.index(rows[i]["drawn"])
        quality[r, k], chance[r, k] = row["score"], row["propensity"][row["drawn"]]
        cost[r, k] = (row["money"] or 0) / NANO
    roles = {"prompt": "prompt", **{m: "model" if m in drawn else "never judged: left out" for m in named}}
    return RoutingLog(tuple(str(texts[i]) for i in kept), tuple(drawn), quality, cost, chance, unit=unit, roles=roles)


def policy_values(
    ledger: GatewayLedger, *, router: PromptRouter | None = None, delta: float = 0.05
) -> dict[str, dict[str, OffPolicy]]:
    """What policies would have been worth on the judged requests: each model alone, the router, uniform draws.

    Args:
        ledger: of a gateway that explores.
        router: valued too, by its values stored with each request or, where it is given, by its own choices.
        delta: probability that an interval misses.

    Returns:
        policy -> {"ips": ..., "dr": ...}; the guess of the doubly robust value is the worth written down at the
        request, before its reward was known.

    Raises:
        InvalidInputError: where there is nothing to value.

    Guarantee: that of `off_policy`, for requests judged whatever their answer was worth.

    Example:
        >>> import tempfile
        >>> ledger = GatewayLedger(f"{tempfile.mkdtemp()}/gateway.sqlite")
        >>> policy_values(ledger)
        {}
        >>> ledger.close()
    """
    rows = judged(ledger)
    models = sorted({m for row in rows for m in row["propensity"]})
    rows = [row for row in rows if len(row["propensity"]) == len(models)]
    if not rows:
        return {}
    place = {m: k for k, m in enumerate(models)}
    reward = np.array([row["score"] for row in rows])
    action = np.array([place[row["drawn"]] for row in rows])
    chance = _table(rows, models, "propensity")
    guess = np.clip(_table(rows, models, "worth"), 0.0, 1.0)
    one = np.eye(len(models))
    wanted = {f"always {m}": np.tile(one[k], (len(rows), 1)) for m, k in place.items()}
    wanted["uniform"] = np.full(chance.shape, 1 / len(models))
    wanted["as served"] = chance
    if router is not None and all(row["prompt"] is not None for row in rows):
        choice = router.route([row["prompt"] for row in rows])
        wanted["router"] = one[[place[router.models[k]] for k in choice]]
    found = {}
    for name, target in wanted.items():
        if not ((target > 0) & (chance <= 0)).any():
            found[name] = {
                "ips": off_policy(reward, action, chance, target, delta=delta),
                "dr": off_policy(reward, action, chance, target, guess=guess, delta=delta),
            }
    return found


def texts_of(path: Any) -> list[str]:
    """Prompts of a file, as `read_log` would find them, or one a line."""
    from pathlib import Path

    if Path(path).suffix == ".txt":
        return Path(path).read_text(encoding="utf-8").splitlines()
    return list(read_log(path).prompts)


def _table(rows: Sequence[Mapping[str, Any]], models: Sequence[str], name: str) -> np.ndarray:
    return np.array([[float((row[name] or {}).get(m, 0.0)) for m in models] for row in rows])
