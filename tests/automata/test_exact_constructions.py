"""Constructions are exact at length 100,000; Barrington's words compute formulas; random features and their rank."""

import itertools

import numpy as np
import pytest
import torch

from corollary.automata import (
    DFA,
    RationalHead,
    RationalTransductor,
    Transducer,
    adder_head,
    automaton_head,
    base_head,
    branching_program,
    certify,
    counter_head,
    formula_to_word,
    from_automaton,
    parity_head,
    permutation_group,
    permutation_head,
    rational_features,
    readout_error,
    s5_head,
    scan,
    sinusoidal_head,
    task,
)
from corollary.certificates import Status
from corollary.errors import InvalidInputError

LONG = 100_000


def symbols(V, seed=0, T=LONG):
    return torch.randint(V, (1, T), generator=torch.Generator().manual_seed(seed))


def test_counters_are_exact_at_length_100_000():
    x = symbols(2)
    assert torch.equal(parity_head()(x)[0].argmax(-1), x[0].cumsum(0) % 2)
    assert torch.equal(counter_head(7)(x)[0].argmax(-1), x[0].cumsum(0) % 7)
    steps = torch.tensor([-1, 0, 1])
    y = symbols(3)
    assert torch.equal(counter_head(5, steps=(-1, 0, 1))(y)[0].argmax(-1), steps[y[0]].cumsum(0) % 5)


def test_the_matrices_of_a_finite_head_run_as_exactly_in_floating_point():
    x, one = symbols(2), counter_head(7)
    h = scan(one.matrices(), x, torch.eye(7)[0])
    assert torch.equal(h, one(x))  # zeros and ones only move
    turning = counter_head(5, rotation=True)(x)[0]
    phase = torch.atan2(turning[:, 1], turning[:, 0]) / (2 * torch.pi) * 5
    assert torch.equal(phase.round().long() % 5, x[0].cumsum(0) % 5)


