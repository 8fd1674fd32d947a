"""Leon, Pion, Muon, one-sided Shampoo and SOAP as torch optimizers: against slow references, and in the wild."""

import copy
import warnings

import pytest
import torch
from torch import nn

from corollary.certificates import Certificate
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.optim import (
    SOAP,
    Leon,
    Muon,
    OneSidedShampoo,
    Pion,
    leon_direction,
    load_optimizer,
    make_optimizer,
    muon_direction,
    pack_state,
    save_optimizer,
    unpack_state,
)
from corollary.testing import OptimizerCheckError, check_optimizer
from corollary.testing._optimizer_checks import CHECKS

ALL = [Leon, Pion, Muon, OneSidedShampoo, SOAP]


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def walk(make, shape, steps=8, dtype=torch.float64, seed=0):
    p = nn.Parameter(normal(seed, *shape).to(dtype))
    optimizer = make([p])
    for t in range(steps):
        p.grad = normal(100 + t, *shape).to(dtype)
        optimizer.step()
    return p.detach(), optimizer


def leon_by_hand(W, grads, lr, b1, b2, eta, scale=1.0, decay=0.0, nesterov=False):
    S, M = torch.zeros_like(W), 0
    for g in grads:
        S = b1 * S + g
        M = b2 * M + (g @ g.T if g.shape[0] <= g.shape[1] else g.T @ g)
        W = (1 - lr * decay) * W - lr * scale * leon_direction(b1 * S + g if nesterov else S, M, eta=eta)
    return W


@pytest.mark.parametrize("shape", [(3, 6), (6, 3), (4, 4), (1, 5)])
def test_leon_is_the_algorithm(shape):
    grads = [normal(100 + t, *shape) for t in range(8)]
    expected = leon_by_hand(normal(0, *shape), grads, 0.1, 0.9, 0.81, 0.7)
    found, _ = walk(lambda p: Leon(p, lr=0.1, betas=(0.9, 0.81), eta=0.7), shape)
    assert torch.allclose(found, expected, atol=1e-12)
    single, _ = walk(lambda p: Leon(p, lr=0.1, betas=(0.9, 0.81), eta=0.7), shape, dtype=torch.float32)
    assert torch.allclose(single.double(), expected, atol=1e-4)  # float32 and eight polynomial steps


def test_options_against_the_algorithm():
    grads = [normal(100 + t, 6, 3) for t in range(8)]
    expected = leon_by_hand(normal(0, 6, 3), grads, 0.1, 0.95, 0.95, 1.0, 2**0.5, 0.3, nesterov=True)
    found, _ = walk(lambda p: Leon(p, lr=0.1, scale="original", weight_decay=0.3, nesterov=True), (6, 3))
    assert torch.allclose(found, expected, atol=1e-12)
    rms, _ = walk(lambda p: Leon(p, lr=0.1, scale="match_rms_adamw"), (6, 3), steps=1)
    assert torch.allclose(rms, leon_by_hand(normal(0, 6, 3), grads[:1], 0.1, 0, 0, 1.0, 0.2 * 6**0.5))


def test_the_theorys_damping():
    S = g = normal(100, 3, 6)
    found, _ = walk(lambda p: Leon(p, lr=1.0, betas=(0.9, 0.81), grad_bound=2.0, eta=0.5), (3, 6), steps=1)
    M = g @ g.T + (2.0 / 0.9) ** 2 * torch.eye(3)
    assert torch.allclose(found, normal(0, 3, 6) - leon_direction(S, M, eta=0.5), atol=1e-12)


