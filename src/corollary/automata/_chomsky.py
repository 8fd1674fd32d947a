"""Tasks beyond the regular ones: string to string, after the Chomsky hierarchy of Deletang et al. (2023).

The input is followed by as many places to answer in, marked by one more symbol; answers are wanted there only, and
where an answer has an end of its own, not behind it. No finite automaton solves them at all lengths, so there is
nothing to certify: they show where counting ends.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int

from corollary.automata._expressions import arithmetic, checked, codes, equation
from corollary.automata._numbers import ended, square_root, two_numbers
from corollary.automata._tasks import check_size
from corollary.automata._transducer import SILENT
from corollary.errors import InvalidInputError

# (batch, n, rng) -> (B, n) symbols, (B, m) answers
Draw = Callable[[int, int, np.random.Generator], tuple[Any, Any]]
FREE, SENSITIVE = "deterministic context-free", "context-sensitive"


@dataclass(frozen=True, eq=False)
class StringTask:
    """A task from strings to strings; for `learn`, `length_accuracy` and `baseline`, as a `Task` is.

    Args:
        name: one of `string_tasks()`.
        level: of the Chomsky hierarchy.
        symbols: of the input; one more marks the places of the answer.
        classes: number of answers.
        shortest: shortest input.
        draw: `(batch, length, rng) -> (B, length) symbols, (B, m) answers`, -1 behind the end of an answer.

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
    classes: int
    shortest: int
    draw: Draw = field(repr=False)

    @property
    def vocab_size(self) -> int:
        """Number of symbols, the mark included."""
        return self.symbols + 1

    @property
    def chance(self) -> float:
        """One in the number of answers."""
        return 1 / self.classes

    @property
    def automaton(self) -> NoReturn:
        """There is none.

        Raises:
            InvalidInputError: always.
        """
        raise InvalidInputError(
            f"the task {self.name!r} is {self.level}: no finite automaton answers it at every length, so that there is "
            "none to compare with or to certify; take a regular one, see `tasks`"
        )

    def sample(
        self, batch: int, length: int, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"]]:
        """(B, T) symbols and answers (-1: none wanted); `length` is that of the input, marks come after it.

        Raises:
            InvalidInputError: for a length below `shortest`, or no words.
        """
        check_size(self, batch, length)
        given, answers = self.draw(batch, length, rng)
        mark, silent = np.full(answers.shape, self.symbols), np.full(given.shape, SILENT)
        return np.concatenate([given, mark], 1), np.concatenate([silent, answers], 1)


def _copied(rule: Callable[[Any], Any], letters: int = 2) -> Draw:
    """Random letters, and what `rule` makes of them."""

    def draw(batch: int, n: int, rng: np.random.Generator) -> tuple[Any, Any]:
        x = rng.integers(0, letters, (batch, n))
        return x, rule(x)

    return draw


def _missing(batch: int, n: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """A word twice with one letter replaced by a hole (2); the letter. An odd place at the end stays empty (3)."""
    first, rows = rng.integers(0, 2, (batch, n // 2)), np.arange(batch)
    x = np.concatenate([first, first, np.full((batch, n % 2), 3)], 1)
    gap = rng.integers(0, 2 * (n // 2), batch)
    answers = x[rows, gap].copy()
    x[rows, gap] = 2
    return x, answers[:, None]


def _stack(batch: int, n: int, rng: np.random.Generator) -> tuple[Any, Any]:
    """A stack from the bottom up, then actions: 2 pops, 3 and 4 push 0 and 1; what is left, from the top down.

    With steps s = +-1 and S their sums the height is S_t - min(0, min_{i <= t} S_i), since an empty stack ignores a
    pop; the letter at a height is the last one pushed to it.
    """
    held, place = rng.integers(1, max(2, n), batch)[:, None], np.arange(n)
    x = np.where(place < held, rng.integers(0, 2, (batch, n)), rng.integers(2, 5, (batch, n)))
    total = np.where(x == 2, -1, 1).cumsum(1)
    height = total - np.minimum(np.minimum.accumulate(total, 1), 0)
    rows, times = np.nonzero(x != 2)
    last = np.full((batch, n + 2), -1)
    np.maximum.at(last, (rows, height[rows, times]), times)
    left = height[:, -1]
    level = (left[:, None] - np.arange(n + 1)).clip(0)  # 0: below the bottom
    pushed = np.take_along_axis(last, level, 1).clip(0)
    letters = np.take_along_axis(x, pushed, 1)
    return x, ended(np.where(letters > 2, letters - 3, letters), left)


def _copying(level: str, draw: Draw, *, symbols: int = 2, classes: int = 2, shortest: int = 1) -> Callable[..., Any]:
    return lambda: (level, symbols, classes, shortest, draw)


def _arithmetic(k: int = 5, operators: str = "+-*") -> Any:
    checked(k, operators)
    return FREE, len(codes(k)) - 2, k, 1, partial(arithmetic, k=k, operators=operators)


def _equation(k: int = 5, operators: str = "+-*") -> Any:
    checked(k, operators)
    return FREE, len(codes(k)), k, 3, partial(equation, k=k, operators=operators)


_RULES: dict[str, Callable[..., Any]] = {
    "reverse": _copying(FREE, _copied(lambda x: x[:, ::-1])),
    "stack-manipulation": _copying(FREE, _stack, symbols=5, classes=3),
    "arithmetic-brackets": _arithmetic,
    "solve-equation": _equation,
    "duplicate": _copying(SENSITIVE, _copied(lambda x: np.concatenate([x, x], 1))),
    "missing-duplicate": _copying(SENSITIVE, _missing, symbols=4, shortest=2),
    "odds-first": _copying(SENSITIVE, _copied(lambda x: np.concatenate([x[:, 1::2], x[:, 0::2]], 1))),
    "bucket-sort": _copying(SENSITIVE, _copied(lambda x: np.sort(x, 1), 5), symbols=5, classes=5),
    "binary-addition": _copying(
        SENSITIVE, partial(two_numbers, combine=operator.add), symbols=3, classes=3, shortest=3
    ),
    "binary-multiplication": _copying(
        SENSITIVE, partial(two_numbers, combine=operator.mul), symbols=3, classes=3, shortest=3
    ),
    "square-root": _copying(SENSITIVE, square_root),
}


def string_tasks() -> tuple[str, ...]:
    """Names of the tasks from strings to strings.

    Guarantee: none.

    Example:
        >>> from corollary.automata import string_tasks
        >>> "reverse" in string_tasks()
        True
    """
    return tuple(_RULES)


def string_task(name: str, **options: Any) -> StringTask:
    """A task from strings to strings, by name.

    Symbols 0 and 1 are bits, numbers below k digits; `stack-manipulation`: 2 pops, 3 and 4 push 0 and 1;
    `missing-duplicate`: 2 is the hole, 3 an empty place; `binary-addition`, `binary-multiplication`: low digits first,
    2 between the two numbers; `square-root`: high digit first; `arithmetic-brackets`: + - * ( ) after the digits,
    `solve-equation`: z and = after these. Answers to the stack, sums and products close with a 2.

    Args:
        name: one of `string_tasks()`.
        options: `k` (2 to 10) and `operators` (of `+-*`) for arithmetic-brackets and solve-equation.

    Raises:
        InvalidInputError: for an unknown name or option.

    Guarantee: answers follow the rule of the name, and every equation has one solution; tested word by word.

    Example:
        >>> import numpy as np
        >>> from corollary.automata import string_task
        >>> x, y = string_task("square-root").sample(1, 6, np.random.default_rng(3))
        >>> number, root = (int("".join(map(str, a))) for a in (x[0, :6], y[0, 6:]))
        >>> string_task("square-root").level, f"{number:06d} {root:03d}"
        ('context-sensitive', '100001 101')

    Reference: Deletang et al. (2023); authors' generators read for what is asked, written anew, encodings ours.
    """
    if name not in _RULES:
        raise InvalidInputError(f"no string task is called {name!r}; known: {', '.join(_RULES)}")
    try:
        level, count, classes, shortest, draw = _RULES[name](**options)
    except TypeError:
        raise InvalidInputError(f"string task {name!r} does not take the options {sorted(options)}") from None
    told = "-".join([name, *(str(v) for v in options.values())])
    return StringTask(told, level, count, classes, shortest, draw)
