"""All scans are one function: equal states, equal gradients, the adjoint is autograd's, depth is logarithmic."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from corollary.automata import scan
from corollary.automata._kernels import block_size, blocks, name_words, steps
from corollary.errors import InvalidInputError

METHODS = ("sequential", "adjoint", "doubling", "chunked", "auto")


def world(seed, *, V=3, d=4, B=2, T=13, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    M = torch.linalg.qr(torch.randn(V, d, d, generator=g, dtype=torch.float64))[0].to(dtype)
    return M, torch.randint(V, (B, T), generator=g), torch.randn(d, generator=g, dtype=torch.float64).to(dtype), g


def by_hand(M, x, h0, bias=None, mask=None):
    """The recurrence, word by word and step by step."""
    out = np.zeros((*x.shape, M.shape[1]))
    for b in range(x.shape[0]):
        h = h0[b] if h0.ndim == 2 else h0
        for t in range(x.shape[1]):
            if mask is None or mask[b, t]:
                h = M[x[b, t]] @ h + (0 if bias is None else bias[x[b, t]])
            out[b, t] = h
    return out


@pytest.mark.parametrize("method", METHODS)
def test_every_scan_is_the_recurrence(method):
    for seed in range(40):
        V, d, B, T = (int(n) for n in np.random.default_rng(seed).integers((1, 1, 1, 1), (12, 7, 4, 70)))
        M, x, h0, g = world(seed, V=V, d=d, B=B, T=T)
        bias = torch.randn(V, d, generator=g, dtype=torch.float64)
        mask = torch.rand(B, T, generator=g) > 0.3
        wanted = by_hand(M.numpy(), x.numpy(), h0.numpy(), bias.numpy(), mask.numpy())
        found = scan(M, x, h0, method=method, bias=bias, mask=mask)
        assert np.allclose(found.numpy(), wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_scans_agree_to_1e_10_on_long_words(method):
    M, x, h0, _ = world(0, V=2, d=8, B=2, T=2050)
    reference = scan(M, x, h0, method="sequential")
    assert (scan(M, x, h0, method=method) - reference).abs().max() < 1e-10
    assert torch.allclose(reference.norm(dim=-1), h0.norm(), atol=1e-10)  # orthogonal: nothing grows, nothing fades


@pytest.mark.parametrize("method", METHODS)
def test_gradients_and_second_derivatives(method):
    M, x, h0, g = world(1, V=2, d=3, T=5)
    bias = torch.randn(2, 3, generator=g, dtype=torch.float64)
    inputs = [v.requires_grad_() for v in (M, h0, bias)]

    def f(M, h0, bias, **options):
        return scan(M, x, h0, bias=bias, method=method, **options)

    for options in ({}, {"reverse": True}, {"state": "both"}, {"mask": torch.arange(5).expand(2, 5) % 3 > 0}):
        assert torch.autograd.gradcheck(lambda *v, o=options: f(*v, **o), inputs)
    assert torch.autograd.gradgradcheck(f, inputs)


@pytest.mark.parametrize("V", [2, 7, 300])
def test_the_adjoint_is_what_autograd_finds(V):
    M, x, h0, g = world(2, V=V, d=5, B=3, T=64)
    weight = torch.randn(3, 64, 5, generator=g, dtype=torch.float64)
    found = []
    for method in METHODS:
        leaves = M.clone().requires_grad_(), h0.clone().requires_grad_()
        (scan(leaves[0], x, leaves[1], method=method) * weight).sum().backward()
        found.append([v.grad for v in leaves])
    for grads in found[1:]:
        assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(grads, found[0], strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_complex_matrices_have_the_conjugate_adjoint(method):
    g = torch.Generator().manual_seed(15)
    M, h0, bias = (torch.randn(s, generator=g, dtype=torch.complex128) for s in ((2, 3, 3), (3,), (2, 3)))
    x = torch.randint(2, (2, 9), generator=g)
    h, found = h0.expand(2, 3), scan(M, x, h0, method=method, bias=bias)
    for t in range(9):
        h = (M[x[:, t]] @ h[..., None])[..., 0] + bias[x[:, t]]
        assert torch.allclose(found[:, t], h, atol=1e-10)
    inputs = [v.requires_grad_() for v in (M, h0, bias)]
    assert torch.autograd.gradcheck(lambda M, h0, bias: scan(M, x, h0, bias=bias, method=method), inputs)


@pytest.mark.parametrize("method", METHODS)
def test_integers_stay_exact_and_dtypes_follow_the_matrices(method):
    M = torch.tensor([[[2, 0], [0, 1]], [[2, 1], [0, 1]]])  # the value of binary digits
    x = torch.randint(2, (3, 62), generator=torch.Generator().manual_seed(16))
    found = scan(M, x, torch.tensor([0, 1]), method=method)[:, -1, 0].tolist()
    assert found == [int("".join(map(str, row)), 2) for row in x.tolist()]  # beyond the 53 bits of a float
    mixed = scan(M.double(), x[:, :9], torch.tensor([0.0, 1]), bias=torch.zeros(2, 2), method=method)
    assert mixed.dtype == torch.float64


def test_a_wrong_adjoint_is_caught(monkeypatch):
    """A gradient that takes h_t for h_{t-1} must not pass the check above."""
    import corollary.automata._scan as module

    honest = module._outer_sums
    monkeypatch.setattr(module, "_outer_sums", lambda left, right, x, V: honest(left, right.roll(-1, 0), x, V))
    M, x, h0, _ = world(3)
    leaf = M.requires_grad_()
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        torch.autograd.gradcheck(lambda m: scan(m, x, h0, method="adjoint"), (leaf,))


def test_states_before_after_and_both():
    M, x, h0, _ = world(4)
    after, before, both = (scan(M, x, h0, state=s) for s in ("inclusive", "exclusive", "both"))
    assert torch.equal(before[:, 0], h0.expand(2, 4))
    assert torch.equal(before[:, 1:], after[:, :-1])
    assert torch.equal(both, torch.cat([before, after], -1))


def test_reverse_is_the_scan_of_the_reversed_word():
    M, x, h0, _ = world(5)
    assert torch.equal(scan(M, x, h0, reverse=True), scan(M, x.flip(1), h0).flip(1))
    assert torch.equal(
        scan(M, x, h0, reverse=True, state="exclusive"), scan(M, x.flip(1), h0, state="exclusive").flip(1)
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_stream_goes_on_where_it_stopped(method):
    M, x, h0, _ = world(6, T=50)
    whole = scan(M, x, h0, method=method)
    first = scan(M, x[:, :21], h0, method=method)
    rest = scan(M, x[:, 21:], first[:, -1], method=method)
    assert torch.allclose(torch.cat([first, rest], 1), whole, atol=1e-10)


def test_padding_on_either_side_changes_nothing():
    M, x, h0, _ = world(7)
    pad = torch.zeros(2, 5, dtype=torch.int64)
    there, not_there = torch.ones(2, 13, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
    plain = scan(M, x, h0)
    left = scan(M, torch.cat([pad, x], 1), h0, mask=torch.cat([not_there, there], 1))
    right = scan(M, torch.cat([x, pad], 1), h0, mask=torch.cat([there, not_there], 1))
    assert torch.allclose(left[:, 5:], plain, atol=1e-12)
    assert torch.allclose(right[:, :13], plain, atol=1e-12)
    assert torch.equal(right[:, -1], right[:, 12])


def test_matrices_for_each_place():
    M, x, h0, _ = world(8)
    assert torch.allclose(scan(M[x], None, h0), scan(M, x, h0), atol=1e-12)
    leaf = M[x].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: scan(m, None, h0), (leaf,))


def test_the_associative_operator():
    """(P2, b2) o (P1, b1) = (P2 P1, P2 b1 + b2) is associative and is what two steps do."""
    g = torch.Generator().manual_seed(9)
    parts = [(torch.randn(3, 3, generator=g).double(), torch.randn(3, generator=g).double()) for _ in range(3)]

    def after(two, one):
        return two[0] @ one[0], two[0] @ one[1] + two[1]

    a, b, c = parts
    left, right = after(after(c, b), a), after(c, after(b, a))
    assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(left, right, strict=True))
    h0 = torch.randn(3, generator=g).double()
    M, bias = torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts])
    last = scan(M, torch.tensor([[0, 1, 2]]), h0, bias=bias)[0, -1]
    assert torch.allclose(last, left[0] @ h0 + left[1], atol=1e-12)


class Count(TorchDispatchMode):
    def __init__(self):
        self.products = 0
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.products += func.overloadpacket._qualified_op_name.split("::")[1] in ("bmm", "baddbmm", "mm")
        return func(*args, **(kwargs or {}))


def test_depth_of_the_doubling_scan_is_logarithmic():
    found = {}
    for T in (2, 16, 128, 1024):
        M, x, h0, _ = world(10, T=T)
        with Count() as count:
            scan(M, x, h0, method="doubling")
        found[T] = count.products
    assert found == {T: math.ceil(math.log2(T)) + 1 for T in found}


def test_words_share_products_and_blocks_are_steps():
    M, x, h0, g = world(11, V=2, d=3, B=4, T=64)
    names, products = name_words(M, x.T.contiguous(), 8)
    assert len(products) == len(np.unique(names)) <= 4 * 8
    word = x[1, 8:16].tolist()
    wanted = torch.linalg.multi_dot([M[i] for i in reversed(word)])
    assert torch.allclose(products[names[1, 1]], wanted, atol=1e-12)
    inputs = torch.randn(64, 4, 3, generator=g, dtype=torch.float64)
    start = h0.expand(4, 3)
    for size in (1, 2, 4, 16, 64):
        assert torch.allclose(blocks(M, x.T, start, inputs, size), steps(M, x.T, start, inputs), atol=1e-12)
    assert block_size(4096, 4, 5) > 1
    assert block_size(4096, 4, 256) == 1
    assert block_size(4096, 4, 256, device="cuda") == 64


def test_float32_stays_close_over_thousands_of_steps():
    M, x, h0, _ = world(12, V=5, d=8, B=2, T=4096, dtype=torch.float32)
    exact = scan(M.double(), x, h0.double())
    # rounding of 4096 products in float32; 3e-5 in our notes for d = 16 at unit norm
    assert (scan(M, x, h0).double() - exact).abs().max() < 2e-4 * h0.norm()


@pytest.mark.parametrize("method", METHODS)
def test_length_zero_and_length_one(method):
    M, x, h0, _ = world(13)
    for state, width in (("inclusive", 4), ("both", 8)):
        assert scan(M, x[:, :0], h0, method=method, state=state).shape == (2, 0, width)
    assert torch.allclose(scan(M, x[:, :1], h0, method=method)[:, 0], (M[x[:, 0]] @ h0[:, None])[..., 0], atol=1e-12)
    leaf = M.requires_grad_()
    scan(leaf, x[:, :0], h0, method=method).sum().backward()
    assert not leaf.grad.any()


@pytest.mark.usefixtures("as_shipped")
def test_bad_input_is_named():
    M, x, h0, _ = world(14)
    for change, told in (
        ({"symbols": x + 3}, "alphabet has 3"),
        ({"symbols": x - 1}, "symbols from -1"),
        ({"symbols": x.double()}, "integers"),
        ({"symbols": x[0]}, "integers"),
        ({"symbols": None}, "without `symbols`"),
        ({"symbols": x.tolist()}, "`symbols` must be a tensor, got list"),
        ({"matrices": M.numpy()}, "`matrices` must be a tensor, got ndarray"),
        ({"initial": h0[:2]}, "initial state"),
        ({"matrices": M[:, :2]}, "initial state"),
        ({"matrices": M * torch.nan}, "NaN"),
        ({"method": "magic"}, "method"),
        ({"state": "all"}, "state"),
        ({"mask": x}, "mask"),
        ({"bias": h0}, "bias"),
    ):
        arguments = {"matrices": M, "symbols": x, "initial": h0} | change
        with pytest.raises(InvalidInputError, match=told):
            scan(arguments.pop("matrices"), arguments.pop("symbols"), arguments.pop("initial"), **arguments)
