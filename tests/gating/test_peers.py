import numpy as np
import pytest
import torch

from corollary.certificates import Undecided
from corollary.errors import InvalidInputError
from corollary.gating import (
    AgnosticFederated,
    BayesGate,
    DoReMi,
    GroupDRO,
    certify_divergence,
    cluster_weights,
    distribution_weights,
    domain_divergence,
    fit_static_gate,
    mixture_of_experts_loss,
    source_weights,
)
from corollary.gating import _divergence_certificate as rules
from corollary.gating._prefix_gates import log_mix
from corollary.gating._scores import ExpertScores
from corollary.models import TransformerConfig, TransformerLM, merge_models
from corollary.numerics import jensen_shannon, kl


def play(rule, targets, steps=4000):
    """A point in descent on the weighted squared distances to the targets; the average of what it played."""
    x, mean = np.zeros(targets.shape[1]), np.zeros(targets.shape[1])
    for t in range(1, steps + 1):
        weights = rule.weights.copy()
        losses = ((x - targets) ** 2).sum(1)
        rule.update(losses)
        mean += (x - mean) / t
        x = x - 0.5 / t**0.5 * (2 * weights @ (x - targets))
    return mean


@pytest.mark.parametrize("rule", [lambda: GroupDRO(3, rate=0.02), lambda: AgnosticFederated(3, rate=0.01)])
def test_robust_weights_find_the_centre_of_the_smallest_ball(rule):
    """min_x max_k |x - a_k|^2: an obtuse triangle's centre is the middle of its longest side."""
    targets = np.array([[0.0, 0.0], [4.0, 0.0], [1.0, 0.5]])
    made = rule()
    x = play(made, targets)
    assert np.abs(x - [2.0, 0.0]).max() < 0.05  # O(1/sqrt T) at 4,000 steps
    assert made.average[2] < 0.1  # the inner point plays no part
    assert made.average.sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["multiplicative", "projected"])
def test_regret_is_below_the_bound_on_random_losses(kind):
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, steps = int(rng.integers(2, 8)), 200
        losses = rng.random((steps, p)) * rng.random(p)
        if kind == "multiplicative":
            rule, bound = GroupDRO(p, rate=(2 * np.log(p) / steps) ** 0.5), (2 * np.log(p) / steps) ** 0.5
        else:
            size = np.linalg.norm(losses, axis=1).max()
            rule, bound = AgnosticFederated(p, rate=(2 / steps) ** 0.5 / size), size * (2 / steps) ** 0.5
        met = 0.0
        for row in losses:
            met += rule.weights @ row / steps
            rule.update(row)
        assert losses.mean(0).max() - met <= bound


def test_doremi_evens_the_excess_over_the_reference():
    """Two domains whose best losses differ by 3: DRO on losses sees one domain only, DoReMi serves both alike."""
    targets, noise = np.array([[0.0], [2.0]]), np.array([0.0, 3.0])
    dro, excess, x, y = GroupDRO(2, rate=0.05), DoReMi(noise, rate=0.05), 0.0, 0.0
    mean = {"dro": 0.0, "doremi": 0.0}
    for t in range(1, 2001):
        u, v = dro.weights.copy(), excess.weights.copy()
        dro.update((x - targets[:, 0]) ** 2 + noise)
        excess.update((y - targets[:, 0]) ** 2 + noise)
        mean["dro"] += (x - mean["dro"]) / t
        mean["doremi"] += (y - mean["doremi"]) / t
        x -= 0.5 / t**0.5 * 2 * float(u @ (x - targets[:, 0]))
        y -= 0.5 / t**0.5 * 2 * float(v @ (y - targets[:, 0]))
    assert abs(mean["doremi"] - 1.0) < 0.05
    assert mean["dro"] > 1.7  # min max (x^2, (x - 2)^2 + 3): at x = 7/4


def test_doremi_floors_and_ignores_domains_below_their_reference():
    rule = DoReMi([1.0, 1.0, 1.0], rate=10.0, smoothing=0.03)
    for _ in range(100):
        rule.update([0.2, 0.9, 2.0])
    assert rule.weights[0] == pytest.approx(rule.weights[1])
    assert rule.weights.min() >= 0.01 - 1e-12


