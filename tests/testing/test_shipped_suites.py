"""The shipped suites pass on what is right, and catch what is wrong."""

import dataclasses

import numpy as np
import pytest

from corollary.certificates import Certificate, Claim, Reference, Rule, register_rule
from corollary.datasets import dirichlet_world
from corollary.documents import Documents
from corollary.gating import BayesGate, ComposedLM, robust_gate
from corollary.models import NgramModel, TransformerConfig, TransformerLM
from corollary.testing import check_certificate, check_language_model

TEXTS = ["the cat sat on the mat", "1 + 1 = 2"] * 3


def test_certificates_of_the_library_pass():
    world = dirichlet_world(p=3, n=20, seed=0)
    solution = robust_gate(world.domains, world.experts)
    check_certificate(solution.certificate, solution.evidence)
    check_certificate(solution.certificate & solution.certificate, solution.evidence)


register_rule(Rule("suite.reads_back", needs=("x",), derive=lambda w, e: [Claim("mean", w["mean"], "<=", w["limit"])]))
register_rule(Rule("suite.honest", needs=("x",), derive=lambda w, e: [Claim("mean", e["x"].mean(), "<=", w["limit"])]))


def test_wrong_certificates_are_caught():
    x = np.array([0.1, 0.2])
    good = Certificate.issue(
        "suite.honest", statement="s", evidence={"x": x}, witness={"limit": 1.0}, reference=Reference("none")
    )
    check_certificate(good, {"x": x})
    with pytest.raises(AssertionError, match="must hold"):
        check_certificate(dataclasses.replace(good, witness={"limit": 0.1}), {"x": x})
    with pytest.raises(AssertionError, match="on its evidence"):
        check_certificate(good, {"x": x[::-1]})


@pytest.mark.parametrize("kind", ["ngram", "transformer", "composed"])
def test_models_of_the_library_pass(kind):
    docs = Documents.from_texts(TEXTS)
    ngram = NgramModel.fit(docs, order=3)
    models = {
        "ngram": lambda: ngram,
        "transformer": lambda: TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16), seed=0),
        "composed": lambda: ComposedLM({"a": ngram, "b": NgramModel.fit(docs, order=2)}, BayesGate(2)),
    }
    check_language_model(models[kind]())


def test_wrong_models_are_caught():
    good = NgramModel.fit(Documents.from_texts(TEXTS), order=3)

    class Unnormalised(NgramModel):
        def next_log_probs(self, state):
            return super().next_log_probs(state) + 0.01

    class OtherInBatches(NgramModel):
        def log_probs(self, documents):
            return super().log_probs(documents) - 0.01 * (len(documents) > 1)

    with pytest.raises(AssertionError, match="sum to"):
        check_language_model(Unnormalised(good.tables, good.discounts))
    with pytest.raises(AssertionError, match="alone and in a batch"):
        check_language_model(OtherInBatches(good.tables, good.discounts))
    with pytest.raises(AssertionError, match="protocol"):
        check_language_model(object())
