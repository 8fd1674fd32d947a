"""Single-stage losses: G1, G2, G3 of the specification, limits, and baselines."""

import itertools
import math

import pytest
import torch

from corollary.deferral import (
    SingleStageLoss,
    deferral_costs,
    one_versus_all_deferral_loss,
    single_stage_cost,
    single_stage_loss,
    softmax_deferral_loss,
)
from corollary.errors import InvalidInputError

PSI = {"log": lambda t: -math.log(t), "gce": lambda t: (1 - t**0.7) / 0.7, "mae": lambda t: 1 - t}


def instances(n, j, *, draws=4000, seed=0, spread=2.0, binary=False):
    rng = torch.Generator().manual_seed(seed)
    h = spread * torch.randn(draws, n + j, generator=rng, dtype=torch.float64)
    y = torch.randint(n, (draws,), generator=rng)
    c = torch.rand(draws, j, generator=rng, dtype=torch.float64)
    return h, y, (c < 0.5).double() if binary else c


def slow_loss(h, y, c, psi):
    """The integral over theta, layer by layer, one sample at a time."""
    out = []
    for scores, label, costs in zip(h, y, c, strict=True):
        p, n = torch.softmax(scores, 0), len(scores) - len(costs)
        edges = sorted({0.0, 1.0, *costs.tolist()})
        total = 0.0
        for low, high in itertools.pairwise(edges):
            inside = [int(label)] + [n + i for i, v in enumerate(costs.tolist()) if v < (low + high) / 2]
            total += (high - low) * PSI[psi](min(1.0, float(p[inside].sum())))
        out.append(total)
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("psi", PSI)
@pytest.mark.parametrize("j", [0, 1, 3])
def test_layer_cake_is_the_integral(psi, j):
    h, y, c = instances(3, j, draws=60)
    if j:
        c[:20] = c[:20].round(decimals=1)  # ties
    fast = single_stage_loss(h, y, c, psi=psi, reduction="none")
    torch.testing.assert_close(fast, slow_loss(h, y, c, psi), atol=1e-10, rtol=0)


@pytest.mark.parametrize("psi", PSI)
@pytest.mark.parametrize(("n", "j"), [(2, 1), (3, 2), (2, 4)])
def test_g1_surrogate_bounds_the_cost(psi, n, j):
    constant, least = PSI[psi]((j + 1) / (j + 2)), math.inf
    for spread in (0.01, 0.5, 3.0):
        h, y, c = instances(n, j, spread=spread)
        ratio = single_stage_loss(h, y, c, psi=psi, reduction="none") / single_stage_cost(h, y, c, reduction="none")
        least = min(least, float(ratio[torch.isfinite(ratio)].min()))
    assert least >= constant * (1 - 1e-12)
    # a wrong label and all good actions level: the constant is attained, so a larger one would be caught
    h = torch.full((1, n + j), -60.0, dtype=torch.float64)
    h[0, [0, 1, *range(n, n + j)]] = 0.0
    h[0, 0] = 1e-9
    value = single_stage_loss(h, [1], torch.zeros(1, j, dtype=torch.float64), psi=psi)
    assert float(value) == pytest.approx(constant, rel=1e-6)


def test_mae_is_the_expected_cost_of_the_softmax_policy():
    h, y, c = instances(4, 3)
    p = torch.softmax(h, 1)
    expected = 1 - p.gather(1, y[:, None]).squeeze(1) - ((1 - c) * p[:, 4:]).sum(1)
    torch.testing.assert_close(single_stage_loss(h, y, c, reduction="none"), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("n", "j"), [(2, 1), (3, 3)])
def test_g2_excess_of_mae(n, j):
    """Random conditional worlds: excess deferral cost <= (n + J) * excess, and nearly attained."""
    rng, worst = torch.Generator().manual_seed(1), 0.0
    for spread in (1e-3, 0.3, 3.0):
        h = spread * torch.randn(3000, n + j, generator=rng, dtype=torch.float64)
        label = torch.softmax(torch.randn(3000, n, generator=rng, dtype=torch.float64), 1)
        gain = torch.cat([label, torch.rand(3000, j, generator=rng, dtype=torch.float64)], 1)
        best = gain.max(1).values
        excess = best - (torch.softmax(h, 1) * gain).sum(1)
        target = best - gain.gather(1, h.argmax(1, keepdim=True)).squeeze(1)
        assert (target <= (n + j) * excess + 1e-12).all()
        worst = max(worst, float((target / excess).max()))
    assert worst > 0.5 * (n + j)  # half the constant would be caught


# joint probability of (label, expert right): deferring is right with probability .640, the likelier label with .506
WORLD = {(0, 1.0): 0.171, (1, 1.0): 0.188, (0, 0.0): 0.335, (1, 0.0): 0.305}


