"""Certificates: what a check decides, composition, storage, and every way a file can be wrong."""

import dataclasses
import json
import math

import numpy as np
import pytest

import corollary.runs
from corollary.certificates import (
    Assumption,
    Certificate,
    CertificateError,
    Claim,
    Reference,
    Rule,
    Status,
    Undecided,
    digest,
    find_rule,
    load_certificate,
    order_from_digest,
    refuse_reuse,
    register_rule,
    require_units,
    save_certificate,
)
from corollary.errors import InvalidFileError, InvalidInputError, ReusedRowsError


def mean_rule(witness, evidence):
    require_units(len(evidence["x"]), "values")
    return [Claim("mean", evidence["x"].mean(), "<=", witness["limit"], tol=1e-9, trivial=1.0)]


register_rule(
    Rule(
        "test.mean",
        needs=("x",),
        derive=mean_rule,
        rescore=lambda folder, w: {},
        tolerances={"x": 1e-6, "claims": 1e-6},
    )
)
register_rule(Rule("test.spread", needs=("x",), derive=lambda w, e: [Claim("spread", np.ptp(e["x"]), "<=", 1.0)]))

X = np.linspace(0.0, 0.5, 40)


def issue(rule="test.mean", x=X, limit=0.3, **options):
    return Certificate.issue(
        rule,
        statement="The mean is small.",
        evidence={"x": x},
        witness={"limit": limit, "weights": np.arange(3.0)},
        reference=Reference("none", "none", "test"),
        assumptions=[
            Assumption("values are independent"),
            Assumption("values are bounded", "by construction"),
        ],
        **options,
    )


def test_holds_on_its_evidence_and_decides_nothing_without_it():
    certificate = issue(confidence=0.95)
    assert certificate.check(x=X).status is Status.HOLDS
    assert certificate.check().status is Status.UNDECIDED
    assert certificate.check(x=X + 1e-12).status is Status.UNDECIDED
    assert certificate.check(x=X[::-1]).status is Status.UNDECIDED
    assert "not the one" in certificate.check(x=X[:-1]).reason


@pytest.mark.parametrize(
    "change",
    [
        {"lhs": 0.1},
        {"rhs": 0.2},
        {"rhs": 0.26, "lhs": 0.2},
        {"relation": ">="},
        {"tol": 1.0},
        {"trivial": 9.0},
        {"name": "median"},
        {"lhs": math.nan},
    ],
)
def test_tighter_or_other_claims_are_violated(change):
    certificate = issue()
    forged = dataclasses.replace(certificate, claims=(dataclasses.replace(certificate.claims[0], **change),))
    assert forged.check(x=X).status is Status.VIOLATED


def test_a_weaker_claim_still_holds():
    certificate = issue()
    weaker = dataclasses.replace(certificate, claims=(dataclasses.replace(certificate.claims[0], lhs=0.29),))
    assert weaker.check(x=X).status is Status.HOLDS


def test_a_forged_witness_cannot_help():
    certificate = issue(limit=0.2)  # 0.25 <= 0.2 fails
    assert certificate.check(x=X).status is Status.VIOLATED
    with pytest.raises(CertificateError, match="VIOLATED") as caught:
        certificate.check(x=X).raise_for_status()
    assert caught.value.report.status is Status.VIOLATED
    loosened = dataclasses.replace(certificate, witness={"limit": 0.9})
    assert loosened.check(x=X).status is Status.VIOLATED  # it states 0.2, the witness now gives 0.9


def test_vacuous_claims_say_so():
    report = issue(limit=1.0).check(x=X)
    assert report.status is Status.HOLDS
    assert "says nothing" in report.reason
    assert issue(limit=1.0).vacuous


def test_too_few_units_and_foreign_rules_are_undecided():
    few = issue(x=X[:12])
    assert few.claims == ()
    assert "at least 30" in few.undecided
    assert few.check(x=X[:12]).status is Status.UNDECIDED
    unknown = dataclasses.replace(issue(), rule="nowhere.rule")
    assert unknown.check(x=X).status is Status.UNDECIDED
    assert find_rule("../etc") is None
    with pytest.raises(InvalidInputError, match="no rule is named"):
        issue(rule="nowhere.rule")
    with pytest.raises(Undecided):
        require_units(3, "things")


def test_nan_never_holds():
    x = X.copy()
    x[0] = np.nan
    assert issue(x=x).check(x=x).status is Status.VIOLATED
    assert not Claim("x", math.nan, "==", math.nan).holds
    assert Claim("x", math.inf, "<=", math.inf).holds


def test_composition_adds_failures_and_chains_digests():
    a, b = issue(confidence=0.95), issue("test.spread", confidence=0.9)
    both = a & b
    assert both.confidence == pytest.approx(0.85)
    assert both.check(x=X).status is Status.HOLDS
    assert (len(both.claims), len(both.assumptions)) == (2, 2)
    assert (both & a).parts == (a, b, a)
    assert both.check().status is Status.UNDECIDED
    assert dataclasses.replace(both, confidence=0.99).check(x=X).status is Status.VIOLATED
    assert dataclasses.replace(both, digest={"chain": "0" * 64}).check(x=X).status is Status.VIOLATED
    assert dataclasses.replace(both, claims=a.claims).check(x=X).status is Status.VIOLATED
    assert (issue() & issue()).confidence is None
    # Parts with arrays of the same name and other content are told apart by the key of the part.
    c = issue(x=X / 2)
    assert (a & c).check(**{f"{a.key}/x": X, f"{c.key}/x": X / 2}).status is Status.HOLDS
    assert (a & c).check(x=X).status is Status.UNDECIDED


