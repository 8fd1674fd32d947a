"""G1 to G9: identities to machine precision, inequalities on random instances, mutated formulas caught."""

import numpy as np
import pytest
from scipy.optimize import minimize

from corollary.coherence import Bregman, audit, contrast, get_divergence, project, project_orbits, project_values, relax
from corollary.coherence._divergences import DIVERGENCES

NAMES = list(DIVERGENCES)
CUBIC = Bregman("cubic", lambda p: (p**3).sum(-1), lambda p: 3 * p**2, lambda g: np.sqrt(np.maximum(g, 0) / 3))


@pytest.fixture
def world(rng):
    """5 views of 400 inputs, 4 classes, weights that differ by input, and a truth that the views share."""
    q = rng.dirichlet(np.full(4, 0.7), size=(5, 400)).clip(1e-12)
    q /= q.sum(-1, keepdims=True)
    return q, rng.dirichlet(np.ones(5), size=400).T, rng.dirichlet(np.ones(4), size=400)


@pytest.mark.parametrize("divergence", [*NAMES, CUBIC], ids=[*NAMES, "cubic"])
def test_g2_the_drop_is_the_gain_for_every_shared_truth(divergence, world):
    q, w, p = world
    if isinstance(divergence, Bregman):  # its gradient is 0 at 0, so the projection may sit on the border: keep inside
        q, p = 0.5 * q + 0.125, 0.5 * p + 0.125
    D = get_divergence(divergence)
    found = project(np.log(q), weights=w, divergence=divergence)
    drop = (w * D.between(p[None], q)).sum(0) - D.between(p, found.probs)
    scale = 1 + (w * D.between(p[None], q)).sum(0)
    assert np.abs(drop - found.gain).max() / scale.max() < 1e-9
    assert found.gain.min() >= -1e-12
    moved = (w * D.between(found.probs[None], q)).sum(0)  # G1 with equality: the drop is the distance moved
    assert np.allclose(moved, found.gain, atol=1e-9)
    assert np.abs(drop - 1.001 * found.gain).max() > 1e-6  # a mutated constant would be seen


@pytest.mark.parametrize("divergence", NAMES)
def test_g2_dual_for_the_arithmetic_mean(divergence, world):
    q, w, p = world
    D = get_divergence(divergence)
    found = project(np.log(q), weights=w, divergence=divergence, side="right")
    assert np.allclose(found.probs, np.einsum("vn,vnk->nk", w, q))
    drop = (w * D.between(q, p[None])).sum(0) - D.between(found.probs, p)
    assert np.allclose(drop, found.gain, rtol=1e-9, atol=1e-9)


def test_kl_is_log_z_and_brier_is_the_variance_within_the_orbit(world):
    q, w, _ = world
    kl, brier = project(np.log(q), weights=w), project(np.log(q), weights=w, divergence="squared")
    z = np.prod(q ** w[..., None], axis=0).sum(-1)
    assert np.allclose(kl.gain, -np.log(z), atol=1e-12)
    mean = np.einsum("vn,vnk->nk", w, q)
    assert np.allclose(brier.gain, (w * ((q - mean) ** 2).sum(-1)).sum(0), atol=1e-12)


@pytest.mark.parametrize("divergence", NAMES)
def test_against_a_generic_solver(divergence, rng):
    q, w = rng.dirichlet(np.full(3, 2.0), size=(4, 6)), rng.dirichlet(np.ones(4))
    D = get_divergence(divergence)
    found = project(np.log(q), weights=w, divergence=divergence).probs
    for n in range(6):

        def objective(z, n=n):
            p = np.exp(z - z.max())
            return float((w * D.between((p / p.sum())[None], q[:, n])).sum())

        best = minimize(
            objective, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14, "maxiter": 4000}
        )
        reached = np.exp(best.x - best.x.max())
        assert np.allclose(found[n], reached / reached.sum(), atol=1e-4)  # a derivative-free search
        assert objective(np.log(found[n])) <= best.fun + 1e-10


