import numpy as np
import pytest
import torch

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating import CausalGate, RobustGate, gate_log_probs, sample_gate, score_experts
from corollary.models import NgramModel


@pytest.fixture(scope="module")
def experts():
    """Two speakers who share no letter."""
    return [NgramModel.fit(Documents.from_texts([t] * 8), order=2) for t in ("abab", "xyxy")]


class Constant:
    """A whole-sequence gate that does not look: the model is the mixture of the experts."""

    def __init__(self, *weights):
        self.weights = torch.tensor([weights], dtype=torch.float64)

    def log_gate(self, log_likelihoods, features=None):
        return self.weights.expand(len(log_likelihoods), -1).log()


@pytest.mark.parametrize("method", ["rejection", "resampling"])
def test_a_constant_gate_gives_its_mixture(experts, method):
    drawn = sample_gate(Constant(0.8, 0.2), experts, size=400, method=method, max_tokens=12, seed=1)
    spoken = drawn.log_likelihoods.argmax(1) == 0
    filled = np.array([len(d) > 0 for d in drawn.sequences])
    share = spoken[filled].mean()
    assert abs(share - 0.8) < 4 * (0.16 / filled.sum()) ** 0.5  # four standard errors
    assert abs(drawn.acceptance - (0.5 if method == "rejection" else drawn.acceptance)) < 0.1


@pytest.mark.parametrize("gate", ["network", "ngram"])
def test_samples_of_a_trained_gate_teach_a_causal_one(experts, gate):
    docs = Documents.from_texts(["abab", "xyxy"] * 20)
    domain, scores = np.tile([0, 1], 20), score_experts(experts, docs)
    teacher = RobustGate(gate=gate, steps=30, normalisation="none").fit(
        scores, domain, features=docs if gate == "ngram" else None
    )
    drawn = sample_gate(teacher, experts, size=30, max_tokens=10)
    assert len(drawn.sequences) == 30
    said = score_experts(experts, Documents.from_texts(drawn.sequences))
    assert np.array_equal(said.totals(), drawn.log_likelihoods)
    student = CausalGate(steps=20, batch=64).fit([said])
    assert np.isfinite(gate_log_probs(student, scores)).all()


def test_the_same_seed_gives_the_same_documents(experts):
    gate = Constant(0.5, 0.5)
    a, b, c = (sample_gate(gate, experts, size=20, max_tokens=6, seed=s) for s in (3, 3, 4))
    assert a.sequences == b.sequences != c.sequences


@pytest.mark.usefixtures("as_shipped")
def test_unknown_methods_are_refused(experts):
    with pytest.raises(InvalidInputError, match="method"):
        sample_gate(Constant(0.5, 0.5), experts, size=1, method="mcmc")
