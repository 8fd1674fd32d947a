"""What each family promises of its matrices holds for every parameter; shortcuts and limits."""

import math

import numpy as np
import pytest
import torch

from corollary.automata import (
    ContinuousHead,
    DirectSum,
    RationalHead,
    cayley,
    counter_head,
    families,
    family,
    fixed_head,
    householder,
    inverse_cayley,
    parity_head,
    rotations,
    scan,
    spectral_control,
    universal,
)
from corollary.errors import InvalidInputError

ORTHOGONAL = ("cayley", "signed", "squared", "exponential", "householder", "rotation")


def head(name, seed, *, V=3, d=6, scale=2.0):
    return RationalHead(V, d, family=name, scale=scale, seed=seed).double()


@pytest.mark.parametrize("name", families())
def test_promises_hold_for_every_parameter(name):
    for seed in range(60):
        M = head(name, seed, scale=0.2 + seed / 10).matrices().detach()
        eye = torch.eye(6, dtype=torch.float64)
        if name in ORTHOGONAL:
            assert (M @ M.mT - eye).abs().max() < 1e-8  # exponentials of norm ten lose a few digits
        if name == "stochastic":
            assert torch.allclose(M.sum(-2), torch.ones(3, 6, dtype=torch.float64), atol=1e-12)
            assert (M >= 0).all()
        if name in ("dplr", "basis"):
            assert torch.linalg.matrix_norm(M, 2).max() <= 1 + 1e-9
        if name == "affine":
            assert torch.equal(M[:, -1], eye[-1].expand(3, 6))
        if name.startswith("diagonal"):
            assert torch.equal(M, torch.diag_embed(torch.diagonal(M, dim1=-2, dim2=-1)))
            assert (torch.diagonal(M, dim1=-2, dim2=-1).abs() < 1).all()


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_orthogonal_heads_neither_grow_nor_fade(name):
    one, x = head(name, 0, scale=0.3), torch.randint(3, (2, 3000), generator=torch.Generator().manual_seed(0))
    h = one(x)
    assert torch.allclose(h.norm(dim=-1), torch.full((2, 3000), math.sqrt(6), dtype=torch.float64), atol=1e-9)
    # the Jacobian from state to state is orthogonal: no gradient vanishes or explodes
    start = one.initial_state().detach().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda h0: scan(one.matrices().detach(), x[:1], h0)[0, -1], start)
    assert (jacobian @ jacobian.mT - torch.eye(6, dtype=torch.float64)).abs().max() < 1e-9


def test_stochastic_heads_stay_in_the_simplex():
    h = head("stochastic", 0)(torch.randint(3, (2, 500), generator=torch.Generator().manual_seed(1)))
    assert torch.allclose(h.sum(-1), torch.ones(2, 500, dtype=torch.float64), atol=1e-12)
    assert (h >= 0).all()


def test_cayley_and_its_inverse():
    g = torch.Generator().manual_seed(0)
    for _ in range(200):
        W = torch.randn(1, 5, 5, generator=g, dtype=torch.float64)
        Q = cayley(W)
        assert torch.linalg.det(Q) > 0  # in SO(d)
        assert torch.linalg.eigvals(Q).real.min() > -1 + 1e-9  # and never a flip
        assert torch.allclose(cayley(inverse_cayley(Q) / 2), Q, atol=1e-8)
    assert torch.allclose(cayley(W, squared=True), Q @ Q, atol=1e-12)
    signs = torch.tensor([1.0, -1, 1, 1, 1], dtype=torch.float64)
    assert torch.linalg.det(cayley(W, signs=signs)) < 0


def test_what_cayley_cannot_reach():
    """Parity's flip has the eigenvalue -1; cycles of odd order have not."""
    swap = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    with pytest.raises(InvalidInputError, match="eigenvalue -1"):
        inverse_cayley(swap)
    for k in (3, 5, 7):
        cycle = torch.eye(k, dtype=torch.float64).roll(1, 0)[None]
        assert torch.allclose(cayley(inverse_cayley(cycle) / 2), cycle, atol=1e-10)
    with pytest.raises(InvalidInputError, match="eigenvalue -1"):
        inverse_cayley(torch.eye(4).roll(1, 0)[None])
    assert torch.allclose(householder(torch.tensor([[[1.0, -1.0]]])), swap, atol=1e-6)
    half = torch.tensor([[[0.0, -1.0], [0.0, 0.0]]])  # A = [[0, -1], [1, 0]]: a quarter turn, its square a half
    assert torch.allclose(cayley(half, squared=True), -torch.eye(2)[None], atol=1e-6)


