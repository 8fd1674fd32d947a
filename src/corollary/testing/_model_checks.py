"""What every language model must do; run it on your own before composing it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from corollary.documents import Documents
from corollary.models import LanguageModel


def check_language_model(
    model: Any, texts: Sequence[bytes] = (b"a", b"The cat sat.", b""), *, tol: float = 1e-4
) -> None:
    """Check that a model is a distribution over documents, the same scored, streamed, alone and in a batch.

    Args:
        model: the model.
        texts: documents to try it on; bytes below its vocabulary, empty ones welcome.
        tol: largest accepted difference of two log-probabilities, and of a sum of probabilities from one.

    Raises:
        AssertionError: naming the first thing that is wrong.

    Guarantee: none; passing means that next-token probabilities sum to one at every prefix tried, that scoring and
        streaming agree, and that neither batch nor order of the documents matters.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel
        >>> check_language_model(NgramModel.fit(Documents.from_texts(["The cat sat on the mat."])))
    """
    if not isinstance(model, LanguageModel):
        raise AssertionError(
            "a language model needs " + ", ".join(LanguageModel.__annotations__) + " and the methods of the protocol"
        )
    documents = Documents.from_texts(texts)
    scored = model.log_probs(documents)
    _expect(
        scored.shape == documents.tokens.shape,
        f"`log_probs` gave shape {scored.shape} for {len(documents.tokens)} tokens",
    )
    _expect(bool((scored <= tol).all()), "`log_probs` gave a probability above one, or NaN")
    for i in range(len(documents)):
        alone = model.log_probs(documents.select([i]))
        where = slice(documents.offsets[i], documents.offsets[i + 1])
        _expect(
            bool(np.allclose(alone, scored[where], atol=tol)), f"document {i} scores differently alone and in a batch"
        )
        state = model.start(2)
        for t, token in enumerate(documents.tokens[where]):
            log_probs = model.next_log_probs(state)
            _expect(log_probs.shape == (2, model.vocab_size), f"`next_log_probs` gave shape {log_probs.shape}")
            total = np.exp(log_probs.astype(np.float64)).sum(1)
            _expect(bool(np.abs(total - 1).max() <= tol), f"probabilities after {t} tokens sum to {total[0]:.6f}")
            streamed = log_probs[:, token]
            _expect(
                bool(np.allclose(streamed, scored[where][t], atol=tol)),
                f"token {t} of document {i} streams differently",
            )
            state = model.advance(state, np.array([token, token]))
    _expect(model.fingerprint() == model.fingerprint(), "`fingerprint` changes from call to call")


def _expect(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)
