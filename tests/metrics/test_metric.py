"""Metrics as two rows of four numbers: values, costs, thresholds, edge cases, averages, against brute force."""

import math

import numpy as np
import pytest
from metric_worlds import every_classifier, random_world, rates
from sklearn import metrics as sk

from corollary.errors import InvalidInputError
from corollary.metrics import (
    Accuracy,
    BalancedAccuracy,
    FBeta,
    Jaccard,
    LinearFractionalMetric,
    Precision,
    Tversky,
    UndefinedMetricWarning,
    WeightedAccuracy,
    averaged,
    best_threshold,
    confusion,
    get_metric,
    metric_score,
)
from corollary.metrics._metric import metric_from_plain

METRICS = [
    FBeta(0.5),
    FBeta(1.0),
    FBeta(2.0),
    Jaccard(),
    BalancedAccuracy(),
    Accuracy(),
    Tversky(0.3, 0.8),
    WeightedAccuracy(2.0, 1.0, 3.0, 0.5),
    Precision(),
]


def by_hand(name, tp, fp, fn, tn):
    """The formulas of the table, written out once more."""
    return {
        "F0.5": 1.25 * tp / (1.25 * tp + 0.25 * fn + fp),
        "F1": 2 * tp / (2 * tp + fn + fp),
        "F2": 5 * tp / (5 * tp + 4 * fn + fp),
        "Jaccard": tp / (tp + fp + fn),
        "balanced accuracy": tp / (tp + fn) / 2 + tn / (tn + fp) / 2,
        "accuracy": (tp + tn) / (tp + fp + fn + tn),
        "Tversky(0.3, 0.8)": tp / (tp + 0.3 * fp + 0.8 * fn),
        "weighted accuracy": (2 * tp + tn) / (2 * tp + tn + 3 * fn + 0.5 * fp),
        "precision": tp / (tp + fp),
    }[name]


def costs_by_hand(name, level, pi):
    return {
        "F0.5": (1.25 - level, level),
        "F1": (2 - level, level),
        "F2": (5 - level, level),
        "Jaccard": (1, level),
        "balanced accuracy": (1 / (2 * pi), 1 / (2 * (1 - pi))),
        "accuracy": (1, 1),
        "Tversky(0.3, 0.8)": (1 - level + 0.8 * level, 0.3 * level),
        "weighted accuracy": (2 * (1 - level) + 3 * level, 1 - level + 0.5 * level),
        "precision": (1 - level, level),
    }[name]


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_values_and_costs_follow_the_table(metric, rng):
    for _ in range(200):
        counts = rng.integers(1, 60, 4)
        pi = (counts[0] + counts[2]) / counts.sum()
        level = rng.random()
        assert metric.value(counts) == pytest.approx(by_hand(metric.name, *counts), abs=1e-12)
        assert metric.value(counts / counts.sum()) == pytest.approx(metric.value(counts), abs=1e-12)
        assert metric.costs(level, prevalence=pi) == pytest.approx(costs_by_hand(metric.name, level, pi), abs=1e-10)


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_signed_rows_are_the_papers_form(metric, rng):
    for _ in range(50):
        c = rng.dirichlet(np.ones(4))
        pi, level = c[0] + c[2], rng.random()
        alpha, beta = metric.signed_rows(pi)
        h, y = np.array([1, 1, -1, -1]), np.array([1, -1, 1, -1])
        basis = np.stack([h * y, y, h, np.ones(4)])
        loss = (alpha @ basis @ c) / (beta @ basis @ c)
        assert loss == pytest.approx(-metric.value(c), abs=1e-10)
        a, b = alpha[0] + level * beta[0], alpha[2] + level * beta[2]  # lambda = -level
        expected = (-2 * (a + b), 2 * (b - a))
        assert metric.costs(level, prevalence=pi) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", METRICS[:-1], ids=lambda m: m.name)
def test_bayes_threshold_beats_every_classifier(metric, rng):
    table = every_classifier(7)
    for _ in range(40):
        mass, eta = random_world(rng, points=7)
        values = metric.value(rates(mass, eta, table))
        best = values.max()
        cut = metric.bayes_threshold(best, prevalence=float(mass @ eta))
        assert metric.value(rates(mass, eta, eta > cut)) == pytest.approx(best, abs=1e-10)
        assert metric.span(float(mass @ eta))[0] - 1e-12 <= values.min()
        assert best <= metric.span(float(mass @ eta))[1] + 1e-12


def test_agreement_with_scikit_learn(rng):
    y, h = rng.random(300) < 0.3, rng.random(300) < 0.4
    assert FBeta(2.0).score(y, h) == pytest.approx(sk.fbeta_score(y, h, beta=2))
    assert Jaccard().score(y, h) == pytest.approx(sk.jaccard_score(y, h))
    assert BalancedAccuracy().score(y, h) == pytest.approx(sk.balanced_accuracy_score(y, h))
    assert Precision().score(y, h) == pytest.approx(sk.precision_score(y, h))
    labels, guess = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    many, manyh = rng.random((300, 3)) < 0.3, rng.random((300, 3)) < 0.4
    for average in ("macro", "micro", "weighted"):
        assert metric_score(labels, guess, average=average) == pytest.approx(
            sk.f1_score(labels, guess, average=average)
        )
        got = metric_score(many.astype(int), manyh.astype(int), metric="jaccard", average=average)
        assert got == pytest.approx(sk.jaccard_score(many, manyh, average=average))
    assert metric_score(np.array(["a", "b"]), np.array(["a", "b"]), positive="a") == 1.0


