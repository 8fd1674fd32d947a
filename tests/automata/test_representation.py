"""Snapped d x d matrices: every relation of the automaton holds between the symbols, near to what was learned."""

import itertools

import numpy as np
import pytest
import torch

from corollary.automata import (
    DFA,
    FiniteHead,
    RationalHead,
    RationalTransductor,
    TransductorConfig,
    automaton_head,
    certify_float,
    counter_head,
    eigen_angles,
    fixed_head,
    learn,
    length_accuracy,
    parity_head,
    permutation_head,
    represent,
    rotations,
    task,
)
from corollary.automata import _representation as module
from corollary.errors import InvalidInputError


def disturbed(matrices, initial, size, seed):
    """Each matrix turned by a small rotation of its own."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(matrices.shape, generator=g, dtype=torch.float64) * size
    return fixed_head(torch.linalg.matrix_exp(noise - noise.mT) @ matrices, initial)


def in_another_frame(matrices, initial, extra, seed):
    """The same representation beside `extra` coordinates that stand still, in a random orthonormal basis."""
    g = torch.Generator().manual_seed(seed + 1000)
    d = matrices.shape[-1] + extra
    Q = torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
    whole = torch.stack([torch.block_diag(m, torch.eye(extra, dtype=torch.float64)) for m in matrices])
    start = torch.cat([initial, torch.zeros(extra, dtype=torch.float64)])
    return Q @ whole @ Q.T, Q @ start


def turns(*planes):
    """Rotations: one row of fractions of a turn for each symbol."""
    return rotations(2 * torch.pi * torch.tensor(planes, dtype=torch.float64))


ONE = torch.tensor([1.0, 0.0], dtype=torch.float64)


def dihedral(k):
    flip = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    return torch.stack([turns([1 / k])[0], flip]), turns([1 / 24])[0] @ ONE  # on no mirror


def quaternions():
    i = [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]]
    j = [[0, 0, -1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, -1, 0, 0]]
    return torch.tensor([i, j], dtype=torch.float64), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)


def permutations(generators):
    head = permutation_head(generators)
    start = head.alpha.detach().double()
    return head.matrices().detach().double(), start - start.mean()


GROUPS = {  # matrices and first state, order of the group, longest cycle of a symbol
    "five steps": (turns([1 / 5], [-1 / 5], [0.0]), ONE, 5, 5),
    "two planes of seven": (turns([1 / 7, 3 / 7], [2 / 7, 6 / 7]), torch.ones(4, dtype=torch.float64), 7, 7),
    "six from two and three": (turns([1 / 2, 0.0], [0.0, 1 / 3]), torch.ones(4, dtype=torch.float64), 6, 3),
    "dihedral of six": (*dihedral(6), 12, 6),
    "quaternions": (*quaternions(), 8, 4),
    "s4": (*permutations([(1, 0, 2, 3), (1, 2, 3, 0)]), 24, 4),
    "a5": (*permutations([(1, 2, 3, 4, 0), (1, 2, 0, 3, 4)]), 60, 5),
    "s5": (*permutations([(1, 0, 2, 3, 4), (1, 2, 3, 4, 0)]), 120, 5),
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("seed", range(6))
def test_all_relations_hold_between_snapped_matrices(name, seed):
    """The theorem: from matrices that were disturbed one by one to an exact orthogonal representation near to them."""
    matrices, initial, order, longest = GROUPS[name]
    matrices, initial = in_another_frame(matrices, initial, seed % 3, seed)
    d, noise = matrices.shape[-1], 2e-3
    learned = disturbed(matrices, initial, noise, seed)
    finite = learned.snap(longest)
    head = finite.represent()
    M, table, eye = head.matrices().detach(), finite.transitions.numpy(), torch.eye(d, dtype=torch.float64)
    assert M.shape == matrices.shape
    assert len(table) == order
    # orthogonal, and the states of the finite head are where the matrices lead
    assert (M @ M.mT - eye).abs().max() < 1e-12
    rng = np.random.default_rng(seed)
    word = torch.from_numpy(rng.integers(0, len(M), (1, 3000)))
    states, names = head.states(word)[0], finite.states(word)[0, :, 0]
    V = torch.stack([states[names == q].mean(0) for q in range(order)])
    assert torch.cdist(states, V).argmin(-1).equal(names)
    assert (V[names] - states).abs().max() < 1e-11
    assert (V - finite.vectors).norm(dim=-1).max() < 40 * noise * initial.norm()
    for x in range(len(M)):
        assert (V @ M[x].T - V[table[:, x]]).abs().max() < 1e-11
    # words that act alike have equal products: the multiplication table of the group
    products = {}
    for w in itertools.islice(itertools.product(range(len(M)), repeat=6), 729):
        q, P = np.arange(order), eye
        for x in w:
            q, P = table[q, x], M[x] @ P
        known = products.setdefault(q.tobytes(), P)
        assert (P - known).abs().max() < 1e-12
    # every angle is a fraction of a turn of a denominator that divides a cycle
    for told in eigen_angles(head, q_max=longest):
        assert max(told["errors"]) < 1e-7  # of double eigenvalues half of the digits remain
    # near to what was learned, wherever a state is; and that had none of this
    L = learned.matrices().detach()
    assert ((M - L) @ V.T).norm(dim=1).max() < 40 * noise * initial.norm()
    assert max((torch.linalg.matrix_power(L[x], cycle(table[:, x])) - eye).abs().max() for x in range(len(L))) > 1e-4


def cycle(column):
    q, n = column.copy(), 1
    while not (q == np.arange(len(column))).all():
        q, n = column[q], n + 1
    return n


def matrix_by_matrix(head, q_max):
    """What snapping each matrix by itself gives: its own eigenvectors, its angles made fractions of a turn."""
    from fractions import Fraction

    out = []
    for M in head.matrices().detach():
        values, vectors = torch.linalg.eig(M)
        near = [Fraction(a / (2 * np.pi)).limit_denominator(q_max) for a in values.angle().tolist()]
        turned = torch.tensor([np.exp(2j * np.pi * float(f)) for f in near])
        out.append((vectors @ torch.diag(turned) @ torch.linalg.inv(vectors)).real)
    return torch.stack(out)


@pytest.mark.parametrize("name", ["s4", "a5", "s5"])
def test_snapping_matrix_by_matrix_breaks_relations(name):
    """Orders come out right, products of two symbols do not: hence jointly."""
    matrices, initial, _, longest = GROUPS[name]
    learned = disturbed(matrices, initial, 2e-3, 0)
    finite = learned.snap(longest)
    table = finite.transitions.numpy()
    alone, together = matrix_by_matrix(learned, longest), finite.represent().matrices()
    eye = torch.eye(matrices.shape[-1], dtype=torch.float64)
    mixed = table[:, 0][table[:, 1]]  # first symbol 1, then symbol 0
    for M, bad in ((alone, True), (together, False)):
        for x in range(2):
            assert (torch.linalg.matrix_power(M[x], cycle(table[:, x])) - eye).abs().max() < 1e-6
        gap = (torch.linalg.matrix_power(M[0] @ M[1], cycle(mixed)) - eye).abs().max()
        assert (gap > 1e-4) == bad


def test_without_the_average_nothing_is_exact(monkeypatch):
    """The mutation: the Gram matrix as it was learned."""
    matrices, initial, _, longest = GROUPS["s4"]
    finite = disturbed(matrices, initial, 2e-3, 0).snap(longest)
    monkeypatch.setattr(module, "_averaged", lambda K, table: K)
    M = represent(finite).matrices()
    assert (M @ M.mT - torch.eye(4)).abs().max() > 1e-5


def test_the_average_is_that_over_the_group():
    """Orbits on pairs against the sum over all elements."""
    matrices, initial, order, longest = GROUPS["s4"]
    finite = disturbed(matrices, initial, 5e-3, 1).snap(longest)
    table, V = finite.transitions.numpy(), finite.vectors.double().numpy()
    elements, seen = [np.arange(order)], {np.arange(order).tobytes()}
    for g in elements:
        for x in range(table.shape[1]):
            after = table[g, x]
            if after.tobytes() not in seen:
                seen.add(after.tobytes())
                elements.append(after)
    assert len(elements) == order
    K = V @ V.T
    assert np.abs(module._averaged(K, table) - sum(K[np.ix_(g, g)] for g in elements) / order).max() < 1e-12


def test_it_stays_where_the_learned_head_drifts():
    matrices, initial, _, longest = GROUPS["s5"]
    learned = disturbed(matrices, initial, 1e-3, 0)
    finite = learned.snap(longest)
    head = finite.represent()
    word = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (1, 100_000)))
    names = finite.states(word)[0, :, 0]
    V = torch.zeros(120, 5, dtype=torch.float64).index_copy(0, names, head.states(word)[0])
    assert (head.states(word)[0] - V[names]).abs().max() < 1e-9
    assert (learned.states(word)[0] - finite.vectors[names]).abs().max() > 1  # somewhere else altogether
    certificate, evidence = certify_float(head, head.snap(longest), length=1_000_000)
    assert certificate.check(**evidence).status.name == "HOLDS"


def test_stochastic_heads_become_zeros_and_ones():
    """Columns of softmax to their largest entries, exact in floating point at length 100,000."""
    g = torch.Generator().manual_seed(0)
    for seed in range(20):
        head, table = RationalHead(3, 5, family="stochastic", seed=seed), torch.randint(5, (5, 3), generator=g)
        with torch.no_grad():
            head.weights["weight"].copy_(9 * torch.nn.functional.one_hot(table.T, 5).mT)
            head.weights["weight"].add_(0.3 * torch.randn(3, 5, 5, generator=g))
            head.alpha.copy_(9.0 * torch.eye(5)[seed % 5])
        finite = head.snap(60)
        exact = finite.represent()
        M, reached = exact.matrices(), head.matrices().argmax(-2)
        assert set(M.unique().tolist()) <= {0.0, 1.0}
        assert (M.sum(-2) == 1).all()
        names = [int(v.argmax()) for v in finite.vectors]
        assert all(int(M[x, :, q].argmax()) == int(reached[x, q]) for x in range(3) for q in names)
    word = torch.randint(3, (1, 100_000), generator=g)
    assert torch.equal(exact.states(word)[0].argmax(-1), torch.tensor(names)[finite.states(word)[0, :, 0]])
    assert set(exact.states(word).unique().tolist()) == {0.0, 1.0}


def test_one_hot_heads_are_their_own_representation():
    for head in (parity_head(), counter_head(7), automaton_head(DFA.from_regex("(ab)*", "ab"))):
        exact = head.represent()
        assert torch.equal(exact.matrices(), head.matrices().double())
        word = torch.randint(head.vocab_size, (2, 50), generator=torch.Generator().manual_seed(0))
        assert torch.equal(exact(word), head(word).double())


def test_independent_vectors_of_any_automaton():
    """Resets and dead states too: d at least the number of states."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        n, V = int(rng.integers(2, 7)), int(rng.integers(1, 4))
        table = np.column_stack([rng.integers(0, n, (n, V)), np.full(n, n - 1)])  # the last symbol resets
        finite = FiniteHead(table, torch.from_numpy(rng.normal(size=(n, 7))))
        exact = finite.represent()
        word = torch.from_numpy(rng.integers(0, V + 1, (3, 300)))
        assert torch.allclose(exact(word), finite(word), atol=1e-9)
    far = torch.from_numpy(rng.normal(size=(5, 5))) @ torch.diag(torch.tensor([50.0, 1, 1, 1, 1], dtype=torch.float64))
    turning = FiniteHead([[(q + 1) % 5] for q in range(5)], far)  # far from any orthogonal representation
    word = torch.zeros(1, 300, dtype=torch.int64)
    assert torch.allclose(turning.represent()(word), turning(word), atol=1e-8)