def test_addition_of_100_000_digits():
    x = symbols(100)
    a, b = ([int(v) for v in part.tolist()] for part in (x[0] // 10, x[0] % 10))
    carry = adder_head()(x, state="exclusive")[0].argmax(-1)
    digits = (x[0] // 10 + x[0] % 10 + carry) % 10
    known, rest = [], 0
    for p, q in zip(a, b, strict=True):
        rest, digit = divmod(p + q + rest, 10)
        known.append(digit)
    assert digits.tolist() == known
    few = 300  # Python's own big integers agree
    total = sum(int("".join(map(str, reversed(n[:few])))) for n in (a, b)) % 10**few
    assert "".join(map(str, reversed(digits[:few].tolist()))) == str(total).zfill(few)


def test_words_over_s5_of_length_100_000():
    generators = [(1, 0, 2, 3, 4), (1, 2, 3, 4, 0)]
    x = symbols(2)
    h = permutation_head(generators)(x)[0, -1]
    product = list(range(5))
    for i in x[0].tolist():
        product = [generators[i][j] for j in product]
    wanted = torch.zeros(5)
    wanted[product] = torch.arange(1.0, 6.0)
    assert torch.equal(h, wanted)
    every = permutation_group(generators)
    states = {tuple(permutation_head(every)(torch.tensor([[i]]))[0, -1].tolist()) for i in range(120)}
    assert len(states) == 120  # the state names the element


@pytest.mark.parametrize("pattern", ["(a|b)*abb", "((a|b){3})*", "(ab)*", "[]", ""])
def test_any_regular_expression_at_length_100_000(pattern):
    dfa, x = DFA.from_regex(pattern, "ab"), symbols(2)
    wanted = dfa.transducer().run(x.numpy())
    states = automaton_head(dfa)(x)[0].argmax(-1)
    assert (dfa.accepting[states.numpy()] == wanted[0]).all()
    network = RationalTransductor.from_regex(pattern, "ab")
    assert (network(x).argmax(-1).numpy() == wanted).all()


def test_networks_of_transducers():
    for name in ("flip-flop", "addition", "arithmetic", "s3"):
        problem = task(name)
        x, y = problem.sample(4, 200, np.random.default_rng(0))
        told = from_automaton(problem.automaton)(torch.from_numpy(x)).argmax(-1).numpy()
        assert (told == y)[y >= 0].all()
    with pytest.raises(InvalidInputError, match="pairs"):
        from_automaton(task("s5", generators=60).automaton)


def test_networks_are_small_and_exact_where_states_are_many():
    """2,048 states: a stream as wide as the pairs of state and symbol had 142,659,586 parameters."""
    pattern = ".*a.{10}"
    network, dfa = RationalTransductor.from_regex(pattern, "ab"), DFA.from_regex(pattern, "ab")
    assert sum(p.numel() for p in network.parameters()) < 10_000
    certificate, evidence = certify(network, dfa)
    assert certificate.check(**evidence).status is Status.HOLDS


@pytest.mark.parametrize("seed", range(10))
def test_networks_of_random_transducers(seed):
    """Answers that depend on state and symbol, forbidden symbols, and starts that nothing leads to."""
    rng = np.random.default_rng(seed)
    n, V, classes = int(rng.integers(1, 9)), int(rng.integers(1, 4)), int(rng.integers(1, 5))
    table = np.where(rng.random((n, V)) < 0.2, -1, rng.integers(0, n, (n, V)))
    outputs = np.where((table < 0) | (rng.random((n, V)) < 0.2), -1, rng.integers(0, classes, (n, V)))
    outputs[0, 0], table[0, 0] = 0, 0
    machine = Transducer(table, outputs, int(rng.integers(n)))
    certificate, evidence = certify(from_automaton(machine), machine)
    assert certificate.rule == "automata.all_lengths"
    assert certificate.check(**evidence).status is Status.HOLDS


def test_values_in_a_base():
    x = symbols(2, T=50)
    wanted = int("".join(map(str, x[0].tolist())), 2)
    assert base_head(2)(x)[0, -1, 0].item() == wanted
    high, low = base_head(2, order="high"), base_head(2, order="low")
    assert abs(high(x)[0, -1, 0].item() - wanted / 2**50) < 1e-15
    assert abs(low(x.flip(1))[0, -1, 0].item() - wanted / 2**50) < 1e-15
    ten = symbols(10, T=12)
    assert base_head(10)(ten)[0, -1, 0].item() == int("".join(map(str, ten[0].tolist())))


def test_sinusoidal_codes_are_a_head():
    h = sinusoidal_head(4, 6)(symbols(4, T=500))[0]
    t = torch.arange(1, 501, dtype=torch.float64)[:, None]
    rate = 10_000.0 ** (-torch.arange(3, dtype=torch.float64) * 2 / 6)
    assert torch.allclose(h[:, 0::2], (t * rate).cos(), atol=1e-9)
    assert torch.allclose(h[:, 1::2], (t * rate).sin(), atol=1e-9)


FORMULAS = [
    "x",
    "!x",
    "x & y",
    "x | y",
    "!(x & !y) | z",
    "(x & y) | (!y & z)",
    "x & y & z & !x",
    "((x|y)&(y|z))|(!(x&z))",
    "1",
    "0 | x",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_barrington_computes_every_formula(text):
    program = branching_program(text)
    python = text.replace("!", " not ").replace("&", " and ").replace("|", " or ")
    assert len(program.instructions) <= 4**program.depth
    head = s5_head()
    for values in itertools.product((False, True), repeat=3):
        given = dict(zip("xyz", values, strict=True))
        wanted = bool(eval(python, {}, dict(given)))
        assert program.value(given) == wanted
        word = formula_to_word(text, given)
        state = head(torch.tensor([word]))[0, -1].tolist()
        assert (state != [1, 2, 3, 4, 5]) == wanted
        assert state == ([5, 1, 2, 3, 4] if wanted else [1, 2, 3, 4, 5])


def test_random_formulas_up_to_depth_4():
    rng = np.random.default_rng(0)

    def draw(depth):
        if depth == 0 or rng.random() < 0.15:
            return int(rng.integers(100, 104))
        kind = ("and", "or", "not")[rng.integers(3)]
        return (kind, draw(depth - 1)) if kind == "not" else (kind, draw(depth - 1), draw(depth - 1))

    def truth(tree, given):
        if not isinstance(tree, tuple):
            return given[tree]
        parts = [truth(t, given) for t in tree[1:]]
        return {"not": lambda: not parts[0], "and": lambda: all(parts), "or": lambda: any(parts)}[tree[0]]()

    for _ in range(300):
        tree = _names(draw(4))
        given = {f"v{i}": bool(rng.integers(2)) for i in range(100, 104)}
        program = branching_program(tree)
        assert program.value(given) == truth(tree, given)
        assert len(program.instructions) <= 4**program.depth


def _names(tree):
    return tuple(_names(t) for t in tree) if isinstance(tree, tuple) else f"v{tree}" if isinstance(tree, int) else tree


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("text", ["", "x &", "(x", "x)", "x y", "x $ y", "!" * 300 + "x", "&".join("x" * 30)])
def test_formulas_that_cannot_be_read(text):
    with pytest.raises(InvalidInputError):
        formula_to_word(text, {"x": True})


def test_formulas_need_values():
    with pytest.raises(InvalidInputError, match="no value"):
        formula_to_word("x & y", {"x": True})
    with pytest.raises(InvalidInputError, match="needed"):
        branching_program(("nand", "x", "y"))


@pytest.mark.parametrize("L", [4, 6])
def test_random_features_are_universal_from_v_to_the_l_on_and_not_before(L):
    words = np.array(list(itertools.product(range(2), repeat=L)))
    parity = words.sum(1) % 2
    for seed in range(3):
        for d in (2, 2 ** (L - 1), 2**L - 1, 2**L):
            head = RationalHead(2, d, family="random", seed=seed).double()
            X = rational_features(head, words)
            assert np.linalg.matrix_rank(X / np.abs(X).max()) == min(d, 2**L)
            error = readout_error(head, words, parity)
            assert error < 1e-12 if d == 2**L else error > 1e-3
    for k in (2, 3, 5):  # learned features: k, the Hankel rank
        assert readout_error(counter_head(k), words, np.eye(k)[words.sum(1) % k]) < 1e-20


@pytest.mark.usefixtures("as_shipped")
def test_bad_constructions():
    for bad in (
        lambda: counter_head(0),
        lambda: base_head(1),
        lambda: base_head(2, order="middle"),
        lambda: permutation_head([(0, 0)]),
        lambda: sinusoidal_head(2, 3),
        lambda: rational_features(parity_head(), np.zeros((2, 0), dtype=int)),
        lambda: readout_error(parity_head(), np.zeros((2, 3), dtype=int), [1.0]),
    ):
        with pytest.raises(InvalidInputError):
            bad()
