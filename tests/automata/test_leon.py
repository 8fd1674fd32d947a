"""Leon trains a transductor: what it learned is snapped and certified equal to parity at all lengths."""

import pytest

from corollary.automata import (
    RationalHead,
    RationalTransductor,
    TransductorConfig,
    certify,
    learn,
    length_accuracy,
    task,
)
from corollary.certificates import Status
from corollary.optim import Leon, make_optimizer


@pytest.mark.parametrize("seed", [0, 1])
def test_leon_trains_a_transductor(seed):
    problem = task("parity")
    head = RationalHead(problem.vocab_size, 8, family="signed", seed=seed)
    config = TransductorConfig(vocab_size=problem.vocab_size, classes=problem.classes, layers=1, attention=False)
    model = RationalTransductor(config, head, seed=seed)
    leon = make_optimizer("leon", model, lr=1e-2)
    assert isinstance(leon, Leon)
    learn(model, problem, steps=200, seed=seed, optimizer=leon)
    snapped = model.snap(60)
    certificate, evidence = certify(snapped, problem.automaton)
    assert certificate.rule == "automata.all_lengths"
    assert certificate.check(**evidence).status is Status.HOLDS
    assert length_accuracy(snapped, problem, [5_000], count=2)[5_000]["words"] == 1.0
