"""Coverage of the metric's lower bound in worlds with a known metric, its mutants, and how certificates are issued."""

import numpy as np
import pytest
from scipy.stats import beta, binom

import corollary.metrics._certificate as rule
from corollary.certificates import Status, Undecided, load_certificate, save_certificate
from corollary.errors import InvalidInputError, NotFittedError, ReusedRowsError
from corollary.metrics import (
    Accuracy,
    BalancedAccuracy,
    FBeta,
    Jaccard,
    LinearFractionalMetric,
    MetroClassifier,
    Precision,
    Tversky,
    certify_metric,
    lower_bound,
)

WORLD = np.array([0.45, 0.12, 0.15, 0.28])  # TP, FP, FN, TN of a classifier; F1 = .769, F2 = .758, Jaccard = .625


def draws(rng, n, count, world=WORLD):
    for _ in range(count):
        yield np.eye(4)[rng.choice(4, size=n, p=world)]


def failures(metric, rng, n, count, delta, *, world=WORLD, **options):
    """How many bounds exceed the truth, and how many were stated at all."""
    truth, wrong, told = float(metric.value(world)), 0, 0
    for cells in draws(rng, n, count, world):
        try:
            wrong += lower_bound(metric, cells, delta=delta, **options) > truth
            told += 1
        except Undecided:
            continue
    return wrong, told


def most(count, delta):
    """What a valid bound exceeds with probability one in a thousand."""
    return binom.ppf(0.999, count, delta)


@pytest.mark.parametrize("delta", [0.1, 0.05])
@pytest.mark.parametrize("n", [50, 200, 2000])
@pytest.mark.parametrize("metric", [FBeta(1.0), Jaccard(), BalancedAccuracy(), Accuracy()], ids=lambda m: m.name)
def test_coverage_of_exact_bounds(metric, n, delta, rng):
    world = WORLD if n > 60 else np.array([0.5, 0.06, 0.04, 0.4])
    count = 400
    wrong, told = failures(metric, rng, n, count, delta, world=world)
    assert wrong <= most(count, delta)
    if n == 2000:
        assert told == count
        assert wrong >= (metric.name != "balanced accuracy")  # exact bounds do fail now and then: they are not loose


@pytest.mark.parametrize("method", ["betting", "bernstein"])
@pytest.mark.parametrize(("n", "count"), [(50, 120), (200, 60), (2000, 20)])
@pytest.mark.parametrize("delta", [0.1, 0.05])
def test_coverage_by_inversion(method, n, count, delta, rng):
    for metric in (FBeta(2.0), Tversky(0.3, 0.8)):
        wrong, told = failures(metric, rng, n, count, delta, method=method)
        assert wrong <= most(count, delta)
        assert told > 0.7 * count


def test_mutated_constants_are_caught(rng, monkeypatch):
    """A level many times too large, in each of the bounds, fails the coverage test above."""
    count, delta = 300, 0.05
    exact, betting = rule.clopper_pearson, rule.log_capital
    monkeypatch.setattr(
        rule, "clopper_pearson", lambda k, n, *, delta, side: exact(k, n, delta=min(18 * delta, 0.9), side=side)
    )
    assert failures(FBeta(1.0), rng, 200, count, delta)[0] > most(count, delta)
    assert failures(BalancedAccuracy(), rng, 200, count, delta)[0] > most(count, delta)
    monkeypatch.setattr(rule, "log_capital", lambda *a, **k: betting(*a, **k) + np.log(20))
    assert failures(FBeta(2.0), rng, 200, 100, delta, method="betting")[0] > most(100, delta)


def test_exact_bound_is_the_beta_quantile(rng):
    for cells in draws(rng, 300, 20):
        tp, fp, fn, _ = cells.sum(0)
        j = beta.ppf(0.05, tp, fp + fn + 1)
        assert lower_bound(Jaccard(), cells, delta=0.05) == pytest.approx(j, abs=1e-10)
        assert lower_bound(FBeta(1.0), cells, delta=0.05) == pytest.approx(2 * j / (1 + j), abs=1e-10)
        p = beta.ppf(0.05, tp, fp + 1)
        assert lower_bound(Precision(), cells, delta=0.05) == pytest.approx(p, abs=1e-10)


def test_bounds_close_in_on_the_metric(rng):
    for metric in (FBeta(1.0), FBeta(2.0), BalancedAccuracy()):
        truth = float(metric.value(WORLD))
        gaps = [truth - np.mean([lower_bound(metric, c, delta=0.05) for c in draws(rng, n, 8)]) for n in (200, 4000)]
        assert 0 < gaps[1] < 0.4 * gaps[0]


def test_which_metrics_are_functions_of_one_proportion():
    for metric in (FBeta(1.0), Jaccard(), Accuracy(), Precision(), Tversky(0.4, 0.4)):
        assert rule.choose_method(metric) == "exact"
    for metric in (FBeta(2.0), Tversky(0.3, 0.8)):
        assert rule.choose_method(metric) == "betting"
    assert rule.choose_method(BalancedAccuracy()) == "class-wise"
    miss = LinearFractionalMetric((0, 1, 1, 1), (1, 1, 1, 1), name="anything but a hit")
    cells = np.repeat(np.eye(4), [40, 20, 20, 40], axis=0)
    assert lower_bound(miss, cells, delta=0.05) == pytest.approx(
        beta.ppf(0.05, 80, 41)
    )  # worse cells are named by value


