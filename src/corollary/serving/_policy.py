"""The choice of a model for a request: the router's, with a known share of uniform draws.

With exploration eps over K allowed models, model k is drawn with probability (1 - eps) 1[k is the router's] + eps / K.
The probabilities are written down with the request, so that the log can value other policies without bias.
"""

import secrets
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from corollary.deferral.routing import PromptRouter, value_gap
from corollary.errors import InvalidInputError
from corollary.serving._config import RoutingTable

LONG = 20_000  # characters of a prompt whose features are computed beside the event loop


class Choice(NamedTuple):
    """What was decided for a request.

    Args:
        drawn: the model to ask.
        greedy: the model without exploration.
        order: all allowed models, the drawn one first, then by net worth.
        worth: model -> what it is held to be worth.
        propensity: model -> probability of being drawn.
        price: quality per unit of cost that was applied; infinite: the cheapest.
        gap: the score that the drift monitor watches.
        standard: whether this is the certified policy (no price, target or set of models of the request's own).
    """

    drawn: str
    greedy: str
    order: tuple[str, ...]
    worth: dict[str, float]
    propensity: dict[str, float]
    price: float
    gap: float
    standard: bool


class Policy:
    """A router with exploration.

    Args:
        router: fitted, on text alone.
        table: of the configuration.
    """

    def __init__(self, router: PromptRouter, table: RoutingTable) -> None:
        if router.features.fitted and router.features.given is not None:
            raise InvalidInputError(
                "the router needs numbers beside the prompt, which requests do not bring; fit one on text"
            )
        self.router, self.exploration = router, table.exploration
        self.price = router.price if table.price is None else table.price
        self.own_price = table.price is None or table.price == router.price
        self.name = router.fingerprint(price=self.price)[:16]
        seed = secrets.randbits(64) if table.seed is None else table.seed
        self._rng = np.random.default_rng(seed)

    def choose(
        self, prompt: str, *, allowed: Collection[str] | None = None, price: float | None = None,
        quality: float | None = None,
    ) -> Choice:  # fmt: skip
        """The model for a prompt.

        Args:
            prompt: the text.
            allowed: models of the router that may be used; None: all.
            price: instead of the policy's.
            quality: take the cheapest model held to be worth this; the worthiest where none is.

        Raises:
            InvalidInputError: where no model is allowed.
        """
        router, at = self.router, self.price if price is None else float(price)
        decision = router.decide(prompt, price=at)
        models = [m for m in router.models if allowed is None or m in allowed]
        if not models:
            raise InvalidInputError("none of the router's models may be used")
        cost = dict(zip(router.models, router.costs.tolist(), strict=True))
        worth = decision.values

        def net(model: str) -> float:
            return worth[model] - at * cost[model] if np.isfinite(at) else -cost[model]

        order = sorted(models, key=net, reverse=True)
        if quality is not None:
            good = sorted((m for m in models if worth[m] >= quality), key=lambda m: cost[m])
            order = [*good, *sorted((m for m in models if m not in good), key=lambda m: -worth[m])]
        elif decision.model in models:
            order = [decision.model, *(m for m in order if m != decision.model)]
        standard = self.own_price and price is None and quality is None and len(models) == len(router.models)
        share = self.exploration if price is None and quality is None else 0.0
        greedy = drawn = order[0]
        if share and self._rng.random() < share:
            drawn = models[int(self._rng.integers(len(models)))]
        propensity = {m: share / len(models) + (1 - share) * (m == greedy) for m in models}
        gap = float(value_gap([[worth[m] for m in router.models]], router.costs)[0])
        rest = tuple(m for m in order if m != drawn)
        return Choice(drawn, greedy, (drawn, *rest), worth, propensity, at, gap, standard)
