"""Each confidence bound: an independent oracle, its theorem, its coverage, a mutated constant that is caught."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from corollary.certificates import (
    _betting,
    _concentration,
    betting,
    clopper_pearson,
    empirical_bernstein,
    hoeffding,
    log_capital,
)
from corollary.errors import InvalidInputError

BOUNDS = {"hoeffding": hoeffding, "bernstein": empirical_bernstein, "betting": betting}


def oracle_hoeffding(x, delta):
    """The t that solves exp(-2 n t^2) = delta, found by bisection instead of by formula."""
    low, high = 0.0, 10.0
    for _ in range(100):
        t = (low + high) / 2
        low, high = (t, high) if math.exp(-2 * len(x) * t * t) > delta else (low, t)
    return sum(x) / len(x) - low


def oracle_bernstein(x, delta):
    """Maurer and Pontil's Theorem 4 with their own variance, the sum over all pairs."""
    n = len(x)
    variance = sum((a - b) ** 2 for a, b in itertools.combinations(x, 2)) / (n * (n - 1))
    log = math.log(2 / delta)
    return sum(x) / n - math.sqrt(2 * variance * log / n) - 7 * log / (3 * (n - 1))


def oracle_betting(x, delta, grid=20_000):
    """A loop over gamblers on a grid of means: the first that is not ruined."""
    for i in range(1, grid):
        m, capital, richest = i / grid, 1.0, 1.0
        total, squares, variance = 0.5, 0.25, 0.25
        for t, value in enumerate(x, 1):
            bet = min(math.sqrt(2 * math.log(1 / delta) / (len(x) * variance)), 0.75 / m)
            capital *= 1 + bet * (value - m)
            richest = max(richest, capital)
            total += value
            squares += (value - total / (t + 1)) ** 2
            variance = squares / (t + 1)
        if richest < 1 / delta:
            return m
    return 1.0


def agrees_with_oracle(name, rng, rounds=20):
    for _ in range(rounds):
        x, delta = rng.beta(2, 3, size=rng.integers(5, 60)), rng.choice([0.01, 0.05, 0.2])
        ours = BOUNDS[name](x, delta=delta, side="lower").lower.item()
        if name == "betting":
            assert abs(ours - oracle_betting(x, delta)) <= 1 / 20_000  # the oracle's grid
        else:
            oracle = {"hoeffding": oracle_hoeffding, "bernstein": oracle_bernstein}[name](list(x), delta)
            assert abs(ours - max(oracle, 0.0)) <= 1e-10


@pytest.mark.parametrize("name", BOUNDS)
def test_agrees_with_an_independent_oracle(name):
    agrees_with_oracle(name, np.random.default_rng(0), rounds=4 if name == "betting" else 50)


MUTATIONS = [
    ("hoeffding", _concentration, "HOEFFDING_FACTOR", 4.0),
    ("bernstein", _concentration, "BERNSTEIN_VARIANCE", 1.0),
    ("bernstein", _concentration, "BERNSTEIN_RANGE", 1.0),
    ("betting", _betting, "TRUNCATION", 0.25),
]


@pytest.mark.parametrize(("name", "module", "constant", "wrong"), MUTATIONS)
def test_a_mutated_constant_is_caught(name, module, constant, wrong, monkeypatch):
    monkeypatch.setattr(module, constant, wrong)
    with pytest.raises(AssertionError):
        agrees_with_oracle(name, np.random.default_rng(0), rounds=4)


def test_clopper_pearson_inverts_the_binomial_tail():
    rng = np.random.default_rng(1)
    n = rng.integers(1, 300, size=2000)
    k = rng.binomial(n, rng.random(2000))
    low, high = clopper_pearson(k, n, delta=0.1)
    inner = (k > 0) & (k < n)
    # At the limits the tails have exactly the level: the definition, by scipy's binomial instead of the beta quantile.
    assert np.abs(stats.binom.sf(k - 1, n, low)[inner] - 0.05).max() < 1e-9
    assert np.abs(stats.binom.cdf(k, n, high)[inner] - 0.05).max() < 1e-9
    assert (low[k == 0] == 0).all()
    assert (high[k == n] == 1).all()


def test_clopper_pearson_covers_exactly_for_every_p():
    n, k = 40, np.arange(41)
    low, high = clopper_pearson(k, n, delta=0.1)
    for p in np.linspace(0.001, 0.999, 400):
        mass = stats.binom.pmf(k, n, p)
        assert mass[(low <= p) & (p <= high)].sum() >= 0.9 - 1e-12
        # A one-level mutation (delta for delta/2) would undercover somewhere:
    loose_low, loose_high = clopper_pearson(k, n, delta=0.2)
    worst = min(
        stats.binom.pmf(k, n, p)[(loose_low <= p) & (p <= loose_high)].sum() for p in np.linspace(0.001, 0.999, 400)
    )
    assert worst < 0.9


