"""The theorems T1 to T7 on random finite worlds, their limits, and mutated constants that must be caught."""

import numpy as np
import pytest

from corollary.errors import InvalidInputError
from corollary.gating import (
    best_static_gate,
    capacity,
    expert_errors,
    fit_static_gate,
    game_value_bracket,
    generalisation_bound,
    massart_bound,
    robust_gate,
    sigma_bound,
    sigma_gate,
    theorem3_bound,
)
from corollary.numerics import entropy, exponentiated_gradient, jensen_shannon, kl


def world(seed, *, p=3, n=20, alpha=0.3, share=0.8):
    rng = np.random.default_rng(seed)
    domains = rng.dirichlet(np.full(n, alpha), p)
    experts = share * domains + (1 - share) * rng.dirichlet(np.full(n, alpha), p)
    return domains / domains.sum(1, keepdims=True), experts / experts.sum(1, keepdims=True)


def disjoint_world():
    """Three domains of four points each, experts that leak only to points that belong to nobody."""
    rng = np.random.default_rng(0)
    domains, experts = np.zeros((3, 15)), np.zeros((3, 15))
    for k in range(3):
        domains[k, 4 * k : 4 * k + 4] = rng.dirichlet(np.ones(4))
        experts[k, 4 * k : 4 * k + 4] = 0.8 * rng.dirichlet(np.full(4, 3.0))
        experts[k, 12 + k] = 0.2
    return domains, experts / experts.sum(1, keepdims=True)


def test_constant_gates():
    """T1: KL(p_lam || sum lam q) <= sum lam eps <= max eps."""
    rng = np.random.default_rng(0)
    for seed in range(1000):
        domains, experts = world(seed)
        lam, eps = rng.dirichlet(np.ones(3)), expert_errors(domains, experts)
        assert kl(lam @ domains, lam @ experts) <= lam @ eps + 1e-12 <= eps.max() + 2e-12


def test_sigma_gate():
    """T2: below log sum exp(eps) for any supports; equal to it, and optimal, where nothing overlaps."""
    for seed in range(1000):
        domains, experts = world(seed)
        assert sigma_gate(domains, experts).upper <= sigma_bound(expert_errors(domains, experts)) + 1e-12
    domains, experts = disjoint_world()
    sigma, best = sigma_gate(domains, experts), best_static_gate(domains, experts, tol=1e-8)
    bound = sigma_bound(expert_errors(domains, experts))
    np.testing.assert_allclose(sigma.losses, bound, atol=1e-10)
    assert best.lower - 1e-9 <= bound <= best.upper + 1e-9
    np.testing.assert_allclose(best.weights, sigma.weights, atol=1e-4)  # a gap of 1e-8 leaves 1e-4 in the weights
    # The recorded instance.
    assert sigma_bound([0.2584, 0.3074, 0.1947]) == pytest.approx(1.35315, abs=1e-4)


def theorem3(seed):
    domains, experts = world(seed, p=int(2 + seed % 4), n=int(5 + seed % 16), share=0.5 + 0.1 * (seed % 5))
    found = robust_gate(domains, experts, tol=1e-9)
    lams = np.random.default_rng(seed).dirichlet(np.ones(len(domains)), 50)
    bound = theorem3_bound(domains, experts, lams, least_favourable=found.mixture)
    return kl(lams @ domains, found.pi), bound, found.gap


@pytest.mark.parametrize("seeds", [range(300), pytest.param(range(300, 1000), marks=pytest.mark.slow)])
def test_theorem_3_is_never_violated(seeds):
    mutated = 0
    for seed in seeds:
        actual, bound, gap = theorem3(seed)
        assert (actual <= bound.value + gap + 1e-10).all()
        assert bound.overlap_gain >= -1e-12
        np.testing.assert_allclose(bound.value, bound.sigma - bound.overlap_gain - bound.diversity_gain)
        mutated += (actual > bound.value - bound.overlap_gain - bound.diversity_gain + gap).any()
    assert mutated > 0.3 * len(seeds)  # a bound with its gains counted twice is caught


