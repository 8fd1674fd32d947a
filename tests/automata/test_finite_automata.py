"""DFAs and transducers: patterns against Python's, algebra of languages, exact comparison, monoids, pictures."""

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corollary.automata import (
    DFA,
    WFA,
    Transducer,
    draw,
    equivalent,
    permutation_group,
    task,
    to_dot,
    transition_monoid,
)
from corollary.automata._transducer import breadth_first
from corollary.errors import InvalidInputError

WORDS = [w for n in range(7) for w in itertools.product("ab", repeat=n)]
PATTERNS = [
    "",
    "a*",
    "(ab)*",
    "a|b",
    "(a|b)*abb",
    "(b|ab*a)*",
    "a+b?",
    "[ab]{2,3}",
    "(aa|b){2,}",
    "[^a]b*",
    ".b.",
    "a{0,2}",
    "(a*b*)*",
    "a+?",
    "a*?b",
    "a??",
    "a{2,3}?",
    "(a{1,2}?|b){2}",
    "(a{2}){2}",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_mean_what_python_means(pattern):
    dfa, known = DFA.from_regex(pattern, "ab"), re.compile(pattern)
    for word in WORDS:
        assert dfa.accepts("".join(word)) == bool(known.fullmatch("".join(word)))
        assert dfa.accepts(word) == dfa.accepts("".join(word))


simple = st.recursive(
    st.sampled_from(["a", "b", "[ab]"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda p: f"({p[0]}|{p[1]})"),
        inner.map(lambda p: f"({p})*"),
        inner.map(lambda p: f"({p})?"),
        inner.map(lambda p: f"({p}){{1,2}}"),
        inner.map(lambda p: f"({p})+?"),
    ),
    max_leaves=6,
)


@settings(max_examples=25, deadline=None)
@given(simple, simple)
def test_algebra_of_languages(p, q):
    a, b = DFA.from_regex(p, "ab"), DFA.from_regex(q, "ab")
    known = re.compile(p), re.compile(q)
    combined = {"and": a & b, "or": a | b, "xor": a ^ b, "minus": a - b, "not": ~a}
    for word in itertools.islice(WORDS, 63):
        x, y = (bool(k.fullmatch("".join(word))) for k in known)
        wanted = {"and": x and y, "or": x or y, "xor": x != y, "minus": x and not y, "not": not x}
        assert {n: d.accepts(word) for n, d in combined.items()} == wanted
    found = equivalent(a, b)
    difference = (a ^ b).shortest_word()
    assert found.equal == (difference is None)
    if difference is not None:
        assert len(found.witness) == len(difference)
        assert a.accepts(found.witness) != b.accepts(found.witness)
    small = a.minimise()
    assert equivalent(a, small).equal
    assert (small.transitions == a.minimise().minimise().transitions).all()
    twin = DFA.from_regex(f"({p})|({p})", "ab")  # one language, one table
    assert (twin.transitions == small.transitions).all()
    assert (twin.accepting == small.accepting).all()


def test_minimal_numbers_of_states():
    assert DFA.from_regex("(a|b)*abb", "ab").states == 4
    assert DFA.from_regex("((a|b){3})*", "ab").states == 3
    unreached = DFA(np.array([[0, 0], [1, 1]]), np.array([True, False]), 0, ("a", "b"))
    assert unreached.minimise().states == 1


def test_the_empty_language():
    for empty in (DFA.from_regex("[]", "ab"), DFA.from_regex("[^ab]a*", "ab"), ~DFA.from_regex(".*", "ab")):
        assert empty.is_empty
        assert empty.shortest_word() is None
        assert empty.states == 1
        assert not any(empty.accepts(w) for w in WORDS)
        assert equivalent(empty, DFA.from_regex("", "ab")).witness == ()
    assert DFA.from_regex("", "ab").accepts("")


def test_the_shortest_difference_is_shortest():
    a, b = DFA.from_regex("(ab)*", "ab"), DFA.from_regex("(ab){0,3}", "ab")
    assert equivalent(a, b).witness == tuple("abababab")
    assert equivalent(a, a).equal
    assert equivalent(a, a).witness is None


def test_from_transitions_names_states_and_adds_a_dead_one():
    dfa = DFA.from_transitions(
        {("even", "a"): "odd", ("odd", "a"): "even"}, start="even", accepting={"even"}, alphabet="ab"
    )
    assert [dfa.accepts(w) for w in ("", "a", "aa", "aab")] == [True, False, True, False]
    assert dfa.minimise().states == 3
    whole = DFA.from_transitions({(0, "x"): 0}, start=0, accepting=[0])
    assert whole.states == 1


def test_symbols_need_not_be_characters():
    dfa = DFA(np.array([[0, 1], [1, 0]]), np.array([True, False]), 0, ((1, 2), "go"))
    assert dfa.accepts([(1, 2), "go", "go"])
    assert equivalent(dfa, ~dfa).witness == ()


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    "pattern",
    [
        *["(", ")", "a)", "*a", "[a", "a{2", "a{3,2}", "a{9999}", "c", "\\", "[c]", "|*", "(" * 300],
        *[r"\d+", r"[\d]", r"\b", "a**", "a+*", "a{2}{3}", "a++", "a???", "a{²}", "a" + "*" * 3000, "^a", "a$", "a{}"],
        *["((a{1000}){1000}){3}", "((a?){999}){262}|b", "a{1000}" * 300],
    ],
)
def test_patterns_that_cannot_be_read(pattern):
    with pytest.raises(InvalidInputError, match="pattern"):
        DFA.from_regex(pattern, "abdt")


