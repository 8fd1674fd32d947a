"""A head trained on draws of two Markov chains, on a base that is their mixture exactly."""

import numpy as np

from corollary.certificates import digest
from corollary.gating import BayesGate, ComposedLM
from corollary.unlearning import Examples, fit_temper_tilt


class Chain:
    """A Markov chain as a language model: log-probabilities of the first token and of each next one."""

    def __init__(self, start, move):
        self.rows = np.log(np.concatenate([start[None], move]))  # row 0 before the first token
        self.vocab_size = len(start)

    def start(self, batch):
        return np.zeros(batch, dtype=np.int64)

    def next_log_probs(self, state):
        return self.rows[state]

    def advance(self, state, tokens):
        return np.asarray(tokens, dtype=np.int64) + 1

    def log_probs(self, documents):
        before = np.concatenate([[0], documents.tokens[:-1].astype(np.int64) + 1])
        before[documents.position == 0] = 0
        return self.rows[before, documents.tokens].astype(np.float32)

    def fingerprint(self):
        return digest(rows=self.rows)

    def save(self, folder):
        raise NotImplementedError


def draw(chain, rng, count, length):
    """Sequences of a chain behind the start token, all of one length."""
    out = np.zeros((count, length), dtype=np.int64)
    state = chain.start(count)
    for t in range(length):
        cumulative = np.exp(chain.next_log_probs(state)).cumsum(1)
        out[:, t] = (rng.random((count, 1)) * cumulative[:, -1:] > cumulative).sum(1)
        state = chain.advance(state, out[:, t])
    return Examples.from_tokens([[0]] * count, list(out))


def test_a_trained_head_brings_the_exact_mixture_near_the_retained_world(rng):
    """S2: the base is the mixture of two chains exactly, by its Bayes gate; new draws of the retained one judge it."""
    v, gamma = 6, 0.4
    worlds = []
    for favoured in (slice(0, 4), slice(2, 6)):  # each chain prefers some tokens, whatever came before
        weights = np.ones(v)
        weights[favoured] += 6
        worlds.append(Chain(weights / weights.sum(), rng.dirichlet(weights, v)))
    base = ComposedLM({"retain": worlds[0], "forget": worlds[1]}, BayesGate(2, prior=(1 - gamma, gamma)), eps=0.0)
    kept, lost = (draw(w, rng, 600, 12) for w in worlds)
    options = {"rank": 8, "epochs": 30, "learning_rate": 1e-2, "share": gamma}
    model = fit_temper_tilt(base, lost, kept, **options)
    new = draw(worlds[0], rng, 500, 12)
    truth = np.zeros((500, 12))
    for i in range(500):
        path = new.sequence(i)[1:]
        truth[i] = worlds[0].rows[np.concatenate([[0], path[:-1] + 1]), path]
    excess = {
        name: (truth.ravel() - model.score(new, heads=heads).log_probs).mean()
        for name, heads in (("on", None), ("off", []))
    }
    assert 0 < excess["on"] < 0.6 * excess["off"], excess
