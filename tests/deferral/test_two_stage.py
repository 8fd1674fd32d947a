"""Two-stage losses: identities, excess bounds on random instances, and what each member cannot do."""

import numpy as np
import pytest
import torch

from corollary.deferral import TwoStageLoss, properties, two_expert_loss, two_stage_cost, two_stage_loss
from corollary.deferral._two_stage import PROPERTIES
from corollary.errors import InvalidInputError

DRAWS = 3000


def instances(k, *, draws=DRAWS, seed=0, spread=3.0):
    """Random scores and random expected costs; the losses are linear in the costs but for T1."""
    rng = torch.Generator().manual_seed(seed)
    r = spread * torch.randn(draws, k, generator=rng, dtype=torch.float64)
    c = torch.rand(draws, k, generator=rng, dtype=torch.float64) ** 2
    return r, c


def optimum(kind, c):
    """The conditional minimum over all scores, in closed form."""
    w = 1 - c
    if kind == "compsum-log":
        p = w / w.sum(1, keepdim=True)
        return -(torch.xlogy(w, p)).sum(1)
    if kind == "compsum-mae":
        return w.sum(1) - w.max(1).values
    if kind == "ec":
        return c.min(1).values
    if kind == "squared":
        return torch.zeros(len(c), dtype=c.dtype)
    return -(torch.xlogy(w, w) + torch.xlogy(c, c)).sum(1)  # value


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("kind", ["compsum-log", "compsum-mae", "ec", "value", "squared"])
def test_declared_excess_bounds_hold_and_are_not_slack(kind, k):
    ratios = []
    for spread in (0.05, 0.5, 3.0):
        r, c = instances(k, spread=spread)
        excess = two_stage_loss(r, c, kind=kind, reduction="none") - optimum(kind, c)
        target = two_stage_cost(r, c, reduction="none") - c.min(1).values
        assert excess.min() > -1e-10
        w = (1 - c).sum(1)
        bound = properties(kind).bound
        limit = torch.tensor([bound(max(e, 0.0), k, v) for e, v in zip(excess.tolist(), w.tolist(), strict=True)])
        assert (target <= limit + 1e-7).all()  # sqrt of a rounded zero
        ratios.append((target / limit.clamp_min(1e-6)).max())
    assert max(ratios) > 0.3  # a bound too loose by a factor would not be noticed otherwise


def test_a_halved_constant_is_caught():
    k, worst = 3, 0.0
    # the bound K * excess is approached where the scores are equal but for a hair and one action is best by a hair
    r = torch.zeros(1, k, dtype=torch.float64)
    r[0, 0] = 1e-9
    c = torch.tensor([[0.5, 0.4999, 0.5]], dtype=torch.float64)
    excess = two_stage_loss(r, c, kind="ec") - c.min()
    target = two_stage_cost(r, c) - c.min()
    worst = float(target / (k * excess))
    assert worst <= 1.0
    assert worst > 0.49  # K/2 in the place of K would be violated


def test_two_experts_logistic_bound():
    """G4: excess <= sqrt(2 (c_1 + c_2) excess of L2), approached near a tie."""
    top = 0.0
    for spread in (0.01, 0.3, 3.0):
        r, c = instances(2, spread=spread)
        loss = two_expert_loss(r, c, reduction="none")
        p = c[:, 1] / c.sum(1)
        least = -(torch.xlogy(c[:, 1], p) + torch.xlogy(c[:, 0], 1 - p))
        target = two_stage_cost(r, c, reduction="none") - c.min(1).values
        limit = (2 * c.sum(1) * (loss - least).clamp_min(0)).sqrt()
        assert (target <= limit + 1e-7).all()
        top = max(top, float((target / limit.clamp_min(1e-9)).max()))
    assert top > 0.95


def test_two_expert_forms_are_t2_and_t1():
    r, c = instances(2, draws=500)
    for form, kind in (("sum", "t2"), ("gap", "t1")):
        ours = two_expert_loss(r, c, form=form, reduction="none")
        torch.testing.assert_close(ours, two_stage_loss(r, c, kind=kind, reduction="none"), atol=1e-10, rtol=0)


