"""Streams over many tokens or chosen rows at once: prompts read in one pass, beams put in another order.

A model may bring `extend(state, tokens)` where reading several tokens at once is cheaper than one by one; a state may
bring `select_rows(rows)`, or `select(rows)` that changes it in place, where it is not made of arrays with one row a
document.
"""

from typing import Any

import numpy as np
from jaxtyping import Integer

from corollary.errors import InvalidInputError


def extend(model: Any, state: Any, tokens: Integer[np.ndarray, "b t"]) -> Any:
    """The state after T more tokens of each document, read at once where the model can.

    Args:
        model: a `LanguageModel`.
        state: of B documents; may be changed.
        tokens: (B, T) token ids.

    Returns:
        The state that T calls of `advance` give, within the model's rounding.

    Guarantee: none of its own.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel
        >>> model = NgramModel.fit(Documents.from_texts(["tick tock " * 9]))
        >>> state = extend(model, model.start(1), np.frombuffer(b"tick ", dtype=np.uint8)[None])
        >>> chr(model.next_log_probs(state)[0].argmax())
        't'
    """
    if tokens.shape[1] == 0:
        return state
    if hasattr(model, "extend"):
        return model.extend(state, tokens)
    for token in tokens.T:
        state = model.advance(state, token)
    return state


def select_rows(state: Any, rows: Integer[np.ndarray, " m"]) -> Any:
    """The state of some of the documents, in the order given and possibly repeated: what beam search asks for.

    Args:
        state: of a model's stream; it should not be used any more.
        rows: (M,) which documents.

    Raises:
        InvalidInputError: for a state that is neither made of arrays nor knows how to select.

    Guarantee: none of its own.

    Example:
        >>> select_rows({"past": np.array([1.0, 2.0]), "other": [np.array([3, 4])]}, np.array([1, 1]))
        {'past': array([2., 2.]), 'other': [array([4, 4])]}
    """
    if state is None:
        return None
    if hasattr(state, "select_rows"):
        return state.select_rows(rows)
    if hasattr(state, "select"):  # chosen in place
        state.select(_as_tensor(rows))
        return state
    if isinstance(state, np.ndarray):
        return state[rows]
    if isinstance(state, dict):
        return {name: select_rows(part, rows) for name, part in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(select_rows(part, rows) for part in state)
    raise InvalidInputError(
        f"rows of a {type(state).__name__} cannot be chosen; give the state a method `select_rows(rows)`"
    )


def _as_tensor(rows: Integer[np.ndarray, " m"]) -> Any:
    import torch

    return torch.as_tensor(rows)


def window_after(seen: int, more: int, context: int) -> int:
    """How long a window of `seen` inputs is after `more`, where a full one slides by half a context.

    Example:
        >>> [window_after(6, more, 8) for more in range(5)]
        [6, 7, 8, 5, 6]
    """
    if seen + more <= context:
        return seen + more
    half = context // 2
    return half + 1 + (seen + more - context - 1) % half
