"""Deterministic finite automata: from tables or regular expressions, minimal, combined, compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corollary.automata._transducer import Difference, Transducer, breadth_first, compare, minimal, word_to
from corollary.errors import InvalidInputError

_OPERATIONS: dict[str, Any] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
    "minus": lambda a, b: a & ~b,
}


@dataclass(frozen=True, eq=False)
class DFA:
    r"""A complete deterministic automaton \((Q, \Sigma, \delta, q_0, F)\).

    Args:
        transitions: (n, V) next states.
        accepting: (n,) flags, whether a state is in F.
        start: the first state.
        alphabet: V different symbols; None for 0 to V - 1.

    Raises:
        InvalidInputError: for an empty alphabet, entries that are no states, flags that are none, or shapes that do not
            fit.

    Guarantee: all operations are exact; `minimise` numbers states in the order in which they are reached, so that equal
        languages over one alphabet have equal minimal tables.

    Example:
        >>> from corollary.automata import DFA
        >>> even = DFA.from_regex("(b|ab*a)*", "ab")
        >>> even.accepts("abba"), even.accepts("ab"), even.states
        (True, False, 2)
    """

    transitions: Any
    accepting: Any
    start: int = 0
    alphabet: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        table, flags = np.asarray(self.transitions), np.asarray(self.accepting)
        if flags.size and not np.isin(flags, (0, 1)).all():
            raise InvalidInputError("`accepting` are flags, one for each state, not numbers of states")
        accepting = flags.astype(bool)
        if table.ndim != 2 or not table.size or table.dtype.kind not in "iu":
            raise InvalidInputError(
                f"`transitions` must be (states, symbols) integers with at least one of each, got {table.shape}"
            )
        if accepting.shape != table.shape[:1] or table.min() < 0 or table.max() >= len(table):
            raise InvalidInputError(f"{len(table)} states need {len(table)} accepting flags, and states as entries")
        names = tuple(self.alphabet) or tuple(range(table.shape[1]))
        if len(names) != table.shape[1] or len(set(names)) != len(names):
            raise InvalidInputError(f"{table.shape[1]} different symbols are needed, got {names[:20]}")
        if not 0 <= self.start < len(table):
            raise InvalidInputError(f"`start` must be a state 0 to {len(table) - 1}, got {self.start}")
        for name, value in (("transitions", table.astype(np.int64)), ("accepting", accepting), ("alphabet", names)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_transitions(
        cls,
        transitions: Mapping[tuple[Any, Any], Any],
        *,
        start: Any,
        accepting: Iterable[Any],
        alphabet: Sequence[Any] | None = None,
    ) -> "DFA":
        """From a mapping (state, symbol) -> state with states of any name; what is missing leads to a dead state.

        Raises:
            InvalidInputError: for a symbol outside of the alphabet.
        """
        if not isinstance(transitions, Mapping) or not all(isinstance(k, tuple) and len(k) == 2 for k in transitions):
            raise InvalidInputError(f"a mapping (state, symbol) -> state is needed, got {type(transitions).__name__}")
        accepting = set(accepting)
        names = dict.fromkeys([start, *(q for q, _ in transitions), *transitions.values(), *accepting])
        found = tuple(alphabet) if alphabet is not None else tuple(dict.fromkeys(s for _, s in transitions))
        if strange := [s for _, s in transitions if s not in found]:
            raise InvalidInputError(f"symbol {strange[0]!r} is not in the alphabet {list(found)[:20]}")
        number = {q: i for i, q in enumerate(names)}
        if not found:
            raise InvalidInputError("the alphabet is empty; give at least one symbol")
        table = np.full((len(number) + 1, len(found)), len(number))
        for (q, symbol), after in transitions.items():
            table[number[q], found.index(symbol)] = number[after]
        whole = bool((table[:-1] < len(number)).all())
        flags = np.array([q in accepting for q in names] + [False])
        return cls(table[:-1], flags[:-1], 0, found) if whole else cls(table, flags, 0, found)

    @classmethod
    def from_regex(cls, pattern: str, alphabet: Sequence[Any]) -> "DFA":
        r"""The minimal automaton of a regular expression.

        Args:
            pattern: symbols, `.`, `|`, `*`, `+`, `?`, `{m,n}`, groups, classes `[ab]`, `[a-c]`, `[^a]`, backslash to
                escape. The whole word must match, as in Python's `re.fullmatch`; what else Python reads (`\d`, anchors,
                possessive repetitions) is refused. The empty class `[]` is the empty language.
            alphabet: the symbols, each a character.

        Raises:
            InvalidInputError: for a pattern that cannot be read, naming the place, a symbol outside of the alphabet, or
                counts and states without bound.
        """
        from corollary.automata._regex import compile_pattern

        names = tuple(alphabet) if isinstance(alphabet, Iterable) else ()
        if not names or len(set(names)) != len(names):
            raise InvalidInputError(f"an alphabet of different symbols is needed, got {alphabet!r}")
        return cls(*compile_pattern(pattern, names), 0, names).minimise()

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.transitions)

    def codes(self, word: Sequence[Any]) -> list[int]:
        """Numbers of the symbols of a word."""
        return self.transducer().codes(word)

    def accepts(self, word: Sequence[Any]) -> bool:
        """Whether the word is in the language.

        Raises:
            InvalidInputError: for a symbol outside of the alphabet.
        """
        q = self.start
        for x in self.codes(word):
            q = self.transitions[q, x]
        return bool(self.accepting[q])

    def transducer(self) -> Transducer:
        """The transducer that answers after every symbol whether the word so far is accepted: 1 or 0."""
        return Transducer(
            self.transitions, self.accepting[self.transitions].astype(np.int64), self.start, self.alphabet
        )

    def minimise(self) -> "DFA":
        """The least automaton of the same language."""
        table, accepting = minimal(self.transitions, self.accepting, self.start)
        return DFA(table, accepting, 0, self.alphabet)

    def complement(self) -> "DFA":
        """All words that are not accepted."""
        return DFA(self.transitions, ~self.accepting, self.start, self.alphabet)

    def product(self, other: "DFA", how: str = "and") -> "DFA":
        """Words in both (`and`), in any (`or`), in one only (`xor`), or in this but not the other (`minus`); minimal.

        Raises:
            InvalidInputError: for alphabets that differ, or an unknown operation.
        """
        if not isinstance(other, DFA):
            raise InvalidInputError(f"a DFA is combined with another DFA, got {type(other).__name__}")
        if self.alphabet != other.alphabet:
            raise InvalidInputError(f"the alphabets differ: {self.alphabet[:20]} and {other.alphabet[:20]}")
        if how not in _OPERATIONS:
            raise InvalidInputError(f"`how` is one of {', '.join(_OPERATIONS)}, got {how!r}")
        n, m = self.states, other.states
        table = (self.transitions[:, None] * m + other.transitions[None]).reshape(n * m, -1)
        accepting = _OPERATIONS[how](self.accepting[:, None], other.accepting[None]).reshape(-1)
        return DFA(table, accepting, self.start * m + other.start, self.alphabet).minimise()

    def shortest_word(self) -> tuple[Any, ...] | None:
        """A shortest accepted word, the first in the order of the alphabet; None for the empty language."""
        origin = breadth_first(self.transitions, self.start)
        found = next((q for q in origin if self.accepting[q]), None)
        return None if found is None else tuple(self.alphabet[x] for x in word_to(found, origin))

    @property
    def is_empty(self) -> bool:
        """Whether no word is accepted."""
        return self.shortest_word() is None

    def difference(self, other: "DFA") -> Difference:
        """Exact comparison; see `equivalent`."""
        if self.alphabet == other.alphabet and self.accepting[self.start] != other.accepting[other.start]:
            return Difference(False, (), 1)
        return compare(self.transducer(), other.transducer())

    def __and__(self, other: "DFA") -> "DFA":
        return self.product(other, "and")

    def __or__(self, other: "DFA") -> "DFA":
        return self.product(other, "or")

    def __sub__(self, other: "DFA") -> "DFA":
        return self.product(other, "minus")

    def __xor__(self, other: "DFA") -> "DFA":
        return self.product(other, "xor")

    def __invert__(self) -> "DFA":
        return self.complement()