def test_mae_is_expected_cost_up_to_a_constant():
    r, c = instances(5, draws=2000)
    shift = (1 - c).sum(1) - 1
    mae, ec = (two_stage_loss(r, c, kind=kind, reduction="none") for kind in ("compsum-mae", "ec"))
    torch.testing.assert_close(mae, shift + ec, atol=1e-10, rtol=0)


def test_gce_runs_from_log_to_mae():
    r, c = instances(4, draws=500)
    near_log = two_stage_loss(r, c, kind="compsum-gce", q=1e-7)
    near_mae = two_stage_loss(r, c, kind="compsum-gce", q=1 - 1e-7)
    torch.testing.assert_close(near_log, two_stage_loss(r, c, kind="compsum-log"), atol=1e-5, rtol=0)  # O(q)
    torch.testing.assert_close(near_mae, two_stage_loss(r, c, kind="compsum-mae"), atol=1e-5, rtol=0)


def minimise(conditional, rows, k, *, steps=60):
    """Scores minimising each row of a conditional surrogate `(rows, k) -> (rows,)`: the best of four starts."""
    rng = torch.Generator().manual_seed(0)
    starts = 0.5 * torch.randn(4, rows, k, generator=rng, dtype=torch.float64)
    found = []
    for r in starts:
        r.requires_grad_()
        solver = torch.optim.LBFGS([r], max_iter=steps, line_search_fn="strong_wolfe", tolerance_change=1e-14)

        def objective(r=r, solver=solver):
            solver.zero_grad()
            total = conditional(r).sum()
            total.backward()
            return total

        solver.step(objective)
        found.append(r.detach())
    best = torch.stack([conditional(r) for r in found]).argmin(0)
    return torch.stack(found)[best, torch.arange(rows)]


@pytest.mark.parametrize("kind", [k for k, p in PROPERTIES.items() if p.bayes])
def test_bayes_consistent_members_choose_the_cheapest(kind):
    """All but t1 are linear in the costs, so a random cost is its expectation."""
    c = torch.rand(200, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    c = c[c.sort(1).values.diff(dim=1)[:, 0] > 0.05]  # a near tie decides nothing
    r = minimise(lambda s: two_stage_loss(s, c, kind=kind, reduction="none"), *c.shape)
    assert (r.argmax(1) == c.argmin(1)).all()


def test_t1_is_not_bayes_consistent():
    """Acceptable experts {1} with probability .39, {2,3}, {3,4}, {2,4} with .61/3 each: best is 2, T1 takes 1."""
    costs = torch.tensor([[0, 1, 1, 1], [1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.float64)
    probability = torch.tensor([0.39, 0.61 / 3, 0.61 / 3, 0.61 / 3], dtype=torch.float64)
    assert not properties("t1").bayes
    assert (probability @ costs).argmin() != 0

    def conditional(r):
        return (probability @ two_stage_loss(r.expand(4, -1), costs, kind="t1", reduction="none"))[None]

    p = torch.softmax(minimise(conditional, 1, 4), 1)
    assert p.argmax() == 0
    np.testing.assert_allclose(p.numpy().ravel(), [0.39, *[0.61 / 3] * 3], atol=1e-4)


@pytest.mark.parametrize("kind", [k for k, p in PROPERTIES.items() if p.realizable])
def test_realizable_members_vanish_along_the_scaled_router(kind):
    costs = torch.tensor([[0.0, 0.3, 0.8], [0.6, 0.9, 0.0]], dtype=torch.float64)
    r = torch.tensor([[1.0, 0.0, -1.0], [0.0, -1.0, 1.0]], dtype=torch.float64)
    constant = {"compsum-mae": float(((1 - costs).sum(1) - 1).mean())}.get(kind, 0.0)
    assert abs(float(two_stage_loss(200 * r, costs, kind=kind)) - constant) < 1e-10


@pytest.mark.parametrize("kind", ["compsum-log", "value"])
def test_others_do_not(kind):
    """G7: with costs that are not constant, the zero-cost router is not the limit of minimisers."""
    costs = torch.tensor([[0.0, 0.3, 0.8], [0.6, 0.9, 0.0]], dtype=torch.float64)
    r = torch.tensor([[1.0, 0.0, -1.0], [0.0, -1.0, 1.0]], dtype=torch.float64)
    losses = [float(two_stage_loss(scale * r, costs, kind=kind)) for scale in (2, 20)]
    assert losses[1] > losses[0]


@pytest.mark.parametrize("kind", PROPERTIES)
def test_gradients_and_weights(kind):
    rng = torch.Generator().manual_seed(0)
    r = torch.randn(5, 4, generator=rng, dtype=torch.float64, requires_grad=True)
    c = torch.rand(5, 4, generator=rng, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: two_stage_loss(s, c, kind=kind, reduction="none"), (r,))
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.0])
    picked = two_stage_loss(r, c, kind=kind, reduction="none")
    torch.testing.assert_close(two_stage_loss(r, c, kind=kind, weight=weight), (picked[0] + 2 * picked[2]) / 3)
    assert TwoStageLoss(kind=kind)(r, c).item() == two_stage_loss(r, c, kind=kind).item()


@pytest.mark.parametrize("kind", [k for k in PROPERTIES if k != "t1"])
def test_inverse_probability_cells_are_unbiased(kind):
    rng = torch.Generator().manual_seed(1)
    r = torch.randn(1, 3, generator=rng, dtype=torch.float64)
    c = torch.rand(1, 3, generator=rng, dtype=torch.float64)
    p = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    total = 0.0
    for seen in torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3):
        chance = torch.where(seen > 0, p, 1 - p).prod()
        shown = torch.where(seen > 0, c, torch.nan)
        total += chance * two_stage_loss(r, shown, kind=kind, cell_weight=(seen / p)[None])
    torch.testing.assert_close(total, two_stage_loss(r, c, kind=kind), atol=1e-10, rtol=0)


