"""Inputs of the measures, reliability diagrams, ECE without its bias, p-values that hold their level."""

import numpy as np
import pytest

from corollary.calibration import (
    Simplex,
    brier_decomposition,
    calibration_error,
    calibration_test,
    expected_calibration_error,
    reliability,
    reliability_vectors,
)
from corollary.calibration._groups import distinct
from corollary.calibration._hypothesis import METHODS
from corollary.errors import InvalidInputError


def calibrated(n, K, seed, sharpness=1.0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(K, sharpness), n)
    y = (rng.random((n, 1)) > np.cumsum(p, 1)).sum(1).clip(max=K - 1)
    return p, y


def test_forms_of_input():
    p, y = np.array([0.2, 0.2, 0.9]), np.array([0.0, 1.0, 1.0])
    assert calibration_error(p, None, y) == pytest.approx(2 * 0.3 + 0.1)
    assert calibration_error(p[:, None], None, y[:, None]) == pytest.approx(0.7)
    assert calibration_error(p[:, None, None], np.ones((3, 1)), y) == pytest.approx(0.7)
    assert calibration_error(p, np.ones(3), y, norm="l2", power=2) == pytest.approx(2 * 0.09 + 0.01)
    assert calibration_error(p, None, y, norm=lambda x: 3 * np.abs(x).sum(-1)) == pytest.approx(2.1)
    assert calibration_error(p, None, y, labels=[0, 1, 0]) == pytest.approx(0.2 + 0.8 + 0.1)
    two = np.array([[0.1, 0.8], [0.8, 0.1]])  # (T, L) forecasts of one number
    assert calibration_error(two, None, [[0.0], [1.0]]) == pytest.approx(0.4 + 0.3)


def test_forecasts_that_differ_by_round_off_are_equal():
    p = np.array([[0.1 + 0.2, 0.7], [0.3, 0.7]])
    assert calibration_error(p, None, [[0.0, 1.0], [0.6, 0.4]]) == pytest.approx(0)
    assert calibration_error([[0.0], [-0.0]], None, [[1.0], [-1.0]]) == pytest.approx(0)


def test_equal_hashes_are_told_apart(monkeypatch):
    rows = np.random.default_rng(0).integers(0, 3, (500, 2)).astype(float)
    first, inverse = distinct(rows)
    assert len(first) == 9
    assert (rows[first][inverse] == rows).all()
    monkeypatch.setattr("corollary.calibration._groups.GOLDEN", np.uint64(0))  # swapped coordinates now collide
    first, inverse = distinct(rows)
    assert len(first) == 9
    assert (rows[first][inverse] == rows).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[[0.5]]], None, [[1.0], [0.0]]), "forecasts must be"),
        (([], None, []), "T at least 1"),
        (([[0.5], [np.nan]], None, [[1.0], [0.0]]), "round 2: forecasts"),
        (([[0.5], [0.5]], None, [[1.0], [np.inf]]), "round 2: outcomes"),
        (([[0.5], [0.5]], [[1.0], [np.nan]], [[1.0], [0.0]]), "round 2: weights"),
        (([[0.5], [0.5]], [[1.0], [0.5]], [[1.0], [0.0]]), "round 2: weights must be prob"),
        (([[0.5], [0.5]], [[-1.0], [1.0]], [[1.0], [0.0]]), "round 1: weights must be prob"),
        (([[0.5]], [[0.5, 0.5]], [[1.0]]), "weights must be"),
    ],
)
def test_bad_input(arguments, message, as_shipped):
    for f in (calibration_error, brier_decomposition):
        with pytest.raises(InvalidInputError, match=message):
            f(*arguments)


def test_norms_that_are_none(as_shipped):
    for norm in (0.5, "l3", None, True, np.nan):
        with pytest.raises(InvalidInputError):
            calibration_error([[0.5]], None, [[1.0]], norm=norm)
    with pytest.raises(InvalidInputError, match="whole numbers"):
        calibration_error([[0.5]], None, [[1.0]], labels=[[0.5]])


def test_reliability_in_one_dimension():
    p, y = calibrated(4000, 3, 0)
    for kind in ("top", "classwise"):
        for scheme in ("width", "mass"):
            diagram = reliability(p, y, kind=kind, scheme=scheme, bins=10)
            assert abs(diagram.weight.sum() - 1) < 1e-12
            assert diagram.weight @ np.abs(diagram.forecast - diagram.outcome) < 0.05
            ece = expected_calibration_error(p, y, kind=kind, scheme=scheme, bins=10)
            assert ece == pytest.approx(diagram.weight @ np.abs(diagram.forecast - diagram.outcome))
    halves = reliability(p[:, 0], (y == 0).astype(int), bins=10)
    assert np.allclose(halves.forecast[::-1], 1 - halves.forecast, atol=1e-12)  # class 0 mirrors class 1


