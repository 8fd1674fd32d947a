"""TreeCal: streaming, literal and replayed forms agree; bad input changes nothing; its state goes to disk and back."""

import json
import tracemalloc

import numpy as np
import pytest

from corollary.calibration import (
    Ball,
    DiscountedMean,
    FollowTheLeader,
    GradientDescent,
    Hedge,
    PengCal,
    SampleTreeCal,
    Simplex,
    TreeCal,
    TreeSwap,
    load_forecaster,
    replay,
)
from corollary.calibration._literal import literal_forecasts
from corollary.calibration._replay import learned
from corollary.calibration._schedule import Schedule, root
from corollary.errors import InvalidFileError, InvalidInputError


def run(forecaster, outcomes):
    seen = []
    for y in outcomes:
        seen.append(forecaster.predict()[0])
        forecaster.update(y)
    return np.array(seen)


SHAPES = [(1, 7, None), (2, 2, None), (2, 5, 25), (3, 3, None), (4, 2, 11), (3, 2, 100)]


@pytest.mark.parametrize(("levels", "branching", "horizon"), SHAPES)
def test_streaming_equals_the_literal_algorithm(levels, branching, horizon):
    y = np.random.default_rng(0).normal(size=(150, 3))  # several restarts
    streamed = run(TreeCal(3, levels, branching, horizon), y)
    literal = literal_forecasts(y, Schedule(levels, branching, horizon), origin=np.full(3, 1 / 3))
    assert np.abs(streamed - literal).max() < 1e-12


@pytest.mark.parametrize(("levels", "branching", "horizon"), SHAPES)
@pytest.mark.parametrize("options", [{}, {"leaf": 4}, {"start": "mean"}, {"mixing": 0.2, "start": [1.0, 0.0, 0.0]}])
def test_replay_equals_streaming(levels, branching, horizon, options):
    y = np.random.default_rng(1).dirichlet(np.ones(3), 157)
    replayed = replay(y, levels, branching, horizon, **options)
    streamed = run(TreeCal(3, levels, branching, horizon, **options), y)
    assert np.abs(replayed.forecasts() - streamed).max() < 1e-12
    assert np.allclose(replayed.weights(), 1 / levels)
    assert (np.bincount(replayed.level, replayed.rounds) == 157).all()


@pytest.mark.parametrize("T", [1, 8, 9, 10, 26, 27, 28, 100])
@pytest.mark.parametrize("options", [{}, {"leaf": 4}, {"start": "mean"}])
def test_the_state_after_a_recorded_stream(T, options):
    y = np.random.default_rng(6).dirichlet(np.ones(3), T + 40)
    jumped, streamed = (TreeCal(3, 2, 3, **options) for _ in range(2))
    learned(jumped, y[:T])
    run(streamed, y[:T])
    assert np.abs(run(jumped, y[T:]) - run(streamed, y[T:])).max() < 1e-12
    assert jumped.rounds == streamed.rounds == T + 40


def test_first_tree_is_branching_to_the_levels_then_doubled():
    y, forecaster, epochs = np.eye(2)[np.zeros(60, dtype=int)], TreeCal(2, 2, 3), []
    for t, v in enumerate(y):
        if not epochs or forecaster._epoch.begin != epochs[-1][0]:
            epochs.append((forecaster._epoch.begin, forecaster._epoch.horizon, forecaster.branching))
        assert forecaster.rounds == t
        forecaster.update(v)
    assert epochs == [(0, 9, 3), (9, 18, 5), (27, 36, 6)]
    assert root(10**18, 3) == 10**6
    assert root(10**18 + 1, 3) == 10**6 + 1


def test_known_horizon_needs_no_restart():
    forecaster = TreeCal(1, levels=2, horizon=1000)
    run(forecaster, np.zeros((999, 1)))
    assert (forecaster.branching, forecaster._number) == (32, 0)


