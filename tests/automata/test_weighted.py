"""Weighted automata: exact evaluation and equality, sums and products, Hankel rank is the least dimension."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from corollary.automata import DFA, WFA, equivalent, hankel
from corollary.errors import InvalidInputError

WORDS = [w for n in range(6) for w in itertools.product((0, 1), repeat=n)]


def random_wfa(rng, d, *, exact=True, V=2):
    def draw(*s):
        if not exact:
            return rng.normal(size=s) / 2
        thirds = [Fraction(int(v), 3) for v in rng.integers(-4, 5, int(np.prod(s)))]
        return np.array(thirds, dtype=object).reshape(s)

    return WFA(draw(d), draw(V, d, d), draw(d), exact=exact)


@pytest.mark.parametrize("exact", [True, False])
def test_sums_products_and_minimal_automata(rng, exact):
    for _ in range(15):
        f, g = (random_wfa(rng, int(rng.integers(1, 4)), exact=exact) for _ in range(2))
        small = (f + f).minimise()
        assert small.dim <= f.dim
        for w in WORDS[:31]:
            values = [a.evaluate(w) for a in (f, g, f + g, f * g, f - g, small)]
            wanted = [
                values[0],
                values[1],
                values[0] + values[1],
                values[0] * values[1],
                values[0] - values[1],
                2 * values[0],
            ]
            assert (
                values == wanted if exact else np.allclose(np.array(values, float), np.array(wanted, float), atol=1e-9)
            )


def test_exact_values_are_exact():
    f = WFA([Fraction(1)], [[[Fraction(1, 3)]]], [Fraction(1)], exact=True)
    assert f.evaluate([0] * 200) == Fraction(1, 3**200)
    tenth = WFA([0.1], [[[1.0]]], [1.0], exact=True)  # a float is the rational that it is
    assert tenth.evaluate([]) == Fraction(0.1) != Fraction(1, 10)


def test_tzeng_decides_and_finds_a_shortest_difference(rng):
    for _ in range(30):
        f = random_wfa(rng, 3)
        P = np.array([[Fraction(int(v)) for v in row] for row in [[1, 1, 0], [0, 1, 2], [0, 0, 1]]], dtype=object)
        inverse = np.array(
            [[Fraction(int(v)) for v in row] for row in [[1, -1, 2], [0, 1, -2], [0, 0, 1]]], dtype=object
        )
        same = WFA(P @ f.initial, np.stack([P @ M @ inverse for M in f.matrices]), f.final @ inverse, exact=True)
        assert equivalent(f, same).equal
        M = f.matrices.copy()
        M[1, 2, 2] += 1
        changed = WFA(f.initial, M, f.final, exact=True)
        found = equivalent(f, changed)
        differ = [w for w in WORDS if f.evaluate(w) != changed.evaluate(w)]
        if differ:
            assert not found.equal
            assert len(found.witness) == len(differ[0])
            assert f.evaluate(found.witness) != changed.evaluate(found.witness)


def test_a_difference_behind_a_long_word():
    """f counts the ones and is 1 at exactly n of them: equal to zero on all shorter words."""
    n = 12
    M = np.zeros((2, n + 1, n + 1))
    M[0] = np.eye(n + 1)
    M[1, range(1, n + 1), range(n)] = 1
    f = WFA(np.eye(n + 1)[0], M, np.eye(n + 1)[n], exact=True)
    zero = WFA([0], [[[1]], [[1]]], [0], exact=True)
    assert equivalent(f, zero).witness == (1,) * n
    assert f.minimise().dim == n + 1
    assert zero.minimise().dim == 1


@pytest.mark.parametrize("k", [2, 3, 5])
def test_hankel_rank_of_counting_mod_k_is_k(k):
    assert np.linalg.matrix_rank(hankel(lambda w: sum(w) % k == 0, (0, 1), length=k)) == k
    dfa = DFA(np.array([[q, (q + 1) % k] for q in range(k)]), np.arange(k) == 0)
    f = WFA.from_dfa(dfa)
    assert f.minimise().dim == k
    assert equivalent(f, dfa).equal
    back = f.to_dfa(lambda v: v > 0)
    assert equivalent(back, dfa).equal


def test_hankel_rank_bounds_every_dimension(rng):
    for d in (1, 2, 3):
        f = random_wfa(rng, d)
        rank = np.linalg.matrix_rank(hankel(f.evaluate, (0, 1), length=3), tol=1e-6)
        assert rank <= f.minimise().dim <= d


@pytest.mark.usefixtures("as_shipped")
def test_bad_weighted_automata():
    for args in (([1], [[[1, 0]]], [1]), ([1], [], [1]), ([np.nan], [[[1]]], [1]), (["x"], [[[1]]], [1])):
        with pytest.raises(InvalidInputError):
            WFA(*args)
        with pytest.raises(InvalidInputError):
            WFA(*args, exact=True)
    f = WFA([1], [[[2]]], [1], exact=True)
    with pytest.raises(InvalidInputError, match="not in the alphabet"):
        f.evaluate([3])
    with pytest.raises(InvalidInputError, match="states are reached"):
        f.to_dfa(limit=20)
    with pytest.raises(InvalidInputError, match="alphabets differ"):
        f + WFA([1], {"a": [[1]]}, [1])
    with pytest.raises(InvalidInputError, match="too many"):
        hankel(len, range(10), length=6)
