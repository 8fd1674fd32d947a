"""The density level: G1 to G5, the spike, and sklearn models."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.svm import LinearSVC

from corollary.errors import InvalidInputError, NotFittedError
from corollary.unlearning import FiniteWorld, TemperTiltDensity, _density, bernoulli_kl, spike_world


def random_world(rng):
    n = int(rng.integers(2, 9))
    measure = rng.uniform(0.05, 2, n)
    p_r, p_f = (rng.dirichlet(rng.uniform(0.1, 2) * np.ones(n)) / measure for _ in range(2))
    share = float(rng.uniform(0.01, 0.9))
    world = FiniteWorld(p_r, p_f, share=share, measure=measure)
    noise = rng.normal(0, rng.choice([0.01, 0.3, 2.0]), n)
    logit = np.log(world.bayes.clip(1e-12, 1 - 1e-12)) - np.log1p(-world.bayes.clip(1e-12, 1 - 1e-12))
    classifier = 1 / (1 + np.exp(-(logit + noise)))
    return FiniteWorld(p_r, p_f, share=share, measure=measure, classifier=classifier)


def test_g1_to_g4_on_random_worlds(rng):
    tight = 0.0
    for _ in range(2000):
        world, t = random_world(rng), float(rng.uniform(1, 4))
        b = world.bounds(t)
        assert b.identity == pytest.approx(b.excess_risk, rel=1e-6, abs=1e-10)
        assert b.retain_error <= b.retain_bound + 1e-10
        assert b.forget_error <= b.forget_bound + 1e-10
        assert b.tempered_error <= b.tempered_bound + 1e-10
        tight = max(tight, b.retain_error / max(b.retain_bound, 1e-9))
    assert tight > 0.5  # G2 is not idle


@pytest.mark.parametrize(("name", "value"), [("PINSKER", 0.02), ("RETAIN_SHARE", 0.3)])
def test_wrong_constants_are_caught(rng, monkeypatch, name, value):
    monkeypatch.setattr(_density, name, value)
    broken = 0
    for _ in range(500):
        b = random_world(rng).bounds(2.0)
        broken += b.retain_error > b.retain_bound + 1e-9 or b.forget_error > b.forget_bound + 1e-9
    assert broken


def test_the_bayes_classifier_gives_the_retained_density(rng):
    for _ in range(50):
        world = random_world(rng)
        exact = FiniteWorld(world.p_r, world.p_f, share=world.share, measure=world.mass)
        assert np.allclose(exact.density(), world.p_r, atol=1e-12)
        assert exact.excess_risk == pytest.approx(0, abs=1e-12)
        constant = FiniteWorld(
            world.p_r, world.p_f, share=world.share, measure=world.mass, classifier=np.full(len(world.p), 0.3)
        )
        tempered = world.p ** (1 / 2.0)
        assert np.allclose(constant.density(2.0), tempered / constant.integral(tempered), atol=1e-12)


# Section 4, G5: forget errors for T = 1, 1.5, 2, 2.5, 4, and retain errors for T = 1 and 2.5
SPIKE = {
    1e-2: ([0.000, 0.562, 0.711, 0.774, 0.845], (0.0, 0.0072)),
    1e-3: ([4.58, 0.162, 0.470, 0.670, 0.837], (0.0029, 0.0004)),
    1e-4: ([54.3, 4.37, 0.667, 0.173, 0.711], (0.0050, 0.0)),
}


@pytest.mark.parametrize("width", SPIKE)
def test_the_spike_table(width):
    world, (errors, retains) = spike_world(width), SPIKE[width]
    for t, expected in zip((1, 1.5, 2, 2.5, 4), errors, strict=True):
        assert world.forget_error(t) == pytest.approx(expected, abs=max(6e-4, 0.002 * expected))
    assert world.retain_error(1) == pytest.approx(retains[0], abs=6e-5)
    assert world.retain_error(2.5) == pytest.approx(retains[1], abs=6e-5)


def test_the_spike_by_numerical_integration(rng):
    """An independent formula: a grid on [0, 1]."""
    width, t, share = 0.01, 1.7, 0.1
    x = (np.arange(200_000) + 0.5) / 200_000
    inside = x < width
    p = (1 - share) + share * inside / width
    f = np.where(inside, np.maximum(0.2, (1 - share) / p), 1.0)
    tilted = p ** (1 / t) * f
    tilted /= tilted.mean()
    world = spike_world(width, floor=0.2)
    assert world.forget_error(t) == pytest.approx(np.abs(tilted - 1)[inside].mean(), rel=1e-9)
    assert world.retain_error(t) == pytest.approx(-np.log(tilted).mean(), rel=1e-9)


def test_the_best_temperature_rises_with_concentration():
    grid = np.linspace(1, 4, 61)
    best = [grid[np.argmin([spike_world(w).forget_error(t) for t in grid])] for w in (1e-1, 1e-2, 1e-3, 1e-4)]
    assert best == sorted(best)
    assert best[-1] > best[0] + 1


@pytest.mark.parametrize("density", [GaussianMixture(2, random_state=0), KernelDensity(bandwidth=0.2)])
def test_sklearn_densities_and_classifiers(rng, density):
    X = np.concatenate([rng.normal(0, 1, (1800, 1)), rng.normal(5, 0.3, (200, 1))])
    y = np.repeat(["kept", "lost"], [1800, 200])
    density.fit(X)
    draws = density.sample(6000, random_state=1) if isinstance(density, KernelDensity) else density.sample(6000)[0]
    model = TemperTiltDensity(density, LogisticRegression().fit(X, y), retained="kept", temperature=1.2)
    model.normalise(draws)
    grid = np.linspace(-8, 10, 6001)[:, None]
    total = np.trapezoid(np.exp(model.score_samples(grid)), grid[:, 0])
    assert total == pytest.approx(1, abs=0.05)  # the normaliser is an average of 6000 draws
    kept = model.resample(draws, 3000, seed=0)
    assert (kept > 4).mean() < 0.03 < (draws > 4).mean()
    plain = TemperTiltDensity(density, model.classifier, retained="kept", guidance=0.0)
    assert np.allclose(plain.unnormalised(grid), density.score_samples(grid))


def test_two_gaussians_with_a_logistic_classifier(rng):
    """S1: where the Bayes classifier is logistic, the tilt comes near the retained density, and more draws nearer."""
    share, centre = 0.2, np.array([2.0, -1.0])
    log_normal = lambda X: -(X**2).sum(1) / 2 - np.log(2 * np.pi)  # noqa: E731

    def base(X):
        X = np.asarray(X)
        return np.logaddexp(np.log(1 - share) + log_normal(X), np.log(share) + log_normal(X - centre))

    def draws(n):
        lost = rng.random(n) < share
        return rng.normal(size=(n, 2)) + lost[:, None] * centre, ~lost

    judged, mixture = rng.normal(size=(20_000, 2)), draws(100_000)[0]
    plain = (log_normal(judged) - base(judged)).mean()
    errors = []
    for n in (100, 20_000):
        classifier = LogisticRegression(C=1e6).fit(*draws(n))
        model = TemperTiltDensity(base, classifier, retained=True).normalise(mixture)
        errors.append((log_normal(judged) - model.score_samples(judged)).mean())
        logit = np.log(1 / share - 1) + log_normal(mixture) - log_normal(mixture - centre)
        excess = bernoulli_kl(1 / (1 + np.exp(-logit)), classifier.predict_proba(mixture)[:, 1]).mean()
        assert -0.005 < errors[-1] <= excess / (1 - share) + 0.005  # G2, by averages of 20,000 and 100,000 draws
    assert errors[1] < 0.01 < plain / 5


def test_wrong_input_is_refused(as_shipped, rng):
    for given in (
        {"retain": [0.5, 0.6], "forget": [0.5, 0.5]},
        {"retain": [0.5, 0.5], "forget": [1.0]},
        {"retain": [0.5, 0.5], "forget": [0.5, 0.5], "classifier": [0.5, 1.5]},
        {"retain": [0.5, float("nan")], "forget": [0.5, 0.5]},
    ):
        with pytest.raises(InvalidInputError):
            FiniteWorld(given.pop("retain"), given.pop("forget"), share=0.1, **given)
    with pytest.raises(InvalidInputError):
        FiniteWorld([1.0], [1.0], share=0.0)
    with pytest.raises(InvalidInputError):
        spike_world(0.0)
    fitted = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(InvalidInputError):
        TemperTiltDensity(object(), fitted)
    with pytest.raises(InvalidInputError):
        TemperTiltDensity(lambda X: X, fitted, retained="kept")
    with pytest.raises(InvalidInputError):
        TemperTiltDensity(lambda X: X, fitted, temperature=0.0)
    with pytest.raises(InvalidInputError, match="no probabilities"):
        TemperTiltDensity(lambda X: X, LinearSVC().fit([[0.0], [1.0]], [0, 1]))
    with pytest.raises(NotFittedError):
        TemperTiltDensity(lambda X: np.zeros(len(X)), fitted).score_samples([[0.0]])