def test_predict_changes_nothing_and_hands_out_copies():
    forecaster = TreeCal(2)
    first, weights = forecaster.predict()
    first[:] = 9
    weights[:] = 9
    assert np.allclose(forecaster.predict()[0], 0.5)
    assert np.allclose(forecaster.predict()[1], 0.25)
    assert (forecaster.predict()[0].shape, forecaster.predict()[1].shape) == ((4, 2), (4,))


def test_one_level_is_the_plain_average():
    y = np.random.default_rng(2).dirichlet(np.ones(4), 60)
    assert np.allclose(run(TreeCal(4, 1, 60), y), run(FollowTheLeader(4), y), atol=1e-14)


@pytest.mark.parametrize("domain", [None, Simplex(3)])
@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0.5, np.nan, 0.5], "round 6: .*NaN"),
        ([np.inf, 0.0, 0.0], "round 6: .*infinity"),
        ([0.5, 0.5], r"round 6: .*shape \(3,\), got \(2,\)"),
        ([[1.0, 0.0, 0.0]], "round 6: .*shape"),
        ("cat", "round 6: .*"),
        (None, "round 6: .*"),
    ],
)
def test_bad_outcomes_are_refused_and_change_nothing(domain, y, message, as_shipped):
    forecaster = TreeCal(domain or 3, 2, 2)
    run(forecaster, np.eye(3)[[0, 1, 2, 0, 1]])
    before = json.dumps(forecaster.as_plain())
    with pytest.raises(InvalidInputError, match=message):
        forecaster.update(y)
    assert json.dumps(forecaster.as_plain()) == before


def test_outcomes_outside_the_set_are_refused():
    for domain, y in ((Simplex(2), [0.7, 0.7]), (Ball(2), [1.0, 0.2])):
        forecaster = TreeCal(domain)
        with pytest.raises(InvalidInputError, match=r"round 1: .*outside"):
            forecaster.update(y)
        assert forecaster.rounds == 0
    with pytest.raises(InvalidInputError, match=r"round 3: .*outside"):
        replay([[0, 1], [1, 0], [1, 1]], domain=Simplex(2))
    with pytest.raises(InvalidInputError, match=r"round 2: .*NaN"):
        replay([[0, 1], [np.nan, 0]])


@pytest.mark.parametrize(
    "arguments",
    [
        *({"dim": 0}, {"levels": 0}, {"branching": 1}, {"horizon": 0}, {"leaf": 0}, {"mixing": 1.0}),
        *({"start": "end"}, {"start": [0.5]}, {"levels": 2.5}, {"dim": True}, {"start": [np.nan, 0.0]}),
    ],
)
def test_arguments_out_of_range(arguments, as_shipped):
    with pytest.raises(InvalidInputError):
        TreeCal(**{"dim": 2, **arguments})


FORECASTERS = [
    lambda: TreeCal(Simplex(2), 3, 2, leaf=2, mixing=0.1, seed=4),
    lambda: TreeCal(2, start=[1.0, 0.0]),
    lambda: PengCal(2, 2, 3),
    lambda: SampleTreeCal(2, 3, 2, 2, seed=1),
    lambda: TreeSwap(Hedge(2), levels=2, branching=3),
    lambda: TreeSwap(lambda: GradientDescent(Simplex(2), rate=0.2), levels=2, branching=2),
    lambda: FollowTheLeader(2),
    lambda: DiscountedMean(2, rate=0.1),
    lambda: GradientDescent(Simplex(2)),
]


@pytest.mark.parametrize("make", FORECASTERS)
def test_state_goes_to_disk_and_back(make, tmp_path):
    y = np.random.default_rng(3).dirichlet(np.ones(2), 60)
    one = make()
    for v in y[:37]:
        one.sample()
        one.update(v)
    one.save(tmp_path / "state.json")
    two = load_forecaster(tmp_path / "state.json")
    assert type(two) is type(one)
    for v in y[37:]:
        assert (one.predict()[0] == two.predict()[0]).all()
        assert (one.sample() == two.sample()).all()
        one.update(v)
        two.update(v)
    assert type(one).load(tmp_path / "state.json").rounds == 37