def test_bernoulli_logits_are_averaged(rng):
    p = rng.uniform(0.05, 0.95, size=(3, 50, 4))
    g, gain = project_values(p, divergence="logistic")
    logits = np.log(p / (1 - p)).mean(0)
    assert np.allclose(g, 1 / (1 + np.exp(-logits)))
    two = project(np.log(np.stack([p[..., 0], 1 - p[..., 0]], -1)))  # two classes: KL is the same
    assert np.allclose(two.probs[:, 0], g[:, 0])
    one, alone = project_values(p[..., :1], divergence="logistic")
    assert np.allclose(alone, two.gain)
    assert (gain > 0).all()
    assert np.allclose(one[:, 0], g[:, 0])


def test_g3_penalised_squared(world):
    q, w, p = world
    mean = np.einsum("vn,vnk->nk", w, q)
    for strength in (0.0, 0.3, 2.0, 1e6):
        found = relax(np.log(q), strength=strength, weights=w, divergence="squared")
        f = np.exp(found.log_probs)
        drop = (w * (((p - q) ** 2).sum(-1) - ((p - f) ** 2).sum(-1))).sum(0)
        moved = (w * ((f - q) ** 2).sum(-1)).sum(0)
        omega = (w * ((f - mean) ** 2).sum(-1)).sum(0)
        assert np.allclose(drop, found.gain, atol=1e-9)
        assert np.allclose(omega, found.incoherence, atol=1e-9)
        if strength < 1e6:
            assert (drop >= moved + strength * omega - 1e-9).all()
    assert np.allclose(f, mean, atol=1e-5)


def test_g3_penalised_kl_by_a_solver(rng):
    """KL with the variance as penalty has no closed form: a solver's minimiser satisfies the inequality."""
    for _ in range(20):
        q, p, lam = rng.dirichlet(np.ones(3), size=2), rng.dirichlet(np.ones(3)), rng.uniform(0.2, 3)

        def split(z):
            f = np.exp(z.reshape(2, 3))
            return f / f.sum(1, keepdims=True)

        def objective(z, q=q, lam=lam):
            f = split(z)
            return float((f * np.log(f / q)).sum() / 2 + lam * ((f - f.mean(0)) ** 2).sum() / 2)

        f = split(minimize(objective, np.log(q).ravel(), options={"gtol": 1e-9}).x)
        drop = (p * np.log(f / q)).sum() / 2
        moved, omega = (f * np.log(f / q)).sum() / 2, ((f - f.mean(0)) ** 2).sum() / 2
        assert drop >= moved + lam * omega - 1e-6  # the solver's accuracy


def test_relaxed_kl_gains_exactly_what_it_says(world):
    q, w, p = world
    for t in (0.0, 0.25, 0.7, 1.0):
        found = relax(np.log(q), strength=t, weights=w)
        drop = (w * (p * (found.log_probs - np.log(q))).sum(-1)).sum(0)
        assert np.allclose(drop, found.gain, atol=1e-9)
        assert (found.gain >= t * project(np.log(q), weights=w).gain - 1e-12).all()
    assert np.allclose(found.log_probs, project(np.log(q), weights=w).log_probs)
    assert np.allclose(relax(np.log(q), strength=0.0).log_probs, np.log(q))


@pytest.mark.parametrize("divergence", ["kl", "squared"])
def test_a_limit_takes_the_least_strength_that_meets_it(divergence, world):
    q, w, _ = world
    before = relax(np.log(q), strength=0.0, weights=w, divergence=divergence)
    limit = float(np.median(before.incoherence))
    found = relax(np.log(q), limit=limit, weights=w, divergence=divergence)
    assert (found.incoherence <= limit + 1e-9).all()
    free = before.incoherence <= limit
    assert np.allclose(found.gain[free], 0, atol=1e-12)
    assert np.allclose(found.incoherence[~free], limit, atol=1e-9)