def test_large_eta_is_muon_and_many_samples_are_no_noise():
    leon, _ = walk(lambda p: Leon(p, lr=0.1, eta=1e8), (4, 7))
    muon, _ = walk(lambda p: Muon(p, lr=0.1, nesterov=False, scale=None, method="eigh"), (4, 7))
    pion, _ = walk(lambda p: Pion(p, lr=0.1, eta=1e8, samples=1), (4, 7))
    assert torch.allclose(leon, muon, atol=1e-7)
    assert torch.allclose(pion, muon, atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_muon_is_torchs(shape):
    ours, _ = walk(lambda p: Muon(p, lr=0.1), shape, dtype=torch.float32)
    theirs, _ = walk(lambda p: torch.optim.Muon(p, lr=0.1, weight_decay=0.0), shape, dtype=torch.float32)
    start = normal(0, *shape).float()
    ours, theirs = ours - start, theirs - start
    # torch iterates in bfloat16 and divides by the Frobenius norm, ours by a tighter one: one factor, other ripples
    assert float((ours - theirs).norm() / theirs.norm()) < 0.25
    exact, _ = walk(lambda p: Muon(p, lr=0.1, method="eigh"), shape)
    assert float((ours.double() - (exact - normal(0, *shape))).norm() / ours.norm()) < 0.25


def test_one_sided_shampoo_and_soap_by_hand():
    p, _ = walk(lambda p: OneSidedShampoo(p, lr=0.5, betas=(0.9, 0.8), damping=0.0), (3, 5), steps=4)
    S, M, W = 0, 0, normal(0, 3, 5)
    for t in range(4):
        g = normal(100 + t, 3, 5)
        S, M = 0.9 * S + g, 0.8 * M + g @ g.T
        w, V = torch.linalg.eigh(M)
        U = V / w.sqrt() @ V.T @ S
        W = W - 0.5 * 0.2 * 15**0.5 * U / U.norm()
    assert torch.allclose(p, W, atol=1e-10)
    still, _ = walk(lambda p: SOAP(p, lr=0.1), (3, 5), steps=1)
    assert torch.equal(still, normal(0, 3, 5))
    moved, _ = walk(lambda p: SOAP(p, lr=0.1), (3, 5), steps=2)
    first, second = normal(100, 3, 5), normal(101, 3, 5)
    QL, QR = torch.linalg.eigh(first @ first.T)[1], torch.linalg.eigh(first.T @ first)[1]
    mean = QL.T @ (0.95 * first + second) @ QR * 0.05 / (1 - 0.95**2)
    square = (QL.T @ second @ QR).square()
    expected = normal(0, 3, 5) - 0.1 * QL @ (mean / (square.sqrt() + 1e-8)) @ QR.T
    # two of the five right eigenvalues are zero: their eigenvectors are any; compare in their span
    assert torch.allclose((moved - expected) @ QR[:, 2:], torch.zeros(3, 3).double(), atol=1e-6)


@pytest.mark.parametrize("make", ALL)
def test_batches_are_a_loop(make):
    params = [nn.Parameter(normal(t, *shape)) for t, shape in enumerate([(4, 6)] * 3 + [(6, 4)] * 2 + [(4, 6)])]
    alone = [nn.Parameter(p.detach().clone()) for p in params]
    together, apart = make(params), [make([p]) for p in alone]
    for t in range(4):
        for i, (p, q) in enumerate(zip(params, alone, strict=True)):
            p.grad = q.grad = normal(50 * t + i, *p.shape)
        together.step()
        for optimizer in apart:
            optimizer.step()
    if make is Pion:  # the noise depends on a parameter's number
        params, alone = params[:1], alone[:1]
    assert all(torch.allclose(p, q, atol=1e-10) for p, q in zip(params, alone, strict=True))


def test_convolutions_stacks_and_splits_are_their_matrices():
    g, W = normal(1, 4, 3, 2, 2), normal(2, 4, 3, 2, 2)
    p = nn.Parameter(W.clone())
    p.grad = g
    Leon([{"params": [p], "form": "flatten", "rule": "matrix"}], lr=1.0).step()
    flat = g.flatten(1)
    assert torch.allclose(p, W - leon_direction(flat, flat @ flat.T).view_as(W))
    q = nn.Parameter(normal(2, 5, 3, 4))
    q.grad = normal(1, 5, 3, 4)
    Leon([{"params": [q], "form": "stack", "rule": "matrix"}], lr=1.0).step()
    assert torch.allclose(q[3], normal(2, 5, 3, 4)[3] - leon_direction(q.grad[3], q.grad[3] @ q.grad[3].T))
    for splits, pieces in ((3, (4, 4, 4)), ((2, 4, 6), (2, 4, 6))):
        r = nn.Parameter(normal(2, 12, 4))
        r.grad = normal(1, 12, 4)
        Leon([{"params": [r], "splits": splits, "rule": "matrix"}], lr=1.0).step()
        parts = [
            leon_direction(x, x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x) for x in r.grad.split(list(pieces))
        ]
        assert torch.allclose(r, normal(2, 12, 4) - torch.cat(parts), atol=1e-12)


def test_a_bare_list_is_divided_and_each_part_has_its_settings():
    p, b, c = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2, 3, 3))
    optimizer = Leon([p, b, c], lr=0.1, adamw_lr=0.01, adamw_weight_decay=0.5)
    assert [(g["rule"], len(g["params"]), g["lr"]) for g in optimizer.param_groups] == [
        ("matrix", 1, 0.1),
        ("adamw", 2, 0.01),
    ]
    twin = nn.Parameter(torch.ones(3))
    adamw = torch.optim.AdamW([twin], lr=0.01, betas=(0.9, 0.95), weight_decay=0.5)
    for t in range(3):
        for q in (p, b, c, twin):
            q.grad = torch.full_like(q, 1.0 + t)
        optimizer.step()
        adamw.step()
    assert torch.allclose(b, twin, atol=1e-7)


