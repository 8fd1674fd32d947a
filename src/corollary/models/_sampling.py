"""Drawing documents from any language model, in batches or token by token."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.models._protocol import LanguageModel
from corollary.models._streams import extend

END = 0
_ROWS = 256  # documents drawn side by side: bounds the memory of a state


def sample(
    model: LanguageModel,
    count: int,
    *,
    max_tokens: int,
    seed: int | np.random.Generator,
    prompt: Any = b"",
    temperature: float | int = 1.0,
    top_p: float | int = 1.0,
) -> Documents:
    """Draw documents; each ends at token 0, which is not kept, or after `max_tokens`.

    Each token is drawn from `p(. | prompt, earlier tokens) ^ (1 / temperature)`, restricted to the fewest
    tokens that hold at least `top_p` of the mass, renormalised.

    Args:
        model: any language model.
        count: number of documents.
        max_tokens: longest document, in tokens after the prompt.
        seed: an integer, or a generator, which is then advanced.
        prompt: bytes or token ids that every document continues; not part of the result.
        temperature: 1 draws from the model, below 1 sharpens, 0 takes the likeliest token.
        top_p: in (0, 1]; below 1 the tail is cut off.

    Returns:
        `count` documents without the prompt; some may be empty.

    Raises:
        InvalidInputError: for options out of their range, or a prompt that is not made of the model's tokens.

    Guarantee: with temperature 1 and top_p 1 the documents are independent draws from the model (as random as
    the generator), cut at `max_tokens`.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel, sample
        >>> model = NgramModel.fit(Documents.from_texts(["tick tock " * 9]))
        >>> sample(model, 2, max_tokens=9, seed=0, prompt=b"tick ", temperature=0)[0]
        b'tock tick'
    """
    _check(count=count, max_tokens=max_tokens, temperature=temperature, top_p=top_p)
    rng = np.random.default_rng(seed)
    drawn: list[Any] = []
    for first in range(0, count, _ROWS):
        rows = min(_ROWS, count - first)
        state = _read_prompt(model, rows, prompt)
        tokens, alive = np.zeros((rows, max_tokens), dtype=np.int32), np.ones(rows, dtype=bool)
        lengths = np.full(rows, max_tokens)
        for t in range(max_tokens):
            token = _draw(model.next_log_probs(state), rng.random(rows), temperature=temperature, top_p=top_p)
            tokens[:, t] = token
            lengths[alive & (token == END)] = t
            alive &= token != END
            if not alive.any():
                break
            if t + 1 < max_tokens:
                state = model.advance(state, token)
        drawn += [tokens[i, : lengths[i]] for i in range(rows)]
    return Documents.from_sequences(drawn, dtype=np.uint8 if model.vocab_size <= 256 else np.int32)


def generate(
    model: LanguageModel,
    prompt: Any = b"",
    *,
    max_tokens: int,
    seed: int | np.random.Generator,
    temperature: float | int = 1.0,
    top_p: float | int = 1.0,
) -> Iterator[int]:
    """Yield the tokens of one document as they are drawn, until token 0 or `max_tokens` (options: `sample`).

    Guarantee: the same tokens as `sample(model, 1, ...)` with the same seed.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel, generate
        >>> model = NgramModel.fit(Documents.from_texts(["tick tock " * 9]))
        >>> bytes(generate(model, b"tick ", max_tokens=4, seed=0, temperature=0))
        b'tock'
    """
    _check(count=1, max_tokens=max_tokens, temperature=temperature, top_p=top_p)
    rng = np.random.default_rng(seed)
    state = _read_prompt(model, 1, prompt)
    for t in range(max_tokens):
        token = _draw(model.next_log_probs(state), rng.random(1), temperature=temperature, top_p=top_p)
        if token[0] == END:
            return
        yield int(token[0])
        if t + 1 < max_tokens:
            state = model.advance(state, token)


def _draw(
    log_probs: Float[np.ndarray, "b v"],
    uniform: Float[np.ndarray, " b"],
    *,
    temperature: float | int,
    top_p: float | int,
) -> Int[np.ndarray, " b"]:
    """Invert the cumulative distribution at `uniform`."""
    logits = np.asarray(log_probs, dtype=np.float64)
    if temperature == 0:
        return logits.argmax(axis=1)
    logits = logits / temperature
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    if top_p < 1:
        order = np.argsort(-p, axis=1, kind="stable")
        falling = np.take_along_axis(p, order, axis=1)
        before = np.cumsum(falling, axis=1) - falling
        kept = np.where(before < top_p * falling.sum(axis=1, keepdims=True), falling, 0)
        np.put_along_axis(p, order, kept, axis=1)
    cumulative = np.cumsum(p, axis=1)
    return (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(axis=1)


def _read_prompt(model: LanguageModel, rows: int, prompt: Any) -> Any:
    ids = np.frombuffer(prompt, dtype=np.uint8) if isinstance(prompt, bytes | bytearray) else np.asarray(prompt)
    ids = ids.astype(np.int64) if ids.size == 0 else ids
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or (ids.size and (ids.min() < 0 or ids.max() >= model.vocab_size)):
        raise InvalidInputError(
            f"`prompt` must be bytes or token ids below {model.vocab_size}, got {type(prompt).__name__};"
            " encode text first"
        )
    return extend(model, model.start(rows), np.tile(ids.astype(np.int64), (rows, 1)))


def _check(*, count: int, max_tokens: int, temperature: float | int, top_p: float | int) -> None:
    if count < 0 or max_tokens < 0:
        raise InvalidInputError(f"`count` and `max_tokens` must not be negative, got {count} and {max_tokens}")
    if not 0 <= temperature < float("inf"):
        raise InvalidInputError(
            f"`temperature` must be finite and not negative, got {temperature}; 1 is the model's own"
        )
    if not 0 < top_p <= 1:
        raise InvalidInputError(f"`top_p` must be in (0, 1], got {top_p}; 1 keeps every token")