def test_t2_of_a_confident_router_is_finite():
    r = torch.tensor([[800.0, 0.0, -5.0]], dtype=torch.float64, requires_grad=True)
    loss = two_stage_loss(r, torch.tensor([[1.0, 0.0, 0.0]]), kind="t2")
    loss.backward()
    assert abs(loss.item() - 800) < 1e-2
    assert torch.isfinite(r.grad).all()


@pytest.mark.parametrize(
    ("scores", "costs", "options", "words"),
    [
        (torch.zeros(2, 2), torch.zeros(2, 3), {}, "shape"),
        (torch.zeros(0, 2), torch.zeros(0, 2), {}, "scores"),
        (torch.full((1, 2), torch.nan), torch.zeros(1, 2), {}, "NaN"),
        (torch.zeros(1, 2), torch.full((1, 2), torch.nan), {}, "NaN"),
        (torch.zeros(1, 2), torch.full((1, 2), 1.5), {}, "largest"),
        (torch.zeros(1, 2), torch.zeros(1, 2), {"kind": "hinge"}, "kind"),
        (torch.zeros(1, 2), torch.zeros(1, 2), {"reduction": "max"}, "reduction"),
        (torch.zeros(1, 2), torch.zeros(1, 2), {"kind": "compsum-gce", "q": 1.0}, "q"),
        (torch.zeros(1, 2), torch.zeros(1, 2), {"kind": "t1", "cell_weight": torch.ones(1, 2)}, "t1"),
        (torch.zeros(1, 2), torch.zeros(1, 2), {"cell_weight": -torch.ones(1, 2)}, "cell_weight"),
        (torch.zeros(1, 2), torch.zeros(1, 2), {"weight": torch.ones(3)}, "weight"),
    ],
)
def test_bad_inputs_say_what_to_do(scores, costs, options, words, as_shipped):
    with pytest.raises(InvalidInputError, match=words):
        two_stage_loss(scores, costs, **options)
    if "cell_weight" not in options and options.get("kind") is None and "weight" not in options:
        with pytest.raises(InvalidInputError):
            two_expert_loss(scores, costs, **{k: v for k, v in options.items() if k != "q"})
