import numpy as np
import pytest
from scipy.optimize import minimize

from corollary.errors import InvalidInputError
from corollary.gating import (
    capacity,
    fixed_mixture_gate,
    gate_from_density,
    multiplicative_weights,
    robust_gate,
)
from corollary.gating._band import band, fill
from corollary.numerics import jensen_shannon, kl


def world(seed, *, p=3, n=30, alpha=0.3, share=0.8):
    rng = np.random.default_rng(seed)
    domains = rng.dirichlet(np.full(n, alpha), p)
    experts = share * domains + (1 - share) * rng.dirichlet(np.full(n, alpha), p)
    return domains / domains.sum(1, keepdims=True), experts / experts.sum(1, keepdims=True)


SHAPES = [
    (p, n, a, s) for p in (1, 2, 3, 5, 10) for n in (2, 5, 30, 200) for a in (0.03, 0.3, 2.0) for s in (0.5, 0.8, 1.0)
]


@pytest.mark.parametrize("tol", [1e-4, 1e-9])
def test_every_random_world_is_solved_to_the_gap(tol):
    for seed, (p, n, alpha, share) in enumerate(SHAPES):
        domains, experts = world(seed, p=p, n=n, alpha=alpha, share=share)
        found = robust_gate(domains, experts, tol=tol)
        assert found.gap <= tol
        assert found.certificate.check(**found.evidence), (p, n, alpha, share)
        np.testing.assert_allclose(found.pi.sum(), 1, atol=1e-12)
        np.testing.assert_allclose(found.gate.sum(0), 1, atol=1e-12)
        np.testing.assert_allclose((found.gate * experts).sum(0), found.pi, atol=1e-12)
        assert (found.gate >= 0).all()
        assert kl(domains, found.pi).max() == found.upper


def test_the_large_world():
    domains, experts = world(0, p=10, n=500)
    found = robust_gate(domains, experts)
    assert found.gap <= 1e-4
    assert len(found.history) < 100


@pytest.mark.filterwarnings(
    "ignore:Values in x were outside bounds"
)  # SLSQP of scipy before 1.14 steps outside and says so
@pytest.mark.parametrize("seed", range(6))
def test_equals_a_general_solver_on_the_primal(seed):
    """Slow reference: sequential quadratic programming on (pi, t)."""
    domains, experts = world(seed, p=3, n=8, alpha=1.0)
    low, high = experts.min(0), experts.max(0)
    constraints = [
        {"type": "eq", "fun": lambda z: z[:-1].sum() - 1},
        {"type": "ineq", "fun": lambda z: z[-1] - kl(domains, np.maximum(z[:-1], 1e-300))},
    ]
    start = np.append(experts.mean(0), 5.0)
    reference = minimize(
        lambda z: z[-1], start, constraints=constraints, bounds=[*zip(low, high, strict=True), (0, 20)],
        method="SLSQP", options={"maxiter": 500, "ftol": 1e-12},
    )  # fmt: skip
    found = robust_gate(domains, experts, tol=1e-9)
    assert found.upper == pytest.approx(reference.x[-1], abs=1e-6)


def test_divergences_are_equal_on_the_support_of_the_least_favourable_mixture():
    for seed in range(30):
        found = robust_gate(*world(seed, p=5, n=40), tol=1e-10)
        kept = found.mixture > 1e-6
        # Gap 1e-10 and weight 1e-6: those divergences lie within 1e-10 / 1e-6 of the largest.
        np.testing.assert_allclose(found.divergences[kept], found.upper, atol=1e-4)
        assert (found.divergences <= found.upper).all()


def test_the_plain_iteration_approaches_the_same_value():
    domains, experts = world(3)
    found, curve = (
        robust_gate(domains, experts, tol=1e-9),
        multiplicative_weights(domains, experts, steps=2000),
    )
    assert (curve[:, 0] <= found.upper + 1e-12).all()
    assert (curve[:, 1] >= found.lower - 1e-12).all()
    assert curve[-1, 1] - curve[-1, 0] < 2e-2  # its rate is 1 / sqrt(steps)


