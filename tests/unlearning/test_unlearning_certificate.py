"""The rules of unlearning: oracles, the theorem, coverage in known worlds, mutated constants, undecided cases."""

import numpy as np
import pytest
import torch
from unlearning_models import sequences, with_heads

from corollary.certificates import Status, betting
from corollary.errors import InvalidInputError, ReusedRowsError
from corollary.unlearning import (
    Examples,
    FiniteWorld,
    TemperTiltModel,
    _certificate,
    certify_forget_quality,
    certify_forgotten,
    certify_paraphrases,
    certify_retain_error,
    certify_retained,
    closeness,
    fit_temper_tilt,
)
from corollary.unlearning._backbone import backbone_of
from corollary.unlearning._issue import rounded_up


def test_forgotten_is_a_census_of_the_answers(base, examples):
    model = with_heads(base)
    before = backbone_of(base).fingerprint()
    certificate, evidence = certify_forgotten(model, examples, base_before=before)
    assert certificate.check(**evidence)
    assert certificate.confidence is None
    changed, largest, mean = certificate.claims
    p = np.exp(-model.score(examples).mean_nll)
    assert (changed.lhs, largest.lhs, mean.lhs) == pytest.approx((0, p.max(), p.mean()), abs=1e-9)
    plain = np.exp(-TemperTiltModel(base).score(examples).mean_nll)
    assert (largest.trivial, mean.trivial) == pytest.approx((plain.max(), plain.mean()), abs=1e-6)


def test_a_changed_base_is_violated(own, examples):
    model, before = with_heads(own), own.fingerprint()
    with torch.no_grad():
        own.embedding.weight[3, 3] += 1e-3
    certificate, evidence = certify_forgotten(model, examples, base_before=before)
    assert certificate.check(**evidence).status is Status.VIOLATED


@pytest.mark.parametrize("name", ["log_likelihood", "base_log_likelihood", "hash_after"])
def test_other_evidence_decides_nothing_and_tighter_claims_are_caught(own, examples, name):
    import dataclasses

    model = with_heads(own)
    certificate, evidence = certify_forgotten(model, examples, base_before=own.fingerprint())
    other = evidence | {name: evidence[name][::-1].copy()}
    assert certificate.check(**other).status is Status.UNDECIDED
    tight = dataclasses.replace(
        certificate.claims[1], rhs=certificate.claims[1].rhs / 2, lhs=certificate.claims[1].lhs / 2
    )
    edited = dataclasses.replace(certificate, claims=(certificate.claims[0], tight, certificate.claims[2]))
    assert edited.check(**evidence).status is Status.VIOLATED


def test_closeness_against_full_distributions(base, examples):
    model = with_heads(base)
    found = closeness(model, examples)
    for i in (0, 5):
        prompt, answer = examples.prompt(i).tolist(), examples.sequence(i)[examples.answers[i] :]
        tv, kl = [], []
        for t in range(len(answer)):
            inputs = torch.tensor([prompt + answer[:t].tolist()])
            mask = torch.ones_like(inputs, dtype=torch.bool)
            last = torch.zeros_like(mask)
            last[0, -1] = True
            hidden, logits = (x.detach() for x in model.backbone.outputs(inputs, mask, last))
            pooled = hidden.mean(1)
            p = model.next_token(logits, pooled, model.switches([], 1)).exp()[0].double()
            q = model.next_token(logits, pooled, model.switches(None, 1)).exp()[0].double()
            tv.append(float((p - q).abs().sum() / 2))
            kl.append(float((p * (p / q).log()).sum()))
        assert found.variation[i] == pytest.approx(np.mean(tv), abs=1e-4)
        assert found.kl[i] == pytest.approx(np.mean(kl), abs=1e-3)
    assert (found.variation <= np.sqrt(found.kl / 2) + 1e-3).all()  # Pinsker, and concavity of the root
    off = closeness(model, examples, heads=[])
    assert not off.variation.any()
    assert not off.kl.any()


def test_retained_and_paraphrases_are_betting_bounds(own, rng):
    model = with_heads(own)
    held_out, trained = sequences(rng, 40), sequences(rng, 40)
    for certificate, evidence in (
        certify_retained(model, held_out, trained_on=trained, delta=0.1),
        certify_paraphrases(model, held_out, delta=0.1),
    ):
        report = certificate.check(**evidence)
        assert report, report
        x = next(iter(evidence.values()))
        upper = betting(np.clip(x, 0, 1), delta=0.1, low=0.0, high=1.0, side="upper").upper
        assert certificate.claims[0].lhs == pytest.approx(float(upper))
        assert x.mean() < certificate.claims[0].rhs < 1
    with pytest.raises(ReusedRowsError):
        certify_retained(model, held_out, trained_on=held_out)
    few, evidence = certify_retained(model, held_out.select(np.arange(29)))
    assert few.check(**evidence).status is Status.UNDECIDED


def world_and_draws(rng, n):
    """A finite world with a classifier, its true retain error, and held-out answers of the classifier."""
    k = int(rng.integers(3, 12))
    p_r, p_f = rng.dirichlet(np.ones(k) * 0.5), rng.dirichlet(np.ones(k) * 0.5)
    share, clip = float(rng.uniform(0.05, 0.5)), 1e-2
    bayes = FiniteWorld(p_r, p_f, share=share).bayes
    f = (bayes + rng.normal(0, 0.1, k)).clip(clip, 1 - clip)
    world = FiniteWorld(p_r, p_f, share=share, classifier=f)
    kept, lost = f[rng.choice(k, n, p=p_r)], f[rng.choice(k, n, p=p_f)]
    return world, kept, lost, share, clip


