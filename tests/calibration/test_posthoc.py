"""Post-hoc calibrators: scikit-learn estimators that recover known maps and lower what they should."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from corollary.calibration import (
    BetaCalibration,
    DirichletCalibration,
    HistogramBinning,
    IsotonicCalibration,
    PlattScaling,
    TemperatureScaling,
    VectorScaling,
    expected_calibration_error,
)
from corollary.calibration._posthoc import EXPECTED_FAILED_CHECKS
from corollary.errors import InvalidInputError

ALL = (
    TemperatureScaling,
    VectorScaling,
    DirichletCalibration,
    PlattScaling,
    BetaCalibration,
    IsotonicCalibration,
    HistogramBinning,
)


def world(n, K, seed, temperature=2.5, bias=0.0):
    """Overconfident probabilities: true logits z, told z * temperature + bias."""
    rng = np.random.default_rng(seed)
    z = 1.2 * rng.normal(size=(n, K))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    y = (rng.random((n, 1)) > np.cumsum(p, 1)).sum(1).clip(max=K - 1)
    told = temperature * z + bias * np.arange(K)
    told = np.exp(told - told.max(1, keepdims=True))
    return told / told.sum(1, keepdims=True), y, p


def log_loss(p, y):
    return -np.log(np.maximum(p[np.arange(len(y)), y], 1e-12)).mean()


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("K", [2, 4])
def test_calibration_improves_on_fresh_rows(make, K):
    P, y, _ = world(4000, K, 0)
    Q, z, truth = world(4000, K, 1)
    model = make().fit(P, y)
    mapped = model.predict_proba(Q)
    assert np.allclose(mapped.sum(1), 1)
    assert mapped.min() >= 0
    options = {"kind": "classwise", "scheme": "mass"}
    assert expected_calibration_error(mapped, z, **options) < 0.6 * expected_calibration_error(Q, z, **options)
    assert log_loss(np.clip(mapped, 1e-4, 1), z) < log_loss(Q, z)
    assert np.abs(mapped - truth).mean() < 0.5 * np.abs(Q - truth).mean()
    assert model.score(Q, z) > 0.9 * (Q.argmax(1) == z).mean()


def test_known_maps_are_found():
    P, y, _ = world(40_000, 3, 2)
    assert TemperatureScaling().fit(P, y).temperature_ == pytest.approx(2.5, abs=0.1)  # 40,000 rows
    tilted, y, _ = world(40_000, 3, 3, bias=0.8)
    vector = VectorScaling(ridge=0.0).fit(tilted, y)
    assert np.allclose(np.diag(vector.coef_), 0.4, atol=0.05)
    assert np.allclose(np.diff(vector.intercept_), -0.32, atol=0.1)  # -0.8 / 2.5 a class
    full = DirichletCalibration(ridge=0.0).fit(tilted, y)
    both = [m.predict_proba(tilted) for m in (vector, full)]
    assert np.abs(both[0] - both[1]).mean() < 0.01
    hot = TemperatureScaling().fit(P, y)
    assert (hot.predict(P) == P.argmax(1)).all()


def test_platt_and_beta_against_logistic_regression():
    P, y, _ = world(5000, 2, 4)
    z = np.log(P[:, 1] / P[:, 0])[:, None]
    reference = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(z, y).predict_proba(z)
    # Platt's smoothed targets move probabilities by about 1 / (number of positives)
    assert np.abs(PlattScaling().fit(P, y).predict_proba(P) - reference).max() < 2e-3
    q = np.clip(P[:, 1], 1e-7, 1 - 1e-7)
    features = np.stack([np.log(q), -np.log1p(-q)], 1)
    reference = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(features, y).predict_proba(features)
    assert np.abs(BetaCalibration().fit(P, y).predict_proba(P) - reference).max() < 1e-3


def test_isotonic_and_histogram_are_what_they_say():
    P, y, _ = world(500, 2, 5)
    ours = IsotonicCalibration().fit(P, y).predict_proba(P)[:, 1]
    assert np.allclose(ours, IsotonicRegression().fit(P[:, 1], y).predict(P[:, 1]))
    model = HistogramBinning(bins=5).fit(P, y)
    edges, means = model.maps_[0]
    assert len(means) == len(edges) + 1 == 5
    for b in range(5):
        mine = np.searchsorted(edges, P[:, 1], side="right") == b
        assert means[b] == pytest.approx(y[mine].mean())


@pytest.mark.parametrize("make", ALL)
def test_scikit_learn_ways(make):
    P, y, _ = world(300, 3, 6)
    model = clone(make())
    assert model.get_params() == make().get_params()
    names = np.array(["ant", "bee", "cat"])
    assert set(model.fit(P, names[y]).predict(P)) <= set(names)
    assert cross_val_score(make(), P, y, cv=3).mean() > 0.4
    one = make().fit(P[:, 0], (y == 0).astype(int))
    assert one.predict_proba(P[:, :1]).shape == (300, 2)
    with pytest.raises(NotFittedError, match="not fitted yet"):
        make().predict_proba(P)
    again = make().fit(P, y).predict_proba(P)
    assert (again == make().fit(P, y).predict_proba(P)).all()


@pytest.mark.parametrize("make", ALL)
@pytest.mark.filterwarnings("ignore")  # scikit-learn warns of the expected failures
def test_scikit_learn_checks_but_for_the_declared(make, as_shipped):
    results = check_estimator(make(), expected_failed_checks=EXPECTED_FAILED_CHECKS, on_fail=None, on_skip=None)
    assert not [r["check_name"] for r in results if r["status"] == "failed"]
    assert sum(r["status"] == "passed" for r in results) > 20


@pytest.mark.parametrize("make", ALL)
def test_bad_input(make, as_shipped):
    P, y, _ = world(30, 3, 7)
    for X, labels, message in (
        (P * 2, y, "sum to one"),
        (np.where(P > 0.9, np.nan, P) * np.nan, y, "NaN or inf"),
        (P[:0], y[:0], "at least one row"),
        (P, y[:5], "30 labels"),
        (P, np.repeat(["a", "b"], 15), "2 labels for 3 columns"),
        (P, y[:, None], "labels, got shape"),
        ("text", y, "probabilities"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            make().fit(X, labels)
    with pytest.raises(InvalidInputError, match="fitted on 3 columns"):
        make().fit(P, y).predict_proba(P[:, 0])


def test_absent_classes_and_certain_forecasts():
    P = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.4, 0.6, 0.0]])
    for make in ALL:
        mapped = make().fit(P, [0, 1, 1, 0]).predict_proba(P)  # the third class never occurs
        assert np.isfinite(mapped).all()
        assert np.allclose(mapped.sum(1), 1)
