"""Regular expressions to automata: parsed by descent, made nondeterministic by Thompson, deterministic by subsets.

Syntax: symbols, `.` (any symbol), `|`, `*`, `+`, `?`, `{m}`, `{m,}`, `{m,n}`, groups, classes `[ab]`, `[a-c]`, `[^a]`,
and a backslash before a symbol that is also an operator. The empty pattern is the empty word, an empty class the empty
language. All else that is read means what Python's `re.fullmatch` means by it (so a `?` behind a repetition changes
nothing: it only asks for shorter matches first); what Python knows beyond is refused.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from corollary.errors import InvalidInputError

MAX_REPEATS = 1000
MAX_DEPTH = 50  # of nested groups: the parser and the builder recurse
MAX_SIZE = 1 << 18  # of the nondeterministic automaton, counts multiplied out
MAX_MEMBERS = 1 << 24  # of all sets of states, in making it deterministic
_OPERATORS = frozenset("|*+?(){}[].\\^$")

# A fragment of a nondeterministic automaton is a function: it adds its states to `edges` and returns (first, last).


class _Parser:
    def __init__(self, pattern: str, alphabet: Sequence[Any]) -> None:
        self.pattern, self.at, self.depth = pattern, 0, 0
        self.number = {s: i for i, s in enumerate(alphabet)}
        self.alphabet = alphabet

    def fail(self, what: str) -> InvalidInputError:
        return InvalidInputError(f"pattern {self.pattern[:99]!r}, place {self.at}: {what}")

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        if not char:
            raise self.fail("it ends too early")
        self.at += 1
        return char

    def whole(self) -> Any:
        tree = self.union()
        if self.at < len(self.pattern):
            raise self.fail(f"{self.peek()!r} is not expected here; escape it with a backslash if it is a symbol")
        self.bound(tree)
        return tree

    def union(self) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(f"groups are nested more than {MAX_DEPTH} deep")
        parts = [self.chain()]
        while self.peek() == "|":
            self.at += 1
            parts.append(self.chain())
        self.depth -= 1
        return parts[0] if len(parts) == 1 else ("or", parts)

    def chain(self) -> Any:
        parts = []
        while self.peek() and self.peek() not in "|)":
            parts.append(self.repeated())
        return ("then", parts)

    def repeated(self) -> Any:
        tree = self.atom()
        if (char := self.peek()) and char in "*+?{":
            self.at += 1
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(char) or self.counts()
            tree = ("repeat", tree, low, high)
            self.bound(tree)
            self.at += self.peek() == "?"  # lazy: the same language
            if (char := self.peek()) and char in "*+?{":
                raise self.fail(f"{char!r} follows a repetition; put what it repeats into a group")
        return tree

    def bound(self, tree: Any) -> None:
        if self.size(tree) > MAX_SIZE:
            raise self.fail(f"with counts multiplied out it has more than {MAX_SIZE} places; use smaller counts")

    def size(self, tree: Any) -> int:
        """Symbols and groups, counts multiplied out: half of the states of the nondeterministic automaton."""
        if tree[0] == "one of":
            return 1
        if tree[0] == "repeat":
            _, inner, low, high = tree
            return 1 + self.size(inner) * (low + 1 if high is None else high)
        return 1 + sum(map(self.size, tree[1]))

    def counts(self) -> tuple[int, int | None]:
        end = self.pattern.find("}", self.at)
        parts = self.pattern[self.at : end].split(",") if end >= 0 else []
        sound = len(parts) in (1, 2) and parts[0] and all(set(p) <= set("0123456789") for p in parts)
        if not sound:
            raise self.fail("a count is written {m}, {m,} or {m,n}")
        self.at = end + 1
        low = int(parts[0])
        high = low if len(parts) == 1 else int(parts[1]) if parts[1] else None
        if max(low, high or 0) > MAX_REPEATS or (high is not None and high < low):
            raise self.fail(f"counts must rise and stay below {MAX_REPEATS}")
        return low, high

    def atom(self) -> Any:
        char = self.take()
        if char == "(":
            tree = self.union()
            if self.peek() != ")":
                raise self.fail("a group is not closed")
            self.at += 1
            return tree
        if char == "[":
            return ("one of", self.symbol_class())
        if char == ".":
            return ("one of", frozenset(range(len(self.alphabet))))
        if char == "\\":
            return ("one of", frozenset([self.code(self.escaped())]))
        if char in "^$":
            raise self.fail(f"the whole word must match anyway: leave {char!r} away, or escape it if it is a symbol")
        if char in _OPERATORS:
            raise self.fail(f"{char!r} has nothing to act on; escape it with a backslash if it is a symbol")
        return ("one of", frozenset([self.code(char)]))

    def escaped(self) -> str:
        char = self.take()
        if char.isascii() and char.isalnum():
            raise self.fail(f"a backslash before {char!r} has a meaning of its own elsewhere; write the symbols out")
        return char

    def symbol_class(self) -> frozenset[int]:
        negated = self.peek() == "^"
        self.at += negated
        chosen: set[int] = set()
        while (char := self.take()) != "]":
            char = self.escaped() if char == "\\" else char
            if self.peek() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                last = self.take()
                last = self.escaped() if last == "\\" else last
                between = {i for s, i in self.number.items() if isinstance(s, str) and char <= s <= last}
                if not between:
                    raise self.fail(f"no symbol of the alphabet lies from {char!r} to {last!r}")
                chosen |= between
            else:
                chosen.add(self.code(char))
        return frozenset(range(len(self.alphabet))) - chosen if negated else frozenset(chosen)

    def code(self, symbol: str) -> int:
        if symbol not in self.number:
            raise self.fail(f"symbol {symbol!r} is not in the alphabet {list(self.alphabet)[:20]}")
        return self.number[symbol]


class _Builder:
    """Edges of a nondeterministic automaton: (from, symbols or None for silent, to)."""

    def __init__(self) -> None:
        self.count = 0
        self.silent: dict[int, list[int]] = {}
        self.loud: dict[int, list[tuple[frozenset[int], int]]] = {}

    def state(self) -> int:
        self.count += 1
        return self.count - 1

    def join(self, a: int, b: int) -> None:
        self.silent.setdefault(a, []).append(b)

    def add(self, tree: Any) -> tuple[int, int]:
        kind = tree[0]
        first, last = self.state(), self.state()
        if kind == "one of":
            self.loud.setdefault(first, []).append((tree[1], last))
        elif kind == "or":
            for part in tree[1]:
                a, b = self.add(part)
                self.join(first, a)
                self.join(b, last)
        elif kind == "then":
            now = first
            for part in tree[1]:
                a, b = self.add(part)
                self.join(now, a)
                now = b
            self.join(now, last)
        else:
            _, inner, low, high = tree
            now = first
            for _ in range(low):
                a, b = self.add(inner)
                self.join(now, a)
                now = b
            if high is None:
                a, b = self.add(inner)
                self.join(now, a)
                self.join(b, a)
                self.join(now, last)
                self.join(b, last)
            else:
                self.join(now, last)
                for _ in range(high - low):
                    a, b = self.add(inner)
                    self.join(now, a)
                    now = b
                    self.join(now, last)
        return first, last

    def closure(self, states: frozenset[int]) -> frozenset[int]:
        seen, waiting = set(states), list(states)
        while waiting:
            for after in self.silent.get(waiting.pop(), ()):
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
        return frozenset(seen)


def compile_pattern(pattern: str, alphabet: Sequence[Any], *, limit: int = 1 << 16) -> tuple[np.ndarray, np.ndarray]:
    """(n, V) transitions and (n,) accepting of a deterministic automaton, not minimal; state 0 starts."""
    if not isinstance(pattern, str):
        raise InvalidInputError(f"a pattern is a string, got {type(pattern).__name__}")
    builder = _Builder()
    first, last = builder.add(_Parser(pattern, alphabet).whole())
    start = builder.closure(frozenset([first]))
    number, order, table, members = {start: 0}, [start], [], len(start)
    for states in order:
        row = []
        for symbol in range(len(alphabet)):
            moved = frozenset(to for s in states for symbols, to in builder.loud.get(s, ()) if symbol in symbols)
            after = builder.closure(moved)
            if after not in number:
                members += len(after)
                if len(number) >= limit or members > MAX_MEMBERS:
                    raise InvalidInputError(f"pattern {pattern[:99]!r} needs more than {limit} states; simplify it")
                number[after] = len(number)
                order.append(after)
            row.append(number[after])
        table.append(row)
    return np.array(table), np.array([last in states for states in order])
