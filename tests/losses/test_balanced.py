"""GLA, GCA, IMMAX: identities, consistency on random instances, links, bounds and their rates, margins."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from corollary import losses
from corollary.errors import InvalidInputError
from corollary.losses.consistency import comp_sum_inverse, gca_bound, gla_bound

QS = (-1.0, 0.3, 0.5, 0.7, 0.9)


def draw(rows=40, classes=5, scale=2.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(rows, classes, generator=g, dtype=torch.float64)
    return z, torch.randint(0, classes, (rows,), generator=g)


def prior(classes=5, seed=0):
    return torch.tensor(np.random.default_rng(seed).dirichlet(np.ones(classes)))


def test_identities():
    z, y = draw()
    p, counts = torch.tensor([0.5, 0.25, 0.125, 0.1, 0.025], dtype=torch.float64), [200, 100, 50, 40, 10]
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-12)  # noqa: E731
    la = F.cross_entropy(z + p.log(), y)
    close(losses.gla(z, y, prior=p), la)
    close(losses.balanced_softmax(z, y, counts=counts), la)
    close(losses.logit_adjusted_cross_entropy(z, y, prior=p), la)
    close(losses.vector_scaling(z, y, counts=counts, gamma=0.0), la)
    uniform = torch.full((5,), 0.2, dtype=torch.float64)
    close(losses.gla(z, y, prior=uniform, q=0.4), losses.generalized_cross_entropy(z, y, q=0.4))
    weighted = F.cross_entropy(z, y, weight=1 / p, reduction="none")
    close(losses.gca(z, y, prior=p, margin=1.0, normalise=False, reduction="none"), weighted)
    close(losses.gca(z, y, prior=p, margin=1.0), weighted.mean() / 5)
    close(losses.weighted_cross_entropy(z, y, prior=p), weighted.mean() / 5)
    close(
        losses.gca(z, y, prior=p, margin=2.5, normalise=False),
        F.cross_entropy(z / 2.5, y, weight=1 / p, reduction="none").mean(),
    )
    margin = -0.7 * p.log()
    additive = losses.gca(z, y, prior=p, margin=margin, form="additive", normalise=False, reduction="none")
    close(additive * p[y], losses.gla(z, y, prior=p, strength=0.7, reduction="none"))  # weight 1 and m = -t log p
    close(losses.vector_scaling(z, y, counts=counts, gamma=0.0, strength=0.0), F.cross_entropy(z, y))
    close(losses.class_balanced(z, y, counts=counts, beta=0.0), F.cross_entropy(z, y))
    close(losses.focal(z, y, gamma=0.0), F.cross_entropy(z, y))
    close(losses.ldam(z, y, counts=counts, largest=0.0, scale=1.0), F.cross_entropy(z, y))
    close(losses.immax(z, y, margin=1.0), F.cross_entropy(z, y))
    close(losses.lade(z, y, prior=p, strength=0.0), la)
    close(losses.equalization(z, y, prior=p, drop=0.0), F.cross_entropy(z, y))
    w = losses.effective_number_weights(counts, beta=1 - 1e-9)
    close(
        (w * torch.tensor(counts)).round(decimals=4),
        torch.full((5,), float(w[0] * 200), dtype=torch.float64).round(decimals=4),
    )


def test_peers_against_formulas_written_out():
    z, y = draw()
    s = torch.softmax(z, 1)
    s_y = s.gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(losses.focal(z, y, gamma=1.5, reduction="none"), -((1 - s_y) ** 1.5) * s_y.log())
    counts = torch.tensor([200.0, 100, 50, 40, 10], dtype=torch.float64)
    delta = 0.5 * counts**-0.25 / (counts**-0.25).max()
    shifted = z.clone()
    shifted[torch.arange(40), y] -= delta[y]
    torch.testing.assert_close(losses.ldam(z, y, counts=counts, scale=7.0), F.cross_entropy(7 * shifted, y))
    scaled = (counts / 200) ** 0.3 * z + (counts / 400).log()
    torch.testing.assert_close(losses.vector_scaling(z, y, counts=counts), F.cross_entropy(scaled, y))
    p = counts / 400
    rare = p < 0.11
    one_hot = F.one_hot(y, 5).bool()
    total = (s * (one_hot | ~rare)).sum(1)
    got = losses.equalization(z, y, prior=p, threshold=0.11, drop=1.0, reduction="none")
    torch.testing.assert_close(got, -(s_y / total).log())
    bce = F.binary_cross_entropy_with_logits(z, one_hot.double(), reduction="none")
    got = losses.equalization(z, y, prior=p, threshold=0.11, form="sigmoid", reduction="none")
    torch.testing.assert_close(got, (bce * (one_hot | ~rare)).sum(1))
    front = torch.arange(40) % 2 == 0
    got = losses.equalization(z, y, prior=p, threshold=0.11, form="sigmoid", foreground=front, reduction="none")
    torch.testing.assert_close(got, (bce * (one_hot | ~rare | ~front[:, None])).sum(1))
    terms = []
    for c in range(5):
        second = torch.logsumexp(z[:, c] - p[c].log() - math.log(5), 0) - math.log(40)
        terms.append(p[c] * (z[y == c, c].mean() - second - 0.1 * second**2))
    torch.testing.assert_close(losses.lade(z, y, prior=p), F.cross_entropy(z + p.log(), y) - 0.1 * sum(terms))


def gla_minimiser(eta, p, q, factor):
    """Scores at the conditional minimiser: softmax(z + factor log p) proportional to eta^(1/(1-q))."""
    return eta.log() / (1 - q) - factor * p.log()


@pytest.mark.parametrize("q", QS)
def test_gla_decides_rightly_on_every_random_case_and_not_without_its_factor(q):
    rng = np.random.default_rng(0)
    eta, p = (torch.tensor(rng.dirichlet(np.ones(4), 4000)) for _ in range(2))
    best = (eta / p).argmax(1)
    z = gla_minimiser(eta, p, q, 1 / (1 - q))
    assert (z.argmax(1) == best).all()
    naive = (gla_minimiser(eta, p, q, 1.0).argmax(1) != best).double().mean().item()
    assert naive > {-1.0: 0.1, 0.3: 0.05, 0.5: 0.15, 0.7: 0.25, 0.9: 0.33}[q]
    for i in range(5):  # and these scores are the minimiser of the shipped loss
        zi = z[i].clone().requires_grad_()
        (g,) = torch.autograd.grad(losses.gla(zi[None], eta[i][None], prior=p[i], q=q), zi)
        assert g.abs().max() < 1e-10


def minimise(risk, n, rows):
    z = torch.zeros(rows, n, dtype=torch.float64, requires_grad=True)
    lbfgs = torch.optim.LBFGS(
        [z], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure():
        lbfgs.zero_grad()
        value = risk(z)
        value.backward()
        return value

    lbfgs.step(closure)
    return z.detach()


def gca_case(form, q=0.0, seed=0, rows=40, n=4, equal=False):
    rng = np.random.default_rng(seed)
    eta = torch.tensor(rng.dirichlet(np.ones(n), rows))
    p = torch.tensor(rng.dirichlet(2 * np.ones(n)))
    rho = torch.ones(n, dtype=torch.float64) if equal else torch.tensor(rng.uniform(0.3, 1, n))
    loss = losses.GCALoss(prior=p, margin=rho, q=q, form=form, reduction="sum")
    return loss, eta, p, minimise(lambda z: loss(z, eta), n, rows)


def disagree(choice, eta, p):
    w = eta / p
    top = w.topk(2, 1).values
    return int(((choice != w.argmax(1)) & (top[:, 0] > 1.02 * top[:, 1])).sum())  # ties are left to chance


def test_which_forms_of_gca_are_consistent():
    wrong = {}
    for form in ("scale", "scale_calibrated"):
        wrong[form] = 0
        for seed in range(3):
            loss, eta, p, z = gca_case(form, seed=seed)
            wrong[form] += disagree(loss.predict(z), eta, p)
            # The link of `margin_probabilities` recovers eta and decides rightly for both. 1e-4: a numerical minimiser.
            torch.testing.assert_close(loss.predict_proba(z), eta, atol=1e-4, rtol=1e-3)
            assert disagree(loss.predict(z, rule="calibrated"), eta, p) == 0
    assert wrong["scale_calibrated"] == 0
    assert wrong["scale"] > 0.03 * 120
    assert losses.GCALoss(prior=p, form="scale").consistent_for is None
    assert losses.GCALoss(prior=p, form="scale_calibrated").consistent_for == "balanced"


@pytest.mark.parametrize("q", [-0.5, 0.3])
def test_link_of_gca_beyond_cross_entropy(q):
    loss, eta, _, z = gca_case("scale", q=q, seed=2, rows=20)
    torch.testing.assert_close(loss.predict_proba(z), eta, atol=1e-3, rtol=1e-2)  # 1e-3: flat minima at q != 0


def test_ldam_is_not_consistent():
    rng = np.random.default_rng(0)
    eta = torch.tensor(rng.dirichlet(np.ones(4), 160))
    z = minimise(lambda z: losses.ldam(z, eta, counts=[80, 40, 20, 5], scale=1.0, reduction="sum"), 4, 160)
    top = eta.topk(2, 1).values
    clear = top[:, 0] > 1.002 * top[:, 1]
    assert 0 < ((z.argmax(1) != eta.argmax(1)) & clear).sum() < 0.1 * 160


def random_world(rng, n, m=6):
    point, eta = rng.dirichlet(np.ones(m)), rng.dirichlet(np.full(n, 0.5), m)
    p = point @ eta
    return point, eta, p


def test_regret_bound_of_gla_and_a_mutated_constant():
    rng, ratios = np.random.default_rng(0), []
    for _ in range(4000):
        n = int(rng.integers(2, 5))
        point, eta, p = random_world(rng, n)
        s = (
            rng.dirichlet(np.ones(n), len(point))
            if rng.random() < 0.5
            else eta * np.exp(0.3 * rng.normal(size=eta.shape))
        )
        s = s / s.sum(1, keepdims=True)
        chosen = (s / p).argmax(1)
        w = eta / p
        regret = point @ (w.max(1) - w[np.arange(len(w)), chosen])
        excess = point @ (eta * (np.log(np.maximum(eta, 1e-300)) - np.log(s))).sum(1)
        allowed = n * gla_bound(p).target(excess).item()
        assert regret <= max(allowed, 0) + 1e-9 or allowed >= n
        ratios.append(regret / (math.sqrt(2 * excess) / p.min()))
    assert 0.2 < max(ratios) <= 1.0


def gca_draws(count, seed=0):
    """Regret and excess of the balanced loss in random worlds, weights 1/p, several tau."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        tau = float(rng.choice([0.0, 0.5, 1.0, 1.5, 2.0]))
        n = int(rng.integers(2, 5))
        point, eta, p = random_world(rng, n)
        w = eta / p
        total = w.sum(1)
        near = torch.tensor(w / total[:, None])
        s = losses.comp_sum_minimiser(near, tau=min(tau, 1.8)).numpy() * np.exp(
            rng.choice([0.1, 1.0]) * rng.normal(size=w.shape)
        )
        s = s / s.sum(1, keepdims=True)
        psi = -np.log(s) if tau == 1 else (1 - s ** (tau - 1)) / (tau - 1)
        surrogate = (w * psi).sum(1) - total * losses.comp_sum_optimum(near, tau=tau).numpy()
        regret = w.max(1) - w[np.arange(len(w)), s.argmax(1)]
        yield tau, n, p, point, total, regret, surrogate


