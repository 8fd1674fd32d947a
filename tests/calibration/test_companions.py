"""Grids, methods on a base model, the calibrator: each does what its docstring promises, and goes to disk and back."""

import json

import numpy as np
import pytest

from corollary.calibration import (
    Ball,
    BlackwellGrid,
    BlumMansourGrid,
    Calibeating,
    Calibrator,
    Chain,
    FosterGrid,
    Hedge,
    KuleshovErmon,
    OnlinePlatt,
    PerBin,
    Simplex,
    TreeCal,
    adversary,
    brier_decomposition,
    calibration_error,
    load_forecaster,
)
from corollary.errors import InvalidInputError


def follow(forecaster, y, base=None):
    """(T, L, d) and (T, L), padded with weight zero."""
    found = []
    for t, v in enumerate(y):
        found.append(forecaster.predict(None if base is None else base[t]))
        forecaster.update(v)
    widest = max(len(w) for _, w in found)
    points = np.array([np.concatenate([p, np.repeat(p[:1], widest - len(p), 0)]) for p, _ in found])
    return points, np.array([np.pad(w, (0, widest - len(w))) for _, w in found])


def binary(T, seed, p=0.3):
    return np.eye(2)[(np.random.default_rng(seed).random(T) < p).astype(int)]


def drifting(T=2000, seed=0):
    """Two classes with a drifting, overconfident model."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=T)
    truth = 1 / (1 + np.exp(-(0.8 * z + np.linspace(-1.5, 1.5, T))))
    y = np.eye(2)[(rng.random(T) < truth).astype(int)]
    f = 1 / (1 + np.exp(-2 * z))
    return np.stack([1 - f, f], 1), y


@pytest.mark.parametrize("make", [lambda: FosterGrid(2, resolution=10), lambda: BlumMansourGrid(2, resolution=10)])
@pytest.mark.parametrize("kind", ["iid", "alternating", "blocks"])
def test_binary_grids_are_calibrated(make, kind):
    T = 1500
    y = {"iid": binary(T, 1), "alternating": np.eye(2)[np.arange(T) % 2], "blocks": np.eye(2)[np.arange(T) // 97 % 2]}
    points, weights = follow(make(), y[kind])
    assert np.isin(np.round(points * 10, 9), np.arange(11)).all()
    # 2 (1 / m + sqrt(m / T)) on the scale of the 2-simplex, the order of the guarantee
    assert calibration_error(points, weights, y[kind]) / T < 2 * (0.1 + np.sqrt(10 / T))


def test_foster_stands_up_to_the_best_response():
    T, forecaster = 1000, FosterGrid(2, resolution=10)
    answer, outcomes, found = adversary("best-response", Simplex(2)), np.empty((T, 2)), []
    for t in range(T):
        points, weights = forecaster.predict()
        outcomes[t] = answer(points, weights, outcomes[:t])
        found.append((np.resize(points, (2, 2)), np.resize(weights, 2) if len(weights) == 2 else np.array([1.0, 0.0])))
        forecaster.update(outcomes[t])
    error = calibration_error([p for p, _ in found], [w for _, w in found], outcomes) / T
    assert error < 0.4


def test_grids_in_one_dimension_and_their_limits():
    y = binary(200, 2)
    for cls in (FosterGrid, BlumMansourGrid):
        one, two = follow(cls(1, resolution=5), y[:, 1:]), follow(cls(2, resolution=5), y)
        assert np.allclose(one[0][:, :, 0], two[0][:, :, 1])
        with pytest.raises(InvalidInputError, match="use TreeCal"):
            cls(3)
        with pytest.raises(InvalidInputError, match="interval"):
            cls(Ball(2))
        assert cls(2, horizon=1000).resolution == 10
    with pytest.raises(InvalidInputError, match="`resolution`"):
        FosterGrid(2, resolution=0)


def test_blackwell_in_three_classes():
    T = 400
    y = np.eye(3)[np.random.default_rng(3).choice(3, T, p=[0.5, 0.3, 0.2])]
    forecaster = BlackwellGrid(3, resolution=4)
    points, weights = follow(forecaster, y)
    assert calibration_error(points, weights, y, norm=2) / T < 0.25 + np.sqrt(15 / T)
    # approachability: the norm of all errors together grows like sqrt(T), up to the width of the grid
    assert np.square(forecaster._errors).sum() <= 2 * T + 2 * T * T / 4
    with pytest.raises(InvalidInputError, match="2000 are"):
        BlackwellGrid(10, resolution=10)


def test_calibeating_wins_back_what_miscalibration_cost():
    base, y = drifting()
    points, weights = follow(Calibeating(2, bins=10), y, base)
    bins = np.minimum((base[:, 1] * 10).astype(int), 9)
    centres = np.stack([1 - bins / 10, bins / 10], 1)
    refinement = brier_decomposition(centres, None, y).refinement
    T = len(y)
    assert brier_decomposition(points, weights, y).brier <= refinement + 10 * 2 * (2 + np.log(T)) / T
    assert brier_decomposition(points, weights, y).brier < brier_decomposition(base, None, y).brier - 0.01


def test_online_platt_then_calibeating():
    base, y = drifting(4000, seed=1)
    score = {
        "base": np.square(base - y).sum(1).mean(),
        **{
            n: brier_decomposition(*follow(f, y, base), y).brier
            for n, f in (
                ("calibeating", Calibeating(2)),
                ("platt", OnlinePlatt(2)),
                ("both", Chain(OnlinePlatt(2), Calibeating(2))),
            )
        },
    }
    assert score["platt"] < score["base"] - 0.02
    assert score["both"] < score["base"] - 0.02


def test_online_platt_regret_is_logarithmic():
    rng = np.random.default_rng(4)
    z = rng.normal(size=3000)
    y = (rng.random(3000) < 1 / (1 + np.exp(-(0.5 * z + 1)))).astype(int)
    f = 1 / (1 + np.exp(-z))
    points, _ = follow(OnlinePlatt(2), np.eye(2)[y], np.stack([1 - f, f], 1))
    paid = -np.log(points[np.arange(3000), 0, y])
    ideal = 1 / (1 + np.exp(-(0.5 * z + 1)))
    best = -np.log(np.where(y == 1, ideal, 1 - ideal))
    regret = np.cumsum(paid - best)
    assert regret[-1] < 20 * np.log(3000)
    assert regret[-1] < regret[1499] + 20  # it has flattened
    # one probability and more classes go through the same steps
    single, _ = follow(OnlinePlatt(1), y[:200, None].astype(float), f[:200, None])
    assert np.allclose(single[:, 0, 0], points[:200, 0, 1])
    base = rng.dirichlet(np.ones(3), 1500)
    labels = np.array([rng.choice(3, p=q) for q in (base**0.5 / (base**0.5).sum(1, keepdims=True))])
    mapped, _ = follow(OnlinePlatt(3), np.eye(3)[labels], base)
    rows = np.arange(1500)
    assert -np.log(mapped[rows, 0, labels]).mean() < -np.log(base[rows, labels]).mean() - 0.03


def test_per_bin_is_the_algorithm_on_the_rounds_of_the_bin():
    rng = np.random.default_rng(5)
    base, y = rng.dirichlet(np.ones(3), 300), rng.dirichlet(np.ones(3), 300)
    points, _ = follow(PerBin(TreeCal(3, 2, 3), bins=2), y, base)
    keys = [(int(p.argmax()), min(int(p.max() * 2), 1)) for p in base]
    for key in set(keys):
        mine = np.array([k == key for k in keys])
        alone, _ = follow(TreeCal(3, 2, 3), y[mine])
        assert np.allclose(points[mine], alone)
    assert np.isfinite(follow(PerBin(TreeCal(Ball(2), 2, 3), bins=2), y[:, :2] / 2, base[:, :2] / 2)[0]).all()


def test_kuleshov_ermon_is_calibrated_on_a_bad_model():
    base, y = drifting(3000, seed=2)
    points, weights = follow(KuleshovErmon(2, bins=5, resolution=10), y, base)
    assert calibration_error(points, weights, y) / 3000 < 0.25
    assert brier_decomposition(points, weights, y).brier < np.square(base - y).sum(1).mean() + 2 / 10


METHODS = [
    lambda: FosterGrid(2, resolution=6),
    lambda: BlumMansourGrid(1, resolution=4),
    lambda: BlackwellGrid(2, resolution=4),
    lambda: PerBin(Hedge(2), bins=3),
    lambda: Calibeating(2, bins=4),
    lambda: KuleshovErmon(2, bins=3, resolution=5),
    lambda: OnlinePlatt(2, rate=0.2),
    lambda: Chain(OnlinePlatt(2), Calibeating(2)),
    lambda: Calibrator("auto", dim=2, horizon=100),
    lambda: Calibrator("auto", dim=Simplex(2), base=True),
    lambda: Calibrator("treecal", dim=2, levels=2, branching=3),
    lambda: Calibrator("sample-treecal", dim=2, horizon=300),
]


@pytest.mark.parametrize("make", METHODS)
def test_state_goes_to_disk_and_back(make, tmp_path):
    base, y = drifting(60, seed=3)
    one = make()
    if one.dim == 1:
        base, y = base[:, 1:], y[:, 1:]
    for t in range(31):
        one.predict(base[t])
        one.update(y[t])
    one.predict(base[31])  # saved between a forecast and its outcome
    one.save(tmp_path / "s.json")
    two = load_forecaster(tmp_path / "s.json")
    for t in range(31, 60):
        if t > 31:
            assert all((a == b).all() for a, b in zip(one.predict(base[t]), two.predict(base[t]), strict=True))
        one.update(y[t])
        two.update(y[t])


@pytest.mark.parametrize("make", METHODS)
def test_refused_outcomes_change_nothing(make):
    one = make()
    base = [0.4, 0.6][2 - one.dim :]
    one.predict(base)
    before = json.dumps(one.as_plain())
    with pytest.raises(InvalidInputError, match=r"round 1: .*NaN"):
        one.update([np.nan] * one.dim)
    assert json.dumps(one.as_plain()) == before


def test_methods_on_a_base_ask_for_it():
    for made in (Calibeating(2), OnlinePlatt(2), PerBin(Hedge(2)), Chain(OnlinePlatt(2), Calibeating(2))):
        with pytest.raises(InvalidInputError, match="builds on another model"):
            made.predict()
        with pytest.raises(InvalidInputError, match="round 1: the base forecast"):
            made.predict([0.5, np.nan])
        with pytest.raises(InvalidInputError, match="before `predict"):
            made.update([0.0, 1.0])
    with pytest.raises(InvalidInputError, match="not points of"):
        OnlinePlatt(Ball(2))
    with pytest.raises(InvalidInputError, match="one dimension"):
        Chain(OnlinePlatt(2), Calibeating(3))
    with pytest.raises(InvalidInputError, match="of this package"):
        PerBin(object, 2)


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({"dim": 2}, "foster"),
        ({"dim": 2, "outcomes": "vectors"}, "treecal"),
        ({"dim": 10}, "treecal"),
        ({"dim": Ball(4), "outcomes": "vectors", "horizon": 50}, "treecal"),
        ({"dim": 2, "base": True}, "platt+calibeating"),
        ({"dim": 3, "base": True}, "platt"),
        ({"dim": Ball(3), "base": True, "outcomes": "vectors"}, "calibeating"),
    ],
)
def test_auto_picks_and_says_why(options, method):
    made = Calibrator("auto", **options)
    assert made.method == method
    assert all(len(r) > 20 for r in made.reasons)
    points, weights = made.predict(np.full(made.dim, 1 / made.dim) if made.base else None)
    assert abs(weights.sum() - 1) < 1e-12
    assert points.shape == (len(weights), made.dim)


def test_auto_shapes_the_tree_by_what_the_theorem_can_say():
    few = Calibrator("treecal", dim=3, horizon=4096, outcomes="vectors").forecaster
    many = Calibrator("treecal", dim=50, horizon=4096, outcomes="vectors").forecaster
    assert (few.levels, few.branching) == (3, 16)
    assert (many.levels, many.branching) == (12, 2)
    labels = Calibrator("treecal", dim=20, horizon=4096).forecaster
    assert (labels.levels, labels.branching, labels.leaf) == (6, 2, 64)
    assert Calibrator("treecal", dim=1, horizon=100, outcomes="vectors").forecaster.dim == 1


@pytest.mark.parametrize("method", Calibrator.methods())
def test_every_method_runs(method):
    base, y = drifting(80, seed=4)
    needs = method in ("calibeating", "platt", "platt+calibeating", "kuleshov-ermon", "treecal-per-bin")
    made = Calibrator(method, dim=2, horizon=80, base=needs)
    points, weights = follow(made, y, base)
    assert np.allclose(weights.sum(1), 1)
    assert Simplex(2).contains(points, tol=1e-6).all()
    if needs:
        with pytest.raises(InvalidInputError, match="pass base=True"):
            Calibrator(method, dim=2)


def test_calibrator_refuses_what_it_does_not_know(as_shipped):
    for arguments in ({"method": "magic"}, {"outcomes": "numbers"}, {"horizon": 0}, {"dim": 0}):
        with pytest.raises(InvalidInputError):
            Calibrator(**arguments)
