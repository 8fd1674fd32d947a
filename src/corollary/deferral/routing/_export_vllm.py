r"""A linear router on embeddings as a model-selection artifact of the vLLM semantic router (algorithm "mlp").

The artifact is a list of layers (linear, relu, batch_norm) on the vector that the gateway makes of a request: the
embedding followed by its 14 category indicators. So it can hold a router on numbers given beside the prompt, of just
these columns, and nothing of our text features. Layers, for standardised z and estimated worth \(\sigma(r_k)\):

- \(4 - clip(z, -4, 4) = relu(8 - relu(z + 4))\), two diagonal batch norms; then r is linear in it;
- price 0: the largest r. Two models under a softmax: a shift of one score by \(2\,artanh(\lambda \Delta)\). VALUE at a
  price: \(\sigma(r_k) - \lambda c_k\) with the sigmoid as a sum of hinges, off by at most `ERROR`.

Read: the parser and evaluator `src/semantic-router/pkg/modelselection/mlp.go` and `ml-binding/src/mlp.rs` of
vllm-project/semantic-router (Apache-2.0), as of late 2026; the gateway itself was not run here.
"""

from typing import Any

import numpy as np
from scipy.special import expit

from corollary.deferral.routing._prompt_router import PromptRouter
from corollary.deferral.routing._statistics import SCALE
from corollary.errors import InvalidInputError

CATEGORIES = 14  # indicators that the gateway appends to the embedding
CUT = 4.0  # standard deviations at which given numbers are cut, as in `Features`
KNOTS = np.arange(-12.0, 12.01, 0.125)
ERROR = 2.5e-4  # of the sigmoid between the knots: h^2 / 8 max |sigma''|
NEVER = 1e6


def vllm_artifact(router: PromptRouter) -> dict[str, Any]:
    """The router in the gateway's form.

    Args:
        router: fitted on given numbers alone (`features="none"`): the gateway's embedding, then its 14 indicators.

    Returns:
        A JSON object to be stored as `mlp_model.json`.

    Raises:
        InvalidInputError: where the form cannot hold the router; the sentence says what would.

    Example:
        >>> from corollary.deferral.routing import RoutingLog
        >>> rng = np.random.default_rng(0); x = rng.normal(size=(80, 3))
        >>> log = RoutingLog(tuple(map(str, range(80))), ("a", "b"), (x[:, :2] > 0) * 1.0, given=x)
        >>> artifact = vllm_artifact(PromptRouter(features="none").fit(log))
        >>> artifact["algorithm"], artifact["feature_dim"], [layer["type"] for layer in artifact["layers"]][-1]
        ('mlp', 3, 'linear')
    """
    if not router.models:
        raise InvalidInputError("the router is not fitted; fit it, or load a fitted one")
    if hasattr(router, "members") or router.features.blocks or router.features.given is None:
        raise InvalidInputError(
            "the vLLM semantic router gives its selectors an embedding, not text: fit on embeddings beside the prompt "
            "(columns feature:... or embedding, --features none), or export --form plain"
        )
    mean, spread = router.features.given
    d, k = len(mean), len(router.models)
    coef, intercept = router.coef.astype(np.float64), np.asarray(router.intercept, dtype=np.float64)
    weight, bias = -SCALE * coef.T, intercept + CUT * SCALE * coef.sum(0)
    one, zero = np.ones(d), np.zeros(d)
    layers = [
        _norm(mean, spread**2, one, CUT * one),
        {"type": "relu"},
        _norm(zero, one, -one, 2 * CUT * one),
        {"type": "relu"},
    ]
    price, cost = router.price, router.costs
    if price == 0:
        layers.append(_linear(weight, bias))
    elif not np.isfinite(price):
        layers.append(_linear(weight, bias - NEVER * (cost > cost.min())))
    elif router.loss == "value":
        layers += [_linear(weight, bias), *_worth(k, price * cost)]
    elif k == 2:
        gap = price * (cost[1] - cost[0])  # go to model 1 iff tanh((r_1 - r_0) / 2) > gap
        shift = 2 * np.arctanh(gap) if abs(gap) < 1 else NEVER * np.sign(gap)
        layers.append(_linear(weight, bias - np.array([0.0, shift])))
    else:
        raise InvalidInputError(
            f"a softmax policy ({router.loss}) over {k} models at a price has no form there; fit with --loss value"
        )
    return {
        "algorithm": "mlp",
        "trained": True,
        "model_names": list(router.models),
        "feature_dim": d,
        "n_classes": k,
        "hidden_sizes": [layer["out_features"] for layer in layers if layer["type"] == "linear"][:-1],
        "dropout": 0.0,
        "layers": layers,
    }


def _linear(weight: np.ndarray, bias: np.ndarray) -> dict[str, Any]:
    out, wide = weight.shape
    return {
        "type": "linear",
        "in_features": wide,
        "out_features": out,
        "weight": weight.tolist(),
        "bias": bias.tolist(),
    }


def _norm(mean: np.ndarray, variance: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> dict[str, Any]:
    return {
        "type": "batch_norm",
        "num_features": len(mean),
        "weight": weight.tolist(),
        "bias": bias.tolist(),
        "running_mean": mean.tolist(),
        "running_var": variance.tolist(),
        "eps": 0.0,
    }


def _worth(k: int, paid: np.ndarray) -> list[dict[str, Any]]:
    """sigma(r_k) - paid_k as hinges at `KNOTS`: the slope between two knots is that of the chord."""
    slope = np.diff(expit(KNOTS)) / np.diff(KNOTS)
    turn = np.append(np.diff(slope, prepend=0.0), -slope[-1])  # change of slope at every knot, flat outside
    spread = np.kron(np.eye(k), np.ones((len(KNOTS), 1)))
    gather = np.kron(np.eye(k), turn[None])
    start = expit(KNOTS[0])
    return [_linear(spread, -np.tile(KNOTS, k)), {"type": "relu"}, _linear(gather, start - paid)]
