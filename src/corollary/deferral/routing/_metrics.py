r"""How good a router is, whatever its threshold: RouteLLM's metrics exactly as coded, a correct oracle, AIQ, frontiers.

Two models, weak w and strong s; a score a prompt. RouteLLM (commit 0b64fda, read): the 11 edges of the deciles of the
scores; at edge t the prompts with score >= t (> t at the last) go to the strong model; x = share sent, y = mean
quality. APGR = (area under y - the same for weak alone) / (strong - weak), both areas by trapezoids over the same x.
CPT(q) = x where y first is w + q (s - w), by `np.interp` (which assumes that y increases).
RouteLLM's "optimal" curve stays at the union of right answers even at 100 % strong calls; the oracle here does not.

AIQ after RouterBench: the area under the non-decreasing concave hull of (mean cost, mean quality), over the costs from
the cheapest to the dearest single model, divided by that width: mean quality at a budget drawn uniformly. The cheapest
model belongs to every hull (anyone may mix with it); RouterBench divides by the largest cost instead.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from corollary.errors import InvalidInputError


class Curve(NamedTuple):
    """Points of a router: share of strong calls or mean cost, and mean quality, by increasing x.

    Example:
        >>> Curve(np.array([0.0, 1.0]), np.array([0.5, 0.7])).quality[1].item()
        0.7
    """

    x: Float[np.ndarray, " m"]
    quality: Float[np.ndarray, " m"]


def routellm_curve(scores: Any, weak: Any, strong: Any, *, edges: int = 10) -> Curve:
    """The points of RouteLLM's evaluation.

    Args:
        scores: (N,) larger means: send to the strong model.
        weak, strong: (N,) quality of either.
        edges: number of quantile bins; RouteLLM uses 10.

    Raises:
        InvalidInputError: for empty or NaN input, or lengths that differ.

    Example:
        >>> routellm_curve([0.1, 0.9], [0, 0], [1, 1], edges=2).x.tolist()
        [0.0, 0.5, 1.0]
    """
    score, w, s = (np.asarray(v, dtype=np.float64) for v in (scores, weak, strong))
    if score.ndim != 1 or len(score) == 0 or not score.shape == w.shape == s.shape:
        raise InvalidInputError(f"scores and qualities must be (N,) alike, got {score.shape}, {w.shape}, {s.shape}")
    if not np.isfinite(score + w + s).all():
        raise InvalidInputError("scores and qualities must be finite; leave out prompts that a model never saw")
    order = np.argsort(score, kind="stable")
    ranked = score[order]
    edge = np.unique(np.quantile(ranked, np.linspace(0, 1, edges + 1)))
    if len(edge) == 1:  # one score for all prompts routes at random; RouteLLM's own code gives no curve then
        return Curve(np.array([0.0, 1.0]), np.array([w.mean(), s.mean()]))
    first = np.append(np.searchsorted(ranked, edge[:-1], side="left"), np.searchsorted(ranked, edge[-1], side="right"))
    gained = np.concatenate([[0.0], np.cumsum((s - w)[order][::-1])])  # quality won by the m highest scores
    sent = len(score) - first
    return Curve((sent / len(score))[::-1], ((w.sum() + gained[sent]) / len(score))[::-1])


def apgr(curve: Curve, weak: float, strong: float) -> float:
    """Average performance gap recovered: 0 for the weak model alone, about 1/2 for random routing.

    Example:
        >>> apgr(Curve(np.array([0.0, 1.0]), np.array([0.5, 0.7])), 0.5, 0.7)
        0.5
    """
    if strong == weak:
        return float("nan")
    width = curve.x[-1] - curve.x[0]
    if width == 0:
        return 0.0
    return float((np.trapezoid(curve.quality, curve.x) - weak * width) / ((strong - weak) * width))


def cpt(curve: Curve, weak: float, strong: float, share: float) -> float:
    """Percent of strong calls at which `share` of the gap is recovered.

    Example:
        >>> cpt(Curve(np.array([0.0, 1.0]), np.array([0.5, 0.7])), 0.5, 0.7, 0.5)
        50.0
    """
    return round(100 * float(np.interp(weak + share * (strong - weak), curve.quality, curve.x)), 10)


def oracle_curve(weak: Any, strong: Any, *, points: int = 11) -> Curve:
    """The best that any router can do at each share of strong calls: gains taken from the largest down.

    Example:
        >>> oracle_curve([0, 1, 1], [1, 1, 0], points=4).quality.round(3).tolist()
        [0.667, 1.0, 1.0, 0.667]
    """
    w, s = np.asarray(weak, dtype=np.float64), np.asarray(strong, dtype=np.float64)
    gain = np.concatenate([[0.0], np.cumsum(np.sort(s - w)[::-1])])
    x = np.linspace(0, 1, points)
    return Curve(x, (w.sum() + np.interp(x * len(w), np.arange(len(w) + 1), gain)) / len(w))


def routellm_optimal(weak: Any, strong: Any, *, points: int = 11) -> Curve:
    """RouteLLM's "optimal" curve, kept for comparison: it never pays for sending prompts that only the weak one gets.

    Example:
        >>> routellm_optimal([0, 1, 1], [1, 1, 0], points=4).quality.round(3).tolist()
        [0.667, 1.0, 1.0, 1.0]
    """
    w, s = np.asarray(weak, dtype=np.float64), np.asarray(strong, dtype=np.float64)
    x = np.linspace(0, 1, points)
    return Curve(x, (w.sum() + np.minimum(len(w) * x, np.clip(s - w, 0, None).sum())) / len(w))


def hull(cost: Any, quality: Any) -> Curve:
    """The non-decreasing concave hull: what mixing the points at random reaches at each mean cost.

    Example:
        >>> hull([0.0, 0.5, 1.0], [0.5, 0.55, 0.7]).x.tolist()
        [0.0, 1.0]
    """
    c, q = np.asarray(cost, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    kept: list[tuple[float, float]] = []
    for point in sorted(zip(c.tolist(), q.tolist(), strict=True), key=lambda p: (p[0], -p[1])):
        if kept and (point[0] == kept[-1][0] or point[1] <= kept[-1][1]):
            continue  # no better for the same or more money
        while len(kept) > 1 and _turns_up(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    x, y = zip(*kept, strict=True)
    return Curve(np.array(x), np.array(y))


def aiq(curve: Curve, cheapest: tuple[float, float], dearest: float) -> float:
    """Mean quality at a budget drawn uniformly between the cheapest and the dearest single model.

    Args:
        curve: mean costs and qualities of the router's policies.
        cheapest: (mean cost, mean quality) of the cheapest single model.
        dearest: mean cost of the dearest single model.

    Example:
        >>> aiq(Curve(np.array([1.0]), np.array([0.7])), (0.0, 0.5), 1.0)
        0.6
    """
    low, high = cheapest[0], dearest
    if not high > low:
        return float(max(cheapest[1], curve.quality.max()))
    shape = hull(np.append(curve.x, low), np.append(curve.quality, cheapest[1]))
    x = np.unique(np.concatenate([[low, high], shape.x[(shape.x > low) & (shape.x < high)]]))
    return float(np.trapezoid(np.interp(x, shape.x, shape.quality), x) / (high - low))


def quality_at(curve: Curve, cheapest: tuple[float, float], cost: float) -> float:
    """Mean quality at a mean cost, on the hull with the cheapest single model; NaN below its cost.

    Example:
        >>> quality_at(Curve(np.array([1.0]), np.array([0.7])), (0.0, 0.5), 0.5)
        0.6
    """
    shape = hull(np.append(curve.x, cheapest[0]), np.append(curve.quality, cheapest[1]))
    return float(np.interp(cost, shape.x, shape.quality, left=np.nan))


def cost_at(curve: Curve, cheapest: tuple[float, float], quality: float) -> float:
    """Least mean cost at which a mean quality is reached, on the same hull; infinite where it never is.

    Example:
        >>> cost_at(Curve(np.array([1.0]), np.array([0.7])), (0.0, 0.5), 0.6)
        0.5
    """
    shape = hull(np.append(curve.x, cheapest[0]), np.append(curve.quality, cheapest[1]))
    if quality <= shape.quality[0]:
        return float(shape.x[0])
    return float(np.interp(quality, shape.quality, shape.x, right=np.inf))


def sweep_choices(
    values: Float[np.ndarray, "n k"], prices: Float[np.ndarray, " k"], grid: Float[np.ndarray, " m"]
) -> Int[np.ndarray, "n m"]:
    """The choice for each prompt at each price of the grid; at an infinite price the cheapest model.

    Example:
        >>> sweep_choices(np.array([[0.5, 0.7]]), np.array([0.0, 1.0]), np.array([0.0, 0.3, np.inf])).tolist()
        [[1, 0, 0]]
    """
    finite = np.where(np.isfinite(grid), grid, 0.0)
    out = np.stack([np.argmax(values - g * prices, axis=1) for g in finite], axis=1)
    tied = np.flatnonzero(prices == prices.min())
    out[:, ~np.isfinite(grid)] = tied[np.argmax(values[:, tied], axis=1)][:, None]
    return out


def price_grid(
    values: Float[np.ndarray, "n k"], prices: Float[np.ndarray, " k"], *, points: int = 48
) -> Float[np.ndarray, " m"]:
    """Prices at which choices change, as quantiles: from 0 (quality alone) up to infinity (the cheapest model).

    Example:
        >>> price_grid(np.array([[0.5, 0.7], [0.5, 0.9]]), np.array([0.0, 1.0]), points=2).round(3).tolist()
        [0.0, 0.2, 0.4, inf]
    """
    i, j = np.nonzero(prices[:, None] > prices[None, :])
    turning = (values[:, i] - values[:, j]) / (prices[i] - prices[j])
    positive = turning[turning > 0]
    inner = np.quantile(positive, np.linspace(0, 1, points)) if positive.size else np.zeros(0)
    return np.unique(np.concatenate([[0.0], inner, [np.inf]]))


def _turns_up(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    return (b[1] - a[1]) * (c[0] - a[0]) <= (c[1] - a[1]) * (b[0] - a[0])