def test_g4_composition_of_projections(rng):
    """B inside C: a fixed first probability. proj_B(proj_C(f0)) = proj_B(f0) for squared; C alone twice is C once."""
    q = rng.dirichlet(np.ones(3), size=(4, 50))
    level = 0.4

    def onto(values):  # the coherent answers whose first coordinate is `level`, by squared distance
        mean = values.mean(0) if values.ndim == 3 else values
        shift = (mean[:, :1] - level) * np.array([[1.0, -0.5, -0.5]])
        return mean - shift

    coherent = project(np.log(q), divergence="squared").probs
    assert np.allclose(onto(np.broadcast_to(coherent, q.shape)), onto(q), atol=1e-12)
    again = project(np.log(np.broadcast_to(coherent, q.shape)))
    assert np.allclose(again.probs, coherent)
    assert np.abs(again.gain).max() < 1e-12


def test_g5_non_realizable(world, rng):
    """Truths that differ between views: the drop falls short by at most the inner product of G5."""
    q, w, p = world
    found = project(np.log(q), weights=w)
    drift = rng.dirichlet(np.ones(4), size=(5, 400))
    truths = 0.9 * p + 0.1 * drift
    shared = np.einsum("vn,vnk->nk", w, truths)
    turned = found.log_probs - np.log(q)
    drop = (w * (truths * turned).sum(-1)).sum(0)
    short = np.abs((w * (turned * (truths - shared)).sum(-1)).sum(0))
    assert (drop >= found.gain - short - 1e-9).all()
    assert (drop < found.gain - 1e-3).any()  # without the term the claim would be false
    norm = (w * np.abs(turned).max(-1) * np.abs(truths - shared).sum(-1)).sum(0)
    assert (short <= norm + 1e-12).all()


def test_g6_sampled_views_are_unbiased_for_the_orbit(rng):
    """The mean gain of k drawn views is the mean drop over the whole orbit when those k are projected."""
    q, p = rng.dirichlet(np.ones(3), size=9), rng.dirichlet(np.ones(3))
    orbit = -(p * np.log(q)).sum(-1).mean()
    picks = rng.integers(0, 9, size=(4, 40_000))
    found = project(np.log(q[picks]))
    drop = orbit + (found.log_probs * p).sum(-1)
    error = (drop - found.gain).std() / 200
    assert abs((drop - found.gain).mean()) < 4 * error
    whole = project(np.log(q)[:, None]).gain[0]
    assert found.gain.mean() < whole  # fewer views gain less on average


def test_g7_rigidity_nothing_else_guarantees_as_much(world, rng):
    q, w, _ = world
    rows = np.log(q).transpose(1, 0, 2).reshape(-1, 4)
    orbit, weights = np.repeat(np.arange(400), 5), w.T.ravel()
    best, index = project_orbits(rows, orbit, weights=weights)
    assert np.allclose(best.gain, project(np.log(q), weights=w).gain)
    equal, index = project_orbits(rows, orbit)
    for step in (0.0, 1e-3, 0.1, 1.0):
        g = equal.log_probs + step * rng.normal(size=equal.log_probs.shape)
        g -= np.log(np.exp(g).sum(-1, keepdims=True))
        found = audit(rows, g[index], orbit=orbit)
        assert np.allclose(found.best, equal.gain)
        assert (found.guaranteed <= found.best + 1e-9).all()
        assert np.allclose(found.guaranteed, found.best, atol=1e-9) == (step == 0.0)


@pytest.mark.parametrize("divergence", ["kl", "squared"])
def test_g8_half_space(divergence, rng):
    D = get_divergence(divergence)
    q, f, p = rng.dirichlet(np.ones(4), size=(3, 3000))
    found = audit(np.log(q), np.log(f), divergence=divergence)
    improves = D.between(p, q) - D.between(p, f) >= D.between(f, q)
    assert (found.asserts(p) == improves).mean() > 0.999  # rounding at the border
    assert 0.05 < improves.mean() < 0.95
    assert found.asserts(f).all()  # its border goes through f
    assert found.guaranteed.max() < 0  # without orbits some truth is worse off
    corners = np.eye(4)[found.corners.argmin(1)]
    attained = (
        D.between(corners, q) - D.between(corners, f) if divergence == "squared" else (corners * np.log(f / q)).sum(-1)
    )
    assert np.allclose(attained, found.guaranteed, atol=1e-9)