def test_regret_bounds_of_gca():
    ratios = []
    for tau, n, p, point, total, regret, surrogate in gca_draws(500):
        assert (regret <= total * comp_sum_inverse(np.maximum(surrogate, 0) / total, tau=tau, classes=n) + 1e-7).all()
        allowed = n * gca_bound(p, q=tau - 1, unit=n).target(max(0.0, point @ surrogate)).item()
        assert point @ regret <= allowed + 1e-7
        assert point @ total == pytest.approx(n)
        if tau == 1:
            assert point @ regret <= math.sqrt(2 / p.min() * max(0, point @ surrogate)) + 1e-7
        ratios.append(point @ regret / max(allowed, 1e-12) if point @ regret > 1e-6 else 0)
    assert 0.5 < max(ratios) <= 1 + 1e-6  # so a constant smaller by a half would have been caught


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_regret_bound_of_gca_is_attained(tau):
    # Two classes of equal priors, two mirrored points, both decided wrongly by a hair: any smaller constant fails.
    for t in (0.1, 0.5, 0.9):
        eta = torch.tensor([(1 + t) / 2, (1 - t) / 2], dtype=torch.float64)
        tie = losses.comp_sum(torch.zeros(1, 2).double(), eta[None], tau=tau)
        excess = float(2 * (tie - losses.comp_sum_optimum(eta, tau=tau)))
        regret = 2 * t  # of the balanced loss, weights 1/p = 2
        allowed = 2 * gca_bound([0.5, 0.5], q=tau - 1, unit=2).target(excess).item()
        assert allowed >= regret - 1e-7
        if tau < 2:
            assert allowed == pytest.approx(regret, rel=1e-6)