def test_symbols_of_operators_are_escaped():
    for symbol in "|*+?(){}[].\\^$-&_ é":
        dfa = DFA.from_regex(f"(\\{symbol}|[\\{symbol}]a)", [symbol, "a"])
        known = re.compile(f"(\\{symbol}|[\\{symbol}]a)")
        for word in itertools.product([symbol, "a"], repeat=2):
            assert dfa.accepts(word) == bool(known.fullmatch("".join(word)))
        assert dfa.accepts(symbol)
    assert [DFA.from_regex(r"[+-\]]", "+,]a").accepts(x) for x in "+,]a"] == [True, True, True, False]


def moore(dfa):
    """The slow way: blocks are compared by the blocks of all their successors until none is split."""
    order = list(breadth_first(dfa.transitions, dfa.start))
    number = {q: i for i, q in enumerate(order)}
    table = [[number[q] for q in dfa.transitions[p].tolist()] for p in order]
    block = [int(dfa.accepting[q]) for q in order]
    while True:
        names = [(block[q], *(block[after] for after in table[q])) for q in range(len(table))]
        finer = [sorted(set(names)).index(name) for name in names]
        if len(set(finer)) == len(set(block)):
            break
        block = finer
    found: list[int] = [block[0]]
    rows = []
    for b in found:
        row = [block[q] for q in table[block.index(b)]]
        found += [c for c in dict.fromkeys(row) if c not in found]
        rows.append([found.index(c) for c in row])
    return rows, [bool(dfa.accepting[order[block.index(b)]]) for b in found]


