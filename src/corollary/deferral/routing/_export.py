"""A linear router as one plain JSON object that thirty lines of any language can run, without Corollary."""

from typing import Any

import numpy as np

from corollary.deferral.routing._hashed import SALTS, HashedText
from corollary.deferral.routing._hashing import BASE, MIX, PAIR
from corollary.deferral.routing._prompt_router import PromptRouter
from corollary.deferral.routing._statistics import LIMIT, NAMES, SCALE, TextStatistics
from corollary.deferral.routing._tfidf import TfidfText
from corollary.errors import InvalidInputError

FORMAT = 1


def export(router: PromptRouter) -> dict[str, Any]:
    """Everything a decision needs, as plain values.

    Args:
        router: a fitted `PromptRouter` on text features.

    Returns:
        `models`, `costs`, `price`, `loss`, `intercept`, and `blocks`: for hashed features the constants of the hash and
        `weights`: bucket -> [idf, one weight a model]; for TF-IDF n-gram -> the same; for statistics a row each. The
        file `examples/in_depth/route_without_corollary.py` reads it with nothing but the standard library.

    Raises:
        InvalidInputError: where numbers beside the prompt are needed.

    Guarantee: none; weights are rounded to float32, as in the stored router.

    Example:
        >>> from corollary.deferral.routing import RoutingLog
        >>> log = RoutingLog(("one", "two") * 20, ("a", "b"), np.array([[0.0, 1.0], [1.0, 0.0]] * 20))
        >>> export(PromptRouter(features="hash-words").fit(log))["models"]
        ['a', 'b']
    """
    if hasattr(router, "members"):
        raise InvalidInputError("an averaged router has no plain form; export one of its `members`")
    if router.features.given is not None:
        raise InvalidInputError("a router that needs numbers beside the prompt has no plain form; use save and load")
    blocks, offset = [], 0
    for block in router.features.blocks:
        coef = router.coef[offset : offset + block.width]
        offset += block.width
        body: dict[str, Any] = {"kind": block.kind, "settings": block.settings()}
        if isinstance(block, TextStatistics):
            body |= {"names": list(NAMES), "scale": SCALE, "limit": LIMIT}
            body |= {"mean": block.mean.tolist(), "spread": block.spread.tolist(), "weights": coef.tolist()}
        else:
            keys: list[str] = []
            if isinstance(block, HashedText):
                body |= {"base": str(BASE), "mix": str(MIX), "pair": str(PAIR), "salts": SALTS}
                keys, idf = [str(b) for b in block.active.tolist()], block.idf
            elif isinstance(block, TfidfText):
                keys, idf = block.vocabulary, block.arrays()["idf"]
            else:
                raise InvalidInputError(f"features of kind {block.kind!r} have no plain form")
            table = np.column_stack([idf, coef]).round(8).tolist()
            body["weights"] = dict(zip(keys, table, strict=True))
        blocks.append(body)
    return {
        "format": FORMAT,
        "kind": "linear-router",
        "models": list(router.models),
        "costs": router.costs.tolist(),
        "price": router.price if np.isfinite(router.price) else "infinite",
        "loss": router.loss,
        "intercept": router.intercept.tolist(),
        "blocks": blocks,
    }