@pytest.mark.parametrize("make", ALL)
def test_bad_gradients_leave_no_trace(make):
    p, clean = nn.Parameter(normal(0, 3, 5)), nn.Parameter(normal(0, 3, 5))
    optimizer, other = make([p], lr=0.1), make([clean], lr=0.1)
    for t, bad in enumerate([None, float("nan"), float("inf"), None]):
        p.grad = normal(t, 3, 5) if bad is None else normal(t, 3, 5).index_fill(1, torch.tensor([2]), bad)
        optimizer.step()
        if bad is None:
            clean.grad = normal(t, 3, 5)
            other.step()
    assert torch.equal(p, clean)
    assert optimizer.state[p]["skipped"] == 2


def test_sizes_outside_of_float32s_squares():
    for size in (1e-28, 1e25):
        p = nn.Parameter(torch.zeros(3, 5))
        optimizer = Leon([p], lr=1.0)
        for t in range(3):
            p.grad = (size * normal(t, 3, 5)).float()
            optimizer.step()
        q, _ = nn.Parameter(torch.zeros(3, 5)), None
        plain = Leon([q], lr=1.0)
        for t in range(3):
            q.grad = normal(t, 3, 5).float()
            plain.step()
        assert torch.allclose(p, q, atol=1e-4)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_resumes_bit_for_bit(make, dtype, tmp_path):
    def step(p, bias, optimizer, t):
        p.grad, bias.grad = normal(t, 4, 6).to(dtype), normal(t, 3).to(dtype)
        optimizer.step()

    p, bias = nn.Parameter(normal(0, 4, 6).to(dtype)), nn.Parameter(normal(1, 3).to(dtype))
    optimizer = make([p, bias])
    for t in range(13):
        step(p, bias, optimizer, t)
    optimizer.save(tmp_path)
    q, c = nn.Parameter(p.detach().clone()), nn.Parameter(bias.detach().clone())
    resumed = make([q, c])
    resumed.load(tmp_path)
    for t in range(13, 18):
        step(p, bias, optimizer, t)
        step(q, c, resumed, t)
    assert torch.equal(p, q)
    assert torch.equal(bias, c)
    assert {f.suffix for f in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_foreign_states_are_refused(tmp_path):
    p = nn.Parameter(torch.ones(2, 3))
    optimizer = Leon([p])
    p.grad = torch.ones(2, 3)
    optimizer.step()
    save_optimizer(optimizer, tmp_path / "a.json")
    with pytest.raises(InvalidFileError, match="Leon"):
        load_optimizer(Muon([p]), tmp_path / "a.json")
    with pytest.raises(InvalidFileError, match="shape"):
        load_optimizer(Leon([nn.Parameter(torch.ones(3, 3))]), tmp_path / "a.json")
    with pytest.raises(InvalidFileError, match="groups"):
        load_optimizer(Leon([p, nn.Parameter(torch.ones(2))]), tmp_path / "a.json")
    (tmp_path / "a.safetensors").write_bytes(b"cut")
    with pytest.raises(InvalidFileError, match="cannot be read"):
        load_optimizer(optimizer, tmp_path / "a.json")
    (tmp_path / "a.safetensors").unlink()
    with pytest.raises(InvalidFileError, match="no such file"):
        load_optimizer(optimizer, tmp_path / "a.json")
    (tmp_path / "b.json").write_text('{"kind": "other"}')
    with pytest.raises(InvalidFileError, match="not the state"):
        load_optimizer(optimizer, tmp_path / "b.json")


def test_pack_state_holds_any_optimizer():
    p = nn.Parameter(torch.ones(2, 3))
    adamw = torch.optim.AdamW([p], lr=0.1)
    p.grad = torch.ones(2, 3)
    adamw.step()
    tensors, plain = pack_state(adamw)
    other = torch.optim.AdamW([nn.Parameter(torch.ones(2, 3))], lr=0.5)
    unpack_state(other, tensors, plain)
    assert other.param_groups[0]["lr"] == 0.1


def test_accumulated_gradients_are_their_sum_and_clipping_changes_nothing_in_a_constant_ratio():
    a, b = nn.Parameter(normal(0, 3, 5)), nn.Parameter(normal(0, 3, 5))
    one, two = Leon([a], lr=0.1), Leon([b], lr=0.1)
    x, y = normal(1, 4, 3), normal(2, 4, 3)
    ((x @ a).square().sum() + (y @ a).square().sum()).backward()
    (x @ b).square().sum().backward()
    (y @ b).square().sum().backward()
    nn.utils.clip_grad_norm_([b], 0.1)
    one.step()
    two.step()
    assert torch.allclose(a, b, atol=1e-10)  # a first step does not depend on the norm


def test_the_noise_of_pion_is_seeded_and_of_its_own():
    ends = [walk(lambda p, s=s: Pion(p, lr=0.1, seed=s), (3, 6))[0] for s in (0, 0, 1)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


@pytest.mark.parametrize("small", [0, 128])
def test_bfloat16_is_near_float32(small, monkeypatch):
    monkeypatch.setattr("corollary.optim._directions.SMALL", small)
    shape = (32, 128)
    exact, _ = walk(lambda p: Leon(p, lr=0.1), shape, dtype=torch.float32, steps=20)
    low, _ = walk(lambda p: Leon(p, lr=0.1, precision="bfloat16"), shape, dtype=torch.float32, steps=20)
    start = normal(0, *shape).float()
    assert float((exact - low).norm() / (exact - start).norm()) < 0.03


def test_compiled_leon_is_leon(as_shipped):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own internals
        compiled, _ = walk(lambda p: Leon(p, lr=0.1, compile="eager"), (4, 6), dtype=torch.float32, steps=2)
    plain, _ = walk(lambda p: Leon(p, lr=0.1), (4, 6), dtype=torch.float32, steps=2)
    torch.compiler.reset()
    assert torch.allclose(compiled, plain, atol=1e-6)


@pytest.mark.parametrize("options", [
    {"lr": -1.0}, {"betas": (1.0, 0.9)}, {"eta": 0.0}, {"weight_decay": -1.0}, {"precision": "half"}, {"scale": "big"},
    {"method": "magic"}, {"distributed": "magic"}, {"adamw_lr": -1.0},
])  # fmt: skip
def test_nonsense_is_refused(options):
    with pytest.raises(InvalidInputError):
        Leon([nn.Parameter(torch.ones(2, 2))], **options)


def test_misspelt_options_and_wrong_parameters_are_refused():
    p = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(TypeError, match="etta"):
        Leon([p], etta=1.0)
    with pytest.raises(InvalidInputError, match="dense real"):
        Leon([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))])
    with pytest.raises(InvalidInputError, match="splits"):
        Leon([{"params": [p], "rule": "matrix", "splits": 3}])
    with pytest.raises(InvalidInputError, match="stack"):
        Leon([{"params": [p], "rule": "matrix", "form": "stack"}])
    with pytest.raises(InvalidInputError, match="samples"):
        Pion([p], samples=0)


