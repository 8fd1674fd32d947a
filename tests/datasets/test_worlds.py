"""Worlds: every declared value against a bound from above and one from below that do not know it."""

import numpy as np
import pytest

from corollary.datasets import (
    FiniteWorld,
    bounded_means_world,
    dirichlet_world,
    disjoint_world,
    gain_world,
    identical_experts_world,
    markov_world,
    single_domain_world,
    unnormalisable_world,
)
from corollary.errors import InvalidInputError


def kl(p, q):
    inside = p > 0
    return float((p[inside] * np.log(p[inside] / q[inside])).sum())


def capacity(rows, steps=5000):
    """max_lam JSD_lam by Blahut and Arimoto; what it returns is a lower bound at every step."""
    lam = np.full(len(rows), 1 / len(rows))
    for _ in range(steps):
        d = np.array([kl(row, lam @ rows) for row in rows])
        lam = lam * np.exp(d)
        lam /= lam.sum()
    return float(lam @ [kl(row, lam @ rows) for row in rows])


def solve(world, steps=2000):
    """Lower and upper bound of V: any mixture's best response below, the averaged answer above."""
    p, q = world.domains, world.experts
    lo, hi = q.min(0), q.max(0)
    lam, total, lower = np.full(len(p), 1 / len(p)), 0.0, -np.inf
    for step in range(1, steps + 1):
        a, b = -30.0, 30.0
        for _ in range(60):
            middle = (a + b) / 2
            over = np.clip(lam @ p * np.exp(-middle), lo, hi).sum() > 1
            a, b = (middle, b) if over else (a, middle)
        pi = np.clip(lam @ p * np.exp(-a), lo, hi)
        k = np.array([kl(row, pi) for row in p])
        lower, total = max(lower, float(lam @ k)), total + pi
        lam = lam * np.exp(k / np.sqrt(step))
        lam /= lam.sum()
    mean = total / steps
    assert abs(mean.sum() - 1) < 1e-6
    return lower, max(kl(row, mean) for row in p)


@pytest.mark.parametrize("seed", range(20))
def test_disjoint_world_is_log_p(seed):
    world = disjoint_world(p=2 + seed % 4, noise=0.3, seed=seed)
    p = len(world.domains)
    assert (world.epsilon > 0).all()
    # From above: the uniform mixture of the domains is a gated model, and its KL to each domain is log p.
    pi = world.domains.mean(0)
    assert (pi <= world.experts.max(0) + 1e-15).all()
    assert (pi >= world.experts.min(0)).all()
    np.testing.assert_allclose([kl(row, pi) for row in world.domains], world.value, atol=1e-12)
    # From below: no model has max KL under the Jensen-Shannon divergence of any mixture of the domains.
    jsd = np.mean([kl(row, pi) for row in world.domains])
    assert world.value <= jsd + 1e-12
    # And a static mixture of the experts pays more.
    assert np.log(np.exp(world.epsilon).sum()) > np.log(p) + 1e-3


def test_disjoint_world_needs_good_enough_experts():
    with pytest.raises(InvalidInputError, match="noise"):
        disjoint_world(p=2, noise=0.6)


@pytest.mark.parametrize("seed", range(3))
def test_dirichlet_world_between_the_bounds_of_t4(seed):
    world = dirichlet_world(p=3, n=20, seed=seed)
    assert world.value is None
    assert (world.epsilon <= -np.log(0.8) + 1e-12).all()
    lower, upper = solve(world)
    # 2,000 steps of the solver leave a gap of some thousandths.
    assert 0 <= upper - lower < 0.02
    c = capacity(world.domains)
    assert c <= upper + 1e-9
    assert lower <= c + world.epsilon.max() + 1e-9


@pytest.mark.parametrize(
    "world",
    [identical_experts_world(seed=1), single_domain_world(seed=2), unnormalisable_world(), disjoint_world()],
)
def test_declared_values_lie_in_the_solver_s_bracket(world):
    lower, upper = solve(world)
    assert lower - 1e-6 <= world.value <= upper + 1e-6
    assert upper - lower < 0.02  # the same gap as above


