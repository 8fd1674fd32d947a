"""Smooth adversarial comp-sum losses: the inequality they rest on, its constant, attacks, limits, peers."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from corollary import losses
from corollary.errors import InvalidInputError
from corollary.losses.consistency import adversarial_bound, phi_at_one

TAUS = (0.0, 0.5, 1.0, 1.5, 2.0)


def linear(n=3, d=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    w, b = torch.randn(n, d, generator=g, dtype=torch.float64), torch.randn(n, generator=g, dtype=torch.float64)
    return lambda x: x @ w.T + b, w


@pytest.mark.parametrize("tau", TAUS)
def test_the_smooth_loss_is_at_least_the_adversarial_one(tau):
    # 5 x 12,000 = 60,000 cases: scores at x and at any x' (so in particular at the worst), rho and n at random.
    rng = np.random.default_rng(0)
    for _ in range(12):
        n, rho = int(rng.integers(2, 7)), float(rng.uniform(0.2, 3))
        z, moved = (torch.tensor(rng.normal(size=(1000, n)) * rng.choice([0.3, 3])) for _ in range(2))
        y = torch.tensor(rng.integers(0, n, 1000))
        nu = losses.theoretical_weight(classes=n, rho=rho)
        smooth = losses.smooth_adversarial(z, moved, y, tau=tau, rho=rho, nu=nu, reduction="none")
        adversarial = losses.ramp_comp_sum(moved, y, tau=tau, rho=rho)
        assert (smooth >= adversarial - 1e-12).all()
        wrong = losses.margins(moved, y) <= 0
        assert (adversarial[wrong] >= phi_at_one(tau) - 1e-12).all()


def test_a_smaller_weight_breaks_the_inequality():
    z = torch.zeros(1, 5, dtype=torch.float64)
    z[0, 0] = 6.0  # far away; then all differences move at once, where l1 = sqrt(n-1) l2
    moved = torch.zeros(1, 5, dtype=torch.float64)
    y = torch.tensor([0])
    right = losses.theoretical_weight(classes=5, rho=6.0)
    # At rho = 6 the ramp falls from 1 to 0 along this way; log1p is nearly linear for one small step of it.
    step = moved + 0.98 * (z - moved)
    need = losses.ramp_comp_sum(step, y, rho=6.0) - losses.comp_sum(z / 6.0, y, tau=1.0, reduction="none")
    assert need <= right * losses.deviation(step, z, y)
    assert losses.ramp_comp_sum(moved, y, tau=1.0, rho=6.0) > losses.smooth_adversarial(
        z, moved, y, rho=6.0, nu=0.1 * right, reduction="none"
    )


@pytest.mark.parametrize("tau", TAUS)
def test_the_constant_of_the_bound_is_the_reciprocal_of_phi_at_one(tau):
    # A hypothesis that separates orders the classes; a regret in error costs at least Phi(1) times as much.
    rng, ratio = np.random.default_rng(0), 0.0
    for n in range(2, 6):
        k = np.arange(1.0, n + 1)
        phi = np.log(k) if tau == 1 else (k ** (1 - tau) - 1) / (1 - tau)
        eta = -np.sort(-rng.dirichlet(np.ones(n), 15_000), 1)
        order = rng.random((15_000, n)).argsort(1)
        excess = np.take_along_axis(eta, order, 1) @ phi - eta @ phi
        error = eta[:, 0] - np.take_along_axis(eta, order[:, :1], 1)[:, 0]
        assert (error <= adversarial_bound(tau=tau).target(np.maximum(excess, 0)) + 1e-9).all()
        some = excess > 1e-9
        ratio = max(ratio, (phi_at_one(tau) * error[some] / excess[some]).max())
    assert 0.99 < ratio <= 1 + 1e-9  # tight, so another constant (its reciprocal, say) is caught


def test_limits():
    model, _ = linear()
    x, y = torch.rand(9, 4, dtype=torch.float64), torch.arange(9) % 3
    z = model(x)
    plain = losses.comp_sum(z / 0.7, y, tau=1.5)
    for loss in (
        losses.AdversarialCompSum(eps=0.0, tau=1.5, rho=0.7),
        losses.AdversarialCompSum(eps=0.3, tau=1.5, rho=0.7, nu=0.0),
    ):
        torch.testing.assert_close(loss(model, x, y), plain, atol=2e-6, rtol=0)  # 1e-12 stands under the root
    torch.testing.assert_close(losses.Trades(eps=0.0)(model, x, y), F.cross_entropy(z, y), atol=1e-9, rtol=0)
    torch.testing.assert_close(losses.AdversarialTraining(eps=0.0)(model, x, y), F.cross_entropy(z, y))


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_term_of_a_linear_binary_model_is_a_dual_norm(norm, dual):
    model, w = linear(n=2)
    x, y = torch.rand(6, 4, dtype=torch.float64), torch.arange(6) % 2
    loss = losses.AdversarialCompSum(eps=0.2, step=0.05, steps=40, nu=0.8, norm=norm, low=None, high=None)
    term = loss(model, x, y) - losses.comp_sum(model(x), y)
    expected = 0.8 * 0.2 * (w[0] - w[1]).norm(p=dual)
    torch.testing.assert_close(term, expected, atol=1e-4, rtol=1e-3)  # ascent


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_attacks_stay_in_the_ball_and_in_range(norm):
    model, _ = linear()
    x, y = torch.rand(20, 4, dtype=torch.float64), torch.arange(20) % 3
    objective = lambda v: -losses.margins(model(v), y)  # noqa: E731
    moved = losses.pgd(objective, x, eps=0.3, step=0.1, steps=20, norm=norm)
    distance = (moved - x).abs().amax(1) if norm == "linf" else (moved - x).norm(dim=1)
    assert (distance <= 0.3 + 1e-9).all()
    assert ((moved >= 0) & (moved <= 1)).all()
    assert (objective(moved) >= objective(x) - 1e-9).all()
    again = losses.pgd(objective, x, eps=0.3, step=0.1, steps=20, norm=norm)
    assert torch.equal(moved, again)


def test_robust_accuracy_of_a_linear_model_is_known():
    model, w = linear(n=2)
    x, y = torch.randn(300, 4, dtype=torch.float64), torch.arange(300) % 2
    exact = (losses.margins(model(x), y) > 0.1 * (w[0] - w[1]).abs().sum()).double().mean().item()
    got = losses.robust_accuracy(model, x, y, eps=0.1, step=0.02, steps=40, low=None, high=None)
    assert got == pytest.approx(exact, abs=0.01)
    more = losses.robust_accuracy(model, x, y, eps=0.1, step=0.02, steps=5, restarts=3, low=None, high=None)
    assert got - 0.02 <= more <= 1


@pytest.mark.parametrize(
    "loss", [losses.AdversarialCompSum(eps=0.1, warmup=3), losses.Trades(eps=0.1), losses.AdversarialTraining(eps=0.1)]
)
def test_training_leaves_batch_statistics_to_the_training_passes(loss):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    x, y = torch.rand(32, 4), torch.arange(32) % 3
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    first = None
    for _ in range(15):
        seen = int(model[1].num_batches_tracked)
        value = loss(model, x, y)
        assert int(model[1].num_batches_tracked) - seen in (1, 2)
        assert model.training
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        first = first if first is not None else loss(model, x, y).item()
    assert loss(model, x, y).item() < first


def test_wrong_inputs(as_shipped):
    x = torch.zeros(1, 2)
    for call, message in [
        (lambda: losses.project(x, x, eps=0.1, norm="l1"), "`norm`"),
        (lambda: losses.pgd(lambda v: v.sum(1), x, eps=-1.0, step=0.1, steps=1), "eps >= 0"),
        (lambda: losses.pgd(lambda v: v.sum(1), x, eps=1.0, step=0.1, steps=0), "at least one step"),
        (lambda: losses.AdversarialCompSum(eps=-1.0), "`eps`"),
        (lambda: losses.AdversarialCompSum(eps=0.1, nu=-1.0), "`nu`"),
        (lambda: losses.smooth_adversarial(x, x, torch.tensor([0]), reduction="x"), "`reduction`"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            call()
    assert math.isnan(losses.robust_accuracy(lambda v: v, torch.zeros(0, 2), torch.zeros(0).long(), eps=0.1, step=0.1))