def test_the_diagnosis_and_its_certificate():
    p, q = nn.Parameter(normal(0, 4, 9).float()), nn.Parameter(normal(1, 4, 4).float())
    optimizer = Leon([("first", p), ("second", q)], lr=0.1)
    assert optimizer.diagnose() == []
    for t in range(20):
        p.grad, q.grad = normal(t, 4, 9).float() + 2, normal(t + 50, 4, 4).float()
        optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    found = optimizer.diagnose()
    assert str(before) == str(optimizer.state_dict())
    assert [d.name for d in found] == ["first", "second"]
    for d in found:
        assert 0 < d.shrinkage <= d.operator_norm <= 1 + 1e-5
        assert d.residual < 1e-4
        assert d.certificate.check(**d.evidence).status.name == "HOLDS"
        assert isinstance(d.certificate, Certificate)
        assert d.certificate.check(**{**d.evidence, "direction": d.evidence["direction"] * 2}).status.name != "HOLDS"
    muon = Muon([p], lr=0.1, method="eigh")
    muon.step()
    assert muon.diagnose()[0].shrinkage == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(InvalidInputError, match="Leon"):
        _ = muon.diagnose()[0].certificate
    soap = SOAP([p])
    soap.step()
    with pytest.raises(InvalidInputError, match="SOAP"):
        soap.diagnose()


