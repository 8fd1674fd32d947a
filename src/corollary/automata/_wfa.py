r"""Weighted automata over the reals and over exact rationals.

\(f(x_1 \dots x_T) = \beta^\top M_{x_T} \cdots M_{x_1} \alpha\). The rank of the Hankel matrix \(H_{uv} = f(uv)\) is the
least dimension (Fliess); minimising keeps what can be reached and then what can be observed. Two automata are equal
iff their difference is zero, which n words decide (Tzeng 1992): a word is prolonged only while its vector is new, so
the first word of another value is a shortest one.
"""

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.automata._dfa import DFA
from corollary.automata._exact import Span, as_exact, as_real
from corollary.automata._transducer import Difference
from corollary.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class WFA:
    r"""A weighted automaton \(f(x) = \beta^\top M_{x_T} \cdots M_{x_1} \alpha\).

    Args:
        initial: (d,) alpha.
        matrices: (V, d, d), one for each symbol, or a mapping symbol -> (d, d).
        final: (d,) beta.
        alphabet: V symbols; None for 0 to V - 1, or the keys of the mapping.
        exact: compute in rationals; floats are taken for the rationals that they are.

    Raises:
        InvalidInputError: for shapes that do not fit, NaN, or an empty alphabet.

    Guarantee: with `exact` every operation is exact. In float64, ranks are decided at 1e-9 of the largest number.

    Example:
        >>> from corollary.automata import WFA
        >>> ones = WFA([0, 1], {"0": [[1, 0], [0, 1]], "1": [[1, 1], [0, 1]]}, [1, 0], exact=True)
        >>> ones.evaluate("10110")
        Fraction(3, 1)

    Reference: Tzeng (1992), Fliess (1974), Schutzenberger (1961): textbook.
    """

    initial: Any
    matrices: Any
    final: Any
    alphabet: tuple[Any, ...] = ()
    exact: bool = False

    def __post_init__(self) -> None:
        names, M = tuple(self.alphabet), self.matrices
        if isinstance(M, Mapping):
            names, M = names or tuple(M), [M[s] for s in (names or tuple(M))]
        convert = as_exact if self.exact else as_real
        M, alpha, beta = convert(M, 3), convert(self.initial, 1), convert(self.final, 1)
        d = len(alpha)
        if M.shape[1:] != (d, d) or beta.shape != (d,) or not len(M):
            raise InvalidInputError(f"alpha {alpha.shape}, matrices {M.shape} and beta {beta.shape} do not fit")
        names = names or tuple(range(len(M)))
        if len(set(names)) != len(M):
            raise InvalidInputError(f"{len(M)} matrices need as many different symbols, got {names[:20]}")
        for name, value in (("initial", alpha), ("matrices", M), ("final", beta), ("alphabet", names)):
            object.__setattr__(self, name, value)

    @classmethod
    def from_dfa(cls, dfa: DFA, *, exact: bool = True) -> "WFA":
        """The indicator of the language: 1 or 0."""
        n = dfa.states
        M = np.zeros((len(dfa.alphabet), n, n))
        for q, x in itertools.product(range(n), range(len(dfa.alphabet))):
            M[x, dfa.transitions[q, x], q] = 1
        return cls(np.eye(n)[dfa.start], M, dfa.accepting.astype(float), dfa.alphabet, exact)

    @classmethod
    def from_head(cls, head: Any, final: ArrayLike, *, alphabet: Sequence[Any] = (), exact: bool = False) -> "WFA":
        r"""A head, as it is trained now, with a linear read-out \(\beta\) (d,) of its state.

        With `exact` its floats are taken for the rationals that they are, and `equivalent` decides in them.

        Raises:
            InvalidInputError: for a read-out of another dimension.
        """
        M, h0 = (t.detach().double().cpu().numpy() for t in (head.matrices(), head.initial_state()))
        return cls(h0, M, final, tuple(alphabet), exact)

    def head(self) -> Any:
        """A head with these matrices, in float64; its state times `final` is the weight."""
        from corollary.automata._heads import fixed_head

        M, h0 = (torch.from_numpy(np.asarray(a).astype(np.float64)) for a in (self.matrices, self.initial))
        return fixed_head(M, h0)

    @property
    def dim(self) -> int:
        """Number of states d."""
        return len(self.initial)

    def _new(self, initial: ArrayLike, matrices: ArrayLike, final: ArrayLike, *, exact: bool | None = None) -> "WFA":
        exact = self.exact if exact is None else exact
        return WFA(np.asarray(initial), np.asarray(matrices), np.asarray(final), self.alphabet, exact)

    def state(self, word: Sequence[Any]) -> np.ndarray:
        """(d,) state after the word.

        Raises:
            InvalidInputError: for a symbol outside of the alphabet.
        """
        h, number = self.initial, {s: i for i, s in enumerate(self.alphabet)}
        for symbol in word:
            if symbol not in number:
                raise InvalidInputError(f"symbol {symbol!r} is not in the alphabet {list(self.alphabet)[:20]}")
            h = self.matrices[number[symbol]] @ h
        return h

    def evaluate(self, word: Sequence[Any]) -> Any:
        """The weight of a word: a Fraction or a float."""
        value = self.final @ self.state(word)
        return value if self.exact else float(value)

    def __add__(self, other: "WFA") -> "WFA":
        """F + g by the direct sum."""
        self._same(other)
        d, e = self.dim, other.dim
        zero = Fraction(0) if self.exact and other.exact else 0.0
        M = np.full((len(self.alphabet), d + e, d + e), zero, dtype=object if isinstance(zero, Fraction) else float)
        M[:, :d, :d], M[:, d:, d:] = self.matrices, other.matrices
        both = self.exact and other.exact
        alpha, beta = (np.concatenate([a, b]) for a, b in ((self.initial, other.initial), (self.final, other.final)))
        return self._new(alpha, M, beta, exact=both)

    def __neg__(self) -> "WFA":
        return self._new(self.initial, self.matrices, -self.final)

    def __sub__(self, other: "WFA") -> "WFA":
        return self + (-other)

    def __mul__(self, other: "WFA") -> "WFA":
        """The product f(x) g(x) of every word, by tensor products."""
        self._same(other)
        M = np.stack([np.kron(a, b) for a, b in zip(self.matrices, other.matrices, strict=True)])
        both = self.exact and other.exact
        return self._new(np.kron(self.initial, other.initial), M, np.kron(self.final, other.final), exact=both)

    def _same(self, other: "WFA") -> None:
        if not isinstance(other, WFA):
            raise InvalidInputError(f"a WFA is combined with another WFA, got {type(other).__name__}")
        if self.alphabet != other.alphabet:
            raise InvalidInputError(f"the alphabets differ: {self.alphabet[:20]} and {other.alphabet[:20]}")

    def minimise(self) -> "WFA":
        """An automaton of the same weights whose dimension is the Hankel rank."""
        return self._reached()._turned()._reached()._turned()

    def _turned(self) -> "WFA":
        """Of the reversed words: alpha and beta swapped, matrices transposed."""
        return self._new(self.final, self.matrices.transpose(0, 2, 1), self.initial)

    def _reached(self) -> "WFA":
        """Restricted to the span of the states that words reach."""
        span = Span(self.dim, exact=self.exact)
        waiting = deque([self.initial])
        while waiting:
            h = waiting.popleft()
            if span.add(h):
                waiting.extend(M @ h for M in self.matrices)
        B = span.basis()  # (r, d), rows span it
        if not len(B):
            zero = np.zeros((len(self.alphabet), 1, 1))
            return self._new(np.zeros(1), zero, np.zeros(1))
        M = np.stack([np.stack([span.coordinates(M @ b) for b in B], axis=1) for M in self.matrices])
        return self._new(span.coordinates(self.initial), M, B @ self.final)

    def difference(self, other: "WFA") -> Difference:
        """Tzeng's algorithm on f - g; see `equivalent`."""
        gap = self - other
        span = Span(gap.dim, exact=gap.exact)
        parts = slice(self.dim), slice(self.dim, None)
        waiting: deque[tuple[np.ndarray, tuple[int, ...]]] = deque([(gap.initial, ())])
        count = 0
        while waiting:
            h, word = waiting.popleft()
            count += 1
            value = gap.final @ h
            size = 0 if gap.exact else sum(np.abs(gap.final[p]).max() * np.abs(h[p]).max() for p in parts)
            if abs(value) > 1e-9 * size:
                return Difference(False, tuple(self.alphabet[x] for x in word), count)
            if span.add(h):
                waiting.extend((gap._after(x, h), (*word, x)) for x in range(len(gap.matrices)))
        return Difference(True, None, count)

    def _after(self, x: int, h: np.ndarray) -> np.ndarray:
        """The state after one more symbol; what floats left of numbers that cancelled is zero."""
        after = self.matrices[x] @ h
        if self.exact:
            return after
        return np.where(np.abs(after) <= 1e-12 * (np.abs(self.matrices[x]) @ np.abs(h)), 0.0, after)

    def to_dfa(self, accept: Callable[[Any], bool] = bool, *, limit: int = 10_000) -> DFA:
        """The language of the words whose weight is accepted, where finitely many states are reached.

        Raises:
            InvalidInputError: where more than `limit` states are reached; floats are compared as they are, so use
                `exact`.
        """
        first = tuple(self.initial.tolist())
        number, order, table = {first: 0}, [self.initial], []
        for h in order:
            row = []
            for M in self.matrices:
                after = M @ h
                name = tuple(after.tolist())
                if name not in number:
                    if len(number) >= limit:
                        raise InvalidInputError(f"more than {limit} states are reached: no finite automaton was found")
                    number[name] = len(number)
                    order.append(after)
                row.append(number[name])
            table.append(row)
        return DFA(np.array(table), np.array([accept(self.final @ h) for h in order]), 0, self.alphabet).minimise()