def test_constants_against_the_rarest_prior_have_the_slopes_of_the_paper():
    # Two rare classes of prior p compete at one point, a common class holds the rest of the mass.
    rare = np.geomspace(1e-4, 1e-2, 7)
    gla, gca = [], []
    for p in rare:
        prior = np.array([p, p, 1 - 2 * p])
        gla.append(gla_worst(prior))
        gca.append(gca_worst(prior))
    # The constant sqrt(2) / p_min is attained: one smaller by 2 % would be caught.
    np.testing.assert_allclose(np.array(gla) * rare, math.sqrt(2), rtol=0.02)
    slope = lambda c: np.polyfit(np.log(rare), np.log(c), 1)[0]  # noqa: E731
    assert slope(gla) == pytest.approx(-1.0, abs=0.05)
    assert slope(gca) == pytest.approx(-0.5, abs=0.05)


def split(t):
    return np.array([(1 + t) / 2, (1 - t) / 2, 0.0])


def gla_worst(prior, t=0.02):
    """Largest regret / sqrt(excess) at a point whose label is one of the two rare classes: tie them by mistake."""
    eta, s = split(t), np.array([0.5, 0.5, 0.0])
    regret = t / prior[0]
    excess = (eta[:2] * np.log(eta[:2] / s[:2])).sum()
    return regret / math.sqrt(excess)


