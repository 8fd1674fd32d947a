"""`PromptRouter`: from a prompt to the name of a model; fitted on a log, stored as JSON and safetensors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from corollary.certificates import digest
from corollary.deferral._worth import values_of
from corollary.deferral.routing._features import Features
from corollary.deferral.routing._log import RoutingLog
from corollary.deferral.routing._metrics import price_grid, sweep_choices
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.runs import read_json, read_tensors, write_json, write_tensors

FORMAT = 1
JSON, TENSORS = "router.json", "router.safetensors"


class Decision(NamedTuple):
    """The chosen model, and what each model was held to be worth before its price.

    Example:
        >>> Decision("cheap", {"cheap": 0.8, "dear": 0.9}, 0.5).model
        'cheap'
    """

    model: str
    values: dict[str, float]
    price: float


class PromptRouter:
    r"""Route prompts between models: features, a linear two-stage router on them, and a price for money.

    .. math:: \arg\max_k v_k(x) - \lambda\, \overline{cost}_k

    Args:
        features: a preset of `Features`, or `Features`.
        loss: a kind of `two_stage_loss`; "value" needs no new training when the price changes.
        l2: penalty on the weights.
        price: \(\lambda\), quality per unit of cost; 0 asks for quality alone, infinity for the cheapest model.

    Guarantee: none by itself; `calibrate` certifies one price.

    Example:
        >>> log = RoutingLog(tuple(f"{w} {i}" for i in range(40) for w in ("hard", "easy")), ("cheap", "dear"),
        ...                  np.array([[0.0, 1.0], [1.0, 1.0]] * 40))
        >>> router = PromptRouter(l2=0.1, price=0.5).fit(log)
        >>> router.decide("hard 99").model, router.decide("easy 99").model
        ('dear', 'cheap')

    Reference: as `two_stage_loss`; the features are ordinary.
    """

    def __init__(
        self, *, features: str | Features = "hash", loss: str = "value", l2: float = 2.0, price: float = 0.0
    ) -> None:
        if not price >= 0:
            raise InvalidInputError(f"`price` must be at least 0, got {price}")
        self.features = features if isinstance(features, Features) else Features(features)
        self.loss, self.l2, self.price = loss, l2, float(price)
        self.models: tuple[str, ...] = ()
        self.costs: np.ndarray = np.zeros(0)
        self.coef: np.ndarray = np.zeros((0, 0))
        self.intercept: np.ndarray = np.zeros(0)
        self.sweep: np.ndarray = np.array([0.0])
        self.unit = ""

    def fit(self, log: RoutingLog) -> "PromptRouter":
        """Learn from a log; cells that were not asked are left out, or weighted by one over their propensity."""
        x = self.features.fit_transform(log.prompts, log.given)
        return self.fit_features(x, log)

    def fit_features(self, x: Any, log: RoutingLog) -> "PromptRouter":
        """As `fit`, on features that were computed before."""
        from corollary.deferral._two_stage_router import TwoStageRouter  # torch: to learn, not to decide

        cells = None
        if log.propensity is not None:
            seen = ~np.isnan(log.quality)
            cells = np.where(seen, 1 / np.where(seen, log.propensity, 1.0), 0.0)
            cells /= cells.sum() / seen.sum()  # the penalty then keeps its meaning
        inner = TwoStageRouter(loss=self.loss, l2=self.l2).fit(x, 1 - log.quality, cell_weight=cells)
        self.models, self.unit = log.models, log.unit
        self.costs = log.costs.mean(0)
        self.coef, self.intercept = inner.coef_.astype(np.float32), inner.intercept_
        self.sweep = price_grid(values_of(self._scores(x), self.loss), self.costs)
        return self

    def values(self, prompts: Sequence[str], given: Any = None) -> Float[np.ndarray, "n k"]:
        """(N, K) what each model is worth on each prompt, in [0, 1]."""
        return values_of(self._scores(self.features.transform(list(prompts), given)), self.loss)

    def route(self, prompts: Sequence[str], *, price: float | None = None, given: Any = None) -> Int[np.ndarray, " n"]:
        """(N,) index of the model for each prompt."""
        grid = np.array([self.price if price is None else price])
        return sweep_choices(self.values(prompts, given), self.costs, grid)[:, 0]

    def decide(self, prompt: str, *, price: float | None = None, given: Any = None) -> Decision:
        """The model for one prompt.

        Args:
            prompt: the text.
            price: another price than the stored one.
            given: (d,) numbers beside the prompt, where the router was fitted on some.
        """
        self._check_fitted("decide")
        column, value = self.features.entries(prompt, given)
        scores = value @ self.coef[column] + self.intercept
        worth = values_of(scores[None], self.loss)
        at = self.price if price is None else float(price)
        chosen = int(sweep_choices(worth, self.costs, np.array([at]))[0, 0])
        return Decision(self.models[chosen], dict(zip(self.models, worth[0].tolist(), strict=True)), at)

    def explain(self, prompt: str, *, given: Any = None, most: int = 10) -> dict[str, Any]:
        """Why a prompt goes where it goes: the features that speak for and against the choice.

        Returns:
            The decision, the runner-up, and `evidence`: features with what each adds to the score of the chosen model
            over the runner-up, largest first; `rest` and `bias` complete the difference.
        """
        decision = self.decide(prompt, given=given)
        column, value = self.features.entries(prompt, given)
        net = np.array([decision.values[m] for m in self.models])
        net = net - decision.price * self.costs if np.isfinite(decision.price) else -self.costs
        chosen = self.models.index(decision.model)
        order = [k for k in np.argsort(-net, kind="stable") if k != chosen]
        other = int(order[0])
        adds = value * (self.coef[column, chosen] - self.coef[column, other])
        names: dict[int, str] = {}
        for name, c in self.features.parts(prompt):
            names.setdefault(c, name)
        top = np.argsort(-np.abs(adds), kind="stable")[:most]
        return {
            "model": decision.model,
            "runner_up": self.models[other],
            "price": decision.price if np.isfinite(decision.price) else "infinite",
            "values": decision.values,
            "costs": dict(zip(self.models, self.costs.tolist(), strict=True)),
            "evidence": [{"feature": names.get(int(column[i]), "?"), "adds": float(adds[i])} for i in top],
            "rest": float(adds.sum() - adds[top].sum()),
            "bias": float(self.intercept[chosen] - self.intercept[other]),
        }

    def save(self, folder: str | Path) -> Path:
        """Write `router.json` and `router.safetensors` into a folder."""
        self._check_fitted("save")
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        plain, arrays = self.features.to_plain()
        kept = np.flatnonzero(np.abs(self.coef).max(axis=1) > 0)
        arrays = arrays | {"coef": self.coef[kept], "rows": kept, "width": np.array([len(self.coef)])}
        arrays |= {"intercept": self.intercept, "costs": self.costs, "sweep": self.sweep}
        write_tensors(target / TENSORS, arrays)
        body = {
            "format": FORMAT,
            "kind": "corollary-router",
            "models": list(self.models),
            "unit": self.unit,
            "loss": self.loss,
            "l2": self.l2,
            "price": self.price if np.isfinite(self.price) else "infinite",
            "features": plain,
            "sha256": digest(**arrays),
        }
        write_json(target / JSON, body)
        return target

    def fingerprint(self, *, price: float | None = None) -> str:
        """SHA-256 of everything a decision depends on, at this price or another."""
        import hashlib
        import json

        plain, arrays = self.features.to_plain()
        body = json.dumps([plain, list(self.models), self.loss, repr(self.price if price is None else float(price))])
        rest = digest(**arrays, coef=self.coef, intercept=self.intercept, costs=self.costs)
        return hashlib.sha256((body + rest).encode()).hexdigest()

    def _scores(self, x: Any) -> Float[np.ndarray, "n k"]:
        self._check_fitted("route")
        return np.asarray(x @ self.coef) + self.intercept

    def _check_fitted(self, method: str) -> None:
        if not self.models:
            from corollary.errors import NotFittedError

            raise NotFittedError(self, method)


def load(folder: str | Path) -> PromptRouter:
    """Read a router that `save` or `corollary route fit` wrote.

    Args:
        folder: the folder that holds `router.json`, or a run folder with `router/` in it.

    Raises:
        InvalidFileError: for absent, foreign, edited or truncated files.

    Example:
        >>> import tempfile
        >>> load(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidFileError: ...there is no such file; check the path
    """
    source = Path(folder)
    if not (source / JSON).exists() and (source / "router" / JSON).exists():
        source = source / "router"
    body = read_json(source / JSON)
    if not isinstance(body, dict) or body.get("kind") not in ("corollary-router", "corollary-averaged-router"):
        raise InvalidFileError(source / JSON, "not a router of Corollary", "give the folder of `corollary route fit`")
    if body.get("format") != FORMAT:
        raise InvalidFileError(
            source / JSON, f"of format {body.get('format')!r}, this version reads {FORMAT}", "fit again"
        )
    arrays = read_tensors(source / TENSORS)
    if digest(**arrays) != body.get("sha256"):
        raise InvalidFileError(source / TENSORS, "not the weights that router.json speaks of", "fit again")
    try:
        if body["kind"] == "corollary-averaged-router":
            from corollary.deferral.routing._averaged import restored

            return restored(body, arrays, [load(source / f"member-{i}") for i in range(int(body["members"]))])
        return _restored(body, arrays)
    except (KeyError, TypeError, ValueError, IndexError) as problem:
        raise InvalidFileError(
            source / JSON, f"incomplete ({type(problem).__name__}: {problem})", "fit again"
        ) from None


def _restored(body: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> PromptRouter:
    price = float("inf") if body["price"] == "infinite" else float(body["price"])
    features = Features.from_plain(body["features"], arrays)
    router = PromptRouter(features=features, loss=body["loss"], l2=body["l2"], price=price)
    router.models, router.unit = tuple(body["models"]), body["unit"]
    router.coef = np.zeros((int(arrays["width"][0]), len(router.models)), dtype=np.float32)
    router.coef[arrays["rows"]] = arrays["coef"]
    router.intercept, router.costs, router.sweep = arrays["intercept"], arrays["costs"], arrays["sweep"]
    if len(router.coef) != features.width or len(router.costs) != len(router.models):
        raise ValueError("weights and features do not fit together")
    return router