def test_theorem_3_in_the_limits():
    domains, _ = disjoint_world()
    # Disjoint, perfect experts: no overlap, diversity = entropy of the weights; the bound is attained
    # (dropping a part is caught).
    lams = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    bound = theorem3_bound(domains, domains, lams, least_favourable=np.full(3, 1 / 3))
    assert bound.overlap_gain == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(bound.diversity_gain, entropy(lams), atol=1e-12)
    np.testing.assert_allclose(bound.value, kl(lams @ domains, domains.mean(0)), atol=1e-12)
    # Identical experts of equal error: the overlap gain is log p, what is left is eps - JSD, which is
    # attained too.
    same = np.full((2, 4), 0.25)
    rows = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1]])
    bound = theorem3_bound(rows, same, [0.3, 0.7], least_favourable=[0.5, 0.5])
    assert bound.overlap_gain == pytest.approx(np.log(2), abs=1e-12)
    assert bound.value == pytest.approx(kl(np.array([0.3, 0.7]) @ rows, same[0]), abs=1e-12)


def test_value_of_the_game():
    """T4: C <= V <= min(C + max eps, log sum exp(eps)); C against the iteration of Blahut and Arimoto."""
    for seed in range(150):
        domains, experts = world(seed)
        found, bracket = robust_gate(domains, experts, tol=1e-9), game_value_bracket(domains, experts)
        assert bracket.lower - 2e-9 <= found.upper
        assert found.lower <= bracket.upper + 2e-9
        if seed % 10 == 0:
            assert found.upper <= best_static_gate(domains, experts, tol=1e-4).upper + 1e-9
    lam = np.full(3, 1 / 3)
    for _ in range(5000):
        lam = exponentiated_gradient(lam, kl(domains, lam @ domains), rate=1.0)
    assert capacity(domains) == pytest.approx(jensen_shannon(domains, lam), abs=1e-6)
    assert capacity(domains[:1]) == 0.0


def test_any_single_model_pays_the_diversity():
    """T6: the average of the divergences is at least the JSD, with equality for the mixture itself."""
    rng = np.random.default_rng(0)
    for seed in range(300):
        domains, _ = world(seed)
        lam, model = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(20))
        assert lam @ kl(domains, model) >= jensen_shannon(domains, lam) - 1e-12
        assert lam @ kl(domains, lam @ domains) == pytest.approx(jensen_shannon(domains, lam), abs=1e-12)


def test_generalisation_bound_over_resampled_worlds():
    """T7: 20 random gates, all deviations at once, 1,000 worlds; a bound a tenth as large is caught."""
    rng, delta, m, size = np.random.default_rng(0), 0.05, np.array([60, 90, 120]), 20
    violated = mutated = 0
    for seed in range(1000):
        domains, experts = world(seed)
        gates = rng.dirichlet(np.full(3, 0.5), (size, 20))
        losses = -np.log((gates * (0.9 * experts + 0.1 / 20).T).sum(-1))  # (size, n)
        spread = losses.max() - losses.min()
        drawn = np.stack([rng.multinomial(count, p) / count for count, p in zip(m, domains, strict=True)])
        deviation = np.abs((drawn - domains) @ losses.T).max()
        bound = generalisation_bound(massart_bound(size, m, loss_range=spread), m, loss_range=spread, delta=delta)
        violated += deviation > bound
        mutated += deviation > 0.1 * bound
    assert violated == 0  # allowed: 5 %
    assert mutated > 200


def test_massart_bounds_the_complexity():
    rng, m = np.random.default_rng(0), 40
    values = rng.uniform(2.0, 3.0, (10, m))
    signs = rng.choice([-1.0, 1.0], (20_000, m))
    complexity = (signs @ values.T / m).max(1).mean()
    assert complexity <= massart_bound(10, m, loss_range=1.0)