def test_projected_step_is_the_nearest_point_of_the_simplex():
    rng = np.random.default_rng(1)
    for _ in range(200):
        rule, losses = AgnosticFederated(4, rate=1.0), rng.normal(size=4)
        new = rule.update(losses)
        for other in rng.dirichlet(np.ones(4), 20):
            wanted = 0.25 + losses
            assert ((new - wanted) ** 2).sum() <= ((other - wanted) ** 2).sum() + 1e-12


@pytest.mark.parametrize("rule", [GroupDRO(2), AgnosticFederated(2), DoReMi([0.0, 0.0])])
def test_wrong_losses_are_refused(rule):
    for wrong in ([1.0], [np.nan, 0.0], [1.0, 2.0, 3.0]):
        with pytest.raises(InvalidInputError, match="one a domain"):
            rule.update(wrong)
    with pytest.raises(InvalidInputError, match="positive rate"):
        GroupDRO(2, rate=0.0)


def test_mixture_by_experts_is_exact_for_tables_without_a_context():
    """A table fitted to a mixture of domains IS the mixture of the tables fitted to each."""
    rng = np.random.default_rng(2)
    for _ in range(25):
        domains = rng.dirichlet(np.ones(6), 3)
        lam = rng.dirichlet(np.ones(3))
        group, token = np.repeat(np.arange(3), 6), np.tile(np.arange(6), 3)
        predicted = mixture_of_experts_loss(np.log(domains.T[token]), group, lam)
        trained = lam @ domains  # the maximum-likelihood table of the mixture
        assert np.allclose(predicted, [-np.log(trained).mean()] * 3, atol=1e-12)
        # convex in the weights, and its minimiser is the static gate
        best = fit_static_gate(np.log(domains.T[token])).weights
        at_best = mixture_of_experts_loss(np.log(domains.T[token]), np.zeros(18, dtype=int), best / best.sum())
        assert at_best <= mixture_of_experts_loss(np.log(domains.T[token]), np.zeros(18, dtype=int), lam) + 1e-6


def test_distribution_weights_keep_the_promise_on_every_mixture():
    """Under the mixture z the combination's log-loss is at most the mean of the experts' own (1,000 worlds)."""
    rng = np.random.default_rng(3)
    for _ in range(1000):
        p, states, symbols = int(rng.integers(2, 5)), 6, 4
        density = rng.dirichlet(np.full(states, 0.4), p)
        truth = rng.dirichlet(np.full(symbols, 0.5), states)  # one labelling for all sources
        experts = rng.dirichlet(np.full(symbols, 0.7), (p, states))
        z = rng.dirichlet(np.ones(p))
        own = -(density[:, :, None] * truth * np.log(experts)).sum((1, 2))
        gate = distribution_weights(np.log(density.T + 1e-300), z)
        mixed = np.einsum("sk,ksv->sv", gate, experts)
        loss = -((z @ density)[:, None] * truth * np.log(mixed)).sum()
        assert loss <= z @ own + 1e-10


def test_distribution_weights_over_prefixes_are_the_bayes_gate():
    rng = np.random.default_rng(4)
    log_probs = np.log(rng.random((20, 3))).astype(np.float32)
    scores = ExpertScores(np.array([0, 8, 20]), log_probs, np.zeros((20, 3, 3), dtype=np.float16))
    prior = (0.5, 0.3, 0.2)
    prefix = np.concatenate([np.cumsum(part, 0) - part for part in (log_probs[:8].astype(float), log_probs[8:])])
    found = distribution_weights(prefix, prior)
    assert np.allclose(np.log(found), BayesGate(3, prior).log_weights(scores), atol=1e-5)  # scores in float32


