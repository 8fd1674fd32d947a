"""Bracketed arithmetic mod k as string tasks: expressions of a given length, and equations with one unknown.

Every binary operation stands in brackets of its own, so that no precedence is needed; a leaf of 1 to 4 symbols is d,
-d, (d) or (-d). Trees are drawn from the root down for a whole batch at once, one generation of nodes after the other,
and evaluated from the leaves up.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from corollary.errors import InvalidInputError

OPERATORS = "+-*"
LEAF = 4  # longest leaf; what is longer is (left operator right)


class Generation(NamedTuple):
    """Nodes of one depth: where they are, which of them branch, the digits of the others."""

    rows: Int[np.ndarray, " n"]
    starts: Int[np.ndarray, " n"]
    sizes: Int[np.ndarray, " n"]
    inner: Int[np.ndarray, " m"]
    signs: Int[np.ndarray, " m"]
    middles: Int[np.ndarray, " m"]
    numbers: Int[np.ndarray, " n"]

    @property
    def leaves(self) -> Int[np.ndarray, " l"]:
        """Indices of the nodes that are leaves."""
        return np.flatnonzero(self.sizes <= LEAF)

    @property
    def places(self) -> Int[np.ndarray, " n"]:
        """Where the digit of a leaf stands."""
        return self.starts + np.array([0, 0, 1, 1, 2])[np.minimum(self.sizes, LEAF)]


def codes(k: int) -> dict[str, int]:
    """Numbers of the symbols: digits first, then operators, brackets, the unknown, the equality sign."""
    names = [str(d) for d in range(k)] + list(OPERATORS + "()z=")
    return {name: i for i, name in enumerate(names)}


def checked(k: int, operators: str) -> Int[np.ndarray, " m"]:
    """The operators that may be drawn, as indices into `OPERATORS`."""
    if not 2 <= k <= 10:
        raise InvalidInputError(f"`k` must be 2 to 10, so that a number is one symbol, got {k}")
    if not operators or set(operators) - set(OPERATORS):
        raise InvalidInputError(f"`operators` must be some of {OPERATORS}, got {operators!r}")
    return np.array([OPERATORS.index(sign) for sign in dict.fromkeys(operators)])


def grown(
    batch: int, n: int, rng: np.random.Generator, k: int, allowed: Int[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, "b n"], list[Generation]]:
    """(B, n) symbols of random expressions, and their trees."""
    code, out, found = codes(k), np.empty((batch, n), dtype=np.int64), list[Generation]()
    rows, starts, sizes = np.arange(batch), np.zeros(batch, dtype=np.int64), np.full(batch, n)
    while len(rows):
        inner = np.flatnonzero(sizes > LEAF)
        left = 1 + rng.integers(0, sizes[inner] - LEAF)  # both sides have at least one symbol
        middles = starts[inner] + 1 + left
        signs, numbers = rng.choice(allowed, len(inner)), rng.integers(0, k, len(rows))
        now = Generation(rows, starts, sizes, inner, signs, middles, numbers)
        held, leaf = np.flatnonzero(sizes > 2), now.leaves
        out[rows[held], starts[held]], out[rows[held], starts[held] + sizes[held] - 1] = code["("], code[")"]
        out[rows[inner], middles] = k + signs
        negative = leaf[sizes[leaf] % 2 == 0]
        out[rows[negative], now.places[negative] - 1] = code["-"]
        out[rows[leaf], now.places[leaf]] = numbers[leaf]
        found.append(now)
        rows = np.repeat(rows[inner], 2)
        starts = np.column_stack([starts[inner] + 1, middles + 1]).reshape(-1)
        sizes = np.column_stack([left, sizes[inner] - 3 - left]).reshape(-1)
    return out, found


def values(
    tree: list[Generation], k: int, *, out: np.ndarray | None = None, unknown: np.ndarray | None = None
) -> Int[np.ndarray, " b"]:
    """Values mod k of the expressions, leaves first.

    With `unknown`, the place of a digit in each row, the equation for it is made to have one solution: a product of its
    side with what has no inverse mod k becomes a sum, in `out` too. Then the whole is a unit times the unknown plus a
    constant.
    """
    below, holds_below = np.empty(0, dtype=np.int64), np.empty(0, dtype=bool)
    unit = np.array([math.gcd(v, k) == 1 for v in range(k)])
    for now in reversed(tree):
        value = np.where(now.sizes % 2 == 0, -now.numbers, now.numbers) % k
        holds = np.zeros(len(value), dtype=bool)
        if unknown is not None:
            holds = (now.sizes <= LEAF) & (now.places == unknown[now.rows])
        a, b, signs = below[0::2], below[1::2], now.signs
        in_a, in_b = holds_below[0::2], holds_below[1::2]
        if out is not None:
            lost = (signs == 2) & ((in_a & ~unit[b]) | (in_b & ~unit[a]))
            signs = np.where(lost, 0, signs)
            out[now.rows[now.inner], now.middles] = k + signs
        value[now.inner] = np.choose(signs, [a + b, a - b, a * b]) % k
        holds[now.inner] = in_a | in_b
        below, holds_below = value, holds
    return below


def arithmetic(batch: int, n: int, rng: np.random.Generator, *, k: int, operators: str) -> tuple[Any, Any]:
    """Expressions of n symbols; their value mod k."""
    word, tree = grown(batch, n, rng, k, checked(k, operators))
    return word, values(tree, k)[:, None]


def equation(batch: int, n: int, rng: np.random.Generator, *, k: int, operators: str) -> tuple[Any, Any]:
    """Expressions in which `z` stands for one digit, equal to their value mod k; the one digit that solves it."""
    word, tree = grown(batch, n - 2, rng, k, checked(k, operators))
    rows = np.concatenate([g.rows[g.leaves] for g in tree])
    places = np.concatenate([g.places[g.leaves] for g in tree])
    order = np.lexsort((rng.random(len(rows)), rows))  # leaves of a row together, in random order: the first is taken
    unknown = places[order[np.unique(rows[order], return_index=True)[1]]]
    total = values(tree, k, out=word, unknown=unknown)
    solution, code = word[np.arange(batch), unknown].copy(), codes(k)
    word[np.arange(batch), unknown] = code["z"]
    return np.column_stack([word, np.full(batch, code["="]), total]), solution[:, None]
