"""Certificates of losses: the rules against oracles, coverage in known worlds, mutated constants that are caught."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from corollary import losses
from corollary.certificates import (
    Status,
    betting,
    clopper_pearson,
    digest,
    load_certificate,
    order_from_digest,
    save_certificate,
)
from corollary.losses import _certificate as rules
from corollary.losses import consistency as c


def held_out(rows=2000, noise=0.0, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, rows)
    flip = rng.random(rows) < noise
    label = np.where(flip, (truth + rng.integers(1, classes, rows)) % classes, truth)
    scores = 6.0 * np.eye(classes)[truth] + 0.3 * rng.normal(size=(rows, classes))
    return torch.tensor(scores), torch.tensor(label)


@pytest.mark.parametrize("tau", [0.5, 1.0, 1.5, 2.0])
def test_certificate_of_the_excess(tau, tmp_path):
    z, y = held_out(noise=0.1)
    certificate = losses.excess_certificate(z, y, tau=tau)
    evidence = losses.excess_evidence(z, y)
    assert certificate.check(**evidence).status is Status.HOLDS
    assert certificate.check().status is Status.UNDECIDED
    # Counting errors says more, as the head of `_certificate.py` explains, and is printed beside it.
    assert certificate.vacuous
    wrong = int(evidence["wrong"].sum())
    assert certificate.claims[0].trivial == clopper_pearson(wrong, 2000, delta=0.05, side="upper").upper
    assert f"counting errors on the same rows says {certificate.claims[0].trivial:.4g}" in certificate.statement
    assert "says nothing" in certificate.check(**evidence).reason
    claim = certificate.claims[0]
    forged = dataclasses.replace(
        certificate, claims=(dataclasses.replace(claim, lhs=claim.lhs / 2, rhs=claim.rhs / 2),)
    )
    assert forged.check(**evidence).status is Status.VIOLATED
    loosened = dataclasses.replace(certificate, witness={**certificate.witness, "delta": 0.5})
    assert loosened.check(**evidence).claims != certificate.claims
    path = save_certificate(tmp_path, certificate, evidence)
    again, stored = load_certificate(path)
    assert again.check(**stored).status is Status.HOLDS


def test_certificate_is_undecided_on_few_rows_and_without_mixing():
    z, y = held_out(20)
    assert "at least 30" in losses.excess_certificate(z, y).undecided
    z, y = held_out(100)
    assert "unbounded" in losses.excess_certificate(z, y, mix=0.0).undecided


def test_certificate_of_class_errors():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [400, 100, 50])
    guess = np.where(rng.random(550) < 0.1, (y + 1) % 3, y)
    certificate = losses.class_error_certificate(y, guess, classes=3)
    assert certificate.check(target=y, predicted=guess).status is Status.HOLDS
    wrong = int(((guess != y) & (y == 2)).sum())
    assert certificate.claims[2].rhs == pytest.approx(clopper_pearson(wrong, 50, delta=0.05 / 3, side="upper").upper)
    tighter = dataclasses.replace(certificate.claims[2], rhs=certificate.claims[2].rhs - 0.01)
    forged = dataclasses.replace(certificate, claims=(*certificate.claims[:2], tighter, certificate.claims[3]))
    assert forged.check(target=y, predicted=guess).status is Status.VIOLATED
    assert "rows of class 2" in losses.class_error_certificate(y[:520], guess[:520], classes=3).undecided


def test_certificate_of_a_finite_world():
    rng = np.random.default_rng(0)
    w = c.FiniteWorld(rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(3), 6))
    scores = np.random.default_rng(1).normal(size=(6, 3))
    certificate = w.certificate(scores, tau=1.0)
    evidence = {"point": w.point, "eta": w.eta, "scores": scores}
    assert certificate.check(**evidence).status is Status.HOLDS
    assert certificate.check(**{**evidence, "scores": -scores}).status is Status.UNDECIDED


# the rules against formulas written anew


def transform(t, tau, n):
    """T of comp_sum.md 3.3, anew."""
    if tau == 1:
        return (1 + t) / 2 * math.log(1 + t) + ((1 - t) / 2 * math.log(1 - t) if t < 1 else 0.0)
    if tau >= 2:
        return t / ((tau - 1) * n ** (tau - 1))
    e = 1 / (2 - tau)
    mean = (((1 + t) ** e + (1 - t) ** e) / 2) ** (2 - tau)
    return (2 ** (1 - tau) if tau < 1 else n ** (1 - tau)) * (1 - mean) / (1 - tau)


def inverse(y, tau, n):
    return 1.0 if y >= transform(1.0, tau, n) else scipy.optimize.brentq(lambda t: transform(t, tau, n) - y, 0, 1)


def stated_by_hand(z, y, tau, delta=0.05):
    """The limit of `losses.excess_error`, from the formulas of its head."""
    evidence, n = losses.excess_evidence(z, y), z.shape[1]
    mix = 0.01 if tau <= 1 else 0.0
    s = (1 - mix) * np.exp(evidence["log_s"]) + mix / n
    loss = lambda p: -np.log(p) if tau == 1 else (1 - p ** (tau - 1)) / (tau - 1)  # noqa: E731
    high = loss(mix / n) if tau <= 1 else 1 / (tau - 1)
    order = order_from_digest(digest(**evidence), len(s))
    upper = betting(np.clip(loss(s), 0, high)[order], delta=delta, low=0.0, high=float(high), side="upper").upper
    return inverse(float(upper), tau, n)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
def test_excess_rule_against_its_formulas(tau):
    z, y = held_out(400, noise=0.05)
    stated = losses.excess_certificate(z, y, tau=tau).claims[0].rhs
    assert stated == pytest.approx(stated_by_hand(z, y, tau), abs=1e-7)  # inversion by root finding


def rare_large_losses(seed, rows=300, rate=0.02):
    """Scores sure of class 0, labels 1 at a small rate: a loss near the top of its range, seldom."""
    label = (np.random.default_rng(seed).random(rows) < rate).astype(int)
    return torch.tensor([[50.0, 0.0]]).double().repeat(rows, 1), torch.tensor(label)


def misses(repeats=60):
    """How often the stated limit lies below Gamma of the true (mixed) risk; 3 expected at most at delta = .05."""
    mix, rate = 0.01, 0.02
    risk = rate * -math.log(mix / 2) - (1 - rate) * math.log(1 - mix / 2)
    true = inverse(risk, 1.0, 2)
    return sum(losses.excess_certificate(*rare_large_losses(s)).claims[0].rhs < true for s in range(repeats))


def test_excess_certificate_covers_and_a_halved_range_is_caught(monkeypatch):
    assert misses() <= 7  # binomial(60, .05): more than 7 has probability .01
    honest = rules.betting
    halved = lambda x, *, high, **o: honest(np.minimum(x, high / 2), high=high / 2, **o)  # noqa: E731
    monkeypatch.setattr(rules, "betting", halved)
    assert misses() > 7


def tie(rows=100):
    """Every row wrong by a hair: error 1, excess Gamma(log 2) = 1. The bound is attained."""
    return torch.tensor([[0.0, -1e-9]]).double().repeat(rows, 1), torch.ones(rows, dtype=torch.long)


def test_excess_certificate_with_a_mutated_transform_is_caught(monkeypatch):
    assert losses.excess_certificate(*tie(), mix=1e-6).claims[0].rhs >= 1.0
    monkeypatch.setattr(rules, "comp_sum_inverse", lambda y, **o: 0.98 * c.comp_sum_inverse(y, **o))
    assert losses.excess_certificate(*tie(), mix=1e-6).claims[0].rhs < 1.0  # below the error


def joint_miss(classes=5, rows=40, delta=0.05):
    """The exact probability that some class's error exceeds its limit, at the worst common error."""
    limits = []
    for wrong in range(rows + 1):
        y = np.repeat(np.arange(classes), rows)
        guess = y.copy()
        guess[:wrong] = 1
        limits.append(losses.class_error_certificate(y, guess, classes=classes, delta=delta).claims[0].rhs)
    p = np.linspace(0.001, 0.999, 500)
    missed = (np.array(limits)[:, None] < p) * scipy.stats.binom.pmf(np.arange(rows + 1)[:, None], rows, p)
    return (1 - (1 - missed.sum(0)) ** classes).max()