def test_source_weights_even_the_losses():
    rng = np.random.default_rng(5)
    density, experts = rng.dirichlet(np.full(5, 0.5), 3), rng.dirichlet(np.ones(4), (3, 5))
    k, state = np.repeat(np.arange(3), 500), np.concatenate([rng.choice(5, 500, p=d) for d in density])
    token = np.array([rng.choice(4, p=experts[i, s]) for i, s in zip(k, state, strict=True)])  # good on their own
    logq = np.log(experts[:, state, token].T)
    logd = np.log(density.T[state] + 1e-12)

    def losses(z):
        return np.bincount(k, weights=-log_mix(np.log(distribution_weights(logd, z) + 1e-300), logq)) / 500

    z = source_weights(logd, logq, k, steps=500)
    assert z.sum() == pytest.approx(1)
    assert losses(z).max() <= min(losses(other).max() for other in rng.dirichlet(np.ones(3), 300)) + 1e-3  # 500 steps


def test_smoothing_keeps_impossible_inputs_defined():
    impossible = np.full((1, 2), -np.inf)
    assert np.allclose(distribution_weights(impossible, [0.3, 0.7], smoothing=0.1), 0.5)
    with pytest.raises(InvalidInputError, match="smoothing"):
        distribution_weights(impossible, [0.3, 0.7])


def test_cluster_weights_between_one_expert_and_all():
    rng = np.random.default_rng(6)
    h, c = rng.normal(size=(200, 5)), rng.normal(size=(4, 5))
    nearest = np.argmin(((h[:, None] - c) ** 2).sum(-1), 1)
    for temperature in (1e-3, 0.1, 1.0, 10.0):
        w = cluster_weights(h, c, temperature=temperature)
        assert np.allclose(w.sum(1), 1)
        assert (w.argmax(1) == nearest).all()
    assert np.allclose(cluster_weights(h, c, temperature=1e9), 0.25, atol=1e-6)
    assert ((cluster_weights(h, c, top=2) > 0).sum(1) <= 2).all()
    assert (cluster_weights(h, c, top=1) == np.eye(4)[nearest]).all()
    slow = np.exp(-((h[:, None] - c) ** 2).sum(-1) / 0.7)
    assert np.allclose(cluster_weights(h, c, temperature=0.7), slow / slow.sum(1, keepdims=True), atol=1e-10)
    for wrong in ({"temperature": 0.0}, {"top": 5}):
        with pytest.raises(InvalidInputError):
            cluster_weights(h, c, **wrong)


def small(seed):
    return TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=8), seed=seed, dtype=torch.float64)


def test_merging_is_linear_in_the_parameters():
    base, a, b = small(0), small(1), small(2)
    names = base.state_dict().keys()
    merged = merge_models([a, b], weights=[0.7, 0.9], base=base).state_dict()
    for name in names:
        t = [m.state_dict()[name] for m in (base, a, b)]
        assert torch.allclose(merged[name], t[0] + 0.7 * (t[1] - t[0]) + 0.9 * (t[2] - t[0]), atol=1e-12)
    assert merge_models([a], weights=[1.0], base=base).fingerprint() == a.fingerprint()
    zero = merge_models([a, b], weights=[0.0, 0.0], base=base)
    assert zero.fingerprint() == base.fingerprint()
    halves = merge_models([a, b]).state_dict()
    assert all(torch.allclose(halves[n], (a.state_dict()[n] + b.state_dict()[n]) / 2, atol=1e-12) for n in names)


def test_merging_needs_units_that_correspond():
    """The same function with its hidden units permuted is another point: the average is no longer that function."""
    torch.manual_seed(0)
    a, b = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)), None
    import copy

    b, order = copy.deepcopy(a), torch.randperm(8)
    with torch.no_grad():
        b[0].weight.copy_(a[0].weight[order])
        b[0].bias.copy_(a[0].bias[order])
        b[2].weight.copy_(a[2].weight[:, order])
    x = torch.randn(50, 4)
    assert torch.allclose(a(x), b(x), atol=1e-5)
    assert not torch.allclose(merge_models([a, b])(x), a(x), atol=0.05)


