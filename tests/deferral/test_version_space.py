"""The theory of budgeted deferral on finite classes: G1 to G5, and mutations that must be caught."""

import itertools

import numpy as np
import pytest
from budgeted_worlds import finite_world, thresholds

from corollary.deferral import (
    VersionSpace,
    bernstein_deviation,
    bounded_losses,
    deviation_radius,
    disagreement_coefficient,
    query_bound,
)
from corollary.errors import InvalidInputError


@pytest.mark.parametrize("kind", ["mae", "log", "ec"])
def test_bounded_losses_are_bounded_and_what_they_say(kind):
    rng = np.random.default_rng(0)
    scores = rng.normal(scale=4.0, size=(500, 4))
    found = bounded_losses(scores, kind=kind)
    assert found.min() >= 0
    assert found.max() <= 1
    clipped = np.clip(scores, -5, 5) if kind == "log" else scores
    p = np.exp(clipped) / np.exp(clipped).sum(1, keepdims=True)
    slow = {"mae": 1 - p, "ec": p, "log": -np.log(p) / np.log(1 + 3 * np.exp(10))}[kind]
    np.testing.assert_allclose(found, slow, atol=1e-10)


def spread_of(losses, alive):
    return losses[alive].max(0) - losses[alive].min(0)


def test_g1_differences_are_unbiased_and_g2_increments_bounded():
    """By enumeration of all draws, on a thousand random instances; p of half the spread breaks the bound."""
    rng, broken = np.random.default_rng(0), 0
    for _ in range(1000):
        k = int(rng.integers(2, 4))
        losses = rng.random((5, k)) * (rng.random((1, k)) < 0.8)  # some experts on which all routers agree
        gain, p = rng.random(k), losses.max(0) - losses.min(0)
        f, g = losses[rng.integers(5)], losses[rng.integers(5)]
        mean = 0.0
        for q in itertools.product((0, 1), repeat=k):
            q = np.array(q)
            chance = np.prod(np.where(q == 1, p, 1 - p))
            weight = np.where(q == 1, 1 / np.where(p > 0, p, 1), 0.0)
            terms = weight * gain * (f - g)
            assert chance == 0 or np.abs(terms).max() <= 1 + 1e-12
            broken += chance > 0 and np.abs(2 * terms).max() > 1 + 1e-12  # mutation: p / 2
            mean += chance * terms.sum()
        assert mean == pytest.approx((gain * (f - g)).sum(), abs=1e-12)
    assert broken > 100


def run_world(seed, *, multiplier, bound="azuma", rounds=12, block=1500):
    """Run the finite algorithm in blocks: whether the best was ever removed, how often G2 and G3 failed, survivors."""
    rng = np.random.default_rng(seed)
    losses, error = finite_world(rng, experts=2)
    truth = np.einsum("rnk,nk->r", losses, 1 - error) / losses.shape[1]
    best = int(truth.argmin())
    space = VersionSpace(len(losses), terms=2, multiplier=multiplier, bound=bound)
    removed = wide = far = False
    for _ in range(rounds):
        rows = rng.integers(losses.shape[1], size=block)
        here = losses[:, rows]
        p = space.probabilities(here)
        drawn = rng.random(p.shape) < p
        gain = rng.random(p.shape) >= error[rows]
        before = np.flatnonzero(space.alive)
        space.update(here, weighted_gains=np.where(drawn, gain / np.where(drawn, p, 1.0), 0.0))
        gap = space.average[before] - truth[before]
        wide |= bool(gap.max() - gap.min() > space.radius)
        far |= bool((truth[space.alive] > truth[best] + 2 * space.radius + 1e-12).any())
        removed |= not space.alive[best]
    return removed, wide, far, int(space.alive.sum()), len(losses)


def test_g2_g3_the_best_router_is_never_removed_and_survivors_are_close():
    """C0 = 1, 1/2 (Hoeffding's lemma) and Bernstein's form over 60 worlds; something is pruned, too."""
    for bound, multiplier in (("azuma", 1.0), ("azuma", 0.5), ("bernstein", 1.0)):
        found = [run_world(seed, multiplier=multiplier, bound=bound) for seed in range(60)]
        assert not any(removed or wide or far for removed, wide, far, _, _ in found)
        assert sum(alive < size for *_, alive, size in found) > 20


@pytest.mark.parametrize("bound", ["azuma", "bernstein"])
def test_a_mutated_radius_removes_the_best(bound):
    found = [run_world(seed, multiplier=0.004, bound=bound) for seed in range(60)]
    assert sum(removed for removed, *_ in found) > 3
    assert sum(wide for _, wide, *_ in found) > 30


def test_radius_is_the_formula_and_falls():
    expected = 3 * np.sqrt(8 / 100 * np.log(2 * 100 * 101 * 50**2 / 0.1))
    assert deviation_radius(100, size=50, terms=3, delta=0.1) == pytest.approx(expected, rel=1e-12)
    radii = [deviation_radius(t, size=50, terms=3) for t in range(2, 2000)]
    assert (np.diff(radii) < 0).all()
    assert deviation_radius(9, size=10**400, terms=2) > 0  # the size of a covering may exceed any float


