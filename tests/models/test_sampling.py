from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.models import NgramModel, generate, sample

MODEL = NgramModel.fit(Documents.from_texts(["ab", "ba", "abab", "b"] * 5), order=3)


def exact(text, model=MODEL):
    """Probability that the model writes this text and then ends."""
    state, total = model.start(1), 0.0
    for token in [*text, 0]:
        total += model.next_log_probs(state)[0, token]
        state = model.advance(state, np.array([token]))
    return np.exp(total)


def test_frequencies_are_those_of_the_model():
    n = 20_000
    drawn = Counter(sample(MODEL, n, max_tokens=30, seed=3))
    texts = sorted(t for t in drawn if len(t) < 5 and drawn[t] > 3 and exact(t) * n > 10)
    expected = np.array([exact(t) for t in texts]) * n
    observed = np.array([drawn[t] for t in texts])
    assert len(texts) >= 5
    expected, observed = np.append(expected, n - expected.sum()), np.append(observed, n - observed.sum())
    assert chisquare(observed, expected).pvalue > 1e-3  # fixed seed; a wrong sampler gives 1e-50


def test_a_sharpened_sampler_is_caught():
    drawn = list(sample(MODEL, 20_000, max_tokens=30, seed=3, temperature=0.9))
    observed = drawn.count(b"ab")
    p = exact(b"ab")
    assert abs(observed - 20_000 * p) > 5 * np.sqrt(20_000 * p * (1 - p))


def test_temperature_and_top_p_by_formula():
    class Fixed:
        vocab_size = 4
        p = np.array([0.1, 0.5, 0.15, 0.25])

        def start(self, batch):
            return batch

        def next_log_probs(self, state):
            return np.log(np.tile(self.p, (state, 1)))

        def advance(self, state, tokens):
            return state

        def log_probs(self, documents):
            raise NotImplementedError

        fingerprint = save = log_probs

    def frequencies(**options):
        docs = sample(Fixed(), 40_000, max_tokens=1, seed=0, **options)
        return np.append(len(docs) - len(docs.tokens), np.bincount(docs.tokens, minlength=4)[1:]) / 40_000

    def tilted(power, kept):
        q = np.where(kept, Fixed.p**power, 0)
        return q / q.sum()

    # Standard errors are at most .0025; four of them.
    np.testing.assert_allclose(frequencies(), Fixed.p, atol=0.01)
    np.testing.assert_allclose(frequencies(temperature=0.5), tilted(2, [1, 1, 1, 1]), atol=0.01)
    np.testing.assert_allclose(frequencies(top_p=0.5), [0, 1, 0, 0], atol=0)
    np.testing.assert_allclose(frequencies(top_p=0.7), tilted(1, [0, 1, 0, 1]), atol=0.01)
    np.testing.assert_allclose(frequencies(top_p=0.76), tilted(1, [0, 1, 1, 1]), atol=0.01)
    np.testing.assert_allclose(frequencies(temperature=0), [0, 1, 0, 0], atol=0)


def test_seeds_prompts_and_ends():
    first = sample(MODEL, 50, max_tokens=12, seed=5)
    again = sample(MODEL, 50, max_tokens=12, seed=5)
    assert first.digest() == again.digest()
    assert first.digest() != sample(MODEL, 50, max_tokens=12, seed=6).digest()
    assert not (first.tokens == 0).any()
    assert (first.lengths <= 12).all()
    assert (first.lengths < 12).any()
    alike = sample(MODEL, 9, max_tokens=5, seed=5, prompt=b"a", temperature=0)
    assert set(alike) == set(sample(MODEL, 1, max_tokens=5, seed=1, prompt=[97], temperature=0))
    for seed in range(20):
        options = {"max_tokens": 12, "seed": seed, "temperature": 1.3, "top_p": 0.9}
        assert bytes(generate(MODEL, b"b", **options)) == sample(MODEL, 1, prompt=b"b", **options)[0]
    assert len(sample(MODEL, 0, max_tokens=5, seed=0)) == 0
    assert sample(MODEL, 3, max_tokens=0, seed=0).lengths.tolist() == [0, 0, 0]
    assert len(sample(MODEL, 2500, max_tokens=3, seed=0)) == 2500
    rng = np.random.default_rng(5)
    assert sample(MODEL, 50, max_tokens=12, seed=rng).digest() == first.digest()


WRONG = [
    {"temperature": -1.0},
    {"temperature": float("nan")},
    {"top_p": 0.0},
    {"top_p": 1.5},
    {"prompt": [256]},
    {"prompt": [-1]},
    {"prompt": "text"},
    {"prompt": [[1]]},
    {"prompt": [0.5]},
    {"max_tokens": -1},
]


@pytest.mark.parametrize("options", WRONG)
def test_wrong_options(options):
    with pytest.raises(InvalidInputError):
        sample(MODEL, 1, **{"max_tokens": 4, "seed": 0, **options})
    with pytest.raises(InvalidInputError):
        next(generate(MODEL, **{"max_tokens": 4, "seed": 0, **options}))