def gca_worst(prior, t=0.02):
    eta = split(t)
    weight = eta / prior
    tie = weight[:2].sum() * math.log(2)
    least = -(weight[:2] * np.log(weight[:2] / weight[:2].sum())).sum()
    return (t / prior[0]) / math.sqrt(tie - least)


def test_on_a_box_logit_adjustment_ties_where_class_weights_do_not():
    eta, p, L = np.array([0.6, 0.25, 0.15]), np.array([0.8, 0.15, 0.05]), 0.1
    la, weighted = box_minimisers(eta, p, L)
    assert la[1] == pytest.approx(la[2], abs=1e-6)  # tied at the edge: 0.25/0.15 < 0.15/0.05 cannot be told
    assert la[0] == pytest.approx(-L, abs=1e-6)
    assert weighted[2] > weighted[1] + 1e-2
    assert np.argmax(weighted) == np.argmax(eta / p)


def test_weighted_cross_entropy_ties_too_with_three_classes_on_a_box():
    w = np.array([0.045, 0.4545, 0.5])
    z = box_minimise(lambda z: losses.comp_sum(z[None], torch.tensor(w)[None]), 3, 0.5)
    np.testing.assert_allclose(z, [-0.5, 0.5, 0.5], atol=1e-6)


def box_minimise(risk, n, bound):
    import scipy.optimize

    def value(z):
        zt = torch.tensor(z, requires_grad=True)
        r = risk(zt)
        r.backward()
        return r.item(), zt.grad.numpy()

    options = {"gtol": 1e-13, "ftol": 1e-16, "maxiter": 5000}
    return scipy.optimize.minimize(value, np.zeros(n), jac=True, bounds=[(-bound, bound)] * n, options=options).x