def violations(rng, *, count, delta, n=60):
    missed = 0
    for _ in range(count):
        world, kept, lost, share, clip = world_and_draws(rng, n)
        certificate, evidence = certify_retain_error(kept, lost, share=share, clip=clip, delta=delta)
        assert certificate.check(**evidence)
        missed += world.retain_error() > certificate.claims[0].rhs
    return missed


def test_the_theorem_covers_in_known_worlds(rng):
    assert violations(rng, count=150, delta=0.1) <= 15 + 3 * np.sqrt(13.5)


def test_a_risk_without_its_bound_would_be_caught(rng, monkeypatch):
    """The identity G2 with the Bayes risk subtracted twice (a mutated derivation) fails in known worlds."""
    broken = 0
    for _ in range(300):
        world, *_ = world_and_draws(rng, 1)
        bayes, f, p = world.bayes, world.f, world.p
        entropy = -(bayes * np.log(bayes.clip(1e-12)) + (1 - bayes) * np.log((1 - bayes).clip(1e-12)))
        risk = -(bayes * np.log(f) + (1 - bayes) * np.log1p(-f))
        full, bayes_risk = world.integral(p * risk), world.integral(p * entropy)
        assert full - bayes_risk == pytest.approx(world.excess_risk, abs=1e-9)
        assert world.retain_error() <= full / (1 - world.share) + 1e-9
        broken += world.retain_error() > (full - 2 * bayes_risk) / (1 - world.share)
    assert broken


def test_retain_error_says_when_it_says_nothing(rng):
    loud, _ = certify_retain_error(np.full(50, 0.6), np.full(50, 0.4), share=0.1)
    assert loud.vacuous
    assert loud.claims[0].trivial == pytest.approx(-np.log(0.9))
    few, evidence = certify_retain_error(np.full(10, 0.9), np.full(50, 0.1), share=0.1)
    assert few.check(**evidence).status is Status.UNDECIDED
    for wrong in ({"share": 0.0}, {"share": 0.1, "clip": 0.7}, {"share": 0.1, "delta": 2.0}):
        with pytest.raises(InvalidInputError):
            certify_retain_error([0.9] * 40, [0.1] * 40, **wrong)
    with pytest.raises(InvalidInputError):
        certify_retain_error([float("nan")] * 40, [0.1] * 40, share=0.1)


def test_forget_quality_without_reference_is_undecided(rng):
    certificate, evidence = certify_forget_quality(rng.random(50))
    report = certificate.check(**evidence)
    assert report.status is Status.UNDECIDED
    assert "retrained" in report.reason
    done, arrays = certify_forget_quality(rng.random(200), rng.random(150))
    assert done.check(**arrays)
    from scipy.stats import ks_2samp

    assert done.claims[1].lhs == pytest.approx(ks_2samp(arrays["ratio"], arrays["reference"]).statistic, abs=1e-12)


def coverage(rng, delta, count=300, n=60):
    """How often the certified distance lies below the true one of two normal worlds."""
    from scipy.stats import norm

    shift = 0.5
    true = 2 * norm.cdf(shift / 2) - 1
    bounds = [
        certify_forget_quality(rng.normal(0, 1, n), rng.normal(shift, 1, n), delta=delta)[0] for _ in range(count)
    ]
    return sum(true > c.claims[0].rhs for c in bounds)


def test_forget_quality_covers_and_a_wrong_constant_is_caught(rng, monkeypatch):
    allowed = 300 * 0.02 + 3 * np.sqrt(300 * 0.02)
    assert coverage(rng, 0.02) <= allowed
    monkeypatch.setattr(_certificate, "MASSART", 2e4)
    assert coverage(rng, 0.02) > allowed


def test_held_out_questions_that_are_forgotten_are_refused(own, rng):
    """The head was trained on both sets: a held-out prompt may be in neither."""
    lost, kept, others = sequences(rng, 5), sequences(rng, 10), sequences(rng, 32)
    both = Examples.from_tokens(
        [s.prompt(i).tolist() for s in (others, lost) for i in range(len(s))],
        [s.sequence(i)[s.answers[i] :].tolist() for s in (others, lost) for i in range(len(s))],
    )
    with pytest.raises(ReusedRowsError, match="5 of"):
        fit_temper_tilt(own, lost, kept, held_out=both, rank=2, epochs=1)
    with pytest.raises(ReusedRowsError, match="5 of"):
        certify_retained(with_heads(own), both, trained_on=(kept, lost))
    certificate, _ = fit_temper_tilt(own, lost, kept, held_out=others, rank=2, epochs=1).certified()
    assert "0 of 32 are among the 15 trained on" in str([p.assumptions for p in certificate.parts])


def test_bounds_in_statements_are_rounded_upwards(own, examples, rng):
    """What a statement says is true as it stands there, and as near as four digits allow."""
    for x in [0.0, 1.0, 0.12341, 0.99999, 123456.0, *rng.uniform(0, 1, 300), *np.exp(rng.normal(-9, 5, 300))]:
        assert x <= float(rounded_up(x)) <= x * 1.0011
    certificate, evidence = certify_forgotten(with_heads(own), examples, base_before=own.fingerprint())
    said = [float(w.strip(",")) for w in certificate.statement.split() if w[0].isdigit()][-2:]
    p = np.exp(evidence["log_likelihood"])
    assert p.max() <= said[0]
    assert p.mean() <= said[1]
