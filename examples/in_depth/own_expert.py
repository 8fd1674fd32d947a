"""A model of your own as an expert: six methods make a language model, and then it composes, streams and certifies."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from corollary.documents import Documents
from corollary.gating import ComposedLM, FixedShareGate
from corollary.models import NgramModel, sample
from corollary.testing import check_language_model


class Digits:
    """Knows one thing: that digits are likely. No memory, so its state is the number of documents."""

    vocab_size = 256

    def __init__(self, share: float = 0.9) -> None:
        digits = np.isin(np.arange(256), list(b"0123456789"))
        self.table = np.log(np.where(digits, share / 10, (1 - share) / 246)).astype(np.float32)

    def log_probs(self, documents: Documents) -> np.ndarray:
        """Of every token given the earlier ones: here they do not matter."""
        return self.table[documents.tokens]

    def start(self, batch: int) -> int:
        """State of `batch` empty documents."""
        return batch

    def next_log_probs(self, state: int) -> np.ndarray:
        """One row of 256 a document."""
        return np.tile(self.table, (state, 1))

    def advance(self, state: int, tokens: np.ndarray) -> int:
        """State after one more token each."""
        return state

    def fingerprint(self) -> str:
        """Equal fingerprints, equal probabilities."""
        return hashlib.sha256(self.table.tobytes()).hexdigest()

    def save(self, folder: str | Path) -> Any:
        """Needed by the protocol; composed models write their parts with it."""
        raise NotImplementedError("nothing to keep: it is made by its class")


def main() -> None:
    words = NgramModel.fit(Documents.from_texts(["to be or not to be, that is the question"] * 4), order=4)
    experts = {"words": words, "digits": Digits()}
    check_language_model(experts["digits"])  # normalised, causal, the same scored and streamed
    model = ComposedLM(experts, FixedShareGate(2), eps=0.05)

    documents = Documents.from_texts(["to be or not", "314159265358", "to be 31415926"])
    print(f"{'bits':<16}{'composed':>10}{'words':>10}{'digits':>10}")
    for text in documents:
        one = Documents.from_texts([text])
        bits = [-m.log_probs(one).sum() / np.log(2) for m in (model, *experts.values())]
        print(f"{text.decode():<16}" + "".join(f"{b:10.2f}" for b in bits))
    print("no document lies above its best expert by more than", round(model.excess_bits, 3), "bits")
    print("continued:", sample(model, 1, prompt=b"to be", max_tokens=12, seed=0, temperature=0)[0])


if __name__ == "__main__":
    main()