def test_foreign_states_are_refused(tmp_path):
    path = tmp_path / "state.json"
    forecaster = TreeCal(2)
    forecaster.update([0.0, 1.0])
    forecaster.save(path)
    good = json.loads(path.read_text())
    with pytest.raises(InvalidFileError, match="of a TreeCal, not of a Hedge"):
        Hedge.load(path)
    path.write_text(path.read_text()[:100])
    with pytest.raises(InvalidFileError, match="not JSON"):
        load_forecaster(path)
    for change in (
        {"format": 99},
        {"forecaster": {}},
        {"forecaster": {**good["forecaster"], "kind": "Path"}},
        {"forecaster": {**good["forecaster"], "kind": "replay"}},
        {"forecaster": {**good["forecaster"], "state": {**good["forecaster"]["state"], "sums": [[1.0]]}}},
        {"forecaster": {**good["forecaster"], "state": {**good["forecaster"]["state"], "rounds": 10**9}}},
    ):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(InvalidFileError):
            load_forecaster(path)
    with pytest.raises(InvalidFileError, match="no such file"):
        TreeCal.load(tmp_path / "none.json")


def test_memory_does_not_grow_with_the_rounds(as_shipped):
    forecaster, y = TreeCal(4, 3, 4), np.full(4, 0.25)
    tracemalloc.start()
    for _ in range(2000):
        forecaster.update(y)
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(20_000):
        forecaster.update(y)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000  # bytes; 20,000 rounds of four floats would be 640,000


def test_swap_with_follow_the_leader_is_treecal():
    y = np.random.default_rng(4).dirichlet(np.ones(3), 300)
    for levels, branching, horizon, leaf in ((1, 50, None, 1), (2, 3, None, 1), (3, 4, 64, 1), (2, 3, 80, 5)):
        tree = run(TreeCal(3, levels, branching, horizon, leaf=leaf), y)
        swap = run(TreeSwap(FollowTheLeader(3), None, levels, branching, horizon, leaf=leaf), y)
        assert np.abs(tree - swap).max() < 1e-12


def test_swap_takes_any_learner():
    class Stubborn:
        def predict(self):
            return np.array([0.25, 0.75])

        def update(self, y):
            self.seen = y

    assert np.allclose(run(TreeSwap(Stubborn, 2, 2, 2), np.eye(2)), [0.25, 0.75])
    with pytest.raises(InvalidInputError, match="`dim` is needed"):
        TreeSwap(Stubborn)
    with pytest.raises(InvalidInputError, match="must have predict"):
        TreeSwap(lambda: 3, 2)
    with pytest.raises(InvalidInputError, match="only trees of this package"):
        TreeSwap(Stubborn, 2).as_plain()


def test_peng_mixes_and_keeps_off_the_boundary():
    y = np.eye(3)[np.zeros(40, dtype=int)]
    plain, mixed = run(TreeCal(3, 2, 7), y), run(PengCal(3, 2, 7, mixing=0.06), y)
    assert np.allclose(mixed, 0.94 * plain + 0.02, atol=1e-12)
    assert mixed.min() >= 0.02 - 1e-12
    assert np.allclose(run(PengCal(3, 2, 7, mixing=0.0), y), plain)


def test_samples_are_draws_of_what_treecal_announces():
    y = np.random.default_rng(5).dirichlet(np.ones(2), 48)
    tree = run(TreeCal(2, 2, 3, leaf=4), y)
    drawn = np.array([run(SampleTreeCal(2, 4, 2, 3, seed=s), y)[:, 0] for s in range(60)])
    hits = (np.abs(drawn[:, :, None] - tree[None]).max(-1) < 1e-12).any(-1)
    assert hits.all()
    late = np.abs(tree[40, 0] - tree[40, 1]).max() > 1e-6
    assert late
    share = (np.abs(drawn[:, 40] - tree[40, 0]).max(-1) < 1e-12).mean()
    assert 0.25 < share < 0.75  # 60 fair coins: four standard deviations
    picks = [TreeCal(2, seed=1).sample().tolist() for _ in range(3)]
    assert picks[0] == picks[1] == picks[2] == [0.5, 0.5]