@pytest.mark.parametrize(("psi", "right"), [("log", False), ("mae", True)])
def test_g3_counter_example(psi, right):
    """The global minimiser of the log member predicts a label although deferring is better; MAE's defers."""
    grid = torch.linspace(1e-4, 1 - 1e-4, 400, dtype=torch.float64)
    a, b = torch.meshgrid(grid, grid, indexing="ij")
    keep = a + b < 1 - 1e-4
    p = torch.stack([a[keep], b[keep], 1 - a[keep] - b[keep]], 1)
    value = torch.zeros(len(p), dtype=torch.float64)
    for (y, c), w in WORLD.items():
        labels, costs = torch.full((len(p),), y), torch.full((len(p), 1), c, dtype=torch.float64)
        value += w * single_stage_loss(p.log(), labels, costs, psi=psi, reduction="none")
    best = p[value.argmin()]
    assert (best.argmax() == 2) == right
    assert SingleStageLoss(psi=psi).bayes_consistent == right
    if psi == "log":
        torch.testing.assert_close(best, torch.tensor([0.3594, 0.3598, 0.2808], dtype=torch.float64), atol=5e-3, rtol=0)


@pytest.mark.parametrize("psi", PSI)
def test_realizable_limit(psi):
    """Scaling scores of zero cost sends the surrogate to zero: every member is realizable."""
    h, y, c = torch.tensor([[3.0, 1, 2], [0, 1, 2]]).double(), [0, 1], torch.tensor([[0.7], [0.0]]).double()
    assert float(single_stage_loss(100 * h, y, c, psi=psi)) < 1e-10


def test_limits():
    h, y, c = instances(3, 2)
    no_experts = single_stage_loss(h[:, :3], y, c[:, :0], psi="log")
    torch.testing.assert_close(no_experts, torch.nn.functional.cross_entropy(h[:, :3], y))
    dear = single_stage_loss(h, y, torch.ones_like(c), psi="log")
    torch.testing.assert_close(dear, torch.nn.functional.cross_entropy(h, y))  # as if the experts were wrong labels
    near_log, near_mae = (single_stage_loss(h, y, c, psi="gce", q=q) for q in (1e-7, 1 - 1e-7))
    torch.testing.assert_close(near_log, single_stage_loss(h, y, c, psi="log"), atol=1e-5, rtol=0)  # O(q)
    torch.testing.assert_close(near_mae, single_stage_loss(h, y, c, psi="mae"), atol=1e-5, rtol=0)


def test_realizable_surrogate_of_one_expert():
    """Binary costs, log: -log of the mass on the label and, where it is right, the expert."""
    h, y, c = instances(3, 1, binary=True)
    mass = torch.exp(h).gather(1, y[:, None]).squeeze(1) + (1 - c[:, 0]) * torch.exp(h[:, 3])
    known = -(mass / torch.exp(h).sum(1)).log()
    torch.testing.assert_close(single_stage_loss(h, y, c, psi="log", reduction="none"), known, atol=1e-10, rtol=0)


def test_baselines():
    h, y, c = instances(3, 1, draws=50)
    p = torch.softmax(h, 1)
    known = -p.gather(1, y[:, None]).squeeze(1).log() - (1 - c[:, 0]) * p[:, 3].log()
    torch.testing.assert_close(softmax_deferral_loss(h, y, c, reduction="none"), known, atol=1e-10, rtol=0)

    def phi(u):
        return torch.log1p(torch.exp(-u))

    right = 1 - (c[:, 0] < 0.5).double()
    u = torch.nn.functional.one_hot(y, 3).bool()
    known = phi(h[:, :3][u]) + phi(-h[:, :3][~u]).reshape(50, 2).sum(1) + phi(-h[:, 3])
    known = known + (1 - right) * (phi(h[:, 3]) - phi(-h[:, 3]))
    ours = one_versus_all_deferral_loss(h, y, right[:, None], reduction="none")
    torch.testing.assert_close(ours, known, atol=1e-10, rtol=0)


@pytest.mark.parametrize("psi", PSI)
def test_gradients(psi):
    h, y, c = instances(3, 2, draws=6)
    h.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: single_stage_loss(s, y, c, psi=psi, reduction="none"), (h,))
    far = torch.tensor([[900.0, 0.0, -900.0]], dtype=torch.float64, requires_grad=True)
    single_stage_loss(far, [1], torch.tensor([[0.5]], dtype=torch.float64), psi=psi).backward()
    assert torch.isfinite(far.grad).all()


def test_costs_from_predictions():
    costs = deferral_costs([[0, 1], [1, 1]], [0, 0], alpha=[1.0, 0.5], beta=0.1)
    torch.testing.assert_close(costs, torch.tensor([[0.1, 0.6], [1.0, 0.6]]))


def test_nonsense_is_refused(as_shipped):
    h, c = torch.zeros(2, 4), torch.zeros(2, 1)
    for call, words in (
        (lambda: single_stage_loss(h, [0, 3], c), "labels"),
        (lambda: single_stage_loss(h, [0.0, 1.0], c), "whole"),
        (lambda: single_stage_loss(h, [0], c), "target"),
        (lambda: single_stage_loss(h, [0, 1], torch.zeros(2)), "costs"),
        (lambda: single_stage_loss(h, [0, 1], torch.full((2, 1), 2.0)), "largest"),
        (lambda: single_stage_loss(h, [0, 1], c, psi="exp"), "psi"),
        (lambda: single_stage_loss(h * torch.nan, [0, 1], c), "NaN"),
        (lambda: SingleStageLoss(psi="x"), "psi"),
        (lambda: deferral_costs([0, 1], [0, 1]), "predictions"),
        (lambda: deferral_costs([[0]], [0], beta=-1.0), "beta"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            call()
