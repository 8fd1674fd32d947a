"""Transforms, bounds, worlds, gaps: the theorem itself, on random instances and in closed form."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from corollary import losses
from corollary.errors import InvalidInputError
from corollary.losses import consistency as c
from corollary.losses.consistency._binary import MARGIN_LOSSES
from corollary.losses.consistency._numeric import worst_distributions

T = np.linspace(0, 1, 41)
PAIRS = [(n, tau) for n in (2, 3, 10) for tau in (0.0, 0.5, 1.0, 1.3, 1.7, 2.0, 3.0)]


def instances(n, count, seed):
    """Random distributions and scores: unrelated ones, and near-ties at the worst place, where the bound is tight."""
    rng = np.random.default_rng(seed)
    eta = rng.dirichlet(np.full(n, rng.choice([0.3, 1.0])), count)
    scores = rng.normal(size=(count, n)) * rng.choice([0.3, 1.0, 4.0], (count, 1))
    half = count // 2
    t = rng.random(half)
    eta[:half] = 0
    eta[:half, 0], eta[:half, 1] = (1 + t) / 2, (1 - t) / 2
    scores[:half] = 1e-9 * rng.normal(size=(half, n)) - 30.0 * rng.random((half, 1)) * (np.arange(n) > 1)
    return eta, scores


def regrets(eta, scores, tau):
    return c.zero_one_regret(eta, scores), np.maximum(c.comp_sum_regret(eta, scores, tau=tau), 0)


@pytest.mark.parametrize(("n", "tau"), PAIRS)
def test_the_inequality_on_random_instances(n, tau):
    # 21 pairs x 20,000 = 420,000 instances, no violation. 1e-9: round-off of the regrets.
    eta, scores = instances(n, 20_000, seed=n)
    target, surrogate = regrets(eta, scores, tau)
    bound = c.comp_sum_transform(target, tau=tau, classes=n)
    assert (bound <= surrogate + 1e-9).all()
    if tau <= 1 or (n == 2 and tau <= 2):  # tight: a constant 2 % larger is caught
        assert (1.02 * bound > surrogate + 1e-9).any()


def test_the_inequality_in_expectation():
    rng = np.random.default_rng(0)
    for _ in range(300):
        n, tau = int(rng.integers(2, 5)), float(rng.choice([0.0, 0.5, 1.0, 1.5, 2.0, 2.5]))
        point, eta = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(n), 5)
        world, scores = c.FiniteWorld(point, eta), rng.normal(size=(5, n))
        excess = world.comp_sum_risk(scores, tau=tau) - world.least_comp_sum(tau=tau)
        regret = world.zero_one_risk(scores) - world.least_zero_one
        assert regret <= c.comp_sum_bound(tau=tau, classes=n).target(excess) + 1e-9


@pytest.mark.parametrize(("n", "tau"), PAIRS)
def test_transforms_are_convex_from_zero_and_inverted(n, tau):
    curve = c.comp_sum_transform(T, tau=tau, classes=n)
    assert curve[0] == 0
    assert (np.diff(curve, 2) >= -1e-12).all()
    back = c.comp_sum_inverse(curve, tau=tau, classes=n)
    assert (back >= T - 1e-12).all()
    # Near 0 T is quadratic, so round-off of 1e-16 in T is 1e-8 in t.
    np.testing.assert_allclose(back, T, atol=2e-7)
    assert (c.simple_inverse(curve, tau=tau, classes=n) >= back - 2e-7).all()
    excess = np.linspace(0, 3, 50)
    assert (c.simple_inverse(excess, tau=tau, classes=n) >= c.comp_sum_inverse(excess, tau=tau, classes=n) - 2e-7).all()


def psi(tau):
    return lambda s: -np.log(s) if tau == 1 else (1 - s ** (tau - 1)) / (tau - 1)


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_general_machinery_reproduces_the_closed_forms(n, tau):
    with np.errstate(all="ignore"):
        got = c.general_transform(psi(tau), T[:-1], classes=n)
    np.testing.assert_allclose(got, c.comp_sum_transform(T[:-1], tau=tau, classes=n), atol=3e-4)  # the grid over c


def test_general_machinery_on_a_loss_outside_the_family():
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(c.general_transform(lambda s: (1 - s) ** 2, T, classes=2), T**2 / 4, atol=1e-9)
        assert c.general_transform(lambda s: (1 - s) ** 2, 0.9, classes=10) == pytest.approx(0.152, abs=2e-3)
        with pytest.raises(InvalidInputError, match="convex"):
            c.general_transform(psi(3.0), 0.5, classes=3)
        bound = c.general_bound(psi(1.0), classes=3)
    exact = c.comp_sum_bound(tau=1.0, classes=3)
    y = np.linspace(0, 0.6, 30)
    assert (bound.target(y) >= exact.target(y) - 1e-12).all()
    assert (bound.target(y) <= exact.target(y) + 0.011).all()  # one step of the grid, upwards


def test_curves_are_made_convex_and_tabulated_on_the_safe_side():
    bumpy = lambda t: t**2 + 0.05 * np.sin(9 * t) ** 2  # noqa: E731
    grid, curve = c.tabulate(bumpy)
    assert (np.diff(curve, 2) >= -1e-12).all()
    assert (curve <= bumpy(grid) + 1e-12).all()
    y = np.linspace(0, 0.9, 50)
    assert (
        c.tabulated_inverse(grid, curve, y) >= c.bisect_inverse(lambda t: np.interp(t, grid, curve), y) - 1e-9
    ).all()


@pytest.mark.slow
@pytest.mark.parametrize(("n", "tau"), [(2, 0.5), (3, 0.0), (3, 1.0), (2, 1.5), (3, 1.5), (5, 1.5)])
def test_brute_force_is_never_below_the_closed_form(n, tau):
    loss, t = losses.CompSumLoss(tau=tau, reduction="none"), np.array([0.1, 0.3, 0.9])
    found = c.numeric_transform(loss, t, classes=n)
    closed = c.comp_sum_transform(t, tau=tau, classes=n)
    assert (found >= closed - 1e-4).all()
    if tau <= 1 or n == 2:
        np.testing.assert_allclose(found, closed, atol=2e-3)  # descent
    else:
        np.testing.assert_allclose(found, [0.0071, 0.0623, 0.4884], atol=2e-3)  # conservative: the value of n = 2


def test_worst_distributions_have_the_regret_asked_for():
    for t in (0.0, 0.4, 1.0):
        eta = worst_distributions(t, classes=4, draws=20, seed=0)
        np.testing.assert_allclose(eta.sum(1), 1)
        np.testing.assert_allclose(eta.max(1) - eta[:, 1], t, atol=1e-12)


@pytest.mark.parametrize("name", MARGIN_LOSSES)
@pytest.mark.parametrize("bound", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_binary_closed_forms(name, bound, scale):
    closed = c.binary_transform(T[:-1], loss=name, bound=bound, scale=scale)
    found = c.numeric_binary_transform(lambda u: MARGIN_LOSSES[name](u, scale), T[:-1], bound=bound)
    np.testing.assert_allclose(closed, found, atol=2e-4 * (1 + bound))  # the grid over scores
    mutated = c.binary_transform(T[1:-1], loss=name, bound=bound, scale=scale) * 1.05
    assert not np.allclose(mutated, found[1:], atol=2e-4)


def test_binary_limits_and_classes():
    np.testing.assert_allclose(
        c.binary_transform(T, loss="logistic"), c.comp_sum_transform(T, tau=1.0, classes=2), atol=1e-12
    )
    np.testing.assert_allclose(
        c.binary_transform(T, loss="exponential"), c.comp_sum_transform(T, tau=0.0, classes=2), atol=1e-12
    )
    assert c.linear_reach([[1.0, 0.0], [0.0, 0.0]], norm=3.0, bias=0.5) == 0.5
    assert c.network_reach([[1.0]], output_norm=2.0, norm=3.0, bias=0.5) == 7.0
    low, high = c.softmax_range(1.0, classes=3)
    z = torch.tensor([[1.0, -1, -1], [-1, 1, 1]])
    torch.testing.assert_close(torch.softmax(z, 1)[:, 0], torch.tensor([high, low]), atol=1e-6, rtol=1e-6)


def test_massart_noise_makes_the_bound_linear():
    rng = np.random.default_rng(0)
    curve = lambda t: c.comp_sum_transform(t, tau=1.0, classes=2)  # noqa: E731
    for g in (0.1, 0.3, 0.5):
        p = rng.uniform(g, 0.5, 4000) * rng.choice([-1, 1], 4000) + 0.5
        eta, scores = np.stack([p, 1 - p], 1), rng.normal(size=(4000, 2)) * 0.1
        target, surrogate = regrets(eta, scores, 1.0)
        assert target.mean() <= c.massart_target(surrogate.mean(), noise=g, transform=curve) + 1e-12
        assert (target <= 2 * g / curve(np.asarray(2 * g)) * surrogate + 1e-9).all()


def hinge_risk(eta, z, kind):
    n, total = len(eta), 0.0
    for y in range(n):
        others = [z[y] - z[j] for j in range(n) if j != y]
        gaps = [min(others)] if kind == "max" else others
        total += eta[y] * sum(max(0.0, 1 - g) for g in gaps)
    return total


@pytest.mark.parametrize("kind", ["max", "sum"])
def test_hinge_losses_have_points_of_no_surrogate_regret_and_large_error(kind):
    example = c.max_hinge_counterexample() if kind == "max" else c.sum_hinge_counterexample()
    n = 3
    pairs = [(y, j) for y in range(n) for j in range(n) if j != y]
    # Linear programme over (z, slack): slack_yj >= 1 - z_y + z_j, one slack a label for the maximum.
    slot = {pair: i if kind == "sum" else pair[0] for i, pair in enumerate(pairs)}
    count = max(slot.values()) + 1
    cost = np.zeros(n + count)
    for pair in pairs:
        cost[n + slot[pair]] = example.eta[pair[0]]
    rows = []
    for y, j in pairs:
        row = np.zeros(n + count)
        row[y], row[j], row[n + slot[(y, j)]] = -1, 1, -1
        rows.append(row)
    bounds = [(-50, 50)] * n + [(0, None)] * count
    least = scipy.optimize.linprog(cost, A_ub=np.array(rows), b_ub=-np.ones(len(rows)), bounds=bounds)
    assert hinge_risk(example.eta, example.scores, kind) == pytest.approx(least.fun, abs=1e-9)
    assert example.regret == pytest.approx(0.5 if kind == "max" else 1 / 6)


def world(seed=0, m=6, n=3):
    rng = np.random.default_rng(seed)
    return c.FiniteWorld(rng.dirichlet(np.ones(m)), rng.dirichlet(np.ones(n), m))


def test_finite_worlds_and_their_gaps():
    rng, w = np.random.default_rng(0), world()
    hypotheses = rng.normal(size=(7, 6, 3))
    for tau in (0.0, 0.5, 1.0, 1.5, 2.0):
        gap = w.minimizability_gap(hypotheses, tau=tau)
        assert 0 <= gap <= w.gap_bound(hypotheses, tau=tau) + 1e-12
        bound = c.comp_sum_bound(tau=tau, classes=3)
        least = min(w.comp_sum_risk(h, tau=tau) for h in hypotheses)
        gap01 = min(w.zero_one_risk(h) for h in hypotheses) - w.least_zero_one
        for h in hypotheses:  # the bound with its gaps, on this hypothesis set
            excess = w.comp_sum_risk(h, tau=tau) - least
            best01 = min(w.zero_one_risk(g) for g in hypotheses)
            assert w.zero_one_risk(h) - best01 + gap01 <= bound.target(excess, surrogate_gap=gap) + 1e-9
        loss = losses.CompSumLoss(tau=tau)
        assert w.risk(loss, hypotheses[0]) == pytest.approx(w.comp_sum_risk(hypotheses[0], tau=tau))
    complete = np.log(w.eta)[None]
    assert w.minimizability_gap(complete, tau=1.0) == pytest.approx(0, abs=1e-12)
    assert w.balanced_error(np.zeros((6, 3))) == pytest.approx(2 / 3)
    assert w.least_balanced_error <= w.balanced_error(np.log(w.eta)) + 1e-12
    assert c.balanced_regret(w.eta, np.log(w.eta / w.prior), prior=w.prior).max() == 0


def test_gaps_of_deterministic_labels_decrease_with_tau():
    w = c.FiniteWorld(np.full(3, 1 / 3), np.eye(3))
    bound, rng = 1.0, np.random.default_rng(0)
    hypotheses = rng.uniform(-bound, bound, size=(5, 3, 3))
    gaps = []
    for tau in (0.0, 0.5, 1.0, 1.5, 2.0):
        least = min(w.comp_sum_risk(h, tau=tau) for h in hypotheses)
        gaps.append(c.deterministic_gap(least, tau=tau, bound=bound, classes=3))
        best = 2 * bound * np.eye(3) - bound  # the conditional optimum on the box
        assert c.deterministic_gap(w.comp_sum_risk(best, tau=tau), tau=tau, bound=bound, classes=3) == pytest.approx(0)
    assert all(np.diff(gaps) < 0)


def test_growth_rate_is_a_square_root():
    t = np.geomspace(1e-3, 1e-1, 12)
    for tau in (0.0, 0.5, 1.0, 1.5):
        slope = np.polyfit(np.log(c.comp_sum_transform(t, tau=tau, classes=5)), np.log(t), 1)[0]
        assert slope == pytest.approx(0.5, abs=0.01)
    assert np.polyfit(np.log(c.comp_sum_transform(t, tau=2.0, classes=5)), np.log(t), 1)[0] == pytest.approx(1.0)


def test_weighted_targets():
    rng = np.random.default_rng(0)
    gamma = lambda y: c.comp_sum_inverse(y, tau=1.0, classes=3)  # noqa: E731
    for _ in range(200):
        point, eta, scores = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(3), 5), rng.normal(size=(5, 3))
        weight = rng.uniform(0.2, 4, 5)
        target, surrogate = regrets(eta, scores, 1.0)
        allowed = c.weighted_target(gamma, point @ (weight * surrogate), mean_weight=point @ weight)
        assert point @ (weight * target) <= allowed + 1e-9


def test_wrong_inputs(as_shipped):
    for call, message in [
        (lambda: c.comp_sum_transform(1.2, tau=1.0, classes=3), "lies in"),
        (lambda: c.comp_sum_transform(0.2, tau=-1.0, classes=3), "`tau`"),
        (lambda: c.comp_sum_transform(0.2, tau=1.0, classes=1), "`classes`"),
        (lambda: c.comp_sum_inverse(-0.1, tau=1.0, classes=3), "zero or more"),
        (lambda: c.comp_sum_inverse(math.nan, tau=1.0, classes=3), "zero or more"),
        (lambda: c.binary_transform(0.1, loss="x"), "`loss` must be"),
        (lambda: c.binary_transform(0.1, loss="hinge", bound=0.0), "`bound`"),
        (lambda: c.massart_target(0.1, noise=0.0, transform=np.square), "`noise`"),
        (lambda: c.weighted_target(np.sqrt, 0.1, mean_weight=0.0), "`mean_weight`"),
        (lambda: c.FiniteWorld(np.ones(2), np.eye(2)), "`point`"),
        (lambda: c.FiniteWorld(np.array([0.5, 0.5]), np.eye(3)), r"\(m,\)"),
        (lambda: c.plot_transforms({}), "empty"),
        (lambda: losses.excess_certificate(torch.zeros(0, 2), torch.zeros(0).long()), "finite logits"),
        (lambda: losses.excess_certificate(torch.full((3, 2), math.nan), torch.zeros(3).long()), "finite logits"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            call()


def test_bounds_of_modules_and_pictures():
    bound = losses.CompSumLoss(tau=1.5).consistency_bound(classes=4)
    assert bound.target(bound.surrogate(0.3)) == pytest.approx(0.3, abs=1e-9)
    assert "tau = 1.5" in str(bound)
    gca = losses.GCALoss(prior=[0.9, 0.1], margin=[1.0, 1.0], q=0.5).consistency_bound()
    assert gca.target(gca.surrogate(0.2)) == pytest.approx(0.2, abs=1e-9)
    la = losses.LogitAdjustedLoss(prior=[0.9, 0.1]).consistency_bound()
    assert la.target(la.surrogate(0.2)) == pytest.approx(0.2, abs=1e-9)
    figure = c.plot_transforms({"a": bound, "b": c.comp_sum_bound(tau=0.0, classes=4)})
    assert len(figure.axes[0].lines) == 2
    assert c.adversarial_bound(tau=1.0).target(0.1) == pytest.approx(0.1 / math.log(2))
    assert c.margin_bound(0.1, counts=[300, 15], margin=[1, 0.4], norm=1.0, radius=[1, 1]) <= 1.0
