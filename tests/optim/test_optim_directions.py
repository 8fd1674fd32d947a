"""Ways to compute a direction against eigh: accuracy, precision, batches, degenerate inputs."""

import subprocess
import sys

import pytest
import torch

from corollary.errors import InvalidInputError
from corollary.optim import _directions, leon_direction, muon_direction, pion_direction
from corollary.optim._directions import cholesky, inverse_root, polar


def normal(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def with_condition(cond, m=32, n=64):
    s = torch.logspace(0, -torch.tensor(cond).log10().item(), m, dtype=torch.float64)
    U, V = torch.linalg.qr(normal(0, m, m))[0], torch.linalg.qr(normal(1, n + m, m))[0]
    augmented = U * s @ V.T
    return augmented[:, :n], augmented[:, n:] @ augmented[:, n:].T


def error(S, M, dtype=torch.float64, **options):
    return float((leon_direction(S.to(dtype), M, **options).double() - leon_direction(S, M)).abs().max())


def test_eigh_is_the_formula():
    S, M = normal(2, 5, 9), normal(3, 5, 5)
    M = M @ M.T
    A = S @ S.T + M / 0.49
    P = leon_direction(S, M, eta=0.7)
    root = torch.linalg.inv(P @ torch.linalg.pinv(S))  # A^(1/2), whatever way it was found
    assert torch.allclose(root @ root, A, atol=1e-9)
    augmented = torch.cat([S, torch.linalg.cholesky(M) / 0.7], dim=1)
    assert torch.allclose(P, polar(augmented)[:, :9], atol=1e-12)


@pytest.mark.parametrize(("cond", "method", "steps", "most"), [
    (1e1, "newton_schulz", 12, 1e-8), (1e2, "newton_schulz", 20, 1e-12), (1e3, "newton_schulz", 30, 1e-10),
    (1e1, "polar_express", 8, 1e-13), (1e2, "polar_express", 8, 1e-12), (1e3, "polar_express", 12, 1e-10),
    (1e4, "polar_express", 12, 1e-8), (1e2, "coupled", 30, 1e-10), (1e4, "augmented", 12, 1e-8),
])  # fmt: skip
def test_the_table_of_section_3_6_in_float64(cond, method, steps, most):
    assert error(*with_condition(cond), method=method, steps=steps) < most


def test_few_steps_leave_small_directions_short():
    S, M = with_condition(1e3)
    assert 1e-4 < error(S, M, method="newton_schulz", steps=16) < 1
    assert error(S, M, method="polar_express", steps=5) > 1e-3


@pytest.mark.parametrize(("cond", "method", "most"), [
    (1e1, "polar_express", 1e-5), (1e2, "polar_express", 2e-4), (1e2, "augmented", 1e-4), (1e3, "augmented", 5e-4),
    (1e4, "augmented", 5e-3),
])  # fmt: skip
def test_float32_loses_the_condition_once_on_the_augmented_matrix_and_twice_on_its_gram(cond, method, most):
    assert error(*with_condition(cond), dtype=torch.float32, method=method) < most


def degenerate(kind):
    u, v = normal(4, 64, 1), normal(5, 1, 128)
    S, M = torch.zeros(64, 128).double(), torch.zeros(64, 64).double()
    for t in range(30):
        g = {"rank one": u @ v, "nearly": u @ v + 1e-3 * normal(t, 64, 128), "powers": None}[kind]
        if g is None:
            g = (torch.arange(64).double() + 1)[:, None] ** -1.5 * normal(t, 64, 128)
        S, M = 0.95 * S + g, 0.95 * M + g @ g.T
    return S, M


@pytest.mark.parametrize("kind", ["rank one", "nearly", "powers"])
@pytest.mark.parametrize("options", [
    {"method": "polar_express"}, {"method": "newton_schulz"}, {"method": "coupled"}, {"method": "augmented"},
    {"method": "polar_express", "precision": "bfloat16"}, {"method": "newton_schulz", "precision": "bfloat16"},
])  # fmt: skip
@pytest.mark.parametrize("small", [0, _directions.SMALL], ids=["large", "small"])
def test_low_precision_never_explodes_on_ill_conditioned_statistics(kind, options, small, monkeypatch):
    monkeypatch.setattr(_directions, "SMALL", small)
    S, M = degenerate(kind)
    P = leon_direction(S.float(), M.float(), **options)
    assert bool(torch.isfinite(P).all())
    assert float(torch.linalg.matrix_norm(P, 2)) <= 1.01


@pytest.mark.parametrize(("small", "most"), [(0, 0.02), (_directions.SMALL, 0.002)])
@pytest.mark.parametrize("batch", [False, True])
def test_bfloat16_is_close_where_the_condition_is_mild(small, most, batch, monkeypatch):
    monkeypatch.setattr(_directions, "SMALL", small)
    S, M = torch.zeros(64, 256).double(), torch.zeros(64, 64).double()
    for g in normal(6, 60, 64, 256):
        S, M = 0.95 * S + g, 0.95 * M + g @ g.T
    exact = leon_direction(S, M)
    given = [torch.stack([x, x / 3]) if batch else x for x in (S.float(), M.float())]
    if batch:
        exact = torch.stack([exact, leon_direction(S / 3, M / 3)])
    P = leon_direction(*given, method="polar_express", precision="bfloat16").double()
    assert float((P - exact).norm() / exact.norm()) < most


def test_small_matrices_in_bfloat16_are_multiplied_in_float32_on_a_cpu():
    """What sets the precision apart: side and batch, and only these."""
    for shape, small in {
        (64, 70): True,
        (130, 128): True,
        (129, 140): False,
        (2, 64, 70): True,
        (2, 65, 70): False,
    }.items():
        S = normal(8, *shape)
        M = S @ S.mT if shape[-2] <= shape[-1] else S.mT @ S
        error = leon_direction(S, M).sub(
            leon_direction(S.float(), M.float(), method="polar_express", precision="bfloat16")
        )
        assert (float(error.norm() / leon_direction(S, M).norm()) < 1e-3) == small, shape


def test_dtype_of_the_direction_is_the_momentum_s():
    S = normal(6, 4, 6)
    M = S @ S.mT
    assert leon_direction(S.bfloat16(), M.float(), method="polar_express").dtype == torch.bfloat16


@pytest.mark.parametrize("method", ["eigh", "polar_express", "newton_schulz", "coupled", "augmented"])
@pytest.mark.parametrize("shape", [(3, 8), (8, 3), (4, 4), (1, 5)])
def test_a_batch_is_a_loop(method, shape):
    g = normal(7, 4, 6, *shape)
    M = (g @ g.mT if shape[0] <= shape[1] else g.mT @ g).sum(1)
    together = leon_direction(g.sum(1), M, method=method)
    alone = torch.stack([leon_direction(S, m, method=method) for S, m in zip(g.sum(1), M, strict=True)])
    assert torch.allclose(together, alone, atol=1e-10)
    one = leon_direction(g.sum(1)[:1], M[:1], method=method)
    assert torch.allclose(one, alone[:1], atol=1e-10)


@pytest.mark.parametrize("method", ["eigh", "polar_express", "newton_schulz", "coupled", "augmented"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_stays_zero(method, dtype):
    Z = torch.zeros(2, 3, 5, dtype=dtype)
    assert not leon_direction(Z, torch.zeros(2, 3, 3, dtype=dtype), method=method).any()
    assert not muon_direction(Z, method="muon").any()
    if method == "eigh":
        assert not pion_direction(Z, torch.zeros(2, 3, 3, dtype=dtype)).any()


@pytest.mark.parametrize("size", [1e-9, 1e-25, 1e9])
def test_small_norms_do_not_collapse(size):
    """Peers add an eps to the norm: at 1e-9 their factor of 256 x 256 loses two thirds."""
    X = normal(8, 16, 16, dtype=torch.float32)
    for method in ("muon", "polar_express", "eigh"):
        assert torch.allclose(muon_direction(size * X, method=method), muon_direction(X, method=method), atol=1e-4)


def test_muon_against_its_formula():
    a, b, c = 3.4445, -4.7750, 2.0315
    G = normal(9, 6, 4)
    X = G.T / G.norm()
    for _ in range(5):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    ours = torch.linalg.svdvals(muon_direction(G, method="muon"))
    assert float(torch.linalg.svdvals(X).max()) < 1.3
    assert float(ours.max()) < 1.3  # the first norm is tighter here, the polynomials the same
    assert float(ours.min()) > 0.6


def test_pion_is_a_mean_of_factors():
    S, L = normal(10, 3, 6), torch.linalg.cholesky(torch.eye(3).double() * 2)
    noise = normal(11, 5, 3, 6)
    expected = torch.stack([polar(S + L @ Z / 0.5) for Z in noise]).mean(0)
    assert torch.allclose(pion_direction(S, L @ L.T, eta=0.5, samples=5, noise=noise), expected, atol=1e-12)
    assert torch.allclose(pion_direction(S.T, L @ L.T, eta=0.5, samples=5, noise=noise), expected.T, atol=1e-12)
    seeded = [pion_direction(S, L @ L.T, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*seeded)


def test_roots_of_singular_matrices():
    half = normal(12, 4, 2)
    M = half @ half.T
    L = cholesky(M)
    assert torch.allclose(L @ L.T, M, atol=1e-10)
    root = inverse_root(M)
    assert torch.allclose(root @ M @ root, half @ torch.linalg.pinv(half), atol=1e-10)
    assert not cholesky(torch.zeros(2, 2)).any()


COMPILED = """
import torch
import torch._dynamo.testing as dynamo
from corollary.optim import leon_direction

counter = dynamo.CompileCounter()
compiled = torch.compile(leon_direction, backend=counter, dynamic=False)
S, M = torch.randn(3, 5, generator=torch.Generator().manual_seed(13)).double(), torch.eye(3).double()
for _ in range(3):
    own = leon_direction(S, M, method="polar_express")
    assert torch.allclose(compiled(S, M, method="polar_express"), own, atol=1e-12)
print(counter.frame_count)
"""


def test_compiled_once():
    """In a process of its own: the type checks of the tests are not part of what a user compiles."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1", done.stderr[-2000:]


@pytest.mark.parametrize(("momentum", "second", "options", "told"), [
    (torch.ones(3), torch.ones(1, 1), {}, "matrix"),
    (torch.ones(2, 3), torch.ones(3, 3), {}, "second_moment"),
    (torch.ones(2, 3), torch.eye(2), {"eta": 0.0}, "eta"),
    (torch.ones(2, 3), torch.eye(2), {"method": "magic"}, "method"),
    (torch.ones(2, 3), torch.eye(2), {"precision": "int8"}, "precision"),
    (torch.ones(2, 3, dtype=torch.int64), torch.eye(2), {}, "real"),
])  # fmt: skip
def test_nonsense_is_refused(momentum, second, options, told):
    with pytest.raises(InvalidInputError, match=told):
        leon_direction(momentum, second, **options)


def test_nonsense_is_refused_by_the_others():
    with pytest.raises(InvalidInputError, match="samples"):
        pion_direction(torch.ones(2, 3), torch.eye(2), samples=0)
    with pytest.raises(InvalidInputError, match="method"):
        muon_direction(torch.ones(2, 3), method="magic")