def test_filling_is_the_optimum_for_one_mixture():
    """Against random points of the band, and the closed form clip(p / mu, lo, hi) with mu by bisection."""
    rng = np.random.default_rng(0)
    for seed in range(100):
        domains, experts = world(seed, n=12, alpha=0.5)
        limits, mixture = band(experts, normalise="strict"), rng.dirichlet(np.ones(3)) @ domains
        pi = fill(mixture, limits).pi
        small, large = 1e-12, 1e12
        for _ in range(200):
            middle = np.sqrt(small * large)
            above = np.clip(mixture / middle, limits.low, limits.high).sum() > 1
            small, large = (middle, large) if above else (small, middle)
        np.testing.assert_allclose(pi, np.clip(mixture / middle, limits.low, limits.high), atol=1e-10)
        for gate in rng.dirichlet(np.ones(3), (5, 12)):
            other = (gate.T * experts).sum(0)
            assert kl(mixture, pi) <= kl(mixture, other / other.sum()) + 1e-12 or not np.all(
                (other / other.sum() >= limits.low) & (other / other.sum() <= limits.high)
            )


def test_fixed_mixture_and_singleton_set_agree():
    domains, experts = world(5)
    lam = np.array([0.5, 0.3, 0.2])
    fixed, single = fixed_mixture_gate(domains, experts, lam), robust_gate(domains, experts, mixtures=[lam])
    np.testing.assert_array_equal(fixed.pi, single.pi)
    np.testing.assert_allclose(fixed.mixture, lam)
    assert fixed.upper == pytest.approx(kl(lam @ domains, fixed.pi), abs=1e-12)
    assert fixed.gap <= 1e-9
    assert fixed.certificate.check(**fixed.evidence)


def test_restricted_mixtures():
    domains, experts = world(6, p=3)
    whole = robust_gate(domains, experts, tol=1e-9)
    # No domain has more than 60 %: by inequalities, and by extreme points.
    a, b = np.eye(3), np.full(3, 0.6)
    part = robust_gate(domains, experts, inequalities=(a, b), tol=1e-9)
    again = robust_gate(domains, experts, mixtures=part.extreme_points, tol=1e-9)
    assert part.upper == pytest.approx(again.upper, abs=1e-9)
    assert part.upper < whole.upper
    assert (part.mixture <= 0.6 + 1e-9).all()
    assert part.certificate.check(**part.evidence)
    rng = np.random.default_rng(0)
    for lam in rng.dirichlet(np.ones(3), 500):
        if (lam <= 0.6).all():
            assert kl(lam @ domains, part.pi) <= part.upper + 1e-12
    # Slow reference: plain multiplicative weights over the virtual domains.
    curve = multiplicative_weights(part.extreme_points @ domains, experts, steps=3000)
    assert curve[-1, 0] - 1e-9 <= part.upper <= curve[-1, 1] + 1e-9


def test_more_or_fewer_experts_than_domains():
    domains, experts = world(7, p=4)
    more = robust_gate(domains, np.vstack([experts, domains.mean(0)]), tol=1e-9)
    same, fewer = (
        robust_gate(domains, experts, tol=1e-9),
        robust_gate(domains, experts[:3] * 0.9 + 0.1 / 30, tol=1e-9),
    )
    assert more.upper <= same.upper + 1e-9  # nested bands: the value cannot rise
    assert fewer.gate.shape == (3, 30)
    assert fewer.certificate.check(**fewer.evidence)


def test_nested_gates_have_falling_values():
    for seed in range(20):
        domains, experts = world(seed, p=4)
        flat = experts**0.5 / (experts**0.5).sum(1, keepdims=True)
        classes = [np.vstack([experts, flat[:j]]) for j in range(3)]
        values = [robust_gate(domains, q, tol=1e-9).upper for q in classes]
        assert np.all(np.diff(values) <= 1e-9)


def test_limits():
    domains, experts = world(8, p=1)
    alone = robust_gate(domains, experts)
    np.testing.assert_allclose(alone.gate, 1)
    assert alone.upper == pytest.approx(kl(domains[0], experts[0]), abs=1e-12)

    domains, experts = world(9)
    same = np.tile(experts.mean(0), (3, 1))
    np.testing.assert_allclose(robust_gate(domains, same).pi, same[0], atol=1e-12)

    # Every model allowed: the capacity of the channel.
    free = np.eye(30)
    assert robust_gate(domains, free, tol=1e-9).upper == pytest.approx(capacity(domains), abs=2e-9)

    # Disjoint domains and experts within a factor p of them: exactly log p, though static gates pay more.
    rng = np.random.default_rng(0)
    disjoint = np.zeros((3, 12))
    for k in range(3):
        disjoint[k, 4 * k : 4 * k + 4] = rng.dirichlet(np.full(4, 5.0))
    experts = 0.5 * disjoint + 0.5 * np.roll(disjoint.reshape(3, 3, 4), 1, axis=2).reshape(3, 12) * 0.2 + 0.4 / 12
    experts /= experts.sum(1, keepdims=True)
    assert (disjoint[disjoint > 0] / experts[disjoint > 0] <= 3).all()
    solved = robust_gate(disjoint, experts, tol=1e-10)
    assert solved.upper == pytest.approx(np.log(3), abs=1e-9)
    np.testing.assert_allclose(solved.pi, disjoint.mean(0), atol=1e-4)


