"""Certificates of regret and of directions: they hold, they catch, and a file of them is checked by the command."""

import dataclasses

import numpy as np
import pytest
import torch

from corollary.certificates import find_rule
from corollary.errors import InvalidInputError
from corollary.optim import FAML, FTPL, FTRL, FollowTheLeader, OneSidedShampooOGD, ShampooOGD, alternating_stream, play
from corollary.testing import check_certificate


def stream(T=30, shape=(2, 4), seed=0):
    G = np.random.default_rng(seed).standard_normal((T, *shape))
    return G / np.linalg.norm(G, 2, axis=(1, 2))[:, None, None]


@pytest.mark.parametrize("make", [FAML, FTRL, OneSidedShampooOGD, ShampooOGD])
def test_regret_certificates_hold_and_say_something(make):
    game = play(make((2, 4)), stream())
    certificate = game.certificate
    check_certificate(certificate, game.evidence)
    assert certificate.check().status.name == "UNDECIDED"
    regret = certificate.claims[-1]
    assert regret.trivial == pytest.approx(
        np.linalg.svd(game.gradients, compute_uv=False).sum() + np.linalg.norm(game.gradients.sum(0), "nuc")
    )
    assert regret.lhs == pytest.approx(game.regret)


def test_the_bound_beats_the_trivial_one_after_some_rounds():
    game = play(FAML((2, 4)), stream(100))
    assert not game.certificate.vacuous
    assert not game.certificate.claims[-1].vacuous


def test_wrong_actions_are_caught():
    game = play(FAML((3, 8)), alternating_stream(200, (3, 8)))
    leader = play(FollowTheLeader((3, 8)), game.gradients)
    rule = find_rule("optim.regret")
    witness = game.certificate.witness
    assert all(c.holds for c in rule.derive(witness, game.evidence))
    claims = rule.derive(witness, leader.evidence)  # the leader's actions under FAML's name
    assert not claims[-1].holds
    assert not rule.derive(witness, {**game.evidence, "actions": 3 * game.actions})[0].holds
    assert not rule.derive({**witness, "grad_bound": 0.5}, game.evidence)[1].holds
    tight = dataclasses.replace(
        game.certificate, claims=(dataclasses.replace(game.certificate.claims[-1], rhs=game.regret - 1),)
    )
    assert tight.check(**game.evidence).status.name == "VIOLATED"


def test_a_tuned_constant_is_caught():
    """Mutation: a bound of half the constant is violated on a real stream of FAML."""
    game = play(FAML((1, 1)), np.array([1.0, -1, 1, 1, 1]).reshape(5, 1, 1))
    claim = game.certificate.claims[-1]
    assert claim.holds
    assert not dataclasses.replace(claim, rhs=claim.rhs / 2).holds


def test_what_has_no_bound_has_no_certificate():
    for learner in (FollowTheLeader((2, 4)), FTPL((2, 5)), FAML((2, 4), discount=0.9)):
        game = play(learner, stream(5, learner.shape))
        with pytest.raises(InvalidInputError, match="no bound"):
            _ = game.certificate
    rule = find_rule("optim.regret")
    game = play(FAML((2, 4)), stream())
    from corollary.certificates import Undecided

    for broken in ({"actions": game.actions[:-1]}, {"gradients": np.full_like(game.gradients, np.nan)}):
        with pytest.raises(Undecided):
            rule.derive(game.certificate.witness, {**game.evidence, **broken})
    with pytest.raises(Undecided):
        rule.derive({**game.certificate.witness, "learner": "ftpl"}, game.evidence)


def test_coverage_over_many_streams():
    """A deterministic claim covers always."""
    for seed in range(100):
        game = play(FAML((2, 3)), stream(8, (2, 3), seed))
        assert bool(game.certificate.check(**game.evidence))


def test_the_oracle_of_regret():
    """Against the best of many fixed matrices: never above the closed form, and near it at the maximiser."""
    game = play(FAML((2, 4)), stream())
    played = float((game.actions * game.gradients).sum())
    S = torch.from_numpy(game.gradients.sum(0))
    U, _, Vh = torch.linalg.svd(S, full_matrices=False)
    best = float((S * -(U @ Vh)).sum())
    assert game.regret == pytest.approx(played - best, abs=1e-10)
    for seed in range(50):
        X = torch.randn(2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        X = X / torch.linalg.matrix_norm(X, 2)
        assert played - float((S * X).sum()) <= game.regret + 1e-12


def test_learners_refuse_nonsense(as_shipped):
    learner = FAML((2, 4))
    for bad in (np.ones((2, 3)), np.full((2, 4), np.nan), np.full((2, 4), 5.0)):
        with pytest.raises(InvalidInputError):
            learner.update(bad)
    for options in ({"radius": 0}, {"grad_bound": -1.0}, {"discount": 1.5}):
        with pytest.raises(InvalidInputError):
            FAML((2, 4), **options)
    with pytest.raises(InvalidInputError):
        FAML((2,))
    with pytest.raises(InvalidInputError, match="n >= m"):
        FTPL((3, 3))
    with pytest.raises(InvalidInputError, match="samples"):
        FTPL((3, 9), samples=0)
    with pytest.raises(InvalidInputError, match="no rounds"):
        play(FAML((2, 4)), np.ones((0, 2, 4)))
    played = FAML((2, 4))
    played.update(np.zeros((2, 4)))
    with pytest.raises(InvalidInputError, match="new one"):
        play(played, stream())
    with pytest.raises(InvalidInputError, match="potential"):
        play(ShampooOGD((2, 4)), stream()).decompose()
