"""Who reads and writes text for a model, through whatever wraps it, and whether several models share one tokenizer."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from corollary.documents import Documents
from corollary.errors import InvalidInputError


def parts_of(model: Any) -> Iterator[Any]:
    """A model and all it is made of: experts, anchors and guides by name, the base beneath heads.

    Example:
        >>> from types import SimpleNamespace as Made
        >>> [type(p).__name__ for p in parts_of(Made(base=Made(experts={"a": 1, "b": "x"})))]
        ['SimpleNamespace', 'SimpleNamespace', 'int', 'str']
    """
    yield model
    for kind in ("experts", "anchors", "guides"):
        inner = getattr(model, kind, None)
        for part in inner.values() if isinstance(inner, Mapping) else ():
            yield from parts_of(part)
    if getattr(model, "base", None) is not None:
        yield from parts_of(model.base)


def speaker_of(model: Any) -> Any:
    """The first part that has a tokenizer, with `encode` and `decode`; None for a model that knows ids only."""
    return next(
        (m for m in parts_of(model) if hasattr(m, "encode") and getattr(m, "tokenizer", None) is not None), None
    )


def check_vocabularies(models: Mapping[str, Any]) -> int:
    """The number of tokens that all the models share; those with a tokenizer must share that, too.

    A model without one (a network trained on the ids of an expert, say) is accepted: only its size can be compared.

    Raises:
        InvalidInputError: where numbers of tokens or tokenizers differ.
    """
    sizes = {name: m.vocab_size for name, m in models.items()}
    if len(set(sizes.values())) > 1:
        raise InvalidInputError(f"models disagree on the vocabulary: {sizes}; compose models with one tokenizer")
    speakers = {name: speaker_of(m) for name, m in models.items()}
    told = {name: s.vocabulary for name, s in speakers.items() if hasattr(s, "vocabulary")}
    if len(set(told.values())) > 1:
        names = ", ".join(f"{n}: {v[:8]}" for n, v in told.items())
        raise InvalidInputError(
            f"experts have tokenizers that differ ({names}); the same ids must mean the same text in all of them"
        )
    return next(iter(sizes.values()))


def text_bytes(model: Any, documents: Documents) -> Int[np.ndarray, " n"]:
    """(N,) bytes of each document's text: of the decoded tokens where the model has a tokenizer, else its tokens."""
    speaker = speaker_of(model)
    if speaker is None:
        return documents.lengths
    rows = np.split(documents.tokens, documents.offsets[1:-1])
    return np.array([len(speaker.decode(row).encode()) for row in rows], dtype=np.int64)