@pytest.mark.parametrize("name", BOUNDS)
def test_theorem_inequalities_on_random_instances(name):
    """On thousands of samples: ordered, inside the range, wider for smaller delta, one-sided inside two-sided."""
    rng = np.random.default_rng(2)
    for n in (2, 7, 40, 200):
        x = rng.beta(rng.uniform(0.2, 4, 1000), rng.uniform(0.2, 4, 1000), size=(n, 1000))
        both, tight = BOUNDS[name](x, delta=0.05), BOUNDS[name](x, delta=0.2)
        lower = BOUNDS[name](x, delta=0.05, side="lower").lower
        assert ((both.lower >= 0) & (both.upper <= 1)).all()
        assert (both.lower <= lower + 1e-12).all()
        if name != "betting":  # its bound need not contain the sample mean, nor be monotone in delta value by value
            assert ((both.lower <= x.mean(0)) & (x.mean(0) <= both.upper)).all()
            assert ((both.lower <= tight.lower + 1e-12) & (both.upper >= tight.upper - 1e-12)).all()


def test_capital_is_a_fair_bet_by_enumeration():
    """E[K_n(m)] over all 2^n sequences is exactly 1 at the true mean, below 1 above it: the supermartingale itself."""
    n = 10
    x = np.array(list(itertools.product([0.0, 1.0], repeat=n))).T
    for p in (0.1, 0.37, 0.8):
        weight = (p**x * (1 - p) ** (1 - x)).prod(0)
        for m, expected in ((p, 1.0), (min(1.0, p + 0.1), None)):
            bets = np.minimum(_betting.plug_in_bets(x, delta=0.1), 0.75 / m)
            capital = (1 + bets * (x - m)).prod(0)
            assert (capital >= 0).all()
            mean = float((weight * capital).sum())
            assert abs(mean - 1) < 1e-10 if expected else mean < 1
        # Ville: the running maximum passes 1/a with probability at most a.
        richest = log_capital(x, p, delta=0.1)
        for a in (0.5, 0.2, 0.1, 0.05):
            assert weight[richest >= np.log(1 / a)].sum() <= a


def test_capital_decreases_in_the_mean():
    x = np.random.default_rng(3).random((50, 300))
    capital = np.stack([log_capital(x, m, delta=0.05) for m in np.linspace(0.01, 1, 60)])
    assert (np.diff(capital, axis=0) <= 1e-12).all()


WORLDS = {
    "coin": (lambda rng, n, r: (rng.random((n, r)) < 0.3).astype(float), 0.3),
    "beta": (lambda rng, n, r: rng.beta(5, 2, (n, r)), 5 / 7),
    "rare": (lambda rng, n, r: np.where(rng.random((n, r)) < 0.02, 1.0, 0.1), 0.118),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("n", [50, 400])
def test_coverage_in_worlds_with_known_means(name, world, n):
    draw, mean = WORLDS[world]
    rounds, delta = 2000, 0.1
    x = draw(np.random.default_rng(4), n, rounds)
    slack = 4 * math.sqrt(delta * (1 - delta) / rounds)  # four binomial standard deviations
    for side in ("lower", "upper", "both"):
        low, high = BOUNDS[name](x, delta=delta, side=side)
        assert ((low > mean) | (high < mean)).mean() <= delta + slack


def test_betting_is_the_tightest_where_variance_is_small():
    x = np.random.default_rng(5).beta(50, 50, (200, 500))
    widths = {name: (b(x, delta=0.05)[1] - b(x, delta=0.05)[0]).mean() for name, b in BOUNDS.items()}
    assert widths["betting"] < widths["bernstein"] < widths["hoeffding"]


def test_vectorised_equals_one_by_one_and_scales_with_the_range():
    x = np.random.default_rng(6).random((80, 5))
    for bound in BOUNDS.values():
        together = bound(x, delta=0.05)
        for j in range(5):
            alone = bound(x[:, j], delta=0.05)
            assert abs(alone.lower - together.lower[j]) < 1e-12
        moved = bound(10 * x - 4, delta=0.05, low=-4, high=6)
        assert np.allclose(moved.lower, 10 * together.lower - 4, atol=1e-9)
        as_float32 = bound(x.astype(np.float32), delta=0.05)
        assert as_float32.lower.dtype == np.float64


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize(
    ("x", "options", "sentence"),
    [
        ([], {}, "at least"),
        ([0.5, float("nan")], {}, "NaN"),
        ([0.5, 1.5], {}, "outside"),
        ([0.5, 0.5], {"delta": 0.0}, "delta"),
        ([0.5, 0.5], {"side": "left"}, "side"),
        ([0.5, 0.5], {"low": 1.0, "high": 0.0}, "low"),
        ([[]], {}, "at least"),
    ],
)
def test_bad_input_gets_one_clear_sentence(as_shipped, name, x, options, sentence):
    if x == [[]] and name != "bernstein":
        x = []
    with pytest.raises(InvalidInputError, match=sentence):
        BOUNDS[name](x, **{"delta": 0.05, **options})


def test_clopper_pearson_bad_input_and_no_trials():
    for k, n in ((3, 2), (-1, 4), (0.5, 4), (float("nan"), 4)):
        with pytest.raises(InvalidInputError, match="whole numbers"):
            clopper_pearson(k, n, delta=0.05)
    low, high = clopper_pearson(0, 0, delta=0.05)
    assert (low, high) == (0, 1)
