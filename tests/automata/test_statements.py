"""Section 4 of the notes, statement by statement, where no other file has it: reductions, limits, drift, exactness."""

import math

import numpy as np
import pytest
import torch

from corollary.automata import (
    WFA,
    ContinuousHead,
    DirectSum,
    FiniteHead,
    RationalHead,
    RationalTransductor,
    TransductorConfig,
    base_head,
    certify,
    counter_head,
    eigen_angles,
    equivalent,
    families,
    family,
    fixed_head,
    formula_to_word,
    inverse_cayley,
    learn,
    length_accuracy,
    permutation_head,
    rotations,
    s5_head,
    scan,
    sinusoidal_head,
    task,
)
from corollary.automata._tasks import GROUPS
from corollary.errors import InvalidInputError

LONG = 100_000


def symbols(V, T, B=1, seed=0):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


def test_values_in_a_base_at_length_100_000():
    """Bounded forms stay in [0, 1) and within rounding of the exact fraction; the exact form ends at 2^53."""
    x = symbols(10, LONG)
    last = x[0, -30:].tolist()  # digits before these count for less than 1e-30
    low = base_head(10, order="low")(x)[0, :, 0]
    assert abs(low[-1].item() - int("".join(map(str, reversed(last)))) / 10**30) < 1e-12
    assert low.min() >= 0
    assert low.max() < 1
    first = x[0, :30].tolist()
    high = base_head(10, order="high")(x)[0, -1, 0].item()
    assert abs(high - int("".join(map(str, first))) / 10**30) < 1e-12


def test_positional_codes_at_length_100_000():
    h, t = sinusoidal_head(3, 4)(symbols(3, LONG))[0], torch.arange(1, LONG + 1, dtype=torch.float64)
    for i, rate in enumerate((1.0, 10_000.0**-0.5)):
        assert (h[:, 2 * i] - (t * rate).cos()).abs().max() < 1e-9  # 1e5 products, each within 1e-15
        assert (h[:, 2 * i + 1] - (t * rate).sin()).abs().max() < 1e-9


def test_a_formula_of_depth_7_is_a_word_of_16_384_symbols():
    """Barrington's word, read by its exact head: 4^7 symbols, each of which counts."""

    def full(depth, values):
        return ("and", full(depth - 1, values), full(depth - 1, values)) if depth else next(values)

    for wanted in (True, False):
        leaves = [True] * 128
        leaves[77] = wanted
        word = formula_to_word(full(7, iter(leaves)))
        assert len(word) == 4**7
        state = s5_head()(torch.tensor([word]))[0, -1].tolist()
        assert state == ([5, 1, 2, 3, 4] if wanted else [1, 2, 3, 4, 5])


def test_a_linear_read_out_of_a_head_is_a_weighted_automaton():
    """No layers at all: beta^T h_T; and back from the automaton to a head."""
    rng = np.random.default_rng(0)
    for seed in range(10):
        head, beta = RationalHead(3, 4, family="free", seed=seed).double(), rng.normal(size=4)
        f = WFA.from_head(head, beta, alphabet="xyz")
        x = symbols(3, 12, B=8, seed=seed)
        told = (head(x)[:, -1].detach().numpy() @ beta).tolist()
        assert [f.evaluate("".join("xyz"[i] for i in row)) for row in x.tolist()] == pytest.approx(told, abs=1e-12)
        back = f.head()
        assert torch.allclose(back(x), head(x), atol=1e-12)
        assert equivalent(f, WFA.from_head(back, beta, alphabet="xyz")).equal
    five = WFA.from_head(counter_head(5).represent(), [0, 0, 0, 0, 1], exact=True)
    assert five.minimise().dim == 5
    assert five.evaluate([1] * 9) == 1
    assert WFA([1], [[[2]], [[3]]], [1], exact=True).head()(torch.tensor([[0, 1, 1]]))[0, -1].item() == 18
    with pytest.raises(InvalidInputError):
        WFA.from_head(counter_head(5).represent(), [1, 0])


def test_products_of_features_are_features_of_tensor_products():
    """Virtual tensorisation: the scores h^T A h' see the d^2 coordinates of the automaton M (x) M'."""
    a, b = (RationalHead(2, d, seed=d).double() for d in (3, 4))
    M = torch.stack([torch.kron(m, n) for m, n in zip(a.matrices(), b.matrices(), strict=True)])
    x = symbols(2, 40, B=3)
    both = scan(M, x, torch.kron(a.initial_state(), b.initial_state()))
    assert torch.allclose(both, torch.einsum("bti,btj->btij", a(x), b(x)).flatten(2), atol=1e-10)