@pytest.mark.parametrize(
    ("models", "options", "said"),
    [
        ([], {}, "no model"),
        ([small(0), small(1)], {"weights": [1.0, 1.0]}, "give `base`"),
        ([small(0), small(1)], {"weights": [1.0]}, "one a model"),
        ([small(0), torch.nn.Linear(2, 2)], {}, "shapes"),
    ],
)
def test_merging_refuses_what_does_not_fit(models, options, said):
    with pytest.raises(InvalidInputError, match=said):
        merge_models(models, **options)


def world(rng, p, n, noise):
    domains = rng.dirichlet(np.full(n, 0.4), p)
    experts = (1 - noise) * domains + noise * rng.dirichlet(np.full(n, 0.4), p)
    return domains, experts


def draw(rng, domains, experts, count):
    x = np.concatenate([rng.choice(domains.shape[1], count, p=d) for d in domains])
    return np.log(experts.T[x]), np.repeat(np.arange(len(domains)), count)


def test_what_the_divergence_estimates_is_the_identity():
    """On a census: J_0 = JSD - sum lam eps + KL(p_lam || q_lam), so J <= JSD; 500 worlds."""
    rng = np.random.default_rng(7)
    for _ in range(500):
        p, n = int(rng.integers(2, 5)), 12
        domains, experts = world(rng, p, n, 0.3)
        lam = rng.dirichlet(np.full(p, 3.0))
        own = np.log(experts) - np.log(lam @ experts)
        j = float(lam @ (domains * own).sum(1))
        jsd = float(jensen_shannon(domains, lam))
        assert j == pytest.approx(jsd - lam @ kl(domains, experts) + float(kl(lam @ domains, lam @ experts)), abs=1e-10)
        assert j <= jsd + 1e-10


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_divergence_lies_in_its_interval(noise):
    rng = np.random.default_rng(8)
    lower = upper = 0
    rounds = 60
    for _ in range(rounds):
        domains, experts = world(rng, 3, 10, noise)
        domains = domains + 1e-6
        domains /= domains.sum(1, keepdims=True)
        truth = float(jensen_shannon(domains))
        found = domain_divergence(
            *draw(rng, domains, np.maximum(experts, 1e-9), 300),
            errors=kl(domains, np.maximum(experts, 1e-9)),
            delta=0.1,
        )
        lower += found.lower <= truth + 1e-12
        upper += found.upper >= truth - 1e-12
        assert found.lower <= found.estimate <= found.upper + 1e-9
    assert lower >= 0.9 * rounds
    assert upper >= 0.9 * rounds


def test_the_interval_catches_a_wrong_sign():
    """Scores of the wrong expert say less than nothing about the domain: the lower end must fall to zero."""
    rng = np.random.default_rng(9)
    domains = np.array([[0.9, 0.1], [0.1, 0.9]])
    logq, k = draw(rng, domains, domains, 500)
    right, wrong = domain_divergence(logq, k), domain_divergence(logq, 1 - k)
    truth = float(jensen_shannon(domains))
    assert 0.8 * truth < right.lower < truth
    assert wrong.lower == 0.0
    assert wrong.estimate < 0


def test_calibration_on_other_documents_tightens_the_lower_end():
    """Domains that share a third of their documents: sure experts guess wrong on those, and pay for it."""
    rng = np.random.default_rng(10)
    covered, rounds = 0, 20
    plain, chosen = [], []
    for _ in range(rounds):
        k, own = np.repeat([0, 1], 600), rng.random(1200) > 1 / 3
        look = np.where(own, k, rng.integers(2, size=1200))  # of whom the document looks to be
        logq = np.where(np.arange(2) == look[:, None], 0.0, -30.0)
        truth = np.log(2) - (-(5 / 6) * np.log(5 / 6) - (1 / 6) * np.log(1 / 6))
        half = np.tile([True, False], 600)
        other = (logq[half], k[half])
        plain.append(domain_divergence(logq[~half], k[~half]).lower)
        found = domain_divergence(logq[~half], k[~half], calibration=other, delta=0.1)
        chosen.append(found.lower)
        covered += found.lower <= truth
        assert found.floor > 0.1 or found.temperature > 1
        assert found.upper == pytest.approx(np.log(2))
    assert covered >= 0.9 * rounds
    assert max(plain) == 0.0
    assert np.mean(chosen) > 0.5 * truth