def test_bernstein_form_is_a_supermartingale_bound():
    """Against the formula on a fine grid of lambda, and in a world: deviations of a martingale, all times at once."""
    for spread in (0.0, 5.0, 400.0, 1e6):
        v = np.e / (np.e - 1) * (spread + 6 * np.log(2 / 0.05))
        j = np.arange(40)
        lam = 2.0**-j / 4
        psi = lam**2 / 2 / (1 - 4 * lam / 3)
        slow = np.min((np.log(2 * 100**2 * (j + 1) * (j + 2) / 0.05) + psi * v) / lam)
        assert bernstein_deviation(spread, size=100, terms=2) == pytest.approx(slow, rel=1e-12)
        exact = (np.exp(4 * lam[:20]) - 1 - 4 * lam[:20]) / 16
        assert (psi[:20] >= exact - 1e-15).all()
    rng, failures = np.random.default_rng(0), 0
    for _ in range(200):
        p = np.full(2000, 0.9) * (rng.random() < 0.5) + 0.02  # one pair, one expert: l(f) - l(g) = p
        steps = np.where(rng.random(2000) < p, 1.0, 0.0) - p
        limits = [bernstein_deviation(s, size=1, terms=1) for s in np.cumsum(p + p**2)[::50]]
        failures += bool((np.abs(np.cumsum(steps))[::50] > limits).any())
    assert failures <= 10  # 5 % allowed; in truth far fewer


def slow_coefficient(losses, best, mass):
    """The definition, a ball at a time."""
    rho = [sum(m * abs(f[i] - losses[best][i]).sum() for i, m in enumerate(mass)) for f in losses]
    found = 0.0
    for a in rho:
        if a > 0:
            ball = [f for f, r in zip(losses, rho, strict=True) if r <= a + 1e-15]
            worst = np.max([np.abs(f - losses[best]) for f in ball], axis=0)
            found = max(found, float((worst.sum(1) * mass).sum() / a))
    return found


def test_disagreement_coefficient_is_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(200):
        losses = rng.random((6, 5, 3)) * (rng.random((6, 1, 1)) < 0.8)
        mass = rng.dirichlet(np.ones(5))
        best = int(rng.integers(6))
        found = disagreement_coefficient(losses, best, weight=mass)
        assert found == pytest.approx(slow_coefficient(losses, best, mass), rel=1e-9)
        assert found == 0 or 1 - 1e-12 <= found <= 5 + 1e-12
    assert disagreement_coefficient(np.ones((3, 4, 2)), 0) == 0.0


def test_disagreement_coefficient_in_closed_form():
    """Thresholds: 2, one point on either side; routers that each differ on a point of their own: their number."""
    x = (np.arange(400) + 0.5) / 400
    _, taken = thresholds(100)
    assert disagreement_coefficient(taken(x), 50) == pytest.approx(2.0, abs=1e-9)
    apart = np.zeros((11, 10, 1))
    apart[np.arange(1, 11), np.arange(10)] = 1.0
    assert disagreement_coefficient(apart, 0) == pytest.approx(10.0, abs=1e-9)


def test_kappa_on_random_instances():
    rng = np.random.default_rng(0)
    for _ in range(500):
        losses, error = finite_world(rng, routers=4, points=6)
        gain = 1 - np.clip(error, 0, 0.9)
        risk = np.einsum("rnk,nk->r", losses, gain) / 6
        rho = np.abs(losses - losses[0]).sum(2).mean(1)
        assert (rho <= (risk + risk[0]) / gain.min() + 1e-12).all()