def box_minimisers(eta, p, bound):
    t = torch.tensor(eta)[None]
    return (
        box_minimise(lambda z: losses.gla(z[None], t, prior=p), 3, bound),
        box_minimise(lambda z: losses.gca(z[None], t, prior=p, margin=1.0), 3, bound),
    )


def test_total_weight_has_mean_n_and_a_constant_predictor_errs_on_all_other_classes():
    rng = np.random.default_rng(0)
    for _ in range(200):
        point, eta, p = random_world(rng, 4)
        assert point @ (eta / p).sum(1) == pytest.approx(4)
        assert point @ (eta / p)[:, 1:].sum(1) == pytest.approx(3)


def test_cost_sensitive_rules_are_wrong_for_the_zero_one_error():
    c_plus, c_minus = 0.9, 0.1
    for eta in np.linspace(0.11, 0.49, 20):  # between c-/(c+ + c-) and 1/2
        assert c_plus * eta > c_minus * (1 - eta)  # so the weighted rule says +
        assert abs(2 * eta - 1) > 0  # and loses that much


def test_calibrated_margins_minimise_the_complexity():
    import scipy.optimize

    counts = np.array([1000.0, 100.0, 10.0])
    p = counts / counts.sum()
    for cost, rho in ((np.ones(3), losses.immax_margins(counts)), (1 / p, losses.calibrated_margins(p))):

        def term(v, cost=cost):
            r = np.exp(v)
            return math.log((counts * cost**2 / (r / r.sum()) ** 2).sum())

        found = np.exp(scipy.optimize.minimize(term, np.zeros(3), tol=1e-12).x)
        np.testing.assert_allclose(found / found.max(), rho.numpy(), rtol=1e-3)
    np.testing.assert_allclose(losses.immax_margins(counts).numpy(), [1, 0.464, 0.215], atol=1e-3)


