"""The models that transductors are compared with, against their recurrences written out step by step."""

import math

import pytest
import torch
from torch.nn import functional

from corollary.automata import RationalHead, baseline, learn, scan, task
from corollary.automata._mixers import DeltaRule, Diagonal, SparseDense, elementwise_scan
from corollary.errors import InvalidInputError


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("T", [0, 1, 2, 7, 64, 65])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_the_elementwise_scan_is_its_recurrence(T, dtype):
    a, u = normal(2, T, 3, seed=1, dtype=dtype) / 2, normal(2, T, 3, seed=2, dtype=dtype)
    h, found = torch.zeros(2, 3, dtype=dtype), elementwise_scan(a, u)
    assert found.shape == (2, T, 3)
    for t in range(T):
        h = a[:, t] * h + u[:, t]
        assert torch.allclose(found[:, t], h, atol=1e-10)


@pytest.mark.parametrize("kind", ["real", "signed", "complex"])
def test_diagonal_models_step_by_step(kind):
    model, x = Diagonal(6, kind).double(), normal(2, 30, 6)
    raw, u, h, out = model.factor(x), model.enter(x), 0, []
    if kind == "complex":
        size, turn = raw.chunk(2, -1)
        a = torch.sigmoid(size + 2) * torch.exp(2j * math.pi * torch.sigmoid(turn))
    else:
        a = torch.tanh(raw + 1) if kind == "signed" else torch.sigmoid(raw + 2)
    assert a.abs().max() <= 1
    for t in range(30):
        h = a[:, t] * h + u[:, t]
        out.append(torch.view_as_real(h).flatten(-2) if kind == "complex" else h)
    assert torch.allclose(model(x), model.out(torch.stack(out, 1)) * torch.sigmoid(model.gate(x)), atol=1e-10)


@pytest.mark.parametrize("reach", [1.0, 2.0])
def test_the_delta_rule_by_its_matrices(reach):
    r"""S_t = S_{t-1} (I - beta k k^T) + beta v k^T: our scan over one matrix a place."""
    model, x, d = DeltaRule(8, 2, reach=reach).double(), normal(3, 20, 8), 4
    q, k, v = model.qkv(x).view(3, 20, 3, 2, d).permute(2, 0, 3, 1, 4).flatten(1, 2)  # (b h, t, d)
    k = functional.normalize(functional.silu(k), dim=-1)
    beta = (reach * torch.sigmoid(model.beta(x))).permute(0, 2, 1).flatten(0, 1)[..., None, None]
    M = torch.eye(d).double() - beta * k[..., :, None] * k[..., None, :]
    eigenvalues = torch.linalg.eigvalsh(M)
    assert (eigenvalues[..., 1:] - 1).abs().max() < 1e-12  # all but one stay
    assert eigenvalues.min() > 1 - reach
    rows = []
    for i in range(d):  # each row of S is a state of its own
        added = (beta * v[..., i, None, None] * k[..., None, :])[..., 0, :]
        rows.append(scan(M, None, torch.zeros(d, dtype=torch.float64), bias=added))
    S = torch.stack(rows, -2)
    read = (S @ q[..., None])[..., 0].view(3, 2, 20, d).transpose(1, 2).reshape(3, 20, 8)
    assert torch.allclose(model(x), model.out(read), atol=1e-10)


def test_pd_ssm_by_its_matrices():
    """One entry a column, times a complex diagonal of at most one; gradients reach the dictionary."""
    model, x = SparseDense(6, states=5, dictionary=3).double(), normal(2, 15, 6)
    model.dictionary.data.copy_(normal(3, 5, 5, seed=3))
    weights = model.choose(x).softmax(-1)
    best = torch.einsum("btk,kij->btij", weights, model.dictionary).argmax(-2)  # (b, t, column) -> row
    size, turn = model.diagonal(x).chunk(2, -1)
    D = torch.sigmoid(size + 3) * torch.exp(2j * math.pi * torch.sigmoid(turn - 3))
    h, out = torch.zeros(2, 5, dtype=torch.complex128), []
    for t in range(15):
        h = torch.zeros_like(h).scatter_add(1, best[:, t], D[:, t] * h) + model.enter(x)[:, t]
        out.append(torch.view_as_real(h).flatten(-2))
    found = model(x)
    assert torch.allclose(found, model.out(torch.stack(out, 1)), atol=1e-10)
    found.square().sum().backward()
    assert model.dictionary.grad.abs().sum() > 0


def test_a_diagonal_factor_that_underflowed():
    """It has no logarithm: the products are scanned, and gradients stay finite."""
    head = RationalHead(2, 3, family="diagonal", seed=0)
    with torch.no_grad():
        head.weights["logit"][0, 1] = -200.0
    h = head(torch.tensor([[1, 0, 1, 1]]))
    assert not h[0, 1:, 1].any()
    h.square().sum().backward()
    assert torch.isfinite(head.weights["logit"].grad).all()


def test_a_model_without_weights_is_not_trained():
    model = baseline("gru", vocab_size=2, classes=2, width=8, layers=1).requires_grad_(False)
    with pytest.raises(InvalidInputError, match="nothing that is trained"):
        learn(model, task("parity"), steps=1)