def test_singular_cayley_is_refused():
    with pytest.raises(InvalidInputError, match="symbol 0 is singular"):
        cayley(-torch.eye(2)[None], skew=False)
    with pytest.raises(InvalidInputError, match="singular"):
        cayley(torch.full((1, 2, 2), torch.nan))


def test_spectral_control_leaves_small_matrices_alone():
    M = torch.diag_embed(torch.tensor([[0.5, 0.2], [4.0, 1.0]]))
    found = spectral_control(M, 0.9)
    assert torch.allclose(found[0], M[0])
    assert torch.allclose(torch.linalg.matrix_norm(found[1], 2), torch.tensor(0.9))


@pytest.mark.parametrize("name", ["diagonal", "diagonal-signed", "rotation"])
@pytest.mark.parametrize("reverse", [False, True])
def test_cumulative_sums_are_the_scan(name, reverse):
    short = RationalHead(3, 6, family=name, scale=1.0, seed=0).double()
    long = RationalHead(3, 6, family=name, scale=1.0, seed=0, method="sequential").double()
    g = torch.Generator().manual_seed(0)
    x, mask = torch.randint(3, (4, 60), generator=g), torch.rand(4, 60, generator=g) > 0.2
    found, wanted = (h(x, mask=mask, reverse=reverse) for h in (short, long))
    assert torch.allclose(found, wanted, atol=1e-10)
    for h, y in ((short, found), (long, wanted)):
        (y**2).sum().backward()
        assert next(iter(h.weights.values())).grad is not None
    grads = [next(iter(h.weights.values())).grad for h in (short, long)]
    assert torch.allclose(*grads, atol=1e-8)


def test_direct_sum_is_block_diagonal():
    both = universal(4, orthogonal=4, stochastic=3, seed=1).double()
    x = torch.randint(4, (2, 30), generator=torch.Generator().manual_seed(0))
    whole = scan(both.matrices(), x, both.initial_state())
    assert torch.allclose(both(x), whole, atol=1e-12)
    first, last = both(x[:, :11]), both.stream(x[:, :11])[1]
    assert torch.allclose(both(x[:, 11:], initial=last), whole[:, 11:], atol=1e-12)
    assert first.shape == (2, 11, 7)
    with pytest.raises(InvalidInputError, match="one alphabet"):
        DirectSum([RationalHead(2, 2), RationalHead(3, 2)])


def test_known_automata_beside_heads_that_learn():
    """Streams, padding, both states and snapping of a sum of a counter, a learned counter and parity."""
    exact = rotations(torch.tensor([[0.0], [2 * torch.pi / 5 + 1e-4]], dtype=torch.float64))
    both = DirectSum([counter_head(3), fixed_head(exact, [1.0, 0.0]), parity_head()])
    x = torch.randint(2, (2, 30), generator=torch.Generator().manual_seed(0))
    ones = x.cumsum(1)
    h = both(x)
    assert h.shape == (2, 30, 7)
    assert torch.equal(h[..., :3].argmax(-1), ones % 3)
    assert torch.equal(h[..., 5:].argmax(-1), ones % 2)
    first, last = both.stream(x[:, :11], state="both")
    rest = both.stream(x[:, 11:], state="both", initial=last)[0]
    assert torch.allclose(torch.cat([first, rest], 1), both(x, state="both"), atol=1e-12)
    mask = torch.arange(30).expand(2, 30) >= 4
    assert torch.allclose(both(x, mask=mask)[:, 4:], both(x[:, 4:]), atol=1e-12)
    found = both.snap(30)
    assert found.transitions.shape == (30, 2)  # 3, 5 and 2 together
    assert torch.equal(found(x)[..., :3].argmax(-1), ones % 3)
    assert (found(x) - h).abs().max() < 0.02


@pytest.mark.parametrize("name", ["cayley", "stochastic", "exponential", "householder", "affine", "dplr"])
def test_vectors_drive_what_symbols_drive(name):
    """With one-hot inputs a continuous head is a table of matrices."""
    made = ContinuousHead(3, 4, family=name, seed=0).double()
    x = torch.randint(3, (2, 12), generator=torch.Generator().manual_seed(0))
    e = torch.nn.functional.one_hot(x, 3).double()
    every = made(torch.eye(3, dtype=torch.float64)[:, None])  # one step from the start, by each symbol
    found = made(e)
    assert torch.allclose(found[:, 0], every[x[:, 0], 0], atol=1e-12)
    p = made.shapes
    flat = made.map(torch.eye(3, dtype=torch.float64)).split([s.numel() for s in p.values()], -1)
    M = made.family.build({n: f.reshape(3, *s) for (n, s), f in zip(p.items(), flat, strict=True)})
    assert torch.allclose(found, scan(M, x, made.initial_state()), atol=1e-12)


