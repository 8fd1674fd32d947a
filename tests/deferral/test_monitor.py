"""Online monitors: rarely a false alarm in all time, soon a true one."""

import numpy as np
import pytest

from corollary.deferral.routing import DriftMonitor, MeanMonitor
from corollary.errors import InvalidInputError


def first_alarm(monitor, values):
    for t, value in enumerate(values, 1):
        if monitor.update(float(value)):
            return t
    return None


@pytest.mark.parametrize("side", ["at most", "at least"])
def test_mean_monitor(side):
    """At the boundary of the claim false alarms stay below alpha; past it the alarm comes."""
    rng, runs, alpha = np.random.default_rng(0), 300, 0.1
    share = 0.3 if side == "at most" else 0.7
    false = sum(
        first_alarm(MeanMonitor(2 * share, top=2.0, alpha=alpha, side=side), 2.0 * (rng.random(400) < share))
        is not None
        for _ in range(runs)
    )
    assert false / runs <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / runs)
    drifted = 0.5
    alarms = [
        first_alarm(MeanMonitor(share, alpha=0.01, side=side), 1.0 * (rng.random(400) < drifted)) for _ in range(20)
    ]
    assert sum(a is not None for a in alarms) >= 19


def test_drift_monitor():
    rng, runs, alpha = np.random.default_rng(1), 200, 0.1
    false = sum(
        first_alarm(DriftMonitor(rng.normal(size=200), alpha=alpha, seed=s), rng.normal(size=200)) is not None
        for s in range(runs)
    )
    assert false / runs <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / runs)
    for shift in (2.0, -2.0):
        monitor = DriftMonitor(rng.normal(size=500), alpha=0.01)
        assert first_alarm(monitor, rng.normal(shift, 1.0, size=200)) is not None
        assert monitor.update(0.0)  # revoked for ever


@pytest.mark.parametrize("side", [1, -1])
def test_a_shift_to_one_half_of_what_was_known_is_seen(side):
    """All new scores in the upper (lower) half: bets on both tails alike would never grow on it."""
    rng = np.random.default_rng(2)
    alarms = [
        first_alarm(DriftMonitor(rng.normal(size=500), alpha=0.01, seed=s), side * np.abs(rng.normal(size=200)))
        for s in range(20)
    ]
    assert sum(a is not None for a in alarms) >= 19


def test_the_bets_have_mean_one():
    """Each bet integrates to 1 over uniform p: that is all a martingale needs."""
    p = (np.arange(200_000) + 0.5) / 200_000
    for e in (0.3, 0.7, 0.9):
        assert np.mean(e * p ** (e - 1)) == pytest.approx(1.0, abs=0.02)  # the midpoint rule at the pole of p = 0


def test_ties_are_broken_at_random():
    monitor = DriftMonitor(np.zeros(300), alpha=0.01)
    assert first_alarm(monitor, np.zeros(300)) is None


def test_nonsense_is_refused(as_shipped):
    for make in (
        lambda: MeanMonitor(0.0),
        lambda: MeanMonitor(0.5, side="near"),
        lambda: MeanMonitor(0.5).update(float("nan")),
        lambda: MeanMonitor(0.5).update(1.5),
        lambda: DriftMonitor([]),
        lambda: DriftMonitor([np.nan]),
        lambda: DriftMonitor([0.0], epsilon=1.0),
        lambda: DriftMonitor([0.0]).update(float("inf")),
    ):
        with pytest.raises(InvalidInputError):
            make()