def test_diagonal_heads_are_diagonal_state_space_models():
    for name in ("diagonal", "diagonal-signed"):
        head, x = RationalHead(4, 6, family=name, seed=0).double(), symbols(4, 50, B=3)
        a, h = torch.diagonal(head.matrices(), dim1=-2, dim2=-1), head.initial_state().expand(3, 6)
        found = head(x)
        for t in range(50):
            h = a[x[:, t]] * h
            assert torch.allclose(found[:, t], h, atol=1e-12)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("delta", [1e-3, 4e-4])
def test_an_angle_error_counts_right_up_to_its_length_and_no_further(k, delta):
    """T delta < pi / k, and `eigen_angles` names that length."""
    head = fixed_head(rotations(torch.tensor([[2 * math.pi / k + delta]], dtype=torch.float64)), [1.0, 0.0])
    limit = math.pi / k / delta
    h = head(torch.zeros(1, int(limit) + 2, dtype=torch.int64))[0]
    phase = torch.atan2(h[:, 1], h[:, 0]) / (2 * math.pi) * k
    right = phase.round().long() % k == torch.arange(1, len(h) + 1) % k
    assert right[: math.floor(limit)].all()
    assert not right[math.floor(limit) :].any()
    told = eigen_angles(head, q_max=k)[0]
    assert told["lengths"][0] == pytest.approx(limit, rel=1e-6)


def test_what_one_cayley_matrix_of_odd_order_is():
    """Mod k by a plain Cayley matrix for k = 3, 5, 7: the cycle itself, run as a head."""
    for k in (3, 5, 7):
        W = inverse_cayley(torch.eye(k, dtype=torch.float64).roll(1, 0)[None]) / 2
        head = RationalHead(2, k).double()
        with torch.no_grad():
            head.weights["weight"].copy_(torch.cat([torch.zeros_like(W), W]))
            head.alpha.copy_(torch.eye(k)[0])
        x = symbols(2, 500)
        assert torch.equal(head(x)[0].argmax(-1), x[0].cumsum(0) % k)


@pytest.mark.parametrize("name", families())
def test_every_family_has_exact_gradients(name):
    made, g = family(name), torch.Generator().manual_seed(0)
    p = {n: v.double() for n, v in made.start(2, 4, lambda *s: torch.randn(s, generator=g)).items()}
    names = [n for n in p if n not in made.fixed]

    def states(*trained):
        return scan(made.build({**p, **dict(zip(names, trained, strict=True))}), x, start)

    x, start = symbols(2, 5, B=2), torch.randn(4, generator=g).double()
    trained = tuple(p[n].requires_grad_() for n in names)
    if name == "random":
        assert not trained
        return
    assert torch.autograd.gradcheck(states, trained)


