"""RouteLLM's metrics against a literal transcription of their definition, hulls and AIQ against brute force."""

import numpy as np
import pytest

from corollary.deferral.routing import (
    Curve,
    RoutingLog,
    aiq,
    apgr,
    cost_at,
    cpt,
    evaluate,
    hull,
    intervals,
    oracle_curve,
    price_grid,
    quality_at,
    resamples,
    routellm_curve,
    routellm_optimal,
    sweep_choices,
)
from corollary.errors import InvalidInputError


def literal_curve(score, weak, strong):
    """The published definition, set by set."""
    edges = np.unique(np.quantile(score, np.linspace(0, 1, 11)))
    points = []
    for i, edge in enumerate(edges):
        sent = score >= edge if i < len(edges) - 1 else score > edge
        points.append((sent.mean(), np.where(sent, strong, weak).mean()))
    return np.array(sorted(points)).T


@pytest.mark.parametrize("ties", [False, True])
def test_curve_is_the_published_one(ties):
    rng = np.random.default_rng(0)
    for _ in range(30):
        score = rng.integers(6, size=200).astype(float) if ties else rng.random(200)
        weak, strong = rng.integers(2, size=(2, 200)).astype(float)
        curve = routellm_curve(score, weak, strong)
        x, y = literal_curve(score, weak, strong)
        np.testing.assert_allclose(curve.x, x, atol=1e-12)
        np.testing.assert_allclose(curve.quality, y, atol=1e-12)


def test_apgr_and_cpt_on_a_curve_done_by_hand():
    curve = Curve(np.array([0.0, 0.5, 1.0]), np.array([0.6, 0.9, 1.0]))
    # area .375 + .475 = .85; above weak .25; over a gap of .4
    assert apgr(curve, 0.6, 1.0) == pytest.approx(0.625)
    assert cpt(curve, 0.6, 1.0, 0.5) == pytest.approx(100 * 0.5 * 0.2 / 0.3)
    assert np.isnan(apgr(curve, 0.7, 0.7))


def test_random_scores_recover_half():
    rng = np.random.default_rng(1)
    weak, strong = (rng.random(20_000) < 0.6) * 1.0, (rng.random(20_000) < 0.8) * 1.0
    assert abs(apgr(routellm_curve(rng.random(20_000), weak, strong), weak.mean(), strong.mean()) - 0.5) < 0.02


def test_oracle_is_above_every_router_and_pays_for_losses():
    rng = np.random.default_rng(2)
    for _ in range(50):
        weak, strong = rng.integers(2, size=(2, 60)).astype(float)
        best = oracle_curve(weak, strong, points=61)
        curve = routellm_curve(strong - weak + 0.1 * rng.normal(size=60), weak, strong)
        assert (curve.quality <= np.interp(curve.x, best.x, best.quality) + 1e-12).all()
        assert best.quality[-1] == pytest.approx(strong.mean())  # RouteLLM's stays at the union
        assert routellm_optimal(weak, strong).quality[-1] == pytest.approx(np.maximum(weak, strong).mean())


def test_hull_against_all_mixtures():
    rng = np.random.default_rng(3)
    for _ in range(50):
        cost, quality = rng.random((2, 12))
        shape = hull(cost, quality)
        assert (np.diff(shape.quality) > 0).all()
        assert (np.diff(np.diff(shape.quality) / np.diff(shape.x)) < 0).all()
        for at in rng.uniform(cost.min(), 1.0, size=5):
            best = max(
                [q for c, q in zip(cost, quality, strict=True) if c <= at]
                + [
                    q0 + (at - c0) / (c1 - c0) * (q1 - q0)
                    for c0, q0 in zip(cost, quality, strict=True)
                    for c1, q1 in zip(cost, quality, strict=True)
                    if c0 <= at < c1
                ]
            )
            assert np.interp(at, shape.x, shape.quality) == pytest.approx(best, abs=1e-12)


def test_aiq_is_mean_quality_over_budgets():
    curve = Curve(np.array([0.1, 0.4]), np.array([0.5, 0.8]))
    budgets = np.linspace(0.1, 1.1, 200_001)
    value = aiq(curve, (0.1, 0.5), 1.1)
    assert value == pytest.approx(np.interp(budgets, [0.1, 0.4], [0.5, 0.8]).mean(), abs=1e-5)  # Riemann sum


def test_sweep_runs_from_best_to_cheapest():
    rng = np.random.default_rng(4)
    values, prices = rng.random((300, 4)), np.array([0.1, 0.1, 0.5, 1.0])
    grid = price_grid(values, prices)
    choice = sweep_choices(values, prices, grid)
    assert grid[0] == 0
    assert np.isinf(grid[-1])
    assert (choice[:, 0] == values.argmax(1)).all()
    assert (prices[choice[:, -1]] == 0.1).all()
    assert (np.diff(prices[choice].mean(0)) <= 1e-12).all()