def test_degenerate_counts_give_zero_not_nan():
    assert FBeta().value([0, 0, 5, 5]) == 0.0  # nothing predicted positive
    assert Precision().value([0, 0, 5, 5]) == 0.0  # 0/0
    assert Accuracy().value([0, 2, 0, 8]) == pytest.approx(0.8)  # defined without positives
    for metric in (FBeta(), Jaccard()):
        with pytest.warns(UndefinedMetricWarning, match="no positives"):
            assert metric.value([0, 0, 0, 10]) == 0.0
    with pytest.warns(UndefinedMetricWarning, match="no negatives"):
        assert BalancedAccuracy().value([3, 0, 1, 0]) == 0.0
    with pytest.warns(UndefinedMetricWarning):
        assert averaged(FBeta(), [[0, 0, 0, 4]], average="weighted") == 0.0
    with pytest.raises(InvalidInputError, match="both classes"):
        BalancedAccuracy().costs(0.5, prevalence=1.0)


def test_negative_costs_are_clipped_with_a_warning():
    with pytest.warns(UserWarning, match="outside its range"):
        assert FBeta().costs(2.5) == (0.0, 2.5)
    assert FBeta().costs(0.4).scaled() == (1.0, pytest.approx(0.25))


def test_limits():
    assert FBeta(1.0).bayes_threshold(1e-9) < 1e-9  # M -> 0: everything is predicted positive
    assert Tversky(0.5, 0.5).value([7, 3, 2, 8]) == pytest.approx(FBeta().value([7, 3, 2, 8]))
    assert Tversky(1, 1).value([7, 3, 2, 8]) == Jaccard().value([7, 3, 2, 8])
    assert FBeta(1e4).value([7, 3, 2, 8]) == pytest.approx(7 / 9, abs=1e-7)  # recall
    for pi in (0.1, 0.5):
        assert BalancedAccuracy().bayes_threshold(0.3, prevalence=pi) == pytest.approx(pi)
    assert Accuracy().bayes_threshold(0.9) == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LinearFractionalMetric((1, 0, 0), (1, 1, 1, 1)), "four finite"),
        (lambda: LinearFractionalMetric((1, 0, 0, math.nan), (1, 1, 1, 1)), "four finite"),
        (lambda: LinearFractionalMetric((1, 0, 0, 0), (1, -1, 1, 1)), "zero or more"),
        (lambda: LinearFractionalMetric((1, 0, 0, 0), (0, 0, 0, 0)), "zero or more"),
        (lambda: FBeta(0.0), "positive and finite"),
        (lambda: FBeta(math.inf), "positive and finite"),
        (lambda: get_metric("mcc"), "not a ratio"),
        (lambda: get_metric("g-mean"), "G-mean is not a ratio"),
        (lambda: get_metric("nonsense"), "must be a LinearFractionalMetric"),
        (lambda: get_metric(3), "must be a LinearFractionalMetric"),
        (lambda: FBeta().value([1, 2, 3]), "last axis"),
        (lambda: FBeta().value([0, 0, 0, 0]), "not all zero"),
        (lambda: FBeta().value([1, 2, math.nan, 0]), "finite"),
        (lambda: confusion([1, 0], [1]), "same non-empty shape"),
        (lambda: confusion([], []), "same non-empty shape"),
        (lambda: confusion([1.0, math.nan], [1, 0]), "NaN"),
        (lambda: confusion(["a"], ["b"]), "encode labels"),
        (lambda: averaged(FBeta(), [1, 2, 3, 4], average="macro"), "one row"),
        (lambda: averaged(FBeta(), [[1, 2, 3, 4]], average="other"), "average"),
        (lambda: metric_score([1, 0], [1]), "non-empty shape"),
        (lambda: best_threshold(FBeta(), [1, 0], [0.5, math.nan]), "without NaN"),
    ],
)
def test_nonsense_is_refused_in_one_sentence(call, message, as_shipped):
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_stored_metrics_come_back():
    for metric in METRICS:
        assert metric_from_plain(metric.as_plain()) == metric
    assert get_metric("f2") == FBeta(2) == get_metric("FBeta2")
    assert get_metric("AM") == get_metric("balanced_accuracy") == BalancedAccuracy()


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.name)
def test_best_threshold_is_exhaustive(metric, rng):
    for _ in range(30):
        score = rng.integers(0, 6, 25).astype(float)  # many ties
        y = rng.random(25) < 0.4
        y[:2] = [True, False]
        cut, value = best_threshold(metric, y, score)
        every = [metric.score(y, score > t) for t in np.unique(score) - 0.5] + [metric.score(y, score > 10)]
        assert value == pytest.approx(max(every)) == pytest.approx(metric.score(y, score > cut))