def test_best_static_gate_against_a_slow_reference():
    from scipy.optimize import minimize

    for seed in range(10):
        domains, experts = world(seed, p=3, n=10)
        found = best_static_gate(domains, experts, tol=1e-7)
        assert found.upper - found.lower <= 1e-7
        reference = minimize(
            lambda z: z[-1], [1 / 3, 1 / 3, 1 / 3, 5.0], method="SLSQP", bounds=[(0, 1)] * 3 + [(0, 20)],
            constraints=[{"type": "eq", "fun": lambda z: z[:3].sum() - 1},
                         {"type": "ineq", "fun": lambda z, d=domains, e=experts: z[3] - kl(d,
                         np.maximum(z[:3], 0) @ e)}],
        )  # fmt: skip
        assert found.upper == pytest.approx(reference.x[-1], abs=1e-5)


def test_fitted_static_gates():
    """The fixed point of EM on pooled documents; the robust fit equals the finite solver on a census."""
    rng = np.random.default_rng(0)
    logq = rng.normal(-50, 1, (500, 4))
    found, w = fit_static_gate(logq, tol=1e-9), np.full(4, 0.25)
    for _ in range(5000):
        posterior = w * np.exp(logq - logq.max(1, keepdims=True))
        w = (posterior / posterior.sum(1, keepdims=True)).mean(0)
    np.testing.assert_allclose(found.weights, w, atol=1e-4)
    counts = np.array([[4, 3, 2, 1], [1, 1, 1, 7]])
    experts = rng.dirichlet(np.ones(4), 3)
    state = np.repeat(np.tile(np.arange(4), 2), counts.ravel())
    domain = np.repeat([0, 1], 10)
    fitted = fit_static_gate(np.log(experts.T[state]), domain, entropies=entropy(counts / 10))
    exact = best_static_gate(counts / 10, experts)
    assert fitted.upper == pytest.approx(exact.upper, abs=2e-6)


def test_refuses():
    with pytest.raises(InvalidInputError, match="pairs them"):
        expert_errors([[0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(InvalidInputError, match="do not fit"):
        theorem3_bound([[1.0]], [[1.0]], [0.5, 0.5], least_favourable=[1.0])
    with pytest.raises(InvalidInputError, match="misses mass"):
        sigma_gate([[0.5, 0.5]], [[1.0, 0.0]])
    with pytest.raises(InvalidInputError, match="every expert is zero"):
        best_static_gate([[0.5, 0.5]], [[1.0, 0.0]])
    with pytest.raises(InvalidInputError, match="errors"):
        sigma_bound([])
    assert sigma_bound([np.inf, 1.0]) == np.inf
    with pytest.raises(InvalidInputError, match="delta"):
        generalisation_bound([0.0], [10], loss_range=1.0, delta=0.0)
    with pytest.raises(InvalidInputError, match="samples"):
        generalisation_bound([0.0], [0], loss_range=1.0, delta=0.1)
    with pytest.raises(InvalidInputError, match="class"):
        massart_bound(0, [3], loss_range=1.0)
    with pytest.raises(InvalidInputError, match="impossible"):
        fit_static_gate([[-np.inf, -np.inf]])
    with pytest.raises(InvalidInputError, match="no documents"):
        fit_static_gate(np.zeros((2, 2)), [0, 2])
    with pytest.raises(InvalidInputError, match="entropies"):
        fit_static_gate(np.zeros((2, 2)), [0, 1], entropies=[1.0])
    with pytest.raises(InvalidInputError, match="domain"):
        fit_static_gate(np.zeros((2, 2)), [0.0, 1.0])
    with pytest.raises(InvalidInputError, match=r"\(N, q\)"):
        fit_static_gate(np.zeros(2))
    with pytest.raises(InvalidInputError, match="tol"):
        best_static_gate([[1.0]], [[1.0]], tol=0.0)