def test_evaluation_orders_what_is_known():
    rng = np.random.default_rng(5)
    quality = (rng.random((400, 3)) < [0.5, 0.7, 0.8]).astype(float)
    log = RoutingLog(tuple(map(str, range(400))), ("a", "b", "c"), quality, np.tile([0.1, 0.5, 1.0], (400, 1)))
    found = evaluate(
        log, {"noise": rng.random((400, 3)), "peek": quality + 0.3 * rng.normal(size=(400, 3))}, repeats=20
    )
    score = {name: r["aiq"] for name, r in found["routers"].items()}
    assert score["oracle"] > score["peek"] > score["random"]
    low, high = found["routers"]["peek"]["interval"]["aiq"]
    assert low < score["peek"] < high
    assert "apgr" not in found["routers"]["peek"]


def test_paired_difference_to_itself_is_zero_and_groups_widen():
    rng = np.random.default_rng(6)
    group = np.repeat(np.arange(20), 20)
    good = rng.random(20)[group]
    quality = (rng.random((400, 2)) < np.stack([good * 0.5, good], 1)).astype(float)
    values = {"x": rng.random((400, 2))}
    log = RoutingLog(tuple(map(str, range(400))), ("a", "b"), quality, group=group)
    found = evaluate(log, values | {"same": values["x"]}, repeats=30, against="x")
    assert found["routers"]["same"]["interval"]["apgr|over x"] == [0.0, 0.0]

    def width(group):
        low, high = intervals(lambda rows: {"m": quality[rows].mean()}, 400, group=group)["m"]
        return high - low

    assert width(group) > 1.5 * width(None)
    assert all(np.isin(np.bincount(rows, minlength=400)[:20], np.bincount(rows, minlength=400)[0]).all()
               for rows in resamples(400, group=group, repeats=3))  # fmt: skip


def test_gaps_and_nonsense_are_refused(as_shipped):
    log = RoutingLog(("a", "b"), ("x", "y"), np.array([[1.0, np.nan], [0.0, 1.0]]))
    with pytest.raises(InvalidInputError, match="every model"):
        evaluate(log, {})
    with pytest.raises(InvalidInputError, match="alike"):
        routellm_curve([], [], [])
    with pytest.raises(InvalidInputError, match="finite"):
        routellm_curve([np.nan], [0.0], [1.0])
    full = RoutingLog(("a", "b"), ("x", "y"), np.ones((2, 2)))
    with pytest.raises(InvalidInputError, match="values"):
        evaluate(full, {"bad": np.full((2, 2), np.nan)})


def test_quality_at_a_cost_and_cost_at_a_quality():
    """By hand, and against each other on random curves."""
    curve = Curve(np.array([1.0, 2.0]), np.array([0.8, 0.9]))
    assert quality_at(curve, (0.0, 0.6), 0.5) == pytest.approx(0.7)
    assert quality_at(curve, (0.0, 0.6), 5.0) == 0.9
    assert np.isnan(quality_at(curve, (0.0, 0.6), -0.1))
    assert cost_at(curve, (0.0, 0.6), 0.85) == pytest.approx(1.5)
    assert cost_at(curve, (0.0, 0.6), 0.1) == 0.0
    assert cost_at(curve, (0.0, 0.6), 0.95) == np.inf
    rng = np.random.default_rng(0)
    for _ in range(200):
        made = Curve(np.sort(rng.random(6)), np.sort(rng.random(6)))
        wanted = rng.uniform(0.2, made.quality.max())
        assert quality_at(made, (0.0, 0.1), cost_at(made, (0.0, 0.1), wanted)) == pytest.approx(wanted)


def test_evaluation_reads_them_with_intervals():
    rng = np.random.default_rng(1)
    quality = (rng.random((400, 2)) < [0.6, 0.9]).astype(float)
    log = RoutingLog(tuple(map(str, range(400))), ("cheap", "dear"), quality)
    found = evaluate(log, {"knows": quality}, repeats=30)["routers"]
    assert found["knows"]["quality_at_50"] > found["random"]["quality_at_50"]
    assert found["knows"]["cost_at_95"] < found["random"]["cost_at_95"]
    low, high = found["random"]["interval"]["quality_at_50"]
    assert low < found["random"]["quality_at_50"] < high


def test_one_score_for_all_prompts_is_random_routing():
    weak, strong = np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.0])
    curve = routellm_curve(np.full(4, 0.3), weak, strong)
    assert curve.x.tolist() == [0.0, 1.0]
    assert apgr(curve, weak.mean(), strong.mean()) == pytest.approx(0.5)
    assert cpt(curve, weak.mean(), strong.mean(), 0.2) == pytest.approx(20.0)