def hankel(f: Callable[[tuple[Any, ...]], Any], alphabet: Sequence[Any], *, length: int) -> Float[np.ndarray, "n n"]:
    r"""The block \(H_{uv} = f(uv)\) over all words u, v of at most `length` symbols.

    Args:
        f: of a tuple of symbols; a number or a truth value.
        alphabet: the symbols.
        length: of prefixes and suffixes; blocks have (V^(length + 1) - 1) / (V - 1) rows.

    Returns:
        (n, n) float64; its rank is at most that of the whole matrix, and equal for long enough words.

    Guarantee: rank(H) is at most the dimension of every weighted automaton of f.

    Example:
        >>> import numpy as np
        >>> from corollary.automata import hankel
        >>> int(np.linalg.matrix_rank(hankel(lambda w: sum(w) % 3 == 0, (0, 1), length=3)))
        3

    Reference: Fliess (1974), textbook.
    """
    words = [w for n in range(length + 1) for w in itertools.product(tuple(alphabet), repeat=n)]
    if len(words) ** 2 > 1 << 24:
        raise InvalidInputError(f"{len(words)} words a side are too many; take a shorter `length`")
    return np.array([[float(f(u + v)) for v in words] for u in words])


def equivalent(a: Any, b: Any) -> Difference:
    """Whether two automata agree on ALL words; if not, a shortest word on which they differ.

    Args:
        a: a `DFA`, `Transducer` or `WFA`.
        b: of the same kind; a `DFA` beside a `WFA` stands for its indicator. Of two transducers it is b that asks:
            where it forbids a symbol or wants no answer, nothing is compared.

    Returns:
        `.equal`, `.witness` (a tuple of symbols, a shortest one; None where equal), `.explored`.

    Raises:
        InvalidInputError: for alphabets that differ, or kinds that cannot be compared.

    Guarantee: exact for DFAs and transducers (all reachable pairs of states) and for exact WFAs (at most d + e words
        and their successors); for WFAs in float64 weights are compared within 1e-9 of the size of what they are
        made of: the largest entry of the state times that of the read-out.

    Example:
        >>> from corollary.automata import DFA, equivalent
        >>> found = equivalent(DFA.from_regex("(ab)*", "ab"), DFA.from_regex("(ab)*(ab)?", "ab"))
        >>> found.equal, found.witness
        (True, None)

    Reference: Hopcroft and Karp (1971); Tzeng (1992): textbook.
    """
    from corollary.automata._transducer import Transducer, compare

    pair = (a, b)
    if all(isinstance(x, DFA) for x in pair):
        if a.alphabet != b.alphabet:
            raise InvalidInputError(f"the alphabets differ: {a.alphabet[:20]} and {b.alphabet[:20]}")
        return a.difference(b)
    if all(isinstance(x, WFA | DFA) for x in pair):
        f, g = (WFA.from_dfa(x) if isinstance(x, DFA) else x for x in pair)
        return f.difference(g)
    if all(isinstance(x, Transducer | DFA) for x in pair):
        f, g = (x.transducer() if isinstance(x, DFA) else x for x in pair)
        return compare(f, g)
    raise InvalidInputError(f"{type(a).__name__} and {type(b).__name__} cannot be compared; convert one of them")
