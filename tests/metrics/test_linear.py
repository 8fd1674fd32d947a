"""The linear oracle: gradients, global optima against references, warm starts, and runs C1 and C2 redone."""

import numpy as np
import pytest
from scipy.optimize import check_grad, linprog, minimize

from corollary.metrics import (
    Costs,
    FBeta,
    LinearProblem,
    MetroClassifier,
    PlainClassifier,
    PlugInClassifier,
    get_metric,
)
from corollary.metrics._surrogates import SURROGATES


@pytest.fixture
def rows(rng):
    X = rng.normal(size=(300, 4))
    return X, X @ [1.0, -1.0, 0.5, 0.0] + rng.logistic(size=300) > 1.0


@pytest.mark.parametrize("name", SURROGATES)
def test_gradients(name, rows, rng):
    problem = LinearProblem(*rows, surrogate=name, l2=0.1, sample_weight=rng.random(300))
    at = rng.normal(size=5)
    width = 0.3 if name in ("hinge", "rho_margin") else 0.0
    costs = Costs(1.0, 0.4)
    error = check_grad(
        lambda v: problem.objective(v, costs, width=width)[0], lambda v: problem.objective(v, costs, width=width)[1], at
    )
    assert error < 1e-5  # finite differences


@pytest.mark.parametrize("name", ["logistic", "exponential", "squared_hinge"])
def test_smooth_surrogates_reach_the_global_optimum(name, rows):
    problem = LinearProblem(*rows, surrogate=name, l2=1e-3, tol=1e-9)
    for costs in (Costs(1.0, 0.1), Costs(0.3, 1.0)):
        theta = problem.solve(costs)
        slow = minimize(problem.objective, np.zeros(5), (costs,), jac=True, method="BFGS", options={"gtol": 1e-9})
        assert problem.objective(theta, costs)[0] == pytest.approx(slow.fun, abs=1e-9)


def test_hinge_against_a_linear_program(rows):
    X, y = rows
    sign, n, p = np.where(y, 1.0, -1.0), len(y), X.shape[1]
    problem = LinearProblem(X, y, surrogate="hinge", l2=0.0)
    theta = problem.solve(Costs(1.0, 0.4))
    cost = np.where(y, 1.0, 0.4) / n
    A = np.hstack([-sign[:, None] * X, -sign[:, None], -np.eye(n)])
    free = [(None, None)] * (p + 1) + [(0, None)] * n
    best = linprog(np.append(np.zeros(p + 1), cost), A_ub=A, b_ub=-np.ones(n), bounds=free).fun
    assert best - 1e-9 <= problem.objective(theta, Costs(1.0, 0.4))[0] <= best + 0.005  # what the rounded kink allows


def test_rho_margin_ends_below_its_convex_starts(rows):
    costs = Costs(1.0, 0.4)
    problem = LinearProblem(*rows, surrogate="rho_margin", rho=0.5)
    found = problem.objective(problem.solve(costs), costs)[0]
    for name in ("hinge", "logistic"):
        start = LinearProblem(*rows, surrogate=name).solve(costs)
        assert found <= problem.objective(start, costs)[0] + 0.01  # what the rounded kink allows


