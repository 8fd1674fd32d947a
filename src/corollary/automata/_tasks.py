"""State-tracking tasks: generators of symbols and answers, each regular one with the automaton that it is.

Section 5.3 of the notes: parity, counting mod k, cycle navigation, even pairs, modular arithmetic, words over groups,
bounded Dyck words and Boolean formulas, addition, flip-flop, random automata, a counter hidden in letters.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from corollary.automata._transducer import SILENT, Transducer
from corollary.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class Task:
    """A task: words in, an answer wanted at some places.

    Args:
        name: for tables.
        automaton: the transducer that answers it.
        classes: number of possible answers.
        shortest: shortest length that has an answer.

    Guarantee: none.

    Example:
        >>> import numpy as np
        >>> from corollary.automata import task
        >>> x, y = task("parity").sample(2, 5, np.random.default_rng(0))
        >>> bool((y == x.cumsum(1) % 2).all())
        True
    """

    name: str
    automaton: Transducer
    classes: int
    shortest: int = 1

    @property
    def vocab_size(self) -> int:
        """Number of symbols."""
        return self.automaton.transitions.shape[1]

    @property
    def chance(self) -> float:
        """One in the number of answers."""
        return 1 / self.classes

    def sample(
        self, batch: int, length: int, rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, "b t"], Int[np.ndarray, "b t"]]:
        """(B, T) symbols, uniform over what is allowed, and (B, T) answers (-1: none wanted).

        Raises:
            InvalidInputError: for a length below `shortest`, or no words.
        """
        check_size(self, batch, length)
        table = self.automaton.transitions
        if (table >= 0).all():
            x = rng.integers(0, self.vocab_size, (batch, length))
        else:
            q, x = np.full(batch, self.automaton.start), np.empty((batch, length), dtype=np.int64)
            draws = rng.random((length, batch, self.vocab_size))
            for t in range(length):
                x[:, t] = np.where(table[q] >= 0, draws[t], -1).argmax(1)
                q = table[q, x[:, t]]
        return x, self.automaton.run(x)


def check_size(task: Any, batch: int, length: int) -> None:
    """Raise where a task has no words of this length, or none are wanted."""
    if not all(isinstance(n, int | np.integer) for n in (batch, length)) or length < task.shortest or batch < 1:
        raise InvalidInputError(
            f"{batch} words of {length} symbols were asked for; {task.name!r} makes one or more, of at least "
            f"{task.shortest} symbols"
        )


Step = Callable[[Any, Any], tuple[Any, int] | None]


def _parity() -> tuple[Any, Step, Sequence[Any], int]:
    return 0, lambda q, x: (q ^ x, q ^ x), range(2), 2


def _counting(k: int = 5) -> tuple[Any, Step, Sequence[Any], int]:
    return 0, lambda q, x: ((q + x) % k, (q + x) % k), range(k), k


def _cycle(k: int = 5) -> tuple[Any, Step, Sequence[Any], int]:
    return 0, lambda q, x: ((q + x) % k, (q + x) % k), (-1, 0, 1), k


def _even_pairs() -> tuple[Any, Step, Sequence[Any], int]:
    return None, lambda q, x: ((x if q is None else q), int((x if q is None else q) == x)), range(2), 2


def _flip_flop() -> tuple[Any, Step, Sequence[Any], int]:
    def step(q: int, x: str) -> tuple[int, int]:
        now = q if x == "keep" else int(x == "one")
        return now, now

    return 0, step, ("keep", "zero", "one"), 2


def _addition(base: int = 10) -> tuple[Any, Step, Sequence[Any], int]:
    def step(carry: int, pair: tuple[int, int]) -> tuple[int, int]:
        total = sum(pair) + carry
        return total // base, total % base

    return 0, step, tuple(itertools.product(range(base), repeat=2)), base


def _arithmetic(k: int = 5) -> tuple[Any, Step, Sequence[Any], int]:
    """Digits and + - * in turn, products first, mod k; an answer is wanted after every digit."""

    def step(q: tuple[int, int, str], x: Any) -> tuple[Any, int] | None:
        total, term, waiting = q
        if isinstance(x, str):
            return None if waiting else ((total, term, x), SILENT)
        if not waiting:
            return None
        if waiting == "*":
            term = term * x % k
        else:
            total, term = (total + term) % k, (x if waiting == "+" else -x) % k
        return (total, term, ""), (total + term) % k

    return (0, 0, "+"), step, (*range(k), "+", "-", "*"), k


def _dyck(depth: int = 4) -> tuple[Any, Step, Sequence[Any], int]:
    """Two kinds of brackets, at most `depth` deep; the answer is how deep we are."""

    def step(q: str, x: str) -> tuple[str, int] | None:
        if x in "([":
            return (q + x, len(q) + 1) if len(q) < depth else None
        return (q[:-1], len(q) - 1) if q and q[-1] + x in ("()", "[]") else None

    return "", step, "([)]", depth + 1


def _boolean(depth: int = 2) -> tuple[Any, Step, Sequence[Any], int]:
    """Formulas in prefix notation, one after the other, operators nested at most `depth`; answered when complete."""

    def step(q: tuple[str, ...], x: str) -> tuple[tuple[str, ...], int] | None:
        if x in "!&|":
            return ((*q, x), SILENT) if len(q) < depth else None
        value, stack = int(x), list(q)
        while stack:
            top = stack.pop()
            if top == "!":
                value = 1 - value
            elif top in "&|":  # the first of two: what is left to do depends on it
                stack.append({"&": "=" if value else "0", "|": "1" if value else "="}[top])
                return tuple(stack), SILENT
            else:
                value = value if top == "=" else int(top)
        return (), value

    return (), step, "01!&|", 2


def _letters(k: int = 3) -> tuple[Any, Step, Sequence[Any], int]:
    """Small letters, of which `e` is counted mod k without a word; `?` asks."""

    def step(q: int, x: str) -> tuple[int, int]:
        return ((q + 1) % k, SILENT) if x == "e" else (q, q if x == "?" else SILENT)

    return 0, step, "abcdefgh?", k


def _random(states: int = 6, symbols: int = 3, seed: int = 0) -> tuple[Any, Step, Sequence[Any], int]:
    rng = np.random.default_rng(seed)
    table, accepts = rng.integers(0, states, (states, symbols)), rng.permutation(states) < states // 2
    return 0, lambda q, x: (int(table[q, x]), int(accepts[table[q, x]])), range(symbols), 2


def permutation_group(generators: Sequence[Sequence[int]], *, limit: int = 1 << 16) -> list[tuple[int, ...]]:
    """All products of permutations, the identity first; each permutation is the tuple of images.

    Guarantee: exact; raises where there are more than `limit`.

    Example:
        >>> from corollary.automata import permutation_group
        >>> len(permutation_group([(1, 0, 2, 3, 4), (1, 2, 3, 4, 0)]))
        120
    """
    steps = [tuple(int(i) for i in g) for g in generators]
    if not steps or any(sorted(g) != list(range(len(steps[0]))) for g in steps):
        raise InvalidInputError("generators must be permutations of 0 to n - 1, all of one n")
    found = {tuple(range(len(steps[0]))): None}
    order = list(found)
    for g in order:
        for s in steps:
            product = tuple(s[i] for i in g)
            if product not in found:
                if len(found) >= limit:
                    raise InvalidInputError(f"the group has more than {limit} elements; raise `limit`")
                found[product] = None
                order.append(product)
    return order


GROUPS: dict[str, list[tuple[int, ...]]] = {
    "s3": [(1, 0, 2), (1, 2, 0)],
    "a5": [(1, 2, 3, 4, 0), (1, 2, 0, 3, 4)],
    "s5": [(1, 0, 2, 3, 4), (1, 2, 3, 4, 0)],
}


def _group(name: str, generators: int = 2, seed: int = 0) -> tuple[Any, Step, Sequence[Any], int]:
    """Symbols are group elements (two generators, then random others), the answer is their product so far."""
    steps = list(GROUPS[name])
    elements = permutation_group(steps)
    rng = np.random.default_rng(seed)
    for i in rng.permutation(len(elements)).tolist():
        if len(steps) >= min(generators, len(elements)):
            break
        if elements[i] not in steps:
            steps.append(elements[i])
    number = {g: i for i, g in enumerate(elements)}

    def step(q: tuple[int, ...], x: int) -> tuple[tuple[int, ...], int]:
        after = tuple(steps[x][i] for i in q)
        return after, number[after]

    return elements[0], step, range(len(steps)), len(elements)


_TASKS: dict[str, Callable[..., tuple[Any, Step, Sequence[Any], int]]] = {
    "parity": _parity,
    "mod": _counting,
    "cycle": _cycle,
    "even-pairs": _even_pairs,
    "arithmetic": _arithmetic,
    "flip-flop": _flip_flop,
    "addition": _addition,
    "dyck": _dyck,
    "boolean": _boolean,
    "letters": _letters,
    "random-dfa": _random,
    **{name: lambda name=name, **options: _group(name, **options) for name in GROUPS},
}


def tasks() -> tuple[str, ...]:
    """Names of the tasks.

    Guarantee: none.

    Example:
        >>> from corollary.automata import tasks
        >>> "cycle" in tasks()
        True
    """
    return tuple(_TASKS)


def task(name: str, **options: Any) -> Task:
    """A task by name.

    Args:
        name: one of `tasks()`.
        options: `k` (mod, cycle, arithmetic, letters), `base` (addition), `depth` (dyck, boolean), `states`, `symbols`,
            `seed` (random-dfa), `generators`, `seed` (s3, a5, s5).

    Raises:
        InvalidInputError: for an unknown name or option.

    Guarantee: answers are those of the automaton, which is minimal.

    Example:
        >>> from corollary.automata import task
        >>> task("arithmetic").automaton.states > 25, task("s5").classes
        (True, 120)

    Reference: Deletang et al. (2023) for the tasks of the Chomsky hierarchy; generators written here.
    """
    if name not in _TASKS:
        raise InvalidInputError(
            f"no regular task is called {name!r}; known: {', '.join(_TASKS)}; `string_task` makes those beyond"
        )
    try:
        start, step, alphabet, classes = _TASKS[name](**options)
    except TypeError:
        raise InvalidInputError(f"task {name!r} does not take the options {sorted(options)}") from None
    told = "-".join([name, *(str(v) for k, v in options.items() if k != "seed")])
    automaton = Transducer.from_function(start, step, tuple(alphabet)).minimise()
    return Task(told, automaton, classes)