def test_priors_and_counts(as_shipped):
    y = torch.tensor([0, 0, 2, -100])
    assert losses.class_counts(y, classes=4).tolist() == [2, 0, 1, 0]
    p = losses.class_priors([2, 0, 1, 0])
    assert p.tolist() == [0.4, 0.2, 0.2, 0.2]
    for bad in ([1.0], [-1, 2], [0, 0], [1, float("nan")], [[1, 2]]):
        with pytest.raises(InvalidInputError, match="`counts`"):
            losses.class_priors(bad)
    with pytest.raises(InvalidInputError, match="smoothing"):
        losses.class_priors([1, 0], smoothing=0.0)
    with pytest.raises(InvalidInputError, match="classes"):
        losses.class_counts(torch.tensor([7]), classes=3)
    z, t = torch.zeros(1, 3), torch.tensor([0])
    for bad in ([0.5, 0.5], [0.5, 0.6, 0.1], [1.0, 0.0, 0.0], [math.nan] * 3):
        with pytest.raises(InvalidInputError, match="`prior`"):
            losses.gla(z, t, prior=bad)
    good = [0.5, 0.3, 0.2]
    for call, message in [
        (lambda: losses.gla(z, t, prior=good, q=1.0), "`q`"),
        (lambda: losses.gca(z, t, prior=good, form="x"), "`form`"),
        (lambda: losses.gca(z, t, prior=good, margin=[1.0, 0.0, 1.0]), "`margin`"),
        (lambda: losses.gca(z, t, prior=good, margin=[1.0, 1.0]), "`margin`"),
        (lambda: losses.GLALoss(), "either `prior`"),
        (lambda: losses.GLALoss(prior=good, counts=[1, 2, 3]), "either `prior`"),
        (lambda: losses.IMMAXLoss(), "either `margin`"),
        (lambda: losses.GCALoss(prior=good).predict(z, rule="x"), "`rule`"),
        (lambda: losses.GCALoss(prior=good, q=1.0).predict_proba(z), "no probabilities"),
        (lambda: losses.LADELoss(prior=good, reduction="none"), "LADE"),
        (lambda: losses.lade(z, z, prior=good), "integer labels"),
        (lambda: losses.equalization(z, t, prior=good, form="x"), "`form`"),
        (lambda: losses.GLALoss(prior=good, q=0.3).consistency_bound(), "q = 0"),
        (lambda: losses.GCALoss(prior=good).consistency_bound(), "no consistency bound"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            call()


def test_soft_targets_with_margins_refuse_what_does_not_fit_in_memory():
    with pytest.raises(InvalidInputError, match="split the batch"):
        losses.immax(torch.zeros(300, 1000), torch.full((300, 1000), 1e-3), margin=2.0)


def test_posthoc_adjustment_and_decoding():
    z, _ = draw()
    p = prior()
    adjusted = losses.logit_adjust(z, prior=p)
    torch.testing.assert_close(adjusted, z - p.log())
    volume = z.reshape(4, 10, 5).movedim(-1, 1)
    torch.testing.assert_close(losses.logit_adjust(volume, prior=p), (z - p.log()).reshape(4, 10, 5).movedim(-1, 1))
    loss = losses.GLALoss(prior=p, q=0.2)
    torch.testing.assert_close(loss.predict_proba(volume).sum(1), torch.ones(4, 10, dtype=torch.float64))
    torch.testing.assert_close(
        loss.predict_proba(volume).movedim(1, -1).reshape(40, 5), loss.predict_proba(z), atol=1e-12, rtol=1e-12
    )
    assert losses.GCALoss(prior=p).predict_proba(volume).shape == volume.shape


def test_buffers_follow_the_checkpoint():
    loss = losses.GCALoss(counts=[9, 1], margin=[0.5, 1.0])
    assert {"prior", "margin"} <= dict(loss.named_buffers()).keys()
    again = losses.GCALoss(counts=[1, 1], margin=[1.0, 1.0])
    again.load_state_dict(loss.state_dict())
    z, y = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1, 1])
    assert again(z, y) == loss(z, y)


def test_deferred_reweighting_and_cosines():
    loss = losses.LDAMLoss(counts=[100, 10])
    drw = losses.DeferredReweighting(loss, counts=[100, 10], start=3)
    z, y = torch.zeros(2, 2), torch.tensor([0, 1])
    drw.step(0)
    early = loss(z, y)
    drw.step(3)
    assert loss(z, y) != early
    drw.step(0)
    assert loss(z, y) == early
    layer = losses.CosineLinear(4, 3, seed=1)
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(5 * x), layer(x))
    torch.testing.assert_close(layer(x), F.cosine_similarity(x[:, None], layer.weights[None], dim=-1))


def test_immax_bounds_its_margin_loss():
    z, y = draw(500, 4, scale=3.0)
    rho = torch.tensor([1.0, 0.7, 0.4, 0.2], dtype=torch.float64)
    others = z.clone()
    others[torch.arange(500), y] = -math.inf
    margin = z.gather(1, y[:, None])[:, 0] - others.amax(1)
    ramp = (1 - margin / rho[y]).clamp(0, 1)
    logistic = losses.immax(z, y, margin=rho, reduction="none")
    assert (logistic >= math.log(2) * ((margin <= 0).double())).all()
    assert (logistic / math.log(1 + math.exp(-1)) >= ramp - 1e-12).all() or (logistic >= 0.3 * ramp).all()
    f = torch.linspace(-2, 2, 9, dtype=torch.float64)
    binary = torch.log1p(torch.exp(-f / 0.4))
    logits = torch.stack([torch.zeros_like(f), f], 1)
    torch.testing.assert_close(losses.immax(logits, torch.ones(9).long(), margin=[1.0, 0.4], reduction="none"), binary)
