"""A transductor as one of the experts of a composed model: it counts, the n-gram spells."""

import numpy as np

from corollary.automata import RationalHead, RationalTransductor, TransductorConfig, TransductorLM
from corollary.documents import Documents
from corollary.gating import ComposedLM, FixedShareGate
from corollary.models import NgramModel, train


def counted(rng: np.random.Generator) -> str:
    """Letters a and b, after each the number of b so far mod 3, as x, y or z."""
    steps = rng.integers(0, 2, 24)
    return "".join("ab"[s] + "xyz"[c % 3] for s, c in zip(steps, steps.cumsum(), strict=True))


def main() -> None:
    rng = np.random.default_rng(0)
    lines = [counted(rng) for _ in range(60)]
    config = TransductorConfig(vocab_size=256, width=32, layers=1, heads=2, context=64)
    counter = TransductorLM(RationalTransductor(config, RationalHead(256, 8, seed=0), seed=0))
    train(counter, Documents.from_texts(lines[:50]), steps=80, batch_tokens=1024, lr=1e-2)
    words = NgramModel.fit(Documents.from_texts(["to be or not to be, that is the question. "] * 4), order=4)
    model = ComposedLM({"counter": counter, "words": words}, FixedShareGate(2), eps=0.05)

    print(f"{'bits':<28}{'composed':>10}{'counter':>10}{'words':>10}")
    for text in (lines[55], "to be, that is", lines[56][:20] + " not to be"):
        one = Documents.from_texts([text])
        bits = [-m.log_probs(one).sum() / np.log(2) for m in (model, counter, words)]
        print(f"{text[:26]:<28}" + "".join(f"{b:10.1f}" for b in bits))
    print("no document lies above its best expert by more than", round(model.excess_bits, 3), "bits")


if __name__ == "__main__":
    main()
