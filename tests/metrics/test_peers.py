"""The peers: scikit-learn's checks, the algorithms against written-out references, gradients."""

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit
from sklearn.utils.estimator_checks import parametrize_with_checks

from corollary.errors import InvalidInputError
from corollary.metrics import (
    BisectionPlugIn,
    FBeta,
    MetroClassifier,
    PlainClassifier,
    PlugInClassifier,
    SoftMetricClassifier,
    WeightedGridClassifier,
    get_metric,
)

PEERS = [
    PlainClassifier(),
    PlugInClassifier(validation=2),
    WeightedGridClassifier(validation=2, steps=5),
    BisectionPlugIn(validation=2),
    SoftMetricClassifier(),
]


@parametrize_with_checks(PEERS)
def test_scikit_learn_checks(estimator, check, as_shipped):
    check(estimator)


@pytest.fixture
def rows(rng):
    X = rng.normal(size=(1500, 3))
    y = rng.random(1500) < 1 / (1 + np.exp(-(X @ [1.5, -1.0, 0.5] - 2.5)))
    return X, y.astype(int)


def test_plain_is_logistic_regression(rows):
    X, y = rows
    ours = PlainClassifier(tol=1e-8).fit(X, y)
    theirs = LogisticRegression(C=1 / (1e-4 * len(y)), tol=1e-10, max_iter=1000).fit(X, y)
    assert np.allclose(ours.coef_, theirs.coef_, atol=1e-5)
    assert np.allclose(ours.intercept_, theirs.intercept_, atol=1e-5)


def test_koyejo_one_takes_the_best_threshold_of_its_half(rows):
    X, y = rows
    half = PredefinedSplit(np.where(np.arange(len(y)) % 2, 0, -1))
    model = PlugInClassifier("f2", validation=half, refit=False).fit(X, y)
    train, test = next(half.split())
    scores = PlainClassifier().fit(X[train], y[train]).decision_function(X[test])
    best = max(FBeta(2.0).score(y[test], scores > t) for t in scores)
    assert FBeta(2.0).score(y[test], model.predict(X[test])) == pytest.approx(best)


def test_parambath_on_its_grid_is_metro_on_the_same_levels(rows):
    X, y = rows
    for beta in (1.0, 2.0):
        levels = np.linspace(0.98, 0.02, 25) * (1 + beta**2)
        levels = levels[levels <= 1]  # beyond 1 METRO has no level: the metric cannot be there
        peer = WeightedGridClassifier(FBeta(beta), grid="f-beta", beta=beta, tol=1e-8).fit(X, y)
        metro = MetroClassifier(FBeta(beta), levels=levels.tolist(), tol=1e-8).fit(X, y)
        mine = metro.validation_score_
        assert mine == pytest.approx(metro.metric_.value(_pooled(peer, X, y)), abs=0.02)


def _pooled(peer, X, y):
    from corollary.metrics import confusion

    counts = np.zeros(4)
    for train, test in peer._folds(X, y > 0):
        problem = peer._problem(X[train], y[train] > 0)
        counts += confusion(y[test], problem.score(X[test], problem.solve(peer.costs_)) > 0)
    return counts


def test_bisection_ends_where_level_and_metric_meet(rows):
    X, y = rows
    model = BisectionPlugIn("jaccard", validation=None).fit(X, y)
    reached = get_metric("jaccard").score(y, model.predict(X))
    assert model.level_ == pytest.approx(reached, abs=0.02)  # the metric jumps from row to row


@pytest.mark.parametrize("amplify", [None, 10.0])
@pytest.mark.parametrize("metric", ["f1", "f2", "jaccard", "balanced-accuracy"])
def test_soft_metric_gradients_and_gain(rows, metric, amplify, monkeypatch):
    X, y = rows
    caught = {}
    import scipy.optimize

    original = scipy.optimize.minimize

    def spy(fun, x0, **options):
        caught.setdefault("soft", (fun, x0)) if "ftol" not in options.get("options", {}) else None
        return original(fun, x0, **options)

    monkeypatch.setattr(scipy.optimize, "minimize", spy)
    model = SoftMetricClassifier(metric, amplify=amplify).fit(X, y)
    fun, x0 = caught["soft"]
    assert check_grad(lambda v: fun(v)[0], lambda v: fun(v)[1], x0) < 1e-6
    m = get_metric(metric)
    assert m.score(y, model.predict(X)) > m.score(y, PlainClassifier().fit(X, y).predict(X))


def test_nonsense(rows, as_shipped):
    X, y = rows
    with pytest.raises(InvalidInputError, match="`grid` must be"):
        WeightedGridClassifier(grid="other").fit(X, y)
    with pytest.raises(InvalidInputError, match="Only binary"):
        PlainClassifier().fit(X, np.arange(len(y)) % 3)