def test_g9_a_transformation_that_changes_the_class_fails(rng):
    n = 4000
    p = rng.dirichlet(np.full(3, 0.5), size=n)
    turned = p[:, ::-1]
    views = np.log([p, turned])
    found = project(views)
    wrong = 0.5 * ((p * (found.log_probs - views[0])).sum(-1) + (turned * (found.log_probs - views[1])).sum(-1))
    assert wrong.mean() < 0 < found.gain.mean()  # G1 fails, as it must

    def draw(q):
        return (rng.random((n, 1)) > q.cumsum(1)[:, :-1]).sum(1)

    bad, good = contrast(
        np.log([p, turned, 0.8 * p + 1 / 15]), [draw(p), draw(turned), draw(p)], names=("turned", "blur")
    )
    assert bad.pvalue < 0.01
    assert bad.realised < bad.predicted
    assert good.pvalue > 0.01


def test_the_contrast_test_keeps_its_level(rng):
    rejected = 0
    for i in range(200):
        p = rng.dirichlet(np.full(3, 0.5), size=40)
        labels = [(rng.random((40, 1)) > p.cumsum(1)[:, :-1]).sum(1) for _ in range(3)]
        views = np.log([rng.dirichlet(np.ones(3), size=40), p, 0.5 * p + 1 / 6])
        rejected += min(t.pvalue for t in contrast(views, labels, draws=200, seed=i)) <= 0.1
    assert rejected <= 33  # 200 draws at level .1: mean 20, three standard deviations 13


def test_with_the_originals_label_on_all_views_nothing_could_be_found(world):
    q, w, _ = world
    found = project(np.log(q), weights=w)
    for y in range(4):
        drop = found.log_probs[:, y] - np.einsum("vn,vn->n", w, np.log(q)[..., y])
        assert np.allclose(drop, found.gain, atol=1e-12)


def test_limits(world):
    q, _, _ = world
    alone = project(np.log(q[:1]))
    assert np.allclose(alone.probs, q[0])
    assert np.abs(alone.gain).max() < 1e-12
    agreed = project(np.log(np.broadcast_to(q[0], q.shape)))
    assert np.allclose(agreed.probs, q[0])
    assert np.abs(agreed.gain).max() < 1e-12
    first = project(np.log(q), weights=[1, 0, 0, 0, 0])  # only the original is served: nothing to gain
    assert np.allclose(first.probs, q[0])
    assert np.abs(first.gain).max() < 1e-12
    excluded = project(np.log([[[0.5, 0.5, 1e-300]], [[0.2, 0.8, 1e-300]]]))
    assert np.isfinite(excluded.log_probs).all()
    with np.errstate(divide="ignore"):
        zero = project(np.log([[[0.5, 0.5, 0.0]], [[0.2, 0.4, 0.4]]]))
    assert zero.probs[0, 2] == 0


@pytest.mark.parametrize("divergence", ["kl", "squared"])
def test_audits_are_derived_from_the_predictions(divergence, rng):
    q, f = rng.dirichlet(np.ones(3), size=(2, 60))
    orbit = np.repeat(np.arange(20), 3)
    answer, index = project_orbits(np.log(q), orbit, divergence=divergence)
    good, bad = (audit(np.log(q), x, orbit=orbit, divergence=divergence) for x in (answer.log_probs[index], np.log(f)))
    for found in (good, bad):
        assert found.certificate.check(**found.evidence).status.name == "HOLDS"
    assert not good.certificate.claims[0].vacuous
    assert bad.certificate.claims[0].vacuous  # less than what changing nothing guarantees
    assert good.certificate.check(**bad.evidence).status.name == "UNDECIDED"
    from corollary.coherence._certificate import audit as rule

    assert not rule(good.certificate.witness, bad.evidence)[0].holds  # other predictions do not carry the claim
    with np.errstate(divide="ignore"):
        hard = audit(np.log(q), np.log(np.eye(3)[q.argmax(1)]), orbit=orbit)
    assert hard.guaranteed.min() == -np.inf
    assert hard.certificate.claims[0].vacuous
