import numpy as np
import pytest

from corollary.errors import InvalidInputError
from corollary.gating import importance_resample, rejection_sample, robust_gate


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    domains = rng.dirichlet(np.full(30, 0.3), 3)
    experts = 0.8 * domains + 0.2 * rng.dirichlet(np.full(30, 0.3), 3)
    return robust_gate(domains, experts / experts.sum(1, keepdims=True))


def sampler(experts):
    steps = np.cumsum(experts, 1)

    def draw(k, generator):
        x = np.minimum((generator.random(len(k))[:, None] > steps[k]).sum(1), experts.shape[1] - 1)
        return x, np.log(experts.T[x])

    return draw


def total_variation(x, target):
    return 0.5 * np.abs(np.bincount(x, minlength=len(target)) / len(x) - target).sum()


def test_rejection_is_exact_and_accepts_one_in_p(world):
    draw, size = sampler(world.evidence["experts"]), 60_000
    drawn = rejection_sample(draw, lambda logq, x: world.gate.T[x], size=size, experts=3, seed=1)
    # Expected total variation of an exact sampler: at most sqrt(n / size) / 2.
    assert total_variation(drawn.sequences, world.pi) < np.sqrt(30 / size)
    spread = np.sqrt(2 / 9 / drawn.proposals)
    assert abs(drawn.acceptance - 1 / 3) < 4 * spread
    assert drawn.effective_size == size == len(drawn.sequences) == len(drawn.log_likelihoods)
    # A sampler that ignores the gate is caught by the same check.
    ungated = rejection_sample(draw, lambda logq, x: np.full((len(x), 3), 1 / 3), size=size, experts=3)
    assert total_variation(ungated.sequences, world.pi) > np.sqrt(30 / size)


def test_an_unnormalised_gate_samples_its_normalised_model(world):
    experts = world.evidence["experts"]
    gate = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    pi = (gate.T * experts).sum(0)
    drawn = rejection_sample(sampler(experts), lambda logq, x: gate[x], size=40_000, experts=3)
    assert total_variation(drawn.sequences, pi / pi.sum()) < np.sqrt(30 / 40_000)
    assert drawn.acceptance == pytest.approx(pi.sum() / 3, abs=0.01)


def test_resampling_approaches_the_model(world):
    drawn = importance_resample(
        sampler(world.evidence["experts"]),
        lambda logq, x: world.gate.T[x],
        size=20_000,
        experts=3,
        proposals=200_000,
    )
    assert total_variation(drawn.sequences, world.pi) < np.sqrt(30 / 20_000)
    weights = world.pi / world.evidence["experts"].mean(0)
    second = (world.evidence["experts"].mean(0) * weights**2).sum()
    assert drawn.acceptance == pytest.approx(1 / second, rel=0.02)


def test_lists_and_seeds(world):
    experts = world.evidence["experts"]

    def words(k, generator):
        x, logq = sampler(experts)(k, generator)
        return [f"w{i}" for i in x], logq

    def gate(logq, x):
        return np.full((len(x), 3), 1 / 3)

    first, again = (rejection_sample(words, gate, size=10, experts=3, batch=7, seed=s) for s in (3, 3))
    assert first.sequences == again.sequences
    assert isinstance(first.sequences[0], str)
    assert importance_resample(words, gate, size=4, experts=3, proposals=50).sequences[0].startswith("w")


def test_refuses(world):
    draw = sampler(world.evidence["experts"])
    with pytest.raises(InvalidInputError, match="at least 1"):
        rejection_sample(draw, lambda q, x: q, size=0, experts=3)
    with pytest.raises(InvalidInputError, match="sum to one"):
        rejection_sample(draw, lambda q, x: np.ones((len(x), 3)), size=1, experts=3)
    with pytest.raises(InvalidInputError, match="`draw` must give"):
        rejection_sample(draw, lambda q, x: q, size=1, experts=2)
    with pytest.raises(InvalidInputError, match="accepts too rarely"):
        rejection_sample(
            lambda k, g: (k, np.zeros((len(k), 2))),
            lambda q, x: np.eye(2)[1 - x],
            size=5,
            experts=2,
            max_proposals=2000,
        )
    excluded = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    with pytest.raises(InvalidInputError, match="weight zero"):
        importance_resample(
            lambda k, g: (k, excluded[k]), lambda q, x: np.eye(2)[1 - x], size=5, experts=2, proposals=10
        )
