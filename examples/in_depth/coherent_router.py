"""Prompt variants in front of a rejector: answers are made coherent first, and left to a person where they disagree."""

import numpy as np

from corollary.coherence import CoherentAnswers
from corollary.deferral import Rejector

OPTIONS = ("a", "b", "c", "d")


def model(prompt: str, truth: int, rng: np.random.Generator) -> dict[str, float]:
    """A model that knows most answers, and is led astray by one phrasing in three."""
    logits = rng.normal(size=4)
    logits[truth] += -0.5 if prompt.startswith("Quick") else 1.5
    p = np.exp(logits) / np.exp(logits).sum()
    return dict(zip(OPTIONS, p.tolist(), strict=True))


def main() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 1500)
    variants = ["{question}", "Please answer: {question}", "Quick: {question}"]
    single, common, gain = [], [], []
    for y in truth:
        ask = CoherentAnswers([lambda prompt, y=y: model(prompt, int(y), rng)], variants)
        found = ask("which?")
        common.append([found.probs[o] for o in OPTIONS])
        gain.append(found.gain)
        once = model("which?", int(y), rng)
        single.append(max(once, key=once.__getitem__) == OPTIONS[y])
    p, right = np.array(common), np.array(common).argmax(1) == truth
    print(f"one phrasing: {np.mean(single):.3f} right; three phrasings, one answer: {right.mean():.3f}")
    print(f"drop in log-loss over the phrasings, predicted without labels: {np.mean(gain):.3f}")

    x = np.column_stack([np.sort(np.log(p), axis=1), np.log1p(gain)])  # how sure, and how torn
    rejector = Rejector(cost=0.15).fit(x[:800], right[:800])
    taken = rejector.accept(x[800:])
    print(f"the rejector answers {taken.mean():.0%} of new questions, {right[800:][taken].mean():.3f} of them right")


if __name__ == "__main__":
    main()