def test_class_limits_hold_jointly_and_without_the_share_of_delta_are_caught(monkeypatch):
    assert 0.02 < joint_miss() <= 0.05
    honest = rules.clopper_pearson
    monkeypatch.setattr(rules, "clopper_pearson", lambda k, m, *, delta, side: honest(k, m, delta=5 * delta, side=side))
    assert joint_miss() > 0.05


def test_class_limits_against_the_beta_distribution():
    y, guess = np.repeat([0, 1], 50), np.repeat([0, 1], [43, 57])
    claims = losses.class_error_certificate(y, guess, classes=2, delta=0.1).claims
    expected = [scipy.stats.beta.ppf(1 - 0.05, k + 1, 50 - k) for k in (7, 0)]
    np.testing.assert_allclose([v.rhs for v in claims], [*expected, np.mean(expected)], atol=1e-9)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_finite_world_with_a_mutated_transform_is_caught(tau, monkeypatch):
    t = 0.6
    world = c.FiniteWorld(np.ones(1), np.array([[(1 + t) / 2, (1 - t) / 2]]))
    scores = np.array([[0.0, 1e-9]])  # the tie at which the bound is attained
    evidence = {"point": world.point, "eta": world.eta, "scores": scores}
    assert world.certificate(scores, tau=tau).check(**evidence).status is Status.HOLDS
    monkeypatch.setattr(rules, "comp_sum_inverse", lambda y, **o: 0.98 * c.comp_sum_inverse(y, **o))
    assert not rules.finite_world({"tau": tau}, evidence)[0].holds
