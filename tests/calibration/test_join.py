"""A router's and a classifier's probabilities calibrated as they stream."""

import numpy as np
from sklearn.datasets import load_digits

from corollary.calibration import Calibrator, Simplex, brier_decomposition, certify_stream, expected_calibration_error
from corollary.deferral import TwoStageRouter
from corollary.metrics import MetroClassifier


def follow(method, base, outcomes):
    forecasts = []
    for p, y in zip(base, outcomes, strict=True):
        points, _ = method.predict(p)
        forecasts.append(points[0])
        method.update(y)
    return np.array(forecasts)


def test_a_router_whose_model_gets_worse():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 2))
    right = rng.random(4000) < 1 / (1 + np.exp(-(2 * X[:, 0] - np.where(np.arange(4000) < 2000, 0.0, 2.0))))
    costs = np.stack([1.0 - right, np.full(4000, 0.5)], 1)
    router = TwoStageRouter(loss="value").fit(X[:1500], costs[:1500])
    q = router.values(X[1500:])[:, 0].astype(np.float64)
    base, outcomes = np.stack([1 - q, q], 1), np.eye(2)[right[1500:].astype(int)]
    mended = follow(Calibrator("auto", dim=Simplex(2), base=True), base, outcomes)
    before, after = (expected_calibration_error(p, outcomes, kind="classwise") for p in (base, mended))
    assert after < before / 2
    assert brier_decomposition(mended, None, outcomes).brier < brier_decomposition(base, None, outcomes).brier - 0.02
    certificate, evidence = certify_stream(mended, None, outcomes, domain=Simplex(2))
    assert certificate.check(**evidence)


def test_a_classifiers_stream():
    X, y = load_digits(return_X_y=True)
    model = MetroClassifier("f1", levels=3).fit(X[:600] / 16, y[:600] == 8)
    told = model.predict_proba(np.where(np.arange(600, len(X))[:, None] < 1000, X[600:], 16 - X[600:]) / 16)
    outcomes = np.eye(2)[(y[600:] == 8).astype(int)]
    mended = follow(Calibrator("platt", dim=2, base=True), told, outcomes)
    assert np.square(mended - outcomes).sum(1).mean() < np.square(told - outcomes).sum(1).mean()