@pytest.mark.parametrize("make", ALL)
def test_the_shipped_suite(make):
    rates = {Leon: 0.05, Pion: 0.05, Muon: 0.05, OneSidedShampoo: 0.1, SOAP: 0.05}
    options = {"adamw_lr": 0.02}
    only = [name for name in CHECKS if name != "compile"]
    check_optimizer(lambda params: make(params, lr=rates[make], **options), only=only)


def test_compiled_steps_are_compiled_once(as_shipped):
    check_optimizer(lambda params: Leon(params, lr=0.05), only=["compile"])


def test_the_suite_catches():
    class Forgets(torch.optim.SGD):
        def state_dict(self):
            return {"state": {}, "param_groups": super().state_dict()["param_groups"]}

    with pytest.raises(OptimizerCheckError, match="resume"):
        check_optimizer(lambda p: Forgets(p, lr=0.05, momentum=0.9), only=["resume"])
    with pytest.raises(OptimizerCheckError, match="not finite"):
        check_optimizer(lambda p: torch.optim.SGD(p, lr=0.05), only=["not finite"])
    with pytest.raises(OptimizerCheckError, match="declared to fail"):
        check_optimizer(lambda p: torch.optim.SGD(p, lr=0.05), only=["closure"], expected_failures={"closure": "?"})
    with pytest.raises(InvalidInputError, match="no check"):
        check_optimizer(torch.optim.SGD, only=["magic"])
    told = {"not finite": "AdamW takes what it is given"}
    assert (
        check_optimizer(lambda p: torch.optim.AdamW(p, lr=0.05), only=["convex", "not finite"], expected_failures=told)[
            "convex"
        ]
        == "passed"
    )


def test_one_function_for_every_name():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    for name in ("adamw", "leon", "pion", "muon", "soap", "one_sided_shampoo"):
        optimizer = make_optimizer(name, model, lr=1e-3, weight_decay=0.1)
        assert {g["lr"] for g in optimizer.param_groups} == {1e-3}
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    assert isinstance(make_optimizer(torch.optim.SGD, model, lr=1.0), torch.optim.SGD)
    assert isinstance(make_optimizer("leon", list(model.parameters()), lr=1e-3), Leon)
    with pytest.raises(InvalidInputError, match="magic"):
        make_optimizer("magic", model, lr=1e-3)


def test_muons_directions_are_factors():
    g = normal(0, 3, 5)
    p = nn.Parameter(torch.zeros(3, 5, dtype=torch.float64))
    p.grad = g
    Muon([p], lr=1.0, nesterov=False, scale=None, method="eigh").step()
    assert torch.allclose(p, -muon_direction(g))
