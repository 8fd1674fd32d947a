"""Finite transducers: automata that answer after every symbol, the form in which tasks and certificates are stated."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int

from corollary.errors import InvalidInputError

MAX_STATES = 1 << 20
SILENT = -1  # no answer is asked for here


@dataclass(frozen=True, eq=False)
class Transducer:
    r"""An automaton with an answer on every step: \(q' = \delta(q, \sigma)\), answer \(\omega(q, \sigma)\).

    Args:
        transitions: (n, V) next states; -1 where the symbol is not allowed in that state.
        outputs: (n, V) answers, integers from 0; -1 where none is asked for.
        start: the first state.
        alphabet: names of the symbols; None for 0 to V - 1.

    Raises:
        InvalidInputError: for tables of different shape, or entries that are no states.

    Guarantee: none; it is a table.

    Example:
        >>> from corollary.automata import Transducer
        >>> parity = Transducer.from_function(0, lambda q, x: (q ^ x, q ^ x), range(2))
        >>> parity.answers([1, 0, 1, 1])
        [1, 1, 0, 1]
    """

    transitions: Any
    outputs: Any
    start: int = 0
    alphabet: tuple[Any, ...] = field(default=())

    def __post_init__(self) -> None:
        table, out = (np.asarray(a).astype(np.int64) for a in (self.transitions, self.outputs))
        if table.ndim != 2 or table.shape != out.shape or not table.size:
            raise InvalidInputError(f"transitions and outputs (n, V) are needed, got {table.shape} and {out.shape}")
        if table.min() < -1 or table.max() >= len(table) or not 0 <= self.start < len(table):
            raise InvalidInputError(f"transitions must be states 0 to {len(table) - 1} (-1: not allowed)")
        names = tuple(self.alphabet) or tuple(range(table.shape[1]))
        if len(names) != table.shape[1] or len(set(names)) != len(names):
            raise InvalidInputError(f"{table.shape[1]} different names of symbols are needed, got {len(names)}")
        for name, value in (("transitions", table), ("outputs", out), ("alphabet", names)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_function(
        cls,
        start: Hashable,
        step: Callable[[Any, Any], tuple[Hashable, int] | None],
        alphabet: Sequence[Any],
        *,
        limit: int = MAX_STATES,
    ) -> "Transducer":
        """Number the states reached from `start`; `step(state, symbol)` gives (state, answer), or None if not allowed.

        Raises:
            InvalidInputError: where more than `limit` states are reached.
        """
        number: dict[Hashable, int] = {start: 0}
        waiting, table, answers = deque([start]), list[list[int]](), list[list[int]]()
        while waiting:
            state, row, out = waiting.popleft(), list[int](), list[int]()
            for symbol in alphabet:
                found = step(state, symbol)
                if found is None:
                    row.append(-1)
                    out.append(SILENT)
                    continue
                after, answer = found
                if after not in number:
                    if len(number) >= limit:
                        raise InvalidInputError(f"more than {limit} states are reached; bound them, or raise `limit`")
                    number[after] = len(number)
                    waiting.append(after)
                row.append(number[after])
                out.append(int(answer))
            table.append(row)
            answers.append(out)
        return cls(np.array(table), np.array(answers), 0, tuple(alphabet))

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.transitions)

    def codes(self, word: Sequence[Any]) -> list[int]:
        """Numbers of the symbols of a word."""
        number = {s: i for i, s in enumerate(self.alphabet)}
        if not isinstance(word, Iterable):
            raise InvalidInputError(f"a word is a sequence of symbols, got {type(word).__name__}")
        word = list(word)
        try:
            return [number[s] for s in word]
        except (KeyError, TypeError):
            strange = next(s for s in word if not isinstance(s, Hashable) or s not in number)
            raise InvalidInputError(f"symbol {strange!r} is not in the alphabet {list(self.alphabet)[:20]}") from None

    def answers(self, word: Sequence[Any]) -> list[int]:
        """The answer after every symbol."""
        q, found = self.start, list[int]()
        for x in self.codes(word):
            if self.transitions[q, x] < 0:
                raise InvalidInputError(f"symbol {self.alphabet[x]!r} is not allowed after {len(found)} symbols")
            found.append(int(self.outputs[q, x]))
            q = self.transitions[q, x]
        return found

    def run(self, symbols: Int[np.ndarray, "b t"]) -> Int[np.ndarray, "b t"]:
        """(B, T) answers to (B, T) numbered symbols, all allowed."""
        q = np.full(len(symbols), self.start)
        found = np.empty(symbols.shape, dtype=np.int64)
        for t in range(symbols.shape[1]):
            x = symbols[:, t]
            found[:, t], q = self.outputs[q, x], self.transitions[q, x]
        return found

    def reached(self) -> tuple[list[int], dict[int, tuple[int, ...]]]:
        """States in the order in which they are reached, and a shortest word to each."""
        origin = breadth_first(self.transitions, self.start)
        words: dict[int, tuple[int, ...]] = {}
        for q, (before, x) in origin.items():
            words[q] = (*words[before], x) if q != self.start else ()
        return list(origin), words

    def minimise(self) -> "Transducer":
        """The least transducer with the same answers to the same allowed words."""
        return Transducer(*minimal(self.transitions, self.outputs, self.start), alphabet=self.alphabet)


def breadth_first(table: np.ndarray, start: int) -> dict[int, tuple[int, int]]:
    """State -> (the state it is first reached from, by which symbol), in the order in which they are reached."""
    origin = {start: (start, SILENT)}
    waiting = deque([start])
    rows = table.tolist()
    while waiting:
        q = waiting.popleft()
        for x, after in enumerate(rows[q]):
            if after >= 0 and after not in origin:
                origin[after] = (q, x)
                waiting.append(after)
    return origin


def word_to(state: Any, origin: dict[Any, tuple[Any, int]]) -> tuple[int, ...]:
    """The word that leads to a state, read backwards from where it was reached."""
    word = []
    while origin[state][1] != SILENT:
        state, x = origin[state]
        word.append(x)
    return tuple(reversed(word))


def minimal(table: np.ndarray, out: np.ndarray, start: int) -> tuple[np.ndarray, np.ndarray]:
    """(m, V) transitions and (m, ...) outputs of the least automaton, 0 its start.

    States are numbered in the order in which they are reached: equal machines have equal arrays.
    """
    order = list(breadth_first(table, start))
    number = np.full(len(table) + 1, len(order))  # one more state, behind what is forbidden
    number[order] = np.arange(len(order))
    table, out = np.vstack([number[table[order]], np.full(table.shape[1], len(order))]), out[order]
    _, classes = np.unique(np.column_stack([out, table[:-1] < len(order)]), axis=0, return_inverse=True)
    block = refined(table, np.append(classes.reshape(-1), classes.max() + 1))
    _, first = np.unique(block[:-1], return_index=True)
    place = np.full(block.max() + 1, -1)
    place[block[first]] = np.arange(len(first))
    small = place[block[table[first]]]
    order = list(breadth_first(small, int(place[block[0]])))
    number = np.full(len(small) + 1, -1)
    number[order] = np.arange(len(order))
    return number[small[order]], out[first][order]


def refined(table: np.ndarray, classes: np.ndarray) -> Int[np.ndarray, " n"]:
    """Hopcroft (1971): numbers of the coarsest blocks within `classes` (n,) that every symbol maps into blocks.

    A block that was split once is looked at again in its smaller half only, hence O(V n log n).
    """
    rows = table.tolist()
    before: list[list[list[int]]] = [[[] for _ in rows] for _ in rows[0]]
    for q, row in enumerate(rows):
        for x, after in enumerate(row):
            before[x][after].append(q)
    of = classes.tolist()
    blocks: list[set[int]] = [set() for _ in range(max(of) + 1)]
    for q, b in enumerate(of):
        blocks[b].add(q)
    waiting = set(range(len(blocks)))
    while waiting:
        splitter = list(blocks[waiting.pop()])
        for arriving in before:
            met: dict[int, list[int]] = {}
            for q in splitter:
                for p in arriving[q]:
                    met.setdefault(of[p], []).append(p)
            for b, part in met.items():
                if len(part) == len(blocks[b]):
                    continue
                new = len(blocks)
                blocks[b].difference_update(part)
                blocks.append(set(part))
                for p in part:
                    of[p] = new
                waiting.add(new if b in waiting or len(part) <= len(blocks[b]) else b)
    return np.array(of)


@dataclass(frozen=True)
class Difference:
    """What comparing two automata found.

    Args:
        equal: whether they agree on ALL words.
        witness: a shortest word on which they differ, a tuple of symbols; None where they are equal.
        explored: pairs of states (or dimensions) that decided it.

    Guarantee: exact; see `equivalent`.

    Example:
        >>> from corollary.automata import DFA, equivalent
        >>> equivalent(DFA.from_regex("a*", "ab"), DFA.from_regex("(a|b)*", "ab"))
        Difference(equal=False, witness=('b',), explored=1)
    """

    equal: bool
    witness: tuple[Any, ...] | None
    explored: int

    def __bool__(self) -> bool:
        return self.equal


def compare(a: Transducer, b: Transducer) -> Difference:
    """Breadth-first over pairs of states: the first pair that answers differently gives a shortest word.

    It is `b` that asks: what it forbids is not compared, where it asks for no answer (-1) any of `a` is right, and a
    symbol that only `a` forbids is a difference.
    """
    if a.alphabet != b.alphabet:
        raise InvalidInputError(f"the alphabets differ: {list(a.alphabet)[:20]} and {list(b.alphabet)[:20]}")
    start = (a.start, b.start)
    origin: dict[tuple[int, int], tuple[tuple[int, int], int]] = {start: (start, SILENT)}
    waiting = deque([start])
    while waiting:
        p, q = pair = waiting.popleft()
        for x in range(len(a.alphabet)):
            after = int(a.transitions[p, x]), int(b.transitions[q, x])
            if after[1] < 0:  # not asked of
                continue
            wanted = b.outputs[q, x]
            if after[0] < 0 or (wanted >= 0 and a.outputs[p, x] != wanted):
                word = (*word_to(pair, origin), x)
                return Difference(False, tuple(a.alphabet[i] for i in word), len(origin))
            if after not in origin:
                origin[after] = (pair, x)
                waiting.append(after)
    return Difference(True, None, len(origin))
