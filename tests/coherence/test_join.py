"""Coherence over prompt variants in front of a rejector: fewer of the accepted answers are wrong."""

import numpy as np

from corollary.coherence import CoherentAnswers
from corollary.deferral import Rejector

OPTIONS = ("a", "b", "c", "d")


def test_coherent_answers_in_front_of_a_rejector():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 1200)

    def model(prompt, y):
        logits = rng.normal(size=4)
        logits[y] += -0.5 if prompt.startswith("Quick") else 1.5
        p = np.exp(logits) / np.exp(logits).sum()
        return dict(zip(OPTIONS, p.tolist(), strict=True))

    probs, gain, realised = [], [], []
    for y in truth:
        heard = []

        def spoken(prompt, y=y, heard=heard):
            heard.append(model(prompt, y))
            return heard[-1]

        found = CoherentAnswers([spoken], ["{question}", "Please: {question}", "Quick: {question}"])("which?")
        probs.append([found.probs[o] for o in OPTIONS])
        gain.append(found.gain)
        before = np.mean([np.log(one[OPTIONS[y]]) for one in heard])
        realised.append(np.log(found.probs[OPTIONS[y]]) - before)
    assert np.allclose(gain, realised, atol=1e-9)  # no label was used for the first
    p = np.array(probs)
    right = p.argmax(1) == truth
    x = np.column_stack([np.sort(np.log(p), axis=1), np.log1p(gain)])
    rejector = Rejector(cost=0.15).fit(x[:700], right[:700])
    taken = rejector.accept(x[700:])
    assert 0.05 < taken.mean() < 0.95
    assert (~right[700:][taken]).mean() < (~right[700:]).mean() - 0.1
