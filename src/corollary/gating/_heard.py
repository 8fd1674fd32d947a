"""Experts that run elsewhere: only their log-probabilities of the next token are heard, and composed all the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.documents import Documents
from corollary.errors import InvalidInputError


class HeardExpert:
    """The place of an expert on a server: before every token the caller hands in what the server said (`hear`).

    Args:
        vocab_size: tokens that the tables cover.
        name: of the model there, part of the fingerprint.

    Guarantee: that of the model it stands in, wherever the tables given are normalised.

    Example:
        >>> from corollary.gating import BayesGate, ComposedLM, HeardExpert, hear
        >>> model = ComposedLM({"here": HeardExpert(3), "there": HeardExpert(3)}, BayesGate(2))
        >>> state = model.start(1)
        >>> hear(state, [np.log([[0.6, 0.3, 0.1]]), np.log([[0.2, 0.3, 0.5]])])
        >>> np.exp(model.next_log_probs(state)).round(3).tolist()
        [[0.4, 0.3, 0.3]]
        >>> state = model.advance(state, np.array([2]))
    """

    def __init__(self, vocab_size: int, *, name: str = "heard") -> None:
        if vocab_size < 2:
            raise InvalidInputError(f"`vocab_size` must be at least 2, got {vocab_size}")
        self.vocab_size, self.name = vocab_size, name

    def start(self, batch: int) -> dict[str, Any]:
        """An empty ear for `batch` documents."""
        return {"heard": None, "batch": np.zeros((batch, 0))}

    def next_log_probs(self, state: dict[str, Any]) -> Float[np.ndarray, "b vocab"]:
        """What was handed in for this step."""
        if state["heard"] is None:
            raise InvalidInputError(f"nothing was heard of `{self.name}` for this token; call `hear` before each")
        return state["heard"]

    def advance(self, state: dict[str, Any], tokens: Any) -> dict[str, Any]:
        """The next token needs a table of its own."""
        return {**state, "heard": None}

    def log_probs(self, documents: Documents) -> Any:
        """Refused: a server scores whole documents itself."""
        raise InvalidInputError(f"`{self.name}` is only heard token by token; score documents where it runs")

    def fingerprint(self) -> str:
        """The name: nothing is known of the weights."""
        return f"heard:{self.name}:{self.vocab_size}"

    def save(self, folder: Any) -> None:
        """Refused: the model is not here."""
        raise InvalidInputError(f"`{self.name}` runs elsewhere and cannot be saved here")


def hear(state: dict[str, Any], tables: Sequence[Any]) -> None:
    """Hand in the next token's log-probabilities of every heard expert of a composed model.

    Args:
        state: of a `ComposedLM` made of `HeardExpert`s, from `start` or `advance`.
        tables: (B, V) natural-log probabilities, one table a heard expert, in the experts' order.

    Raises:
        InvalidInputError: for another number of tables, another shape, or rows that are not normalised within 1e-3.

    Guarantee: none.

    Example:
        See `HeardExpert`.
    """
    ears = [s for s in state["models"] if isinstance(s, dict) and "heard" in s]
    if len(tables) != len(ears):
        raise InvalidInputError(f"{len(ears)} experts are heard, got {len(tables)} tables")
    for k, (ear, table) in enumerate(zip(ears, tables, strict=True)):
        rows = np.asarray(table, dtype=np.float64)
        if rows.ndim != 2 or len(rows) != len(ear["batch"]) or not (np.abs(np.exp(rows).sum(1) - 1) < 1e-3).all():
            raise InvalidInputError(
                f"table {k} must be ({len(ear['batch'])}, V) log-probabilities that sum to one, got shape {rows.shape};"
                " complete a list of the likeliest tokens with `complete_top`"
            )
        ear["heard"] = rows
    state.pop("next", None)


def complete_top(tokens: Any, log_probs: Any, *, vocab_size: int) -> Float[np.ndarray, "b vocab"]:
    r"""Tables from the likeliest tokens that a server lists: what they leave is spread evenly over all others.

    .. math:: q(v) = \frac{1 - \sum_{u \in L} q(u)}{V - |L|}, \quad v \notin L

    Args:
        tokens: (B, n) ids listed, different within a row.
        log_probs: (B, n) their natural-log probabilities; each row holds at most one in all.
        vocab_size: V.

    Returns:
        (B, V) normalised log-probabilities.

    Raises:
        InvalidInputError: for shapes that differ, ids outside the vocabulary, or rows above one.

    Guarantee: exact on the tokens listed, normalised; on the others no more than that their total is right.

    Example:
        >>> np.exp(complete_top([[0, 2]], np.log([[0.7, 0.1]]), vocab_size=4)).round(3).tolist()
        [[0.7, 0.1, 0.1, 0.1]]
    """
    ids, told = np.asarray(tokens, dtype=np.int64), np.asarray(log_probs, dtype=np.float64)
    if ids.ndim != 2 or ids.shape != told.shape or not ids.shape[1] < vocab_size:
        raise InvalidInputError(
            f"(B, n) tokens and their log-probabilities are needed, got {ids.shape} and {told.shape}"
        )
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        raise InvalidInputError(f"tokens must lie below {vocab_size}, got {ids.min()} to {ids.max()}")
    left = 1 - np.exp(told).sum(1)
    if not (left > -1e-3).all():
        raise InvalidInputError(f"listed probabilities sum to {float(1 - left.min()):.4f}, more than one")
    share = np.maximum(left, 1e-12) / (vocab_size - ids.shape[1])
    table = np.repeat(np.log(share)[:, None], vocab_size, axis=1)
    np.put_along_axis(table, ids, told, axis=1)
    return table - np.log(np.exp(table).sum(1, keepdims=True))
