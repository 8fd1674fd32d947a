"""Off-policy values: unbiased whatever the guess, intervals that cover at every size, limits and mutations."""

import numpy as np
import pytest

from corollary.deferral import off_policy
from corollary.errors import InvalidInputError


def world(rng, n, *, explore=0.1, k=3):
    """Contexts of two kinds; rewards, propensities and the value of every policy in closed form."""
    kind = rng.integers(0, 2, n)
    mean = np.array([[0.9, 0.5, 0.2], [0.1, 0.6, 0.8]])[:, :k]
    greedy = np.where(rng.random(n) < 0.8, np.where(kind == 0, 0, k - 1), rng.integers(0, k, n))  # mostly what is good
    p = np.full((n, k), explore / k)
    p[np.arange(n), greedy] += 1 - explore
    action = (rng.random(n)[:, None] > np.cumsum(p, 1)).sum(1)
    reward = (rng.random(n) < mean[kind, action]).astype(float)
    return kind, mean, p, action, reward


def test_values_are_those_of_the_formulas():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, k = int(rng.integers(30, 60)), int(rng.integers(2, 5))
        p = rng.dirichlet(np.ones(k), n) * 0.9 + 0.1 / k
        pi = rng.dirichlet(np.ones(k), n)
        a = np.array([rng.choice(k, p=row / row.sum()) for row in p])
        r, q = rng.random(n), rng.random((n, k))
        slow = [
            (r[i] - q[i, a[i]]) * pi[i, a[i]] / p[i, a[i]] + sum(pi[i, j] * q[i, j] for j in range(k)) for i in range(n)
        ]
        assert off_policy(r, a, p, pi, guess=q).value == pytest.approx(np.mean(slow), abs=1e-10)
        slow = [r[i] * pi[i, a[i]] / p[i, a[i]] for i in range(n)]
        assert off_policy(r, a, p, pi).value == pytest.approx(np.mean(slow), abs=1e-10)


def test_a_guess_of_zero_is_inverse_propensity_and_the_logged_policy_is_the_plain_mean():
    rng = np.random.default_rng(1)
    _, _, p, a, r = world(rng, 500)
    pi = rng.dirichlet(np.ones(3), 500)
    assert off_policy(r, a, p, pi, guess=np.zeros((500, 3))).value == pytest.approx(
        off_policy(r, a, p, pi).value, abs=1e-12
    )
    assert off_policy(r, a, p, p).value == pytest.approx(r.mean(), abs=1e-12)


def test_both_are_unbiased_and_a_good_guess_narrows():
    rng = np.random.default_rng(2)
    kind, mean, _, _, _ = world(rng, 1)
    ips, robust, wild = [], [], []
    for _ in range(250):
        kind, mean, p, a, r = world(rng, 200)
        pi = np.eye(3)[np.where(kind == 0, 0, 2)]
        truth = float((pi * mean[kind]).sum(1).mean())
        ips.append(off_policy(r, a, p, pi).value - truth)
        robust.append(off_policy(r, a, p, pi, guess=mean[kind]).value - truth)
        wild.append(off_policy(r, a, p, pi, guess=rng.random((200, 3))).value - truth)
    for errors in (ips, robust, wild):
        assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(250)  # four standard errors
    assert np.std(robust) < np.std(ips)


def test_the_interval_covers_and_a_wrong_weight_is_caught():
    rng = np.random.default_rng(3)
    missed = fooled = 0
    runs, delta = 150, 0.1
    for _ in range(runs):
        kind, mean, p, a, r = world(rng, 400, explore=0.5)
        pi = np.eye(3)[np.where(kind == 0, 0, 2)]
        truth = 0.5 * 0.9 + 0.5 * 0.8  # of the distribution, not of the sample
        found = off_policy(r, a, p, pi, guess=np.clip(mean[kind] + 0.1, 0, 1), delta=delta)
        missed += not found.lower <= truth <= found.upper
        wrong = off_policy(r, a, np.full_like(p, 1 / 3), pi, delta=delta)  # mutation: propensities of another design
        fooled += not wrong.lower <= truth <= wrong.upper
    assert missed / runs <= delta + 4 * np.sqrt(delta * (1 - delta) / runs)
    assert fooled / runs > 0.9


def test_every_row_stays_within_the_range_of_the_bound():
    """The range in the proof, at its corners: rewards and guesses in {0, 1}."""
    rng = np.random.default_rng(4)
    for _ in range(2000):
        k = int(rng.integers(2, 4))
        p = rng.dirichlet(np.ones(k)) * 0.8 + 0.2 / k
        pi = rng.dirichlet(np.ones(k)) if rng.random() < 0.5 else np.eye(k)[rng.integers(k)]
        q, r, a = rng.integers(0, 2, k), rng.integers(0, 2), rng.integers(k)
        z = pi @ q + pi[a] / p[a] * (r - q[a])
        most = 1 / p.min()
        assert 1 - most - 1e-12 <= z <= 1 + most + 1e-12


@pytest.mark.usefixtures("as_shipped")
def test_nonsense_is_refused():
    r, a, p = np.array([0.5, 1.0]), np.array([0, 1]), np.full((2, 2), 0.5)
    for given in (
        ([], [], p, p), ([np.nan, 1], a, p, p), ([2.0, 1], a, p, p), (r, [0, 2], p, p), (r, [0.0, 1.0], p, p),
        (r, a, p[:1], p), (r, a, p, p[:, :1]), (r, a, p * 2, p), (r, a, p, p * np.nan),
        (r, a, np.array([[0.0, 1], [0.5, 0.5]]), p), (r, a, np.array([[1.0, 0], [0.5, 0.5]]), p),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError):
            off_policy(*given)
    for more in ({"delta": 0.0}, {"guess": p[:1]}, {"guess": p * 3}, {"floor": 0.7}, {"floor": 0.0}):
        with pytest.raises(InvalidInputError):
            off_policy(r, a, p, p, **more)
