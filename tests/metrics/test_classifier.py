"""`MetroClassifier`: scikit-learn's own checks, the three searches, several classes and labels, probabilities."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from corollary.errors import InvalidInputError, NotFittedError
from corollary.metrics import FBeta, MetroClassifier, metric_score
from corollary.metrics._classifier import EXPECTED_FAILED_CHECKS


@parametrize_with_checks(
    [
        MetroClassifier(levels=3, validation=2),
        MetroClassifier(surrogate="hinge", search="dinkelbach", validation=0.3, max_rounds=2),
    ],
    expected_failed_checks=lambda e: EXPECTED_FAILED_CHECKS if e.surrogate == "logistic" else {},
)
def test_scikit_learn_checks(estimator, check, as_shipped):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([MetroClassifier()], expected_failed_checks=lambda e: EXPECTED_FAILED_CHECKS)
def test_scikit_learn_checks_of_the_defaults(estimator, check, as_shipped):
    check(estimator)


def world(n, seed, *, weight=1.5):
    """A well-specified logistic world, a tenth positive."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    eta = 1 / (1 + np.exp(-(X @ [weight, -1.0, 0.5] - 3.0)))
    return X, (rng.random(n) < eta).astype(int), eta


@pytest.mark.parametrize("search", ["grid", "bisect", "dinkelbach"])
@pytest.mark.parametrize("metric", ["f1", "f2", "jaccard", "balanced-accuracy"])
def test_searches_reach_the_bayes_value(search, metric):
    X, y, _ = world(6000, 0)
    Xt, yt, eta = world(60000, 1)
    model = MetroClassifier(metric, search=search).fit(X, y)
    cuts = [model.metric_.score(yt, eta > t) for t in np.linspace(0.01, 0.7, 140)]
    # 6000 rows: the fit itself is a few thousandths off the Bayes rule, the level search the same again
    assert model.score(Xt, yt) > max(cuts) - 0.015
    if search == "grid":
        assert model.bracket_[0] <= model.level_ <= model.bracket_[1]
    if metric == "balanced-accuracy":
        assert len({round(v, 12) for v in model.search_[0].values}) == 1  # one fit is enough


def test_it_beats_threshold_zero_on_imbalanced_rows():
    X, y, _ = world(4000, 2, weight=1.0)
    Xt, yt, _ = world(40000, 3, weight=1.0)
    plain = LogisticRegression().fit(X, y)
    metro = MetroClassifier("f1").fit(X, y)
    assert metro.score(Xt, yt) > metric_score(yt, plain.predict(Xt)) + 0.1


@pytest.mark.parametrize("surrogate", ["logistic", "exponential", "squared_hinge"])
def test_probabilities_are_shifted_back(surrogate):
    X, y, eta = world(20000, 4)
    model = MetroClassifier("f1", surrogate=surrogate, validation=0.3).fit(X, y)
    p = model.predict_proba(X)[:, 1]
    assert abs(p.mean() - y.mean()) < (0.01 if surrogate == "logistic" else 0.06)  # others: misspecified links
    if surrogate == "logistic":
        assert np.abs(p - eta).mean() < 0.01  # three thousand positives: a few thousandths
        assert (model.predict(X) != (p > 0.5)).any()  # the point of the metric
        threshold = model.metric_.bayes_threshold(model.level_)
        assert (model.predict(X) == (p > threshold)).all()


def test_non_probabilistic_surrogates_say_so():
    X, y, _ = world(500, 5)
    for surrogate in ("hinge", "rho_margin"):
        model = MetroClassifier("f1", surrogate=surrogate).fit(X, y)
        assert model.score(X, y) > 0.4
        with pytest.raises(AttributeError, match="no attribute"):
            model.predict_proba(X)


def test_any_estimator_with_sample_weight():
    X, y, _ = world(1500, 6)
    model = MetroClassifier("f2", HistGradientBoostingClassifier(max_iter=10), levels=3, validation=2).fit(X, y)
    assert model.score(X, y) > 0.6
    assert model.predict_proba(X).shape == (len(X), 2)
    same = MetroClassifier("f1", LogisticRegression(C=1 / (1e-4 * 1500), tol=1e-8, max_iter=1000), levels=[0.5])
    ours = MetroClassifier("f1", levels=[0.5], tol=1e-8).fit(X, y)
    # scikit-learn sums weighted losses where we average them: the same objective up to a factor
    assert np.allclose(same.fit(X, y).decision_function(X), ours.decision_function(X), atol=1e-4)
    with pytest.raises(InvalidInputError, match="takes no `sample_weight`"):
        MetroClassifier("f1", KNeighborsClassifier()).fit(X, y)


