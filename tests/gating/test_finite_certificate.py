import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import corollary.gating._finite_certificate as rules
from corollary.certificates import Status, load_certificate, save_certificate
from corollary.errors import InvalidInputError
from corollary.gating import certify_normaliser, robust_gate


@pytest.fixture
def solved():
    rng = np.random.default_rng(0)
    domains = rng.dirichlet(np.full(20, 0.3), 3)
    experts = 0.8 * domains + 0.2 * rng.dirichlet(np.full(20, 0.3), 3)
    return robust_gate(domains, experts / experts.sum(1, keepdims=True), tol=1e-4)


def with_claim(certificate, name, **changes):
    return replace(
        certificate, claims=tuple(replace(c, **changes) if name in c.name else c for c in certificate.claims)
    )


def test_holds_and_says_something(solved):
    report = solved.certificate.check(**solved.evidence)
    assert report.status is Status.HOLDS
    assert not any(c.vacuous for c in report.claims)
    assert solved.certificate.confidence is None
    by_name = {c.name: c for c in report.claims}
    # The rule's own arithmetic agrees with the solver's.
    assert by_name["worst divergence over the mixtures (nats)"].lhs == pytest.approx(solved.upper, abs=1e-12)
    assert by_name["gap to the best gate (nats)"].lhs == pytest.approx(solved.gap, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("gap", {"rhs": 1e-9}), ("gap", {"lhs": -1.0}), ("worst", {"rhs": 0.1}), ("worst", {"lhs": 0.1, "rhs":
    0.2}),
     ("gap", {"trivial": 9.0}), ("worst", {"tol": 1.0})],
)  # fmt: skip
def test_edited_claims_are_violated(solved, name, changes):
    assert with_claim(solved.certificate, name, **changes).check(**solved.evidence).status is Status.VIOLATED


def test_other_evidence_decides_nothing(solved):
    for name in ("domains", "experts", "pi"):
        other = dict(solved.evidence)
        other[name] = other[name][..., ::-1].copy()
        assert solved.certificate.check(**other).status is Status.UNDECIDED
    assert solved.certificate.check().status is Status.UNDECIDED


def test_a_worse_model_or_mixture_decides_nothing(solved):
    witness = dict(solved.certificate.witness)
    bad = replace(solved.certificate, witness=witness | {"weights": np.full(3, 1 / 3)})
    report = bad.check(**solved.evidence)
    assert report.status is Status.UNDECIDED
    assert "gap" in report.reason
    assert (
        replace(solved.certificate, witness=witness | {"weights": np.array([2.0, -1.0, 0.0])})
        .check(**solved.evidence)
        .status
        is Status.UNDECIDED
    )
    assert replace(solved.certificate, witness={}).check(**solved.evidence).status is Status.UNDECIDED


def test_a_model_outside_the_band_fails(solved):
    """A model no gate can give would look better than the best gate: its claim on the band fails."""
    evidence = solved.evidence | {"pi": solved.evidence["domains"].mean(0)}
    claims = rules.derive_duality_gap(solved.certificate.witness | {"tol": 1.0}, evidence)
    assert [c.holds for c in claims if "band" in c.name] == [False]
    claims = rules.derive_duality_gap(
        solved.certificate.witness | {"tol": 1.0}, solved.evidence | {"pi": solved.pi * 1.01}
    )
    assert [c.holds for c in claims if "sum" in c.name] == [False]


def test_stalled_solver_is_undecided(solved):
    early = robust_gate(solved.evidence["domains"], solved.evidence["experts"], tol=1e-9, max_steps=1)
    assert early.gap > 1e-9
    assert "above the 1e-09" in early.certificate.undecided
    assert early.certificate.check(**early.evidence).status is Status.UNDECIDED


def test_dual_value_bounds_every_gate(solved):
    """Weak duality at random weights: below the best gate; a doubled value is caught."""
    rng, (domains, experts, _) = np.random.default_rng(0), solved.evidence.values()
    caught = 0
    for lam in rng.dirichlet(np.ones(3), 100):
        lower = rules.dual_value(lam, domains, experts.min(0), experts.max(0))
        assert lower <= solved.upper + 1e-12
        caught += 2 * lower > solved.upper
    assert caught > 10


def test_survives_storage(solved, tmp_path):
    save_certificate(tmp_path, solved.certificate, solved.evidence)
    certificate, evidence = load_certificate(tmp_path)
    assert certificate.check(**evidence)


def test_the_rules_import_no_solver():
    tree = ast.parse(Path(rules.__file__).read_text())
    modules = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert modules == {"numpy", "corollary.certificates", "collections.abc", "typing"}


def normaliser_world(rng, count, wrong=1.0):
    q = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
    gate = np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9]])
    truth = np.log((gate * q).sum()) * wrong
    k = rng.integers(2, size=count)
    x = (rng.random(count)[:, None] > np.cumsum(q, 1)[k]).sum(1)
    return np.log(gate.T[x]), np.log(q.T[x]), truth


def test_normaliser_certificate():
    rng = np.random.default_rng(0)
    log_gate, logq, truth = normaliser_world(rng, 5000)
    certificate = certify_normaliser(log_gate, logq, limit=abs(truth) + 0.1)
    assert certificate.check(log_gate=log_gate, log_likelihoods=logq).status is Status.HOLDS
    tight = certify_normaliser(log_gate, logq, limit=abs(truth) * 0.9)
    assert "wider than" in tight.undecided
    assert (
        with_claim(certificate, "upper", rhs=0.01).check(log_gate=log_gate, log_likelihoods=logq).status
        is Status.VIOLATED
    )
    assert "at least 30" in certify_normaliser(log_gate[:20], logq[:20], limit=0.5).undecided
    assert "sum to one" in certify_normaliser(log_gate + 0.1, logq, limit=0.5).undecided
    for bad in ({"limit": 0.0}, {"limit": 0.1, "delta": 1.0}):
        with pytest.raises(InvalidInputError):
            certify_normaliser(log_gate, logq, **bad)
    with pytest.raises(InvalidInputError, match="must both be"):
        certify_normaliser(log_gate[:3], logq, limit=0.1)


def test_normaliser_bounds_cover_the_truth():
    """At delta = 0.1 each side fails at most 5 %; 200 runs, three standard deviations above."""
    rng, missed = np.random.default_rng(1), 0
    for _ in range(200):
        log_gate, logq, truth = normaliser_world(rng, 300)
        claims = rules.derive_normaliser({"limit": 5.0, "delta": 0.1}, {"log_gate": log_gate, "log_likelihoods": logq})
        missed += not claims[1].lhs <= truth <= claims[0].lhs
    assert missed <= 0.1 * 200 + 3 * np.sqrt(200 * 0.1 * 0.9)