def test_small_samples_and_wrong_methods_are_undecided():
    few = np.repeat(np.eye(4), [10, 5, 5, 400], axis=0)
    for metric, options in (
        (FBeta(1.0), {}),
        (FBeta(2.0), {}),
        (BalancedAccuracy(), {}),
        (FBeta(2.0), {"method": "exact"}),
        (FBeta(2.0), {"method": "class-wise"}),
        (BalancedAccuracy(), {"method": "betting"}),
        (FBeta(2.0), {"method": "guess"}),
    ):
        with pytest.raises(Undecided):
            lower_bound(metric, few, delta=0.05, **options)


def test_several_labels(rng):
    truth = rng.random((3000, 3)) < 0.4
    guess = truth ^ (rng.random((3000, 3)) < 0.1)
    for metric in ("f1", "f2"):
        macro, evidence = certify_metric(truth, guess, metric=metric)
        micro, _ = certify_metric(truth, guess, metric=metric, average="micro")
        assert macro.check(**evidence).status is Status.HOLDS
        assert micro.check(**evidence).status is Status.HOLDS
        assert 0.75 < macro.claims[0].rhs < 0.89 > micro.claims[0].rhs > 0.75
    weighted, _ = certify_metric(truth, guess, average="weighted")
    assert "themselves estimated" in weighted.undecided


def test_micro_counts_rows_as_units(rng):
    """Labels of a row that copy one another must not count as independent."""
    truth = np.repeat(rng.random((300, 1)) < 0.5, 6, axis=1)
    guess = truth ^ np.repeat(rng.random((300, 1)) < 0.2, 6, axis=1)
    many, _ = certify_metric(truth, guess, average="micro")
    one, _ = certify_metric(truth[:, 0], guess[:, 0])
    assert many.claims[0].rhs <= one.claims[0].rhs + 0.01


def test_edited_and_stale_certificates(tmp_path, rng):
    cells = next(draws(rng, 500, 1))
    truth, guess = cells[:, 0] + cells[:, 2], cells[:, 0] + cells[:, 1]
    certificate, evidence = certify_metric(truth, guess, metric="f2")
    save_certificate(tmp_path, certificate, evidence)
    loaded, stored = load_certificate(tmp_path)
    assert loaded.check(**stored).status is Status.HOLDS
    assert loaded.check(truth=1 - stored["truth"], prediction=stored["prediction"]).status is Status.UNDECIDED
    from dataclasses import replace

    bolder = replace(loaded, claims=(replace(loaded.claims[0], rhs=0.99, lhs=0.99),))
    assert bolder.check(**stored).status is Status.VIOLATED
    assert "without the method" in str(loaded)


def rows(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    return X, (rng.random(n) < 1 / (1 + np.exp(-(X @ [1.5, -1.0, 0.5] - 1.0)))).astype(int)


def test_classifier_certificates_and_reused_rows():
    X, y = rows(1500, 0)
    model = MetroClassifier("f1", certify=0.4).fit(X, y)
    assert model.certificate_.check(**model.evidence_).status is Status.HOLDS
    assert model.certificate_.attempts == 1
    fresh = model.certify(*rows(800, 1))
    assert fresh.check(**model.evidence_).status is Status.HOLDS
    assert model.certify(*rows(800, 1)).attempts == 2
    with pytest.raises(ReusedRowsError):
        MetroClassifier("f1").fit(X, y).certify(X[:200], y[:200])
    with pytest.raises(NotFittedError):
        MetroClassifier().certify(X, y)


def test_equal_rows_by_chance_are_no_reuse():
    rng = np.random.default_rng(2)
    X = rng.integers(0, 3, (3000, 2)).astype(float)  # nine different rows
    y = (rng.random(3000) < 0.2 + 0.2 * X[:, 0]).astype(int)
    model = MetroClassifier("f1").fit(X[:2000], y[:2000])
    assert "by chance" in str(model.certify(X[2000:], y[2000:]).assumptions[1])


def test_coverage_of_the_whole_chain():
    """Fit, hold out, certify: the bound stays below the metric on a large fresh sample."""
    wrong, Xt, yt = 0, *rows(40000, 99)
    for seed in range(25):
        model = MetroClassifier("f1", levels=5, validation=2, certify=0.5, delta=0.1, seed=seed).fit(*rows(400, seed))
        wrong += model.certificate_.claims[0].rhs > model.score(Xt, yt)
    assert wrong <= most(25, 0.1)


def test_nonsense(as_shipped):
    with pytest.raises(InvalidInputError, match="`method` must be"):
        certify_metric([1, 0], [1, 0], method="guess")
    with pytest.raises(InvalidInputError, match="same non-empty shape"):
        certify_metric([1, 0], [1])
    with pytest.raises(InvalidInputError, match="strictly between"):
        certify_metric([1, 0], [1, 0], delta=2.0)
    assert "at least 30" in certify_metric([1, 0], [1, 0])[0].undecided