def test_the_divergence_is_certified_and_checked_again():
    rng = np.random.default_rng(11)
    domains = np.array([[0.95, 0.05], [0.05, 0.95]])
    logq, k = draw(rng, domains, domains, 400)
    truth = float(jensen_shannon(domains))
    found = domain_divergence(logq, k)
    certificate = certify_divergence(logq, k, limit=0.8 * truth)
    assert certificate.check(log_likelihoods=logq, domain=k)
    (claim,) = certificate.claims
    assert claim.lhs == pytest.approx(found.lower, abs=0.02)  # the same bets in another order
    assert "less than" in certify_divergence(logq, k, limit=1.05 * truth).undecided
    swapped = certificate.check(log_likelihoods=logq, domain=1 - k)
    assert not swapped  # other evidence than it was issued on
    told = {"limit": 0.1, "delta": 0.05, "weights": [0.5, 0.5], "temperature": 1.0, "floor": 1e-3}
    rule = rules.derive_divergence
    for change, said in (
        ({"weights": [0.7, 0.7]}, "no mixture"), ({"floor": 0.0}, "the guess"), ({"temperature": 0.0}, "the guess"),
    ):  # fmt: skip
        with pytest.raises(Undecided, match=said):
            rule({**told, **change}, {"log_likelihoods": logq, "domain": k})
    with pytest.raises(Undecided, match="less than"):
        rule(told, {"log_likelihoods": logq, "domain": 1 - k})  # labels that mean nothing
    with pytest.raises(Undecided, match="at least 30"):
        rule(told, {"log_likelihoods": logq[:20], "domain": np.arange(20) % 2})
    for wrong in ({"limit": 0.0}, {"limit": 0.1, "delta": 1.0}):
        with pytest.raises(InvalidInputError, match="limit"):
            certify_divergence(logq, k, **wrong)


def test_certified_divergences_cover_the_truth():
    """The claimed lower end stays below the truth in at least 1 - delta of worlds; a flipped sign would not."""
    rng, kept, rounds = np.random.default_rng(12), 0, 40
    for _ in range(rounds):
        domains, experts = world(rng, 2, 6, 0.2)
        logq, k = draw(rng, domains, np.maximum(experts, 1e-9), 150)
        told = {"limit": -9.0, "delta": 0.1, "weights": [0.5, 0.5], "temperature": 1.0, "floor": 1e-3}
        (claim,) = rules.derive_divergence(told, {"log_likelihoods": logq, "domain": k})
        kept += claim.lhs <= float(jensen_shannon(domains))
    assert kept >= 0.9 * rounds


def test_divergence_in_the_limits():
    separate = np.where(np.eye(3, dtype=bool)[np.repeat(np.arange(3), 200)], -100.0, -300.0)
    k = np.repeat(np.arange(3), 200)
    found = domain_divergence(separate, k)
    assert found.estimate == pytest.approx(np.log(3), abs=2e-3)  # the floor costs a thousandth
    assert 0.75 * np.log(3) < found.lower <= found.upper == pytest.approx(np.log(3))
    alike = domain_divergence(np.full((600, 3), -50.0), k, errors=np.zeros(3))
    assert abs(alike.estimate) < 1e-12
    assert alike.lower == 0.0


@pytest.mark.usefixtures("as_shipped")
def test_divergence_refuses_what_means_nothing():
    logq, k = np.full((60, 2), -1.0), np.repeat([0, 1], 30)
    for wrong in (
        {"log_likelihoods": logq[:, 0]},
        {"log_likelihoods": np.full((60, 2), np.nan)},
        {"domain": k[:50]},
        {"domain": np.zeros(60, dtype=int)},
        {"weights": [1.0, 0.0]},
        {"floor": 0.0},
        {"errors": [1.0]},
        {"calibration": (logq[:30], k[:30])},
    ):
        with pytest.raises(InvalidInputError):
            domain_divergence(**{"log_likelihoods": logq, "domain": k, **wrong})