def test_unnormalisable_world():
    world = unnormalisable_world()
    assert world.value == pytest.approx(0.10536051565782628, abs=1e-12)
    assert world.experts[0, world.domains[0] > 0].sum() == pytest.approx(0.9, abs=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_markov_tables_agree_with_the_enumeration(order):
    world = markov_world(p=2, symbols=3, order=order, length=4, seed=order)
    finite = world.enumerate()
    np.testing.assert_allclose(finite.domains.sum(1), 1, atol=1e-10)
    np.testing.assert_allclose(finite.experts.sum(1), 1, atol=1e-10)
    assert (finite.epsilon <= -(4 - order + 1) * np.log(0.8) + 1e-12).all()
    sequences, domain = world.sample(20_000, seed=0)
    index = sequences @ 3 ** np.arange(3, -1, -1)
    table = world.log_probability(sequences)
    np.testing.assert_allclose(table, np.log(finite.experts).T[index], atol=1e-10)
    # A slow reference for the law of one sequence.
    x, power = sequences[0], 3 ** np.arange(order - 1, -1, -1)
    slow = np.log(world.start[0, :, x[:order] @ power])
    for t in range(order, 4):
        slow += np.log(world.step[0, :, x[t - order : t] @ power, x[t]])
    np.testing.assert_allclose(world.log_probability(sequences[:1], of="domains")[0], slow, atol=1e-12)
    for k in range(2):
        frequency = np.bincount(index[domain == k], minlength=81) / 20_000
        # Five standard deviations of a frequency.
        assert (abs(frequency - finite.domains[k]) < 5 * np.sqrt(finite.domains[k] / 20_000) + 1e-4).all()


def test_markov_refuses():
    with pytest.raises(InvalidInputError, match="order"):
        markov_world(order=3)
    with pytest.raises(InvalidInputError, match="too many"):
        markov_world(symbols=20, length=30).enumerate()
    with pytest.raises(InvalidInputError, match="noise"):
        markov_world(noise=1.0)


@pytest.mark.parametrize(
    ("domains", "experts"),
    [
        (np.eye(2), np.array([[0.0, 1.0], [0.5, 0.5]])),
        (np.full((1, 2), 0.6), np.full((1, 2), 0.5)),
        (np.eye(2), np.full((1, 2), 0.5)),
        (np.array([[np.nan, 1.0]]), np.full((1, 2), 0.5)),
        (np.array([1.0]), np.array([1.0])),
    ],
)
def test_no_world_of_wrong_rows(domains, experts):
    with pytest.raises(InvalidInputError):
        FiniteWorld(domains, experts, "wrong")


@pytest.mark.parametrize("shape", ["smooth", "skewed", "rare"])
@pytest.mark.parametrize("follows", ["bytes", "document"])
def test_gain_world_has_its_gain_and_its_bound(shape, follows):
    world = gain_world(documents=200_000, true_gain=(-0.003, 0.0, 0.05), shape=shape, follows=follows, seed=1)
    difference = world.baseline_bits - world.our_bits
    assert difference.min() >= -world.loss_bound - 1e-9
    assert min(world.baseline_bits.min(), world.our_bits.min()) > 0
    for k, gain in enumerate(world.true_gain):
        mine = world.domain == k
        u, d = world.bytes[mine], difference[mine]
        error = np.std(d - gain * u) / u.mean() / np.sqrt(mine.sum())
        assert abs(d.sum() / u.sum() - gain) < 4.5 * error


def test_gain_that_does_not_follow_bytes_fools_the_mean_of_ratios():
    world = gain_world(documents=100_000, true_gain=0.05, follows="document", loss_bound=0.0)
    difference = world.baseline_bits - world.our_bits
    # 2 % is several times the sampling error of 1e5 records.
    assert difference.sum() / world.bytes.sum() == pytest.approx(0.05, rel=0.02)
    assert (difference / world.bytes).mean() > 0.06


@pytest.mark.parametrize(
    "options",
    [{"shape": "odd"}, {"follows": "x"}, {"documents": 0}, {"true_gain": -1.0}, {"loss_bound": -1.0}],
)
def test_gain_world_refuses(options):
    with pytest.raises(InvalidInputError):
        gain_world(**options)


@pytest.mark.parametrize("family", bounded_means_world(), ids=lambda family: family.name)
def test_bounded_means(family):
    drawn = family.sample(400_000, seed=3)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert abs(drawn.mean() - family.mean) <= 4.5 * drawn.std() / np.sqrt(len(drawn)) + 1e-12
    np.testing.assert_array_equal(family.sample((2, 3), seed=1), family.sample((2, 3), seed=1))
