"""A rejector in front of a composed model: it keeps silent where its next byte would likely be wrong, and says how often.

Two experts, sums and words, composed by a causal gate; the output is the likeliest next byte of an unseen document. What
the composed model knows while it answers (its probabilities, whom the gate trusts) are the rejector's features.
"""

from functools import partial

import numpy as np

from corollary.deferral import Rejector, coverage_at, coverage_limit, max_probability
from corollary.documents import Documents
from corollary.gating import ComposedLM, FixedShareGate
from corollary.metrics import FBeta, best_threshold
from corollary.models import NgramModel

WORDS = "gate router expert mixture theorem certificate budget reject accept model price quality".split()
LENGTH = 30  # bytes that the model has read when it answers


def sums(rng: np.random.Generator) -> str:
    pairs = rng.integers(10, 50, size=(8, 2))
    return "".join(f"{a}+{b}={a + b};" for a, b in pairs)


def words(rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS, size=10))


def outputs(model: ComposedLM, texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, next-byte probabilities, and whether the likeliest byte is right: one unit a document."""
    tokens = np.array([list(t.encode()[: LENGTH + 1]) for t in texts], dtype=np.uint8)
    state = model.start(len(texts))
    for step in tokens[:, :LENGTH].T:
        state = model.advance(state, step)
    p = np.exp(model.next_log_probs(state).astype(np.float64))
    p /= p.sum(1, keepdims=True)
    top = np.sort(p, axis=1)[:, ::-1][:, :3]
    entropy = -(p * np.log(np.maximum(p, 1e-12))).sum(1)
    shown = p.argmax(1)
    kind = [np.isin(shown, list(group)) for group in (b"0123456789", b"+=;", b" ")]
    features = np.column_stack([top, np.log(top), entropy, model.next_trust(state), *kind])
    return features, p, shown == tokens[:, LENGTH]


def main() -> None:
    rng = np.random.default_rng(0)
    experts = {name: NgramModel.fit(Documents.from_texts([make(rng) for _ in range(400)]), order=5)
               for name, make in (("sums", sums), ("words", words))}  # fmt: skip
    model = ComposedLM(experts, FixedShareGate(2), eps=0.05)
    x, p, good = outputs(model, [(sums if rng.random() < 0.5 else words)(rng) for _ in range(2400)])
    learn, move, rest = slice(0, 800), slice(800, 1200), slice(1200, None)

    rejector = Rejector(cost=0.2).fit(x[learn], good[learn])
    taken = rejector.accept(x[rest])
    print(f"the model alone is wrong on {(~good).mean():.1%} of the documents")
    print(
        f"built-in threshold at price .2: accepts {taken.mean():.1%}, {(~good[rest][taken]).mean():.1%} of them wrong"
    )
    for name, score in (("rejector", rejector.decision_function(x[rest])), ("MaxProb", max_probability(p[rest]))):
        print(f"coverage at 10 % wrong, {name:<9} {coverage_at(score, good[rest], error=0.1):.1%}")
    print(f"coverage at 10 % wrong, limit     {coverage_limit((~good[rest]).mean(), 0.1):.1%}")

    rejector.choose_threshold(x[move], good[move], by=partial(best_threshold, FBeta(0.5)))
    print(f"the threshold at which F(1/2) of `corollary.metrics` is largest: {rejector.threshold_:.3f}")
    print()
    print(rejector.certify(x[rest], good[rest], error=0.15))


if __name__ == "__main__":
    main()
