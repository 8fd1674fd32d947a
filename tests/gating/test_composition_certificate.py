"""The rules of a composition: coverage in worlds with a known answer, an independent oracle, what voids them."""

import dataclasses

import numpy as np
import pytest

from corollary.certificates import Certificate, Reference, Status
from corollary.datasets import gain_world
from corollary.gating import _certificate as rules
from corollary.gating import certified_gain

WORST, LARGEST = 7.0, 600.0


def oracle_refutes(gain, size, level, delta):
    """One gambler in plain Python: does betting reject "E[gain - level size] <= 0"?"""
    low, high = -WORST - level * LARGEST, (rules.CLIP - level) * LARGEST
    x = [(g - level * u - low) / (high - low) for g, u in zip(gain, size, strict=True)]
    m, capital, total, squares, variance = -low / (high - low), 1.0, 0.5, 0.25, 0.25
    for t, value in enumerate(x, 1):
        bet = min(np.sqrt(2 * np.log(1 / delta) / (len(x) * variance)), 0.75 / m)
        capital *= 1 + bet * (value - m)
        if capital >= 1 / delta:
            return True
        total += value
        squares += (value - total / (t + 1)) ** 2
        variance = squares / (t + 1)
    return False


def agrees_with_oracle():
    rng = np.random.default_rng(0)
    for _ in range(6):
        size = rng.uniform(100, LARGEST, 300)
        gain = np.clip(rng.normal(0.05, 0.1, 300) * size, -WORST, rules.CLIP * size)
        levels = np.array([0.0, 0.01, 0.03, 0.05, 0.1])
        ours = rules.refuted(gain, size, levels, delta=0.05, worst=WORST, largest=LARGEST)
        assert ours.tolist() == [oracle_refutes(gain, size, level, 0.05) for level in levels]
        assert ours[0]


def test_refutation_agrees_with_an_independent_oracle():
    agrees_with_oracle()


def test_a_mutated_range_is_caught(monkeypatch):
    real = rules.log_capital
    monkeypatch.setattr(rules, "log_capital", lambda x, m, **options: real(x, m * 0.9, **options))
    with pytest.raises(AssertionError):
        agrees_with_oracle()


@pytest.mark.parametrize("follows", ["bytes", "document"])
def test_coverage_of_the_worst_mixture_at_ten_percent(follows):
    """300 simulated certifications of three domains: the stated gain exceeds the true worst one in at most 10 %."""
    rounds, delta, errors, positive = 300, 0.1, 0, 0
    truth = (0.06, 0.03, 0.05)
    for seed in range(rounds):
        world = gain_world(documents=150, true_gain=truth, loss_bound=WORST, follows=follows, seed=seed)
        gains = []
        for k in range(3):
            here = world.domain == k
            rows = np.random.default_rng(seed).permutation(here.sum()).astype(np.uint64)
            gain = (world.baseline_bits - world.our_bits)[here]
            gains.append(
                certified_gain(
                    gain,
                    world.bytes[here].astype(float),
                    rows,
                    delta=delta,
                    worst=WORST,
                    largest=float(world.bytes.max()),
                )
            )
        errors += min(gains) > min(truth)
        positive += min(gains) > 0
    assert errors / rounds <= delta + 4 * np.sqrt(delta * (1 - delta) / rounds)
    assert positive > rounds / 20  # the bound says something


def evidence(n=60, domains=2, gain=0.2, seed=0):
    rng = np.random.default_rng(seed)
    size = rng.integers(200, 600, n * domains)
    baseline = 2.0 * size
    ours = baseline - gain * size * rng.uniform(0.8, 1.2, n * domains)
    experts = np.stack([ours + 3.0, ours + rng.uniform(-6, 6, n * domains)], axis=1)
    return {
        "bits": np.column_stack([ours, experts, baseline]),
        "paired_bits": np.column_stack([ours, baseline]),
        "bytes": size,
        "domain": np.repeat(np.arange(domains), n),
        "rows": rng.integers(0, 2**63, n * domains).astype(np.uint64),
    }


MIXTURE = {
    "baseline": "b",
    "column": 1,
    "domains": ["x", "y"],
    "delta": 0.05,
    "worst": 7.0,
    "largest": 600,
    "gain": 0.1,
}
DOCUMENT = {"experts": 2, "eps": 0.02, "top": None, "anchors": ["b"]}


def issue(rule, witness, e):
    return Certificate.issue(rule, statement="s", evidence=e, witness=witness, reference=Reference("none"))


def test_both_rules_hold_on_good_evidence_and_fail_when_tightened():
    e = evidence()
    both = issue("gating.every_document", DOCUMENT, e) & issue("gating.every_mixture", MIXTURE, e)
    assert both.check(**e).status is Status.HOLDS
    for part in both.parts:
        for claim in part.claims:
            tighter = claim.rhs * 0.5 if claim.relation == "<=" else claim.rhs + 0.2
            forged = dataclasses.replace(part, claims=(dataclasses.replace(claim, rhs=tighter),))
            assert forged.check(**e).status is Status.VIOLATED
    other = {**e, "bits": e["bits"] + 1e-9}
    assert both.check(**other).status is Status.UNDECIDED


def test_what_voids_or_undecides():
    e = evidence()
    cases = [
        ("gating.every_document", DOCUMENT | {"top": 1}, e, "top-m truncation"),
        ("gating.every_document", DOCUMENT | {"eps": 0.0}, e, "eps is 0"),
        ("gating.every_mixture", MIXTURE, evidence(n=20), "at least 30"),
        ("gating.every_mixture", MIXTURE, evidence(gain=0.0), "no gain over b"),
        ("gating.every_mixture", MIXTURE | {"largest": 300}, e, "longer than"),
    ]
    for rule, witness, arrays, reason in cases:
        certificate = issue(rule, witness, arrays)
        assert certificate.claims == ()
        assert reason in certificate.undecided
        assert certificate.check(**arrays).status is Status.UNDECIDED
    repeated = {**e, "rows": np.zeros_like(e["rows"])}
    assert "distinct documents" in issue("gating.every_mixture", MIXTURE, repeated).undecided


def test_a_document_beyond_the_bound_is_a_violation():
    e = evidence()
    e["bits"][3, 1] = e["bits"][3, 0] - 8.0  # an expert eight bits better than log2(2 / .02) = 6.64 allows
    assert issue("gating.every_document", DOCUMENT, e).check(**e).status is Status.VIOLATED
    e = evidence()
    e["paired_bits"][5, 0] = e["paired_bits"][5, 1] + 9.0
    assert issue("gating.every_mixture", MIXTURE, e).check(**e).status is Status.VIOLATED
