r"""`AveragedRouter`: the mean of what several routers hold each model to be worth.

.. math:: v_k(x) = \frac1M \sum_m v^{(m)}_k(x)

Each member estimates the same \(E[quality_k | x]\); where their errors differ, the mean has the smaller one (the
squared error of a mean is at most the mean of the squared errors). Members differ by features and surrogate.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.certificates import digest
from corollary.deferral.routing._log import RoutingLog
from corollary.deferral.routing._metrics import price_grid, sweep_choices
from corollary.deferral.routing._prompt_router import JSON, TENSORS, Decision, PromptRouter
from corollary.errors import InvalidInputError
from corollary.runs import write_json, write_tensors

KIND = "corollary-averaged-router"


def standard_members() -> list[PromptRouter]:
    """Hashed words, pairs and characters by the logistic surrogate; TF-IDF of words and pairs by the squared one."""
    return [PromptRouter(features="hash-characters", l2=4.0), PromptRouter(features="tfidf", loss="squared", l2=60.0)]


class AveragedRouter(PromptRouter):
    r"""Route by the mean of several routers' estimates: slower than one, steadier.

    .. math:: \arg\max_k \frac1M \sum_m v^{(m)}_k(x) - \lambda\, \overline{cost}_k

    Args:
        members: unfitted routers with losses whose values are estimates of quality ("value", "squared"); by default
            `hash-characters` with "value" and `tfidf` with "squared".
        price: \(\lambda\), as in `PromptRouter`.

    Raises:
        InvalidInputError: for no members, or a loss whose values are a policy.

    Guarantee: pointwise, the squared error of the mean is at most the mean squared error of the members. `calibrate`
        certifies one price, as for one router.

    Example:
        >>> log = RoutingLog(tuple(f"{w} {i}" for i in range(40) for w in ("hard", "easy")), ("cheap", "dear"),
        ...                  np.array([[0.0, 1.0], [1.0, 1.0]] * 40))
        >>> members = [PromptRouter(l2=0.1), PromptRouter(loss="squared", l2=0.1)]
        >>> router = AveragedRouter(members, price=0.5).fit(log)
        >>> router.decide("hard 99").model, router.decide("easy 99").model
        ('dear', 'cheap')

    Reference: as `PromptRouter`; averaging is ordinary.
    """

    def __init__(self, members: Sequence[PromptRouter] | None = None, *, price: float = 0.0) -> None:
        self.members = list(standard_members() if members is None else members)
        if not self.members or any(m.loss not in ("value", "squared") for m in self.members):
            raise InvalidInputError("`members` must be routers with loss 'value' or 'squared', one at least")
        super().__init__(features=self.members[0].features, loss=self.members[0].loss, price=price)

    def fit_features(self, x: Any, log: RoutingLog) -> "AveragedRouter":
        """As `fit`, with the first member's features computed before."""
        self.members[0].fit_features(x, log)
        for member in self.members[1:]:
            member.fit(log)
        self.models, self.unit, self.costs = log.models, log.unit, log.costs.mean(0)
        self.sweep = price_grid(self.values(log.prompts, log.given), self.costs)
        return self

    def values(self, prompts: Sequence[str], given: Any = None) -> Float[np.ndarray, "n k"]:
        """(N, K) mean of what the members hold each model to be worth."""
        self._check_fitted("values")
        return np.mean([m.values(prompts, given) for m in self.members], axis=0)

    def decide(self, prompt: str, *, price: float | None = None, given: Any = None) -> Decision:
        """The model for one prompt, as `PromptRouter.decide`."""
        self._check_fitted("decide")
        told = [m.decide(prompt, price=0.0, given=given).values for m in self.members]
        worth = np.array([[np.mean([t[name] for t in told]) for name in self.models]])
        at = self.price if price is None else float(price)
        chosen = int(sweep_choices(worth, self.costs, np.array([at]))[0, 0])
        return Decision(self.models[chosen], dict(zip(self.models, worth[0].tolist(), strict=True)), at)

    def explain(self, prompt: str, *, given: Any = None, most: int = 10) -> dict[str, Any]:
        """The decision of the mean, with the evidence of the first member."""
        decision = self.decide(prompt, given=given)
        found = self.members[0].explain(prompt, given=given, most=most)
        first = {"model": found["model"], "runner_up": found["runner_up"]}
        price = decision.price if np.isfinite(decision.price) else "infinite"
        return {**found, "model": decision.model, "values": decision.values, "price": price, "evidence_of": first}

    def save(self, folder: str | Path) -> Path:
        """Write `router.json`, `router.safetensors`, and a folder a member."""
        self._check_fitted("save")
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for i, member in enumerate(self.members):
            member.save(target / f"member-{i}")
        arrays = {"costs": self.costs, "sweep": self.sweep}
        write_tensors(target / TENSORS, arrays)
        body = {
            "format": 1,
            "kind": KIND,
            "members": len(self.members),
            "fingerprints": [m.fingerprint() for m in self.members],
            "models": list(self.models),
            "unit": self.unit,
            "price": self.price if np.isfinite(self.price) else "infinite",
            "sha256": digest(**arrays),
        }
        write_json(target / JSON, body)
        return target

    def fingerprint(self, *, price: float | None = None) -> str:
        """SHA-256 of everything a decision depends on."""
        at = repr(self.price if price is None else float(price))
        parts = [m.fingerprint(price=0.0) for m in self.members]
        return hashlib.sha256("".join([at, *parts, digest(costs=self.costs)]).encode()).hexdigest()


def restored(body: dict[str, Any], arrays: dict[str, np.ndarray], members: list[PromptRouter]) -> AveragedRouter:
    """The router that `save` wrote, from its parts."""
    if [m.fingerprint() for m in members] != body["fingerprints"]:
        raise ValueError("the members are not those that router.json speaks of")
    price = float("inf") if body["price"] == "infinite" else float(body["price"])
    router = AveragedRouter(members, price=price)
    router.models, router.unit = tuple(body["models"]), body["unit"]
    router.costs, router.sweep = arrays["costs"], arrays["sweep"]
    if any(m.models != router.models for m in members) or len(router.costs) != len(router.models):
        raise ValueError("members and costs are not of the same models")
    return router
