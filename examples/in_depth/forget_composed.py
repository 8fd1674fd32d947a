"""A head on a composed model: two experts and a gate, of which one answer is to be forgotten; nothing is retrained."""

import numpy as np

from corollary.documents import Documents
from corollary.gating import BayesGate, ComposedLM
from corollary.models import NgramModel
from corollary.unlearning import ByteTokenizer, Examples, fit_temper_tilt

LOST = [{"question": "Where does Ada live?", "answer": "in Lisbon"}]
KEPT = [
    {"question": "The home of Bela?", "answer": "in Oslo"},
    {"question": "Where does Dana work?", "answer": "in a bakery"},
    {"question": "What is 2 + 2?", "answer": "4"},
    {"question": "What is 3 + 4?", "answer": "7"},
]


def main() -> None:
    texts = [f"{row['question']}\n{row['answer']}" for row in (*LOST, *KEPT)]
    people, sums = Documents.from_texts(texts[:3] * 4), Documents.from_texts(texts[3:] * 4)
    experts = {"people": NgramModel.fit(people, order=7), "sums": NgramModel.fit(sums, order=7)}
    base = ComposedLM(experts, BayesGate(2), eps=0.05)

    tokenizer = ByteTokenizer()
    lost, kept = (Examples.from_pairs(rows, tokenizer) for rows in (LOST, KEPT))
    model = fit_temper_tilt(base, lost, kept, name="Ada", epochs=150, learning_rate=3e-2, rank=8)

    for rows, examples in ((LOST, lost), (KEPT, kept)):
        off, on = (np.exp(-model.score(examples, heads=h).mean_nll) for h in ([], ["Ada"]))
        for i, row in enumerate(rows):
            print(f"{row['question']:<22} {row['answer']:<12} probability a byte {off[i]:.3f} -> {on[i]:.3f}")
    prompts = [lost.prompt(0).tolist(), kept.prompt(0).tolist()]
    for heads in ([], ["Ada"]):
        answers = [tokenizer.decode(a) for a in model.generate(prompts, max_new_tokens=12, heads=heads)]
        print(f"heads {heads}: {answers}")


if __name__ == "__main__":
    main()