def test_vectors_that_drive_a_head_get_exact_gradients():
    head, g = ContinuousHead(3, 4, seed=0).double(), torch.Generator().manual_seed(1)
    e = torch.randn(2, 5, 3, generator=g, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(head, (e,))


def test_first_parameters_are_those_that_were_found_to_converge():
    """Near the identity: small Cayley angles; stochastic columns that mostly stay; states of norm sqrt(d)."""
    eye = torch.eye(8)
    for name, far in (("cayley", 2.1), ("exponential", 1.3), ("squared", 3.6)):  # a random rotation: sqrt(2 d) = 4
        head = RationalHead(50, 8, family=name, seed=0)
        gap = (head.matrices() - eye).flatten(1).norm(dim=1)
        assert 0.1 < gap.mean() < far
        assert head.initial_state().norm().item() == pytest.approx(8**0.5, rel=1e-5)
    assert RationalHead(50, 8).weights["weight"].std().item() == pytest.approx(0.1, rel=0.05)
    columns = RationalHead(50, 4, family="stochastic", seed=0)
    assert torch.diagonal(columns.matrices(), dim1=-2, dim2=-1).mean() > 0.5
    assert columns.initial_state().sum().item() == pytest.approx(1, abs=1e-6)


def test_every_layer_reads_the_state_through_a_map_of_its_own():
    config = TransductorConfig(vocab_size=3, classes=2, width=16, layers=4, heads=2)
    assert config.positions == "none"
    model, x = RationalTransductor(config, RationalHead(3, 4, seed=0), seed=0), symbols(3, 9, B=2)
    model(x).square().sum().backward()
    assert len(model.inject) == 4
    assert all(linear.weight.grad.abs().sum() > 0 for linear in model.inject)
    before = model(x)
    for linear in model.inject:
        kept = linear.weight.detach().clone()
        torch.nn.init.zeros_(linear.weight)
        assert not torch.allclose(model(x), before, atol=1e-4)
        linear.weight.data.copy_(kept)
    assert torch.equal(model(x), before)


def test_depth_is_named_by_groups_and_flip_flops_together():
    """Krohn and Rhodes in one direct sum: a counter that a reset symbol does not touch, and a flip-flop."""
    counter, flip = counter_head(3, steps=(1, 0, 2)), FiniteHead([[0, 1, 0], [1, 1, 0]])
    both = DirectSum([counter.represent(), flip.represent()])
    x = symbols(3, 2000)
    h = both(x)[0]
    assert torch.equal(h[:, :3].argmax(-1), counter(x)[0].argmax(-1))
    assert torch.equal(h[:, 3:].argmax(-1), flip(x)[0].argmax(-1))
    assert set(h.unique().tolist()) == {0.0, 1.0}


def test_words_over_a5_and_s5_name_every_element():
    for name, order in (("a5", 60), ("s5", 120)):
        problem = task(name)
        x, y = problem.sample(2, 3000, np.random.default_rng(0))
        states = permutation_head(GROUPS[name])(torch.from_numpy(x)).reshape(-1, 5)
        named = {tuple(s): e for s, e in zip(states.tolist(), y.reshape(-1).tolist(), strict=True)}
        assert len(named) == order
        assert len(set(named.values())) == order
        assert all(named[tuple(s)] == e for s, e in zip(states.tolist(), y.reshape(-1).tolist(), strict=True))


@pytest.mark.parametrize("base", [2, 3, 10])
def test_addition_is_pythons(base):
    problem = task("addition", base=base)
    x, y = problem.sample(500, 40, np.random.default_rng(base))
    for row, answers in zip(x.tolist(), y.tolist(), strict=True):
        pairs = [problem.automaton.alphabet[i] for i in row]
        total = sum((a + b) * base**i for i, (a, b) in enumerate(pairs))
        assert answers == [total // base**i % base for i in range(40)]


@pytest.mark.parametrize("k", [2, 3, 7])
def test_letters_are_counted_without_a_word(k):
    problem = task("letters", k=k)
    x, y = problem.sample(300, 60, np.random.default_rng(k))
    for row, answers in zip(x.tolist(), y.tolist(), strict=True):
        text = "".join(problem.automaton.alphabet[i] for i in row)
        assert answers == [text[:t].count("e") % k if c == "?" else -1 for t, c in enumerate(text)]


def test_formulas_nested_four_deep():
    """Section 5.3 asks for depth 4 at most: prefix notation, read by recursion."""
    problem = task("boolean", depth=4)
    x, y = problem.sample(200, 60, np.random.default_rng(0))

    def value(tokens):
        token = next(tokens)
        if token in "01":
            return int(token)
        if token == "!":
            return 1 - value(tokens)
        a, b = value(tokens), value(tokens)
        return a & b if token == "&" else a | b

    deepest = 0
    for row, answers in zip(x.tolist(), y.tolist(), strict=True):
        names, at = [problem.automaton.alphabet[i] for i in row], 0
        for t in np.flatnonzero(np.array(answers) >= 0).tolist():
            assert value(iter(names[at : t + 1])) == answers[t]
            deepest = max(deepest, t + 1 - at)
            at = t + 1
    assert deepest > 12


def test_random_automata_are_those_of_their_seed():
    same, other = (task("random-dfa", states=5, symbols=4, seed=s) for s in (1, 2))
    assert np.array_equal(
        task("random-dfa", states=5, symbols=4, seed=1).automaton.transitions, same.automaton.transitions
    )
    assert not equivalent(same.automaton, other.automaton).equal
    assert same.vocab_size == 4
    assert same.automaton.states <= 5


@pytest.mark.slow
def test_a_trained_bounded_depth_task_is_certified():
    """Boolean formulas nested at most 2 deep: learned up to 40 symbols, chance at 256; snapped, right everywhere."""
    problem = task("boolean")
    config = TransductorConfig(vocab_size=problem.vocab_size, classes=2, layers=1, attention=False)
    model = RationalTransductor(config, RationalHead(problem.vocab_size, 16, family="free", seed=0), seed=0)
    learn(model, problem, steps=1000, lr=5e-3, curriculum=True)
    snapped = model.snap(200, domain=problem.automaton)
    certificate, evidence = certify(snapped, problem)
    assert certificate.rule == "automata.all_lengths"
    assert certificate.check(**evidence)
    assert length_accuracy(snapped, problem, [2000], count=4)[2000]["words"] == 1.0