@pytest.mark.parametrize("seed", range(40))
def test_hopcroft_finds_the_blocks_of_moore_in_the_same_order(seed):
    rng = np.random.default_rng(seed)
    n, V = int(rng.integers(1, 40)), int(rng.integers(1, 4))
    table = rng.integers(0, max(1, n // 2), (n, V)) if seed % 2 else np.sort(rng.integers(0, n, (n, V)), axis=0)
    dfa = DFA(table, rng.random(n) < 0.2 + 0.6 * (seed % 3 == 0), int(rng.integers(n)))
    small = dfa.minimise()
    assert (small.transitions.tolist(), small.accepting.tolist()) == moore(dfa)
    forbidden = np.where(rng.random((n, V)) < 0.2, -1, table)
    machine = Transducer(forbidden, np.where(forbidden < 0, -1, rng.integers(0, 2, (n, V))))
    least = machine.minimise()
    assert least.minimise().transitions.tolist() == least.transitions.tolist()
    assert equivalent(machine, least).equal
    assert equivalent(least, machine).equal


def test_long_chains_are_minimised():
    """9,001 states in a row: blocks that are compared whole, round by round, took 80 s here."""
    dfa = DFA.from_regex("(a{300}){30}", "ab")
    assert dfa.states == 9002
    assert dfa.shortest_word() == ("a",) * 9000
    assert equivalent(dfa, DFA.from_regex("(a{100}){90}", "ab")).equal


@pytest.mark.usefixtures("as_shipped")
def test_bad_automata():
    for table, accepting in (
        ([[2]], [True]),
        ([[0]], [True, False]),
        (np.zeros((0, 1), dtype=int), []),
        ([[0.5]], [True]),
    ):
        with pytest.raises(InvalidInputError):
            DFA(np.array(table), np.array(accepting, dtype=bool))
    with pytest.raises(InvalidInputError, match="alphabet"):
        DFA.from_regex("a", "")
    with pytest.raises(InvalidInputError, match="alphabet"):
        DFA.from_regex("a", "aa")
    with pytest.raises(InvalidInputError, match="not in the alphabet"):
        DFA.from_regex("a*", "ab").accepts("abc")
    with pytest.raises(InvalidInputError, match="alphabets differ"):
        equivalent(DFA.from_regex("a", "a"), DFA.from_regex("a", "ab"))
    with pytest.raises(InvalidInputError, match="compared"):
        equivalent(DFA.from_regex("a", "a"), 3)
    with pytest.raises(InvalidInputError, match="escape"):
        DFA.from_regex("+", "+")
    assert DFA.from_regex("\\+*", "+").accepts("++")


def test_transducers_minimise_and_compare():
    double = Transducer.from_function(0, lambda q, x: ((q + x) % 6, (q + x) % 3), range(2))
    assert double.states == 6
    small = double.minimise()
    assert small.states == 3
    assert equivalent(double, small).equal
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (5, 50))
    assert (double.run(x) == small.run(x)).all()
    assert small.answers(x[0].tolist()) == double.run(x)[0].tolist()
    other = Transducer.from_function(0, lambda q, x: ((q + x) % 4, min((q + x) % 4, 2)), range(2))
    found = equivalent(small, other)
    assert found.witness == (1, 1, 1)
    with pytest.raises(InvalidInputError, match="states are reached"):
        Transducer.from_function(0, lambda q, x: (q + 1, 0), range(1), limit=50)


def test_monoids():
    parity, star = DFA.from_regex("(b|ab*a)*", "ab"), DFA.from_regex("(ab)*", "ab")
    group = transition_monoid(parity)
    assert (group.order, group.is_group, group.is_aperiodic, group.is_commutative) == (2, True, False, True)
    free = transition_monoid(star)
    assert (free.order, free.is_group, free.is_aperiodic) == (6, False, True)  # (ab)* is star-free
    s5 = transition_monoid(task("s5").automaton)
    assert (s5.order, s5.is_group, s5.is_commutative) == (120, True, False)
    table = transition_monoid(task("s3").automaton).table()
    assert (np.sort(table, 0) == np.arange(6)[:, None]).all()  # a Latin square: cancellation in a group
    assert (table[0] == np.arange(6)).all()
    assert len(permutation_group([(1, 2, 0)])) == 3
    with pytest.raises(InvalidInputError, match="permutations"):
        permutation_group([(0, 0, 1)])
    with pytest.raises(InvalidInputError, match="elements"):
        transition_monoid(task("s5").automaton, limit=100)
    with pytest.raises(InvalidInputError, match="not allowed"):
        transition_monoid(task("arithmetic").automaton)


def test_pictures():
    dot = to_dot(task("parity").automaton)
    assert 'label="1 / 1"' in dot
    quoted = DFA(np.array([[0]]), np.array([True]), 0, ('"',))
    assert '\\"' in to_dot(quoted)
    thirds = WFA([1, 0], {"a": [[Fraction(1, 3), 0], [1, 1]]}, [0, 2], exact=True)
    told = to_dot(thirds)
    assert 'start -> 0 [label="1"];' in told
    assert '1 [shape=doublecircle, label="1 / 2"];' in told
    assert '0 -> 0 [label="a / 1/3"];' in told
    assert "1 -> 0" not in told  # a weight of zero
    assert {t.get_text() for t in draw(thirds).texts} >= {"0", "1 / 2", "a / 1/3", "a / 1"}
    assert 'label="0 / 0.3333"' in to_dot(WFA([1.0], [[[1 / 3]]], [0.0]))
    axes = draw(DFA.from_regex("(ab)*", "ab"))
    assert {t.get_text() for t in axes.texts} >= {"0", "1", "2", "a", "b"}
    with pytest.raises(InvalidInputError, match="too many"):
        draw(task("s5").automaton)