def test_large_vocabularies_make_only_the_matrices_they_meet():
    big = RationalHead(5000, 4, family="cayley", seed=0)
    x = torch.tensor([[4999, 3, 3, 17]])
    assert torch.allclose(big(x), scan(big.matrices(), x, big.initial_state()), atol=1e-6)
    big(x).sum().backward()
    touched = big.weights["weight"].grad.abs().sum((1, 2)).nonzero().flatten().tolist()
    assert touched == [3, 17, 4999]


def test_contractive_stability():
    """||h_t - h'_t|| <= eps sup ||h|| / (1 - gamma) for norms at most gamma, and t eps gamma^(t-1) without a bias."""
    g, gamma = torch.Generator().manual_seed(0), 0.8
    for _ in range(100):
        M = spectral_control(torch.randn(2, 4, 4, generator=g, dtype=torch.float64), gamma)
        noise = torch.randn(2, 4, 4, generator=g, dtype=torch.float64)
        N = spectral_control(M + 1e-3 * noise, gamma)
        eps = torch.linalg.matrix_norm(M - N, 2).max()
        x, h0 = torch.randint(2, (1, 80), generator=g), torch.randn(4, generator=g, dtype=torch.float64)
        bias = torch.randn(2, 4, generator=g, dtype=torch.float64)
        a, b = (scan(m, x, h0, bias=bias, state="both") for m in (M, N))
        assert (a - b)[..., 4:].norm(dim=-1).max() <= eps * max(a.norm(dim=-1).max(), b.norm(dim=-1).max()) / (
            1 - gamma
        )
        a, b = (scan(m, x, h0)[0] for m in (M, N))
        t = torch.arange(1, 81)
        assert ((a - b).norm(dim=-1) <= t * eps * gamma ** (t - 1.0) * h0.norm() * (1 + 1e-9) + 1e-15).all()


@pytest.mark.usefixtures("as_shipped")
def test_bad_families_and_heads():
    for bad in (
        lambda: family("unknown"),
        lambda: family("cayley", rank=3),
        lambda: RationalHead(0, 4),
        lambda: RationalHead(2, 3, family="rotation"),
        lambda: RationalHead(2, 1, family="affine"),
        lambda: ContinuousHead(3, 4, family="basis"),
        lambda: ContinuousHead(3, 4, family="signed"),
        lambda: fixed_head([[1.0]], [1.0]),
        lambda: RationalHead(2, 4, seed=0)(torch.tensor([[2]])),
        lambda: RationalHead(2, 4, seed=0)(torch.tensor([[1]]), state="none"),
        lambda: RationalHead(2, 4, family="rotation")(torch.tensor([[5]])),
    ):
        with pytest.raises(InvalidInputError):
            bad()


def test_seeds_and_no_global_state():
    before = torch.random.get_rng_state()
    a, b, c = (RationalHead(3, 4, seed=s).weights["weight"] for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.allclose(rotations(torch.zeros(1, 2))[0], np.eye(4))


def test_a_delta_rule_is_a_rational_head():
    """I - beta k k^T: diagonal plus rank one; at beta = 2 a Householder reflection."""
    g = torch.Generator().manual_seed(0)
    k = torch.nn.functional.normalize(torch.randn(3, 5, generator=g, dtype=torch.float64), dim=-1)
    build = family("dplr", gamma=1.0).build
    for beta in (0.5, 1.0, 2.0):
        p = {"diagonal": torch.ones(3, 5).double(), "left": -beta * k[..., None], "right": k[..., None]}
        wanted = torch.eye(5) - beta * k[..., None] * k[:, None]
        assert torch.allclose(build(p), wanted, atol=1e-12)
    assert torch.allclose(build(p), householder(k[:, None]), atol=1e-12)


@pytest.mark.parametrize("name", families())
@pytest.mark.parametrize("method", ["auto", "sequential", "doubling", "chunked", "adjoint"])
def test_autocast_leaves_states_alone(name, method):
    """In eight bits of mantissa nothing is counted: matrices, states and gradients are what they are without."""
    one = RationalHead(3, 4, family=name, seed=0, method=method)
    x = torch.randint(3, (2, 70), generator=torch.Generator().manual_seed(0))
    found = []
    for cast in (False, True):
        one.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
            h = one(x)
        h.square().mean().backward()
        found.append([h.detach(), *(p.grad for p in one.parameters() if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_autocast_and_vectors_that_drive_a_head():
    made, e = ContinuousHead(3, 4, seed=0), torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        h = made(e)
    assert h.dtype == torch.float32
    assert torch.allclose(h.norm(dim=-1), torch.full((2, 40), 2.0), atol=1e-4)  # still orthogonal