def test_reliability_in_several_dimensions():
    p, y = calibrated(3000, 3, 1)
    Y = np.eye(3)[y]
    diagram = reliability_vectors(p, None, Y, resolution=5)
    assert Simplex(3).contains(diagram.forecast, tol=1e-9).all()
    assert abs(diagram.weight.sum() - 1) < 1e-12
    cells = diagram.weight @ np.abs(diagram.forecast - diagram.outcome).sum(1)
    assert cells < calibration_error(p, None, Y) / 3000  # merging only lowers
    coarse = reliability_vectors(p, None, Y, resolution=1)
    assert coarse.weight @ np.abs(coarse.forecast - coarse.outcome).sum(1) < cells


def test_debiased_error_is_unbiased_and_the_plain_one_is_not():
    plain, mended = [], []
    for seed in range(200):
        p, y = calibrated(300, 2, seed)
        options = {"bins": 15, "scheme": "mass", "kind": "classwise", "norm": 2}
        plain.append(expected_calibration_error(p, y, **options) ** 2)
        index = np.empty(600, dtype=int)
        index[np.argsort(p.reshape(-1), kind="stable")] = np.arange(600) * 15 // 600
        n = np.bincount(index)
        mean_p, mean_y = (np.bincount(index, v) / n for v in (p.reshape(-1), np.eye(2)[y].reshape(-1)))
        mended.append(n @ ((mean_y - mean_p) ** 2 - mean_y * (1 - mean_y) / (n - 1)) / 600)
        debiased = expected_calibration_error(p, y, debias=True, **options) ** 2
        assert debiased == pytest.approx(max(mended[-1], 0.0), abs=1e-12)
    spread = np.std(mended) / np.sqrt(200)
    assert np.mean(plain) > 5 * abs(np.mean(mended))
    # the forecasts vary inside a bin, which the binomial variance overstates a little: never above zero by chance
    assert np.mean(mended) < 4 * spread


def test_ece_variants():
    p, y = np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 1, 1, 1])
    assert expected_calibration_error(p, y, kind="classwise", bins=2) == pytest.approx(0.15)
    assert expected_calibration_error(p, y, kind="classwise", bins=2, norm="max") == pytest.approx(0.15)
    assert expected_calibration_error(p, np.eye(2)[y], kind="classwise", bins=2, norm=2) == pytest.approx(0.15)
    q, z = calibrated(2000, 2, 3)
    swept = expected_calibration_error(q[:, 1] ** 2, z, bins="sweep", kind="top")
    assert 0.05 < swept < 0.5
    for arguments in (
        {"norm": 3},
        {"debias": True},
        {"bins": 0},
        {"scheme": "area"},
        {"kind": "all"},
        {"outcomes": [0, 1, 2, 1]},
        {"outcomes": [0, 1]},
        {"probabilities": [0.1, 0.2, np.nan, 0.4]},
        {"probabilities": [0.1, 0.2, 1.4, 0.4]},
    ):
        with pytest.raises(InvalidInputError):
            expected_calibration_error(**{"probabilities": p, "outcomes": y, **arguments})


@pytest.mark.parametrize("method", METHODS)
def test_tests_hold_their_level_and_have_power(method):
    K = 2 if method == "hosmer-lemeshow" else 3
    options = {"method": method, "draws": 99}
    null, wrong = [], []
    for seed in range(120):
        p, y = calibrated(250, K, seed)
        null.append(calibration_test(p, y, **options).p_value)
        if seed < 25:
            q = p**1.8
            wrong.append(calibration_test(q / q.sum(1, keepdims=True), y, **options).p_value)
    # at most 10 % rejected at level 10 %: 120 trials, four standard deviations
    assert np.mean(np.array(null) <= 0.1) < 0.1 + 4 * np.sqrt(0.09 / 120)
    assert np.mean(np.array(wrong) <= 0.1) > 0.4
    if method in ("spiegelhalter", "hosmer-lemeshow"):
        assert 0.3 < np.mean(null) < 0.7


def test_tests_refuse_what_is_no_label():
    with pytest.raises(InvalidInputError, match="one class a row"):
        calibration_test([0.5], [[0.5, 0.5]])
    with pytest.raises(InvalidInputError, match="two classes"):
        calibration_test(np.eye(3), [0, 1, 2], method="hosmer-lemeshow")
    with pytest.raises(InvalidInputError, match="`method`"):
        calibration_test([0.5], [1], method="guess")
    assert calibration_test([1.0, 0.0], [1, 0]).p_value == 1.0
    assert calibration_test([1.0, 0.0], [0, 0]).p_value == 0.0