def test_rescored_evidence_is_compared_within_the_stated_tolerance():
    certificate = issue()
    assert certificate.check_rescored({"x": X}, {"x": X + 1e-8}).status is Status.HOLDS
    assert certificate.check_rescored({"x": X}, {"x": X + 1e-4}).status is Status.VIOLATED
    assert certificate.check_rescored({"x": X}, {"x": np.full_like(X, np.nan)}).status is Status.VIOLATED
    assert certificate.check_rescored({"x": X + 1}, {"x": X}).status is Status.UNDECIDED
    assert certificate.check_rescored({"x": X}, {}).status is Status.UNDECIDED


def test_storage_round_trip(tmp_path):
    both = issue(confidence=0.95) & issue("test.spread")
    save_certificate(tmp_path, both, {"x": X})
    again, evidence = load_certificate(tmp_path)
    assert again.intact
    assert str(again) == str(both)
    assert again.check(**evidence).status is Status.HOLDS
    assert (again.parts[0].witness["weights"] == np.arange(3.0)).all()
    alone = load_certificate(save_certificate(tmp_path / "other.json", issue(limit=math.inf)))
    assert alone[1] == {}
    assert alone[0].witness["limit"] == math.inf


def walk(node, path=()):
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, (*path, key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from walk(value, (*path, i))
    else:
        yield path, node


def test_every_edited_value_in_the_file_is_violated(tmp_path):
    target = save_certificate(tmp_path, issue(confidence=0.95), {"x": X})
    original = json.loads(target.read_text())
    edited = 0
    for path, value in walk(original["certificate"]):
        data = json.loads(target.read_text())
        node = data["certificate"]
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = (
            value * 1.01 + 0.01 if isinstance(value, float) else f"{value}x" if isinstance(value, str) else 7
        )
        (tmp_path / "edited.json").write_text(json.dumps(data))
        (tmp_path / "edited.safetensors").write_bytes((tmp_path / "certificate.safetensors").read_bytes())
        try:
            certificate, evidence = load_certificate(tmp_path / "edited.json")
        except InvalidFileError:
            continue
        assert certificate.check(**evidence).status is Status.VIOLATED, path
        edited += 1
    assert edited > 10


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1, 2]", "not a Corollary certificate"),
        ('{"a": 1}', "not a Corollary certificate"),
        ('{"format": 99, "certificate": {}, "seal": ""}', "format 99"),
        ('{"format": 1, "certificate": {}, "seal": ""}', "not a Corollary certificate"),
        (b"\xff\xfe\x00", "not JSON"),
    ],
)
def test_foreign_files(tmp_path, content, sentence):
    target = tmp_path / "certificate.json"
    target.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InvalidFileError, match=sentence):
        load_certificate(target)
    with pytest.raises(InvalidFileError, match="no such file"):
        load_certificate(tmp_path / "missing.json")


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n")
    with pytest.raises(InvalidFileError, match="not a Corollary certificate"):
        load_certificate(tmp_path / "table.csv")


def test_foreign_or_truncated_tensors(tmp_path):
    target = save_certificate(tmp_path, issue(), {"x": X})
    tensors = target.with_suffix(".safetensors")
    whole = tensors.read_bytes()
    for content in (whole[:50], b"PK\x03\x04 pickle", b""):
        tensors.write_bytes(content)
        with pytest.raises(InvalidFileError, match="not a safetensors file"):
            load_certificate(target)


def test_a_full_disk_leaves_the_old_certificate(tmp_path, monkeypatch):
    target = save_certificate(tmp_path, issue(), {"x": X})
    before = target.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corollary.runs.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_certificate(tmp_path, issue(limit=0.9), {"x": X})
    assert target.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"certificate.json", "certificate.safetensors"}


def test_digests_and_orders():
    assert digest(x=X) == digest(x=X.copy()) != digest(y=X)
    assert digest(x=X) != digest(x=X.astype(np.float32))
    assert digest(x=X) == digest(x=X.astype(">f8"))
    assert digest(x=X.reshape(2, 20)) != digest(x=X)
    order = order_from_digest(digest(x=X), 40)
    assert sorted(order) == list(range(40))
    assert (order != order_from_digest(digest(x=X + 1), 40)).any()
    with pytest.raises(InvalidInputError, match="numbers"):
        digest(x=["text"])


def test_rows_are_spent_once():
    rows = np.arange(10, dtype=np.uint64)
    refuse_reuse(rows, training=rows + np.uint64(20))
    with pytest.raises(ReusedRowsError, match="used for choosing") as caught:
        refuse_reuse(rows, training=rows[:0], choosing=rows[:3])
    assert (caught.value.count, caught.value.total) == (3, 10)


def test_printing_puts_what_was_not_checked_first():
    text = str(issue(confidence=0.95))
    assert text.index("independent") < text.index("bounded") < text.index("holds")
    assert "confidence 0.95" in text
    assert "without the method: 1" in text


def test_a_claim_refuses_nonsense(as_shipped):
    with pytest.raises(InvalidInputError, match="relation"):
        Claim("x", 1.0, "<", 2.0)
    with pytest.raises(InvalidInputError, match="tol"):
        Claim("x", 1.0, "<=", 2.0, tol=-1.0)


def test_registry_refuses_bad_and_taken_names():
    with pytest.raises(InvalidInputError, match="lower case"):
        register_rule(Rule("Bad name", needs=(), derive=mean_rule))
    with pytest.raises(InvalidInputError, match="exists already"):
        register_rule(Rule("test.mean", needs=(), derive=mean_rule))
