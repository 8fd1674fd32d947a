"""The transition monoid: all maps of states that words make; a group where every symbol permutes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from corollary.automata._dfa import DFA
from corollary.automata._transducer import Transducer
from corollary.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class Monoid:
    """The maps of states that words make.

    Args:
        elements: (m, n) maps, the identity first: state q goes to `elements[i, q]`.
        words: a shortest word for each element.
        alphabet: the symbols.

    Guarantee: all elements, exactly; that of a minimal DFA is the syntactic monoid of its language.

    Example:
        >>> from corollary.automata import DFA, transition_monoid
        >>> found = transition_monoid(DFA.from_regex("(a{3})*", "a"))
        >>> found.order, found.is_group, found.is_aperiodic
        (3, True, False)
    """

    elements: Int[np.ndarray, "m n"]
    words: tuple[tuple[Any, ...], ...]
    alphabet: tuple[Any, ...]

    @property
    def order(self) -> int:
        """Number of elements."""
        return len(self.elements)

    @property
    def is_group(self) -> bool:
        """Whether every element permutes the states: orthogonal heads can then hold it."""
        n = self.elements.shape[1]
        return bool((np.sort(self.elements, axis=1) == np.arange(n)).all())

    @property
    def is_aperiodic(self) -> bool:
        """Whether it holds no group but the trivial one: the language is then star-free (Schutzenberger)."""
        for element in self.elements:
            power = element
            seen = {power.tobytes()}
            while True:
                after = element[power]
                if (after == power).all():
                    break
                if after.tobytes() in seen:
                    return False
                seen.add(after.tobytes())
                power = after
        return True

    @property
    def is_commutative(self) -> bool:
        """Whether the symbols commute: rotations and diagonals can then hold its group part."""
        letters = [self.elements[self.words.index((s,))] for s in self.alphabet if (s,) in self.words]
        return all((a[b] == b[a]).all() for a in letters for b in letters)

    def table(self) -> Int[np.ndarray, "m m"]:
        """(m, m) products: the element that first `i` and then `j` make."""
        number = {e.tobytes(): i for i, e in enumerate(self.elements)}
        return np.array([[number[np.ascontiguousarray(b[a]).tobytes()] for b in self.elements] for a in self.elements])


def transition_monoid(automaton: DFA | Transducer, *, limit: int = 1 << 16) -> Monoid:
    """All maps of states that words make.

    Args:
        automaton: a complete one; give the minimal DFA for the syntactic monoid.
        limit: largest number of elements.

    Raises:
        InvalidInputError: for symbols that are not allowed somewhere, or more than `limit` elements.

    Guarantee: exact.

    Example:
        >>> from corollary.automata import task, transition_monoid
        >>> transition_monoid(task("s5").automaton).order
        120
    """
    table = automaton.transitions
    if (table < 0).any():
        raise InvalidInputError("some symbol is not allowed in some state; complete the automaton first")
    identity = np.arange(len(table))
    found: dict[bytes, tuple[Any, ...]] = {identity.tobytes(): ()}
    order = [identity]
    for element in order:
        word = found[element.tobytes()]
        for x, symbol in enumerate(automaton.alphabet):
            after = np.ascontiguousarray(table[element, x])
            if after.tobytes() not in found:
                if len(found) >= limit:
                    raise InvalidInputError(f"the monoid has more than {limit} elements; raise `limit`")
                found[after.tobytes()] = (*word, symbol)
                order.append(after)
    return Monoid(np.stack(order), tuple(found.values()), automaton.alphabet)
