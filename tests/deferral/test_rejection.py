"""Learning to reject: G1 to G4 of the specification, and the precision-coverage curve."""

import numpy as np
import pytest
import torch

from corollary.deferral import (
    RejectionLoss,
    calibrated_beta,
    coverage_at,
    coverage_limit,
    precision_coverage,
    rejection_bound,
    rejection_cost,
    rejection_loss,
)
from corollary.errors import InvalidInputError

RNG = np.random.default_rng(0)
DRAWS = 20_000
COST = RNG.uniform(0.01, 0.49, DRAWS)
ALPHA = RNG.uniform(0.2, 6.0, DRAWS)
ETA = RNG.random(DRAWS)  # P(acceptable)


def mixed(p_bad, alpha):
    return p_bad * np.exp(alpha / 2) + (1 - p_bad) * np.exp(-alpha / 2)


def conditional(r, eta, c, alpha, beta):
    return mixed(1 - eta, alpha) * np.exp(alpha / 2 * r) + c * np.exp(-beta * r)


def test_g1_surrogate_is_above():
    r = torch.from_numpy(RNG.normal(0, 2, DRAWS))
    for cost, alpha, beta in ((0.05, 1.0, None), (0.3, 4.0, None), (0.1, 0.5, 2.0)):
        for judged in (True, False):
            a = torch.full((DRAWS,), judged)
            loss = rejection_loss(r, a, cost=cost, alpha=alpha, beta=beta, reduction="none")
            assert (loss >= rejection_cost(r, a, cost=cost, reduction="none")).all()


def minimiser(eta, c, alpha, beta):
    return np.log(2 * beta * c / (alpha * mixed(1 - eta, alpha))) / (alpha / 2 + beta)


def test_g2_sign_of_the_minimiser_and_a_mutated_beta():
    beta = np.array([calibrated_beta(c, a) for c, a in zip(COST, ALPHA, strict=True)])
    clear = np.abs(1 - ETA - COST) > 1e-9
    best = minimiser(ETA, COST, ALPHA, beta)
    assert ((best > 0) == (1 - ETA < COST))[clear].all()
    wrong = minimiser(ETA, COST, ALPHA, 1.2 * beta)
    assert not ((wrong > 0) == (1 - ETA < COST))[clear].all()
    # and it is the minimiser
    for step in (-1e-4, 1e-4):
        assert (conditional(best + step, ETA, COST, ALPHA, beta) >= conditional(best, ETA, COST, ALPHA, beta)).all()


def test_loss_is_the_conditional_form():
    eta, cost, alpha = 0.7, 0.1, 2.0
    r = torch.tensor([0.3, 0.3], dtype=torch.float64)
    both = rejection_loss(r, [True, False], cost=cost, alpha=alpha, reduction="none")
    mean = eta * both[0] + (1 - eta) * both[1]
    assert float(mean) == pytest.approx(conditional(0.3, eta, cost, alpha, calibrated_beta(cost, alpha)), abs=1e-12)


def test_g3_excess_bound_and_its_constant():
    worst = 0.0
    for c, alpha, eta in zip(COST[:4000], ALPHA[:4000], ETA[:4000], strict=True):
        beta = calibrated_beta(c, alpha)
        best = minimiser(eta, c, alpha, beta)
        excess = conditional(0.0, eta, c, alpha, beta) - conditional(best, eta, c, alpha, beta)
        target, limit = abs(1 - eta - c), rejection_bound(excess, cost=c, alpha=alpha)
        assert target <= limit * (1 + 1e-9) + 1e-7
    for gap in (1e-3, -1e-3):  # near the boundary with a small alpha the bound is nearly attained
        c, alpha = 0.3, 0.05
        beta, eta = calibrated_beta(c, alpha), 1 - c - gap
        best = minimiser(eta, c, alpha, beta)
        excess = conditional(0.0, eta, c, alpha, beta) - conditional(best, eta, c, alpha, beta)
        worst = max(worst, abs(gap) / rejection_bound(excess, cost=c, alpha=alpha))
    assert worst > 0.9  # 1/sqrt(2) in the place of 1 would be violated


def test_g4_never_bad_accepts():
    c, alpha = 0.1, 2.0
    beta = calibrated_beta(c, alpha)
    assert minimiser(1.0, c, alpha, beta) == pytest.approx(
        np.log(mixed(c, alpha) * np.exp(alpha / 2)) / (alpha / 2 + beta)
    )
    assert minimiser(1.0, c, alpha, beta) > 0
    assert minimiser(0.0, c, alpha, beta) < 0


def test_training_by_the_loss_finds_the_threshold():
    """Bad with probability x in [0, 1]: accept iff x < c, without a threshold to tune."""
    rng = np.random.default_rng(1)
    x = rng.random(20_000)
    good = rng.random(20_000) > x
    cells = torch.from_numpy((x * 20).astype(int))
    table = torch.zeros(20, dtype=torch.float64, requires_grad=True)
    loss = RejectionLoss(cost=0.275, alpha=1.0)
    solver = torch.optim.LBFGS([table], max_iter=100, line_search_fn="strong_wolfe")

    def objective():
        solver.zero_grad()
        value = loss(table[cells], torch.from_numpy(good))
        value.backward()
        return value

    solver.step(objective)
    middle = (np.arange(20) + 0.5) / 20
    clear = np.abs(middle - 0.275) > 0.02
    assert ((table.detach().numpy() > 0) == (middle < 0.275))[clear].all()


def test_gradients_far_out_are_finite():
    r = torch.tensor([-50.0, 0.3, 400.0], dtype=torch.float64, requires_grad=True)
    loss = rejection_loss(r, [True, False, False], cost=0.05, alpha=4.0)
    loss.backward()
    assert torch.isfinite(r.grad).all()
    assert r.grad[0] < 0
    near = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: rejection_loss(s, [1, 0, 1, 0, 0], cost=0.1, reduction="none"), (near,))


def test_curve_by_hand_with_ties():
    curve = precision_coverage([2.0, 1.0, 1.0, 0.0], [1, 1, 0, 0])
    np.testing.assert_allclose(curve.coverage, [0.25, 0.75, 1.0])
    np.testing.assert_allclose(curve.precision, [1.0, 2 / 3, 0.5])
    assert coverage_at([2.0, 1.0, 1.0, 0.0], [1, 1, 0, 0], error=0.4) == 0.75
    assert coverage_at([1.0, 2.0], [1, 0], error=0.1) == 0.0
    rng = np.random.default_rng(2)
    good = rng.random(5000) < 0.645
    perfect = coverage_at(good + 0.01 * rng.random(5000), good, error=0.1775)
    assert perfect == pytest.approx(coverage_limit(1 - good.mean(), 0.1775), abs=1e-3)  # one row


def test_nonsense_is_refused(as_shipped):
    for call, words in (
        (lambda: rejection_loss([0.0], [0], cost=0.5), "cost"),
        (lambda: rejection_loss([0.0], [0], cost=0.1, alpha=0.0), "alpha"),
        (lambda: rejection_loss([0.0], [0], cost=0.1, beta=-1.0), "beta"),
        (lambda: rejection_loss([0.0, 1.0], [0], cost=0.1), "alike"),
        (lambda: rejection_loss([], [], cost=0.1), "alike"),
        (lambda: rejection_loss([float("nan")], [0], cost=0.1), "NaN"),
        (lambda: rejection_loss([0.0], [0.5], cost=0.1), "booleans"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            call()