@pytest.fixture(scope="module")
def realizable():
    """Thresholds, the middle one right everywhere, C0 = 1: queries and radii after every block of 4096 of 2^19."""
    size, block = 128, 4096
    place, taken = thresholds(size)
    rng = np.random.default_rng(0)
    space = VersionSpace(size + 1, terms=2)
    queries, radii, total = [], [], 0
    for _ in range(2**19 // block):
        x = rng.random(block)
        losses = taken(x)
        p = space.probabilities(losses)
        drawn = rng.random(p.shape) < p
        cost = np.stack([x >= 0.5, x < 0.5], 1)  # EC: weighted by costs, and the middle threshold pays nothing
        space.update(losses, weighted_gains=np.where(drawn, cost / np.where(drawn, p, 1.0), 0.0))
        total += int(drawn.sum())
        queries.append(total)
        radii.append(space.radius)
        assert space.alive[size // 2]
    return place, taken, np.array(queries), np.array(radii), block


def test_g4_queries_grow_like_the_root_of_t(realizable):
    """Slope 1/2 in log-log, a little more for the logarithm in the radius; full querying has slope 1."""
    *_, queries, _, block = realizable
    t = block * np.arange(1, len(queries) + 1)
    late = t >= 2**16
    slope = np.polyfit(np.log(t[late]), np.log(queries[late]), 1)[0]
    assert 0.45 < slope < 0.62  # sqrt(T ln T) itself has .54 here
    assert queries[-1] < 0.25 * 2 * t[-1]


def test_bernstein_form_saves_more_than_the_root():
    """The same thresholds: less than half of Azuma's queries (at C0 = 1/2) by 2^17, and a falling slope."""
    _, taken = thresholds(128)
    total = {}
    for bound, multiplier in (("azuma", 0.5), ("bernstein", 1.0)):
        rng, space, spent = np.random.default_rng(0), VersionSpace(129, terms=2, bound=bound, multiplier=multiplier), []
        for _ in range(2**17 // 1024):
            x = rng.random(1024)
            losses = taken(x)
            p = space.probabilities(losses)
            drawn = rng.random(p.shape) < p
            cost = np.stack([x >= 0.5, x < 0.5], 1)
            space.update(losses, weighted_gains=np.where(drawn, cost / np.where(drawn, p, 1.0), 0.0))
            spent.append(int(drawn.sum()))
        assert space.alive[64]
        total[bound] = np.cumsum(spent)
    assert total["bernstein"][-1] < 0.75 * total["azuma"][-1]
    late = np.log(np.arange(32, 129))
    assert np.polyfit(late, np.log(total["bernstein"][31:]), 1)[0] < 0.42


def test_g4_the_bound_holds_and_is_not_far_away(realizable):
    _, taken, queries, radii, block = realizable
    x = (np.arange(2000) + 0.5) / 2000
    theta = disagreement_coefficient(taken(x), 64)
    for n in (32, 64, 128):
        ends = np.repeat(radii[:n], block)  # the radius during a block is that of its start, which is larger
        during = np.concatenate([np.full(block, 2.0), ends[:-block]])
        bound = query_bound(n * block, theta=theta, kappa=2.0, least=0.0, radii=during, terms=2)
        assert queries[n - 1] <= bound
        assert queries[n - 1] > bound / 8  # mutation: an eighth of the constant would be refuted


def test_g5_limits():
    rng = np.random.default_rng(0)
    losses, error = finite_world(rng, routers=1)
    space = VersionSpace(1, terms=3)
    assert (space.probabilities(losses) == 0).all()  # one router: nothing to learn, nothing to buy
    losses, error = finite_world(rng)
    space = VersionSpace(8, terms=3, multiplier=1.0)
    space.update(losses, weighted_gains=1 - error)  # p = 1: the plain average
    assert space.best == int(np.einsum("rnk,nk->r", losses, 1 - error).argmin())
    np.testing.assert_allclose(space.average, np.einsum("rnk,nk->r", losses, 1 - error) / 30, atol=1e-12)


def test_g3_in_one_stage():
    """A free term beside the experts: the radius counts it, and the best is never removed, by either bound."""
    for bound in ("azuma", "bernstein"):
        for seed in range(30):
            rng = np.random.default_rng(seed)
            losses, error = finite_world(rng, experts=2)
            label = rng.random((8, 30)) ** rng.uniform(0.2, 4, (8, 1))
            truth = np.einsum("rnk,nk->r", losses, 1 - error) / 30 + label.mean(1)
            space = VersionSpace(8, terms=3, bound=bound)
            for _ in range(10):
                rows = rng.integers(30, size=1000)
                p = space.probabilities(losses[:, rows])
                drawn = rng.random(p.shape) < p
                gain = rng.random(p.shape) >= error[rows]
                weighted = np.where(drawn, gain / np.where(drawn, p, 1.0), 0.0)
                space.update(losses[:, rows], weighted_gains=weighted, free=label[:, rows])
            assert space.alive[truth.argmin()]
            assert (truth[space.alive] <= truth.min() + 2 * space.radius).all()


def test_freedom_of_charge_enters_with_weight_one():
    space = VersionSpace(2, terms=3)
    space.update(np.zeros((2, 4, 2)), weighted_gains=np.zeros((4, 2)), free=np.array([[1.0] * 4, [0.5] * 4]))
    assert space.average.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    "call",
    [
        lambda: bounded_losses([1.0]),
        lambda: bounded_losses([np.nan, 0.0]),
        lambda: bounded_losses([0.0, 0.0], kind="hinge"),
        lambda: deviation_radius(0, size=1, terms=1),
        lambda: deviation_radius(1, size=1, terms=1, delta=0.0),
        lambda: VersionSpace(0, terms=2),
        lambda: VersionSpace(2, terms=2, bound="chernoff"),
        lambda: disagreement_coefficient(np.zeros((2, 3)), 0),
        lambda: disagreement_coefficient(np.zeros((2, 3, 1)), 2),
        lambda: disagreement_coefficient(np.zeros((2, 3, 1)), 0, weight=[1.0, 1.0, 1.0]),
    ],
)
def test_senseless_input(call):
    with pytest.raises(InvalidInputError):
        call()
