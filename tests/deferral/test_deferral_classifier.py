"""Single-stage deferral in worlds with known answers."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from corollary.deferral import DeferralClassifier
from corollary.errors import InvalidInputError, NotFittedError


def realizable_world(n, seed, *, labels=3, experts=3, d=6):
    """A linear rule of zero cost: it picks a label or an expert; elsewhere labels and experts are random."""
    rng, rule = np.random.default_rng(seed), np.random.default_rng(5).normal(size=(d, labels + experts))
    x = rng.normal(size=(n, d))
    action = (x @ rule).argmax(1)
    y = np.where(action < labels, action, rng.integers(labels, size=n))
    right = rng.random((n, experts)) < 0.5
    deferred = action >= labels
    right[np.flatnonzero(deferred), action[deferred] - labels] = True
    return x, y, 1.0 - right


@pytest.mark.parametrize("loss", ["log", "gce", "mae"])
def test_realizable_world_is_solved_where_baselines_are_not(loss):
    """Spec 5 (b): about .99 against .82 of the softmax and one-versus-all baselines."""
    x, y, costs = realizable_world(5000, 0)
    test = realizable_world(3000, 1)
    ours = 1 - DeferralClassifier(loss=loss, l2=1e-3, iterations=400).fit(x, y, costs=costs).cost(*test)
    assert ours > 0.97
    for baseline in ("softmax", "one-versus-all"):
        theirs = 1 - DeferralClassifier(loss=baseline, l2=1e-3).fit(x, y, costs=costs).cost(*test)
        assert theirs < ours - 0.05


def test_limits_of_the_price():
    x, y, _ = realizable_world(800, 2)
    free = DeferralClassifier(l2=0.1).fit(x, y, costs=np.zeros((800, 2)))
    assert (free.decide(x) >= 0).all()
    dear = DeferralClassifier(l2=0.1).fit(x, y, costs=np.ones((800, 2)))
    assert (dear.decide(x) >= 0).mean() < 0.01
    alone = DeferralClassifier(l2=0.1).fit(x, y)
    assert (alone.decide(x) == -1).all()
    assert alone.cost(x, y, None) == pytest.approx(1 - alone.score(x, y))


def test_coverage_knob_and_labels_of_any_kind():
    x, y, costs = realizable_world(600, 3)
    names = np.array(["cat", "dog", "eel"])[y]
    model = DeferralClassifier().fit(x, names, costs=costs)
    assert set(model.predict(x)) <= {"cat", "dog", "eel"}
    for share in (0.0, 0.25, 1.0):
        assert (model.decide(x, coverage=share) == -1).mean() == pytest.approx(share)
    kept = model.decide(x, coverage=0.3) == -1
    assert kept[model.decide(x, coverage=0.1) == -1].all()


def test_networks_and_user_modules():
    """Labels by the sign of a product, which no linear score sees; the expert is right where the second is large."""
    rng = np.random.default_rng(6)
    x = rng.uniform(-1, 1, size=(1500, 3))
    noisy = x[:, 2] > 0.3  # there the label is a coin, and the expert knows it
    y = np.where(noisy, rng.integers(2, size=1500), (x[:, 0] * x[:, 1] > 0).astype(int))
    costs = np.where(noisy, 0.05, 0.6)[:, None]
    learn, test = slice(0, 1200), slice(1200, None)
    linear = DeferralClassifier().fit(x[learn], y[learn], costs=costs[learn]).cost(x[test], y[test], costs[test])
    for model in (
        "mlp",
        lambda d, k: torch.nn.Sequential(torch.nn.Linear(d, 48), torch.nn.ReLU(), torch.nn.Linear(48, k)),
    ):
        made = DeferralClassifier(model=model, rate=2e-2, batch=128, epochs=15, seed=1)
        found = made.fit(x[learn], y[learn], costs=costs[learn])
        paid = found.cost(x[test], y[test], costs[test])
        assert paid < 0.2 < linear
        shares = found.coverage(x[test])
        assert shares.sum() == pytest.approx(1.0)
        assert shares[1] == pytest.approx(noisy[test].mean(), abs=0.15)
        if model == "mlp":
            again = clone(made).fit(x[learn], y[learn], costs=costs[learn])
            np.testing.assert_array_equal(found.scores(x[test]), again.scores(x[test]))


def test_price_at_decision_time():
    """A dearer expert is asked less, down to never; price 0 is the trained rule."""
    x, y, costs = realizable_world(600, 3)
    model = DeferralClassifier(loss="log").fit(x, y, costs=costs)
    np.testing.assert_array_equal(model.decide(x, price=0.0), model.decide(x))
    asked = [(model.decide(x, price=p) >= 0).mean() for p in (0.0, 0.1, 0.3, 1.1)]
    assert asked == sorted(asked, reverse=True)
    assert asked[-1] == 0
    only = model.decide(x, price=[0.0, 2.0, 2.0])
    assert set(np.unique(only)) <= {-1, 0}
    assert model.coverage(x, price=[0.0, 2.0, 2.0])[2:].sum() == 0


def test_nonsense_is_refused(as_shipped):
    x, y, costs = realizable_world(30, 4)
    for call, words in (
        (lambda: DeferralClassifier(loss="hinge").fit(x, y, costs=costs), "loss"),
        (lambda: DeferralClassifier().fit(x, y[:5], costs=costs), "y"),
        (lambda: DeferralClassifier().fit(x, y, costs=2 + costs), "costs"),
        (lambda: DeferralClassifier().fit(x, np.zeros(30)), "one class"),
        (lambda: DeferralClassifier().fit(x * np.nan, y), "NaN"),
        (lambda: DeferralClassifier().fit(x, y, costs=costs).decide(x, coverage=2.0), "coverage"),
        (lambda: DeferralClassifier().fit(x, y, costs=costs).predict(x[:, :2]), "features"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            call()
    with pytest.raises(NotFittedError):
        DeferralClassifier().predict(x)