def test_the_set_of_gates_can_be_empty():
    """One domain on one point, an expert with mass elsewhere: the caveat to the paper's Lemma 1."""
    with pytest.raises(InvalidInputError, match=r"sums to 0\.9; expert 0 sums to 0\.9, 0\.1 of its mass"):
        robust_gate([[1.0]], [[0.9]])
    assert robust_gate([[1.0]], [[0.9]], normalise="experts").upper == pytest.approx(0, abs=1e-12)
    short = robust_gate([[1.0]], [[0.9]], normalise="inequality")
    assert short.upper == pytest.approx(-np.log(0.9))
    assert short.certificate.check(**short.evidence)
    with pytest.raises(InvalidInputError, match=r"already sums to 1\.2"):
        robust_gate([[0.5, 0.5]], [[0.6, 0.6], [0.7, 0.6]])
    assert robust_gate([[0.5, 0.5]], [[0.6, 0.6], [0.7, 0.6]], normalise="experts").upper == pytest.approx(0, abs=1e-9)


def test_equality_and_inequality_agree_for_normalised_experts():
    for seed in range(10):
        domains, experts = world(seed)
        strict, loose = (robust_gate(domains, experts, tol=1e-9, normalise=o).upper for o in ("strict", "inequality"))
        assert strict == pytest.approx(loose, abs=1e-9)


@pytest.mark.parametrize(
    ("domains", "experts", "options", "message"),
    [
        ([], [[1.0]], {}, "`domains` must be"),
        ([[0.5, 0.5]], [[np.nan, 1.0]], {}, "NaN"),
        ([[0.5, 0.6]], [[0.5, 0.5]], {}, "sums to 1.1"),
        ([[0.5, 0.5]], [[0.0, 0.0]], {}, "all zeros"),
        ([[0.5, 0.5]], [[1.0]], {}, "same points"),
        ([[0.5, 0.5]], [[1.0, 0.0]], {}, "every expert is zero"),
        ([[0.5, 0.5]], [[0.5, 0.5]], {"tol": 0.0}, "`tol`"),
        ([[0.5, 0.5]], [[0.5, 0.5]], {"mixtures": [[0.5, 0.5]]}, "for 1 domains"),
        ([[0.5, 0.5]], [[0.5, 0.5]], {"mixtures": [[1.0]], "inequalities": ([[1.0]], [1.0])}, "not both"),
        ([[0.5, 0.5]], [[0.5, 0.5]], {"inequalities": ([[1.0]], [0.5])}, "no mixture"),
    ],
)
def test_refuses(domains, experts, options, message):
    with pytest.raises(InvalidInputError, match=message):
        robust_gate(domains, experts, **options)


def test_refuses_the_rest():
    with pytest.raises(InvalidInputError, match="outside the experts"):
        gate_from_density([0.9, 0.1], [[0.5, 0.5], [0.6, 0.4]])
    with pytest.raises(InvalidInputError, match="shape"):
        gate_from_density([1.0], [[0.5, 0.5]])
    with pytest.raises(InvalidInputError, match="steps"):
        multiplicative_weights([[1.0]], [[1.0]], steps=0)


def test_linearisation_identity():
    """I1: KL(p_lam || pi) = sum lam KL(p_k || pi) - JSD, for any pi; a dropped or added JSD is caught."""
    rng = np.random.default_rng(0)
    for seed in range(300):
        domains, experts = world(seed, n=10)
        lam, pi = rng.dirichlet(np.ones(3)), experts.mean(0) * rng.uniform(0.5, 2)
        left, mean = kl(lam @ domains, pi), lam @ kl(domains, pi)
        assert left == pytest.approx(mean - jensen_shannon(domains, lam), abs=1e-10)
        assert abs(left - mean) > 1e-6
        assert abs(left - (mean + jensen_shannon(domains, lam))) > 1e-6