@pytest.mark.usefixtures("as_shipped")
def test_where_there_are_no_such_matrices():
    squashed = FiniteHead([[1, 0], [2, 0], [2, 0]], torch.tensor([[0.0], [1.0], [2.0]]))  # resets on a line
    with pytest.raises(InvalidInputError, match="no 1 x 1 matrices"):
        squashed.represent()
    line = FiniteHead([[1], [2], [0]], torch.tensor([[0.0], [1.0], [2.0]]))  # three states that turn, in one dimension
    with pytest.raises(InvalidInputError, match="no 1 x 1 matrices"):
        line.represent()
    still = FiniteHead([[0, 0]], torch.zeros(1, 3)).represent()
    assert not still(torch.zeros(1, 4, dtype=torch.int64)).any()
    with pytest.raises(InvalidInputError, match="too many"):
        counter_head(3000).represent()


def test_a_trained_network_runs_on_its_snapped_matrices():
    problem = task("parity")
    config = TransductorConfig(vocab_size=2, classes=2, layers=1, attention=False)
    model = RationalTransductor(config, RationalHead(2, 8, family="signed", seed=0), seed=0)
    learn(model, problem, steps=120)
    snapped = model.snap(60)
    snapped.head = snapped.head.represent()
    assert length_accuracy(snapped, problem, [5000], count=2)[5000]["words"] == 1.0
    M = snapped.head.matrices()
    assert (M @ M - torch.eye(8).double()).abs().max() < 1e-12