def far_off(n, seed):
    """30 % positives beside the negatives along the first axis; 5 % of the rows, negative, far behind the positives."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, size=n, p=[0.30, 0.65, 0.05])
    centre, spread = np.array([[1.0, 0.0], [-1.0, 0.0], [20.0, 5.0]]), np.array([[0.5, 1.5], [0.5, 1.5], [0.5, 0.5]])
    return centre[kind] + spread[kind] * rng.normal(size=(n, 2)), kind == 0


def test_a_bounded_surrogate_finds_the_line_that_far_rows_hide_from_every_threshold():
    X, y = far_off(1500, 0)
    fresh, truth = far_off(20_000, 1)
    best = FBeta(1.0).score(truth, fresh[:, 0] > 0)  # the core's own line
    reached = {
        name: FBeta(1.0).score(truth, model.fit(X, y).predict(fresh))
        for name, model in {
            "threshold": PlugInClassifier("f1"),
            "rho": MetroClassifier("f1", surrogate="rho_margin", search="dinkelbach"),
            "auto": MetroClassifier("f1", surrogate="auto"),
        }.items()
    }
    assert best > 0.85
    assert reached["threshold"] < best - 0.2
    assert reached["rho"] == pytest.approx(best, abs=0.02)  # 1,500 rows choose the line
    assert reached["auto"] == reached["rho"]


def test_warm_starts_change_nothing_but_the_work(rows):
    path = LinearProblem(*rows, tol=1e-6)
    grid = [FBeta().costs(m).scaled() for m in np.linspace(0.98, 0.02, 25)]
    warm = [path.solve(c) for c in grid]
    cold, work = [], 0
    for costs in grid:
        one = LinearProblem(*rows, tol=1e-6)
        cold.append(one.solve(costs))
        work += one.iterations
    assert np.allclose(warm, cold, atol=1e-4)  # gradients of 1e-6 at curvatures down to 1e-2
    assert path.iterations < 0.7 * work


def test_many_features_use_a_diagonal(rng, monkeypatch):
    import corollary.metrics._linear as linear

    X = rng.normal(size=(200, 30)) * np.geomspace(1e-3, 1e3, 30)
    y = X[:, 15] + rng.normal(size=200) * X[:, 15].std() > 0
    whole = LinearProblem(X, y, l2=0.01, tol=1e-8, max_iter=20000)
    full = whole.objective(whole.solve(Costs(1.0, 0.5)), Costs(1.0, 0.5))[0]
    monkeypatch.setattr(linear, "DENSE", 10)
    thin = LinearProblem(X, y, l2=0.01, tol=1e-8, max_iter=20000)
    assert thin.objective(thin.solve(Costs(1.0, 0.5)), Costs(1.0, 0.5))[0] == pytest.approx(full, abs=1e-6)


def test_sample_weights_are_repetitions(rows, rng):
    X, y = rows
    times = rng.integers(0, 4, 300)
    weighted = LinearProblem(X, y, sample_weight=times * 300 / times.sum(), tol=1e-9).solve(Costs(1.0, 0.5))
    repeated = LinearProblem(np.repeat(X, times, 0), np.repeat(y, times), tol=1e-9).solve(Costs(1.0, 0.5))
    assert np.allclose(weighted, repeated, atol=1e-6)


def c1(seed):
    rng = np.random.default_rng([seed, 0xC1])
    kind = rng.choice(3, size=46_000, p=[0.08, 0.72, 0.20])
    centre = np.array([[0.0, 0.0], [-7.0, 0.0], [1.0, 1.6]])
    spread = np.array([[2.0, 0.5], [1.0, 1.0], [1.5, 0.6]])
    return centre[kind] + spread[kind] * rng.normal(size=(46_000, 2)), kind == 0


C1 = {  # means over 5 seeds of the specification: threshold 0, plug-in, Dinkelbach, bisection, grid
    "f1": (0.549, 0.589, 0.594, 0.594, 0.585),
    "f2": (0.484, 0.677, 0.676, 0.678, 0.677),
    "jaccard": (0.379, 0.417, 0.424, 0.425, 0.416),
}


@pytest.mark.slow
@pytest.mark.parametrize("metric", C1)
def test_run_c1_is_reproduced(metric):
    from sklearn.model_selection import PredefinedSplit

    fold = PredefinedSplit(np.where(np.arange(6000) < 4000, -1, 0))
    shared = {"l2": 1e-5, "validation": fold}
    methods = [PlainClassifier(metric, l2=1e-5), PlugInClassifier(metric, **shared)]
    methods += [MetroClassifier(metric, search=s, **shared) for s in ("dinkelbach", "bisect", "grid")]
    found = np.zeros((5, len(methods)))
    for seed in range(5):
        X, y = c1(seed)
        for i, method in enumerate(methods):
            found[seed, i] = get_metric(metric).score(y[6000:], method.fit(X[:6000], y[:6000]).predict(X[6000:]))
    # the spread of the specification's runs is .002 to .012; ours refits on 6000 rows, theirs fits on 4000
    assert np.abs(found.mean(0) - C1[metric]).max() < 0.02
    assert found.mean(0)[1:].min() > found.mean(0)[0] + 0.03


C2 = {"f1": (0.560, 0.568, 0.549, 0.557, 0.570), "f2": (0.491, 0.566, 0.547, 0.549, 0.556)}


@pytest.mark.slow
@pytest.mark.parametrize("metric", C2)
def test_run_c2_is_reproduced(metric):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import PredefinedSplit

    fold = PredefinedSplit(np.where(np.arange(1200) < 800, -1, 0))
    digits, target = load_digits(return_X_y=True)
    shared = {"l2": 1e-4, "validation": fold}
    methods = [PlainClassifier(metric, l2=1e-4), PlugInClassifier(metric, **shared)]
    methods += [MetroClassifier(metric, search=s, **shared) for s in ("dinkelbach", "bisect", "grid")]
    found = np.zeros((5, len(methods)))
    for seed in range(5):
        rng = np.random.default_rng([seed, 0xC2])
        order = rng.permutation(len(target))
        X, y = digits[order] / 16, (target[order] == 8) ^ (rng.random(len(order)) < 0.05)
        for i, method in enumerate(methods):
            found[seed, i] = get_metric(metric).score(y[1200:], method.fit(X[:1200], y[:1200]).predict(X[1200:]))
    assert np.abs(found.mean(0) - C2[metric]).max() < 0.06  # 597 rows, 80 positives, a twentieth of the labels wrong