def test_multiclass_macro_beats_the_plain_argmax():
    X, y = make_classification(
        4000, 12, n_informative=6, n_classes=3, weights=[0.85, 0.1, 0.05], class_sep=0.6, random_state=0, flip_y=0.02
    )
    X, Xt, y, yt = X[:2000], X[2000:], y[:2000], y[2000:]
    plain = LogisticRegression().fit(X, y)
    model = MetroClassifier("f1").fit(X, np.array(["a", "b", "c"])[y])
    assert set(model.predict(Xt)) <= {"a", "b", "c"}
    assert model.level_.shape == (3,)
    assert model.score(Xt, np.array(["a", "b", "c"])[yt]) > metric_score(yt, plain.predict(Xt)) + 0.02
    assert np.allclose(model.predict_proba(Xt).sum(1), 1)
    micro = MetroClassifier("f1", average="micro").fit(X, y)
    assert np.ptp(micro.level_) == 0
    assert micro.score(Xt, yt) > 0.8


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_multilabel(average):
    X, Y = make_multilabel_classification(1200, 6, n_classes=4, n_labels=1, random_state=1)
    X, Xt, Y, Yt = X[:600], X[600:], Y[:600], Y[600:]
    model = MetroClassifier("f1", average=average, levels=9, validation=3).fit(X, Y)
    zero = np.stack([LogisticRegression(max_iter=2000).fit(X, Y[:, j]).predict(Xt) for j in range(4)], 1)
    assert model.score(Xt, Yt) > metric_score(Yt, zero, average=average) - 0.02
    assert model.predict(Xt).shape == Yt.shape
    assert model.predict_proba(Xt).shape == Yt.shape
    assert (np.ptp(model.level_) == 0) == (average == "micro")


def test_tuned_threshold_option_and_validation_choices():
    X, y, _ = world(1500, 8)
    scores = [
        MetroClassifier("f1", validation=v, tune_threshold=t).fit(X, y).score(X, y)
        for v in (None, 3, 0.25)
        for t in (False, True)
    ]
    assert min(scores) > 0.45
    tuned = MetroClassifier("f1", levels=[0.1], tune_threshold=True).fit(X, y)  # a bad level, mended by the threshold
    bad = MetroClassifier("f1", levels=[0.1]).fit(X, y)
    assert tuned.validation_score_ > bad.validation_score_ + 0.05


def test_auto_is_the_surrogate_that_validation_prefers():
    X, y, _ = world(700, 12)
    convex = MetroClassifier("f2").fit(X, y)
    bounded = MetroClassifier("f2", surrogate="rho_margin", search="dinkelbach").fit(X, y)
    both = MetroClassifier("f2", surrogate="auto").fit(X, y)
    better = max((convex, bounded), key=lambda model: model.validation_score_)
    assert both.surrogate_ == better.surrogate_
    assert both.validation_score_ == better.validation_score_
    assert (both.coef_ == better.coef_).all()
    assert hasattr(both, "predict_proba") == (both.surrogate_ == "logistic")
    module = MetroClassifier("f1", torch.nn.Linear(3, 1), surrogate="auto", levels=3, validation=2).fit(
        X[:200], y[:200]
    )
    assert module.surrogate_ in ("logistic", "rho_margin")


def test_it_is_deterministic_and_cloneable():
    X, y, _ = world(600, 9)
    model = MetroClassifier(FBeta(2.0), certify=0.4, seed=3)
    assert clone(model).get_params()["certify"] == 0.4
    first, second = clone(model).fit(X, y), clone(model).fit(X, y)
    assert (first.coef_ == second.coef_).all()
    assert first.certificate_ == second.certificate_
    assert "certify=0.4" in repr(model)
    assert model.set_params(certify=None).get_params()["certify"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "mcc"}, "not a ratio"),
        ({"search": "random"}, "`search` must be"),
        ({"surrogate": "ramp"}, "`surrogate` must be"),
        ({"average": "samples"}, "`average` must be"),
        ({"validation": 1}, "`validation` must be"),
        ({"validation": 1.5}, "`validation` must be"),
        ({"certify": 1.2}, "`certify` must be"),
        ({"certify": 0.0001}, "leaves nothing"),
        ({"delta": 0.0}, "`delta` must"),
        ({"levels": []}, "`levels` must be"),
        ({"levels": [np.nan]}, "`levels` must be"),
        ({"l2": -1.0}, "`l2` must be"),
    ],
)
def test_bad_options(options, message, as_shipped):
    X, y, _ = world(200, 10)
    with pytest.raises(InvalidInputError, match=message):
        MetroClassifier(**options).fit(X, y)


def test_bad_data(as_shipped):
    X, y, _ = world(100, 11)
    with pytest.raises(InvalidInputError, match="one class only"):
        MetroClassifier().fit(X, np.zeros(100))
    with pytest.raises(InvalidInputError, match="labels, not numbers"):
        MetroClassifier().fit(X, X[:, 0])
    with pytest.raises(InvalidInputError, match="always or never set"):
        MetroClassifier().fit(X, np.stack([y, 0 * y], 1))
    with pytest.raises(ValueError, match="NaN"):
        MetroClassifier().fit(np.where(X > 1, np.nan, X), y)
    with pytest.raises(NotFittedError):
        MetroClassifier().certify(X, y)
    one = np.zeros(100, dtype=int)
    one[7] = 1  # a single positive: no folds can be made, the training rows are measured
    assert MetroClassifier().fit(X, one).predict(X).shape == (100,)
    with pytest.raises(InvalidInputError, match="drop `sample_weight`"):
        MetroClassifier().fit(X, y).score(X, y, sample_weight=np.ones(100))


def test_extreme_scales_and_collinear_columns():
    X, y, _ = world(800, 12)
    wide = np.column_stack([X * [1e6, 1e-6, 1.0], X[:, 0], np.ones(len(X)), np.zeros(len(X))])
    model = MetroClassifier("f1", l2=0.0).fit(wide, y)
    assert model.score(wide, y) == pytest.approx(MetroClassifier("f1", l2=0.0).fit(X, y).score(X, y), abs=0.01)
