"""A certificate from your own rule: issued, stored, checked again, and caught when a number was edited."""

import tempfile
from pathlib import Path

import numpy as np

from corollary.certificates import (
    Assumption,
    Certificate,
    Claim,
    Reference,
    Rule,
    Undecided,
    clopper_pearson,
    load_certificate,
    register_rule,
    save_certificate,
)
from corollary.testing import check_certificate


def accuracy(witness: dict, evidence: dict) -> list[Claim]:
    """Lower confidence bound on the accuracy, from who was right."""
    right = evidence["right"]
    if len(right) < 30:
        raise Undecided(f"{len(right)} cases, and at least 30 are needed")
    bound = clopper_pearson(right.sum(), len(right), delta=witness["delta"], side="lower").lower
    return [Claim("accuracy (lower confidence bound)", bound, ">=", witness["accuracy"], trivial=0.5)]


register_rule(Rule("example.accuracy", needs=("right",), derive=accuracy))


def main() -> None:
    right = np.random.default_rng(0).random(400) < 0.9  # what a classifier got right on 400 held-out cases
    certificate = Certificate.issue(
        "example.accuracy",
        statement="The classifier is right on at least 82 % of what the cases were drawn from.",
        evidence={"right": right},
        witness={"delta": 0.05, "accuracy": 0.82},
        confidence=0.95,
        reference=Reference("Clopper and Pearson (1934)", "exact binomial limits", "textbook"),
        assumptions=[Assumption("the cases are drawn independently, and none was used in training")],
    )
    print(certificate)
    check_certificate(certificate, {"right": right})  # the suite that the library runs on its own rules

    with tempfile.TemporaryDirectory() as folder:
        path = save_certificate(Path(folder) / "certificate.json", certificate, {"right": right})
        stored, evidence = load_certificate(path)
        print("as stored:       ", stored.check(**evidence))
        print("other evidence:  ", stored.check(right=right[::-1]))
        path.write_text(path.read_text().replace("0.82", "0.92"))
        edited, evidence = load_certificate(path)
        print("edited number:   ", edited.check(**evidence))


if __name__ == "__main__":
    main()
