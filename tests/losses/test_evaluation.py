"""Balanced error, class errors with their limits, making data imbalanced, and counts over processes."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from corollary import losses
from corollary.errors import InvalidInputError


def test_balanced_error_is_one_minus_scikit_learns_balanced_accuracy():
    rng = np.random.default_rng(0)
    y = rng.choice(4, 300, p=[0.6, 0.3, 0.08, 0.02])
    guess = np.where(rng.random(300) < 0.3, rng.integers(0, 4, 300), y)
    assert losses.balanced_error(y, guess) == pytest.approx(1 - balanced_accuracy_score(y, guess))


def test_limits_cover_all_classes_at_once():
    rng, truth, missed = np.random.default_rng(0), np.array([0.05, 0.2, 0.5]), 0
    y = np.repeat([0, 1, 2], [200, 60, 35])
    for _ in range(400):
        guess = np.where(rng.random(len(y)) < truth[y], (y + 1) % 3, y)
        e = losses.class_errors(y, guess, delta=0.1)
        missed += not ((e.lower <= truth) & (truth <= e.upper)).all()
    assert missed <= 52  # 40 expected at most; 52 is two deviations more
    looser = losses.class_errors(y, guess, delta=0.9)
    assert (looser.upper - looser.lower < e.upper - e.lower).all()


def test_a_class_without_rows_is_undecided_not_perfect():
    e = losses.class_errors([0, 0, 2], [0, 1, 2])
    assert np.isnan(e.error[1])
    assert (e.lower[1], e.upper[1]) == (0.0, 1.0)
    assert losses.balanced_error([0, 0, 2], [0, 1, 2]) == 0.25


def test_profiles_and_rows():
    np.testing.assert_allclose(losses.imbalance_profile(10, ratio=50)[[0, -1]], [1, 0.02])
    np.testing.assert_array_equal(losses.imbalance_profile(5, ratio=10, kind="step"), [1, 1, 0.1, 0.1, 0.1])
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(4), 80))
    rows = losses.make_imbalance(y, ratio=20, order=[3, 1, 0, 2], seed=1)
    assert np.bincount(y[rows]).tolist() == [11, 29, 4, 80]
    assert (rows == losses.make_imbalance(y, ratio=20, order=[3, 1, 0, 2], seed=1)).all()
    assert (rows != losses.make_imbalance(y, ratio=20, order=[3, 1, 0, 2], seed=2)).any()


def test_wrong_inputs(as_shipped):
    y = np.repeat([0, 1], 10)
    for call, message in [
        (lambda: losses.class_errors([], []), "labels"),
        (lambda: losses.class_errors([0, 1], [0]), "labels"),
        (lambda: losses.class_errors([0.5, 1], [0, 1]), "whole numbers"),
        (lambda: losses.class_errors([-1, 1], [0, 1]), "whole numbers"),
        (lambda: losses.class_errors([0, 3], [0, 1], classes=2), "reach 3"),
        (lambda: losses.imbalance_profile(1, ratio=2.0), "at least 2 classes"),
        (lambda: losses.imbalance_profile(3, ratio=0.5), "ratio"),
        (lambda: losses.imbalance_profile(3, ratio=float("nan")), "ratio"),
        (lambda: losses.imbalance_profile(3, ratio=2.0, kind="x"), "`kind`"),
        (lambda: losses.make_imbalance(y, ratio=2.0, largest=11, seed=0), "lower `largest`"),
        (lambda: losses.make_imbalance(y, ratio=2.0, order=[0, 2], seed=0), "`order`"),
        (lambda: losses.make_imbalance(y / 2, ratio=2.0, seed=0), "whole labels"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            call()


PROCESS = """
import sys, torch, torch.distributed as dist
from corollary.losses import class_counts
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
print(class_counts(torch.tensor([rank, 2, -100]), classes=3).tolist(), flush=True)
dist.destroy_process_group()
"""


def test_counts_are_global_under_distributed_training(tmp_path):
    run = [sys.executable, "-W", "ignore", "-c", PROCESS]
    both = [
        subprocess.Popen([*run, str(rank), str(tmp_path / "store")], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    assert [p.communicate(timeout=120)[0].strip() for p in both] == ["[1, 1, 2]"] * 2
