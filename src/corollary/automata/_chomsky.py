"""Tasks beyond the regular ones: string to string, after the Chomsky hierarchy of Deletang et al. (2023).

The input is followed by as many places to answer in, marked by one more symbol; answers are wanted there only. No
finite automaton solves them at all lengths, so there is nothing to certify: they show where counting ends.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from corollary.automata._transducer import SILENT
from corollary.errors import InvalidInputError

# (B, n) symbols of the input -> (B, m) answers
Rule = Callable[[np.ndarray], np.ndarray]


def _added(x: np.ndarray) -> np.ndarray:
    """Two binary numbers, low digits first, one in each half; their sum with its carry."""
    half = x.shape[1] // 2
    a, b = x[:, :half], x[:, half : 2 * half]
    out, carry = np.empty((len(x), half + 1), dtype=np.int64), np.zeros(len(x), dtype=np.int64)
    for i in range(half):
        total = a[:, i] + b[:, i] + carry
        out[:, i], carry = total % 2, total // 2
    out[:, half] = carry
    return out


_RULES: dict[str, tuple[int, str, Rule]] = {
    "reverse": (2, "deterministic context-free", lambda x: x[:, ::-1]),
    "duplicate": (2, "context-sensitive", lambda x: np.concatenate([x, x], 1)),
    "odds-first": (2, "context-sensitive", lambda x: np.concatenate([x[:, 1::2], x[:, 0::2]], 1)),
    "bucket-sort": (5, "context-sensitive", lambda x: np.sort(x, 1)),
    "missing-duplicate": (2, "context-sensitive", lambda x: x[:, :1]),
    "binary-addition": (2, "context-sensitive", _added),
}


@dataclass(frozen=True)
class StringTask:
    """A task from strings to strings; for `learn` and `length_accuracy`.

    Args:
        name: one of `string_tasks()`.
        level: of the Chomsky hierarchy.
        symbols: of the input; one more marks the places of the answer.
        shortest: shortest input.

    Guarantee: none.

    Example:
        >>> import numpy as np
        >>> from corollary.automata import string_task
        >>> x, y = string_task("reverse").sample(1, 3, np.random.default_rng(0))
        >>> bool((y[0, 3:] == x[0, :3][::-1]).all()), x[0, 3:].tolist()
        (True, [2, 2, 2])
    """

    name: str
    level: str
    symbols: int
    shortest: int = 1

    @property
    def vocab_size(self) -> int:
        """Number of symbols, the mark included."""
        return self.symbols + 1 + (self.name == "missing-duplicate")

    @property
    def classes(self) -> int:
        """Number of answers."""
        return self.symbols

    def sample(
        self, batch: int, length: int, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"]]:
        """(B, T) symbols and answers; `length` is that of the input."""
        _, _, rule = _RULES[self.name]
        n = max(length, self.shortest)
        x = rng.integers(0, self.symbols, (batch, n))
        shown = x
        if self.name == "missing-duplicate":
            half = max(1, n // 2)
            first = rng.integers(0, self.symbols, (batch, half))
            x = np.concatenate([first, first], 1)
            gap, rows = rng.integers(0, half, batch), np.arange(batch)
            shown = x.copy()
            shown[rows, half + gap] = self.symbols  # the hole
            answers = first[rows, gap][:, None]
        else:
            answers = rule(x)
        mark = np.full((batch, answers.shape[1]), self.vocab_size - 1)
        silent = np.full(shown.shape, SILENT)
        return np.concatenate([shown, mark], 1), np.concatenate([silent, answers], 1)


def string_tasks() -> tuple[str, ...]:
    """Names of the tasks from strings to strings.

    Guarantee: none.

    Example:
        >>> from corollary.automata import string_tasks
        >>> "reverse" in string_tasks()
        True
    """
    return tuple(_RULES)


def string_task(name: str) -> StringTask:
    """A task from strings to strings, by name.

    Args:
        name: one of `string_tasks()`.

    Raises:
        InvalidInputError: for an unknown name.

    Guarantee: answers follow the rule of the name; tested word by word.

    Example:
        >>> from corollary.automata import string_task
        >>> string_task("bucket-sort").level
        'context-sensitive'

    Reference: Deletang et al. (2023), tasks by their description; generators written here, encodings ours.
    """
    if name not in _RULES:
        raise InvalidInputError(f"no task is called {name!r}; known: {', '.join(_RULES)}")
    symbols, level, _ = _RULES[name]
    return StringTask(name, level, symbols, 2 if name in ("missing-duplicate", "binary-addition", "odds-first") else 1)
