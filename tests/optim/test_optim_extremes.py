"""Gradients of extreme size, parameters and groups of odd kinds: no weight is lost, nothing is silently left out."""

import copy
import pickle

import pytest
import torch
from torch import nn

from corollary.errors import InvalidFileError, InvalidInputError
from corollary.optim import (
    FAML,
    FTPL,
    SOAP,
    Leon,
    Muon,
    OneSidedShampoo,
    Pion,
    alternating_stream,
    leon_direction,
    play,
    split_module,
)

ALL = {
    "leon": Leon,
    "leon, theory": lambda p, **o: Leon(p, betas=(0.9, 0.81), **o),
    "leon, augmented": lambda p, **o: Leon(p, method="augmented", **o),
    "leon, coupled": lambda p, **o: Leon(p, method="coupled", **o),
    "leon, bfloat16": lambda p, **o: Leon(p, precision="bfloat16", **o),
    "pion": lambda p, **o: Pion(p, samples=2, **o),
    "muon": Muon,
    "shampoo": OneSidedShampoo,
    "soap": SOAP,
}
WAYS = [("polar_express", "float32"), ("newton_schulz", "float32"), ("coupled", "float32"), ("augmented", "float32"),
        ("polar_express", "bfloat16")]  # fmt: skip


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(make, sizes, shape=(4, 6), **options):
    """Weights after steps with gradients of these sizes."""
    p = nn.Parameter(torch.zeros(shape))
    optimizer = make([p], **options)
    for t, size in enumerate(sizes):
        p.grad = size * normal(t, *shape)
        optimizer.step()
    return p.detach(), optimizer.state[p]


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_thousands_of_zero_gradients_leave_weights_that_are_numbers(make):
    found, state = run(make, [1.0] * 3 + [0.0] * 1200)
    assert bool(found.isfinite().all())
    assert all(bool(v.isfinite().all()) for v in state.values() if isinstance(v, torch.Tensor))
    p = nn.Parameter(found.clone())  # and training goes on as if it had begun now
    again = make([p])
    again.load_state_dict({**again.state_dict(), "state": {0: copy.deepcopy(state)}})
    for t in range(3):
        p.grad = normal(t, 4, 6)
        again.step()
    assert bool(p.isfinite().all())
    assert float((p - found).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
@pytest.mark.parametrize("size", [1e-40, 1e-20, 1e-12, 1e9, 1e12, 1e20, 1e37])
def test_a_spike_and_a_tiny_first_gradient_do_no_harm(make, size):
    for sizes in ([1.0] * 10 + [size] + [1.0] * 60, [size] + [1.0] * 60, [size] * 5):
        found, _ = run(make, sizes, shape=(8, 12))
        assert bool(found.isfinite().all()), sizes[:2]


@pytest.mark.parametrize("make", [v for k, v in ALL.items() if k not in ("soap",)])
@pytest.mark.parametrize("size", [2.0**-90, 2.0**-45, 2.0**45, 2.0**90])
def test_a_common_scale_of_all_gradients_changes_nothing(make, size):
    """Bit for bit for a power of two: what leaves the range is rescaled by one."""
    sizes = [1.0, 3.0, 0.25, 1.0, 100.0]
    assert torch.equal(run(make, sizes)[0], run(make, [size * s for s in sizes])[0])


def test_old_sums_outlive_a_spike_as_far_as_float32_can_tell():
    """A spike of 2^50 rescales the sums; in float64 both walks know the same."""
    sizes = [1.0] * 5 + [2.0**50] + [1.0] * 900
    found, state = run(lambda p, **o: Leon(p, betas=(0.9, 0.81), **o), sizes)
    p = nn.Parameter(torch.zeros(4, 6, dtype=torch.float64))
    exact = Leon([p], betas=(0.9, 0.81))
    for t, size in enumerate(sizes):
        p.grad = size * normal(t, 4, 6).double()
        exact.step()
    assert torch.allclose(found.double(), p.detach(), atol=2e-3)  # 906 steps of .02 in float32
    assert state["unit"] == 1.0 or 2.0**-60 < state["unit"] < 2.0**60


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("betas", [(0.9, 0.9), (0.9, 0.81)])
def test_an_expert_that_is_never_used_again(precision, betas):
    """Its statistics decay through the subnormal numbers while those of its stack do not."""
    p = nn.Parameter(torch.zeros(2, 5, 4))
    optimizer = Leon([{"params": [p], "rule": "matrix", "form": "stack"}], lr=1.0, betas=betas, precision=precision)
    for t in range(1000):
        p.grad = normal(t, 2, 5, 4)
        p.grad[1] *= t < 3
        before = p.detach().clone()
        optimizer.step()
        assert float(torch.linalg.matrix_norm((p - before).detach(), 2).max()) <= 1.02
    assert bool(p.isfinite().all())


@pytest.mark.parametrize(("method", "precision"), WAYS)
@pytest.mark.parametrize("c", [1e-18, 1e-12, 1e-6, 1e6, 1e12, 1e18])
def test_directions_do_not_depend_on_a_common_scale(method, precision, c):
    S = normal(0, 2, 3, 5)
    M = S @ S.mT + 0.1 * torch.eye(3)
    expected = leon_direction(S.double(), M.double())
    found = leon_direction(S * c, M * c * c, method=method, precision=precision)
    assert torch.allclose(found.double(), expected, atol=0.01 if precision == "bfloat16" else 1e-4)


@pytest.mark.parametrize("make", [Leon, Muon, SOAP, OneSidedShampoo])
def test_weights_that_are_not_contiguous_are_updated_as_others_are(make):
    def build():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4))

    models = [build(), build().to(memory_format=torch.channels_last)]
    x = normal(1, 2, 3, 6, 6)
    for model in models:
        optimizer = make.from_module(model, lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    start = build()
    for a, b, begun in zip(*(m.parameters() for m in (*models, start)), strict=True):
        assert make is SOAP or torch.allclose(a, b, atol=1e-4)  # its bases amplify rounding
        assert float((a - begun).detach().abs().max()) > 0
    stack = nn.Parameter(normal(2, 4, 3, 5).permute(0, 2, 1))
    stack.grad = normal(3, 4, 5, 3)
    before = stack.detach().clone()
    Leon([{"params": [stack], "rule": "matrix", "form": "stack"}], lr=0.1).step()
    assert float(torch.linalg.matrix_norm((stack - before).detach(), 2).min()) > 0.01


def test_a_layer_stored_transposed_is_read_as_its_matrix():
    """transformers' Conv1D holds (in, out): its fused projection is split along the columns."""

    class Conv1D(nn.Module):
        def __init__(self, rows, columns):
            super().__init__()
            self.weight = nn.Parameter(normal(4, rows, columns))

        def forward(self, x):
            return x @ self.weight

    model = nn.Sequential(Conv1D(4, 12), nn.Linear(12, 2))
    found = {row.name: row for row in split_module(model, splits={"0": 3}).rows}["0.weight"]
    assert (found.rule, found.form, found.splits) == ("matrix", "transposed", 3)
    optimizer = Leon.from_module(model, lr=0.1, splits={"0": 3})
    before = model[0].weight.detach().clone()
    model(normal(5, 7, 4)).square().sum().backward()
    gradient = model[0].weight.grad.clone()
    optimizer.step()
    for k in range(3):
        g = gradient[:, 4 * k : 4 * k + 4].T.double()
        expected = leon_direction(g, g @ g.T)
        change = (before - model[0].weight.detach())[:, 4 * k : 4 * k + 4].T / 0.1
        assert torch.allclose(change.double(), expected, atol=1e-3)


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_copies_and_pickles_step_as_the_original(make):
    p = nn.Parameter(normal(0, 4, 6))
    optimizer = make([p])
    p.grad = normal(1, 4, 6)
    optimizer.step()
    copied, own = copy.deepcopy((optimizer, p))
    pickled = pickle.loads(pickle.dumps(optimizer))
    optimizer.step()
    for again in (copied, pickled):
        q = again.param_groups[0]["params"][0]
        q.grad = normal(1, 4, 6)
        again.step()
        assert torch.equal(q, p)
    assert copied.param_groups[0]["params"][0] is own


def test_a_group_of_adamw_keeps_what_it_says():
    p, w = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 3))
    own = {"weight_decay": 0.5, "betas": (0.5, 0.6), "eps": 1e-3, "lr": 1e-2}
    groups = Leon([{"params": [p], "rule": "adamw", **own}, {"params": [w]}], adamw_lr=7.0).param_groups
    assert {k: groups[0][k] for k in own} == own
    for wrong in ("wieght_decay", "beta", "nestrov"):
        with pytest.raises(InvalidInputError, match="did you mean"):
            Leon([{"params": [w], wrong: 0.1}])
    assert Leon([{"params": [w], "name": "mine"}]).param_groups[0]["name"] == "mine"


def test_bounds_are_those_of_a_theorem_or_none():
    stream = alternating_stream(40, (3, 8))
    assert play(FTPL((3, 8)), stream).bound is not None
    assert play(FTPL((3, 8), scale=1e6), stream).bound is None
    assert play(FAML((3, 8)), stream).bound is not None
    assert play(FAML((3, 8), discount=0.5), stream).bound is None


def test_networks_with_odd_layers(as_shipped):
    rows = {
        r.name: r for r in split_module(nn.ModuleDict({"l": nn.LSTM(5, 8, proj_size=3), "o": nn.Linear(3, 4)})).rows
    }
    assert (rows["l.weight_hr_l0"].rule, rows["l.weight_hr_l0"].splits) == ("matrix", None)
    assert rows["l.weight_ih_l0"].splits == 4
    narrow = {
        r.name: r.rule for r in split_module(nn.ModuleList([nn.LSTM(4, 1), nn.Linear(9, 9), nn.Linear(9, 9)])).rows
    }
    assert narrow["0.weight_ih_l0"] == narrow["0.weight_hh_l0"] == "adamw"

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.output = nn.Linear(6, 6)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks, self.fc = nn.ModuleList([Block(), Block()]), nn.Linear(6, 3)

    found = {r.name: r.reason for r in split_module(Network()).rows}
    assert found["fc.weight"] == "output layer"
    assert found["blocks.1.output.weight"] == "linear layer"
    for model, message in (
        (nn.Sequential(nn.LazyLinear(3)), "run the model once"),
        ([nn.Linear(2, 2)], "torch module"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            Leon.from_module(model)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"damping": -1.0}, "damping"), ({"damping": float("nan")}, "damping"), ({"steps": 0}, "steps"),
        ({"grad_bound": 1.0, "betas": (0.0, 0.0)}, "grad_bound"), ({"steps": -3}, "steps"),
        ({"grad_bound": float("nan")}, "grad_bound"),
        ({"betas": 0.9}, "betas"), ({"betas": (0.9, 0.9, 0.9)}, "betas"), ({"adamw_betas": (2.0, 0.9)}, "adamw_betas"),
        ({"adamw_eps": -1.0}, "adamw_eps"), ({"lr": float("nan")}, "lr"), ({"eta": float("nan")}, "eta"),
    ],
)  # fmt: skip
def test_options_out_of_range(options, name, as_shipped):
    with pytest.raises(InvalidInputError, match=f"`{name}` is out of range"):
        Leon([nn.Parameter(torch.ones(2, 3))], **options)


def test_options_of_others_and_parameters_that_do_not_fit(as_shipped):
    p = nn.Parameter(torch.ones(2, 3))
    for make in (
        lambda: Leon([p], samples=4),
        lambda: Leon([p], frequency=3),
        lambda: Muon([p], eta=1.0),
    ):
        with pytest.raises(TypeError, match="has no option"):
            make()
    for make, message in (
        (lambda: Pion([p], samples=2.5), "samples"),
        (lambda: SOAP([p], frequency=0), "frequency"),
        (lambda: Muon([p], method="foo"), "method"),
        (lambda: OneSidedShampoo([p], method="newton_schulz"), "method"),
        (lambda: Leon([nn.Parameter(torch.ones(0, 4))]), "no entries"),
        (lambda: Leon.from_module(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6)), splits={"0": "3"}), "splits"),
        (lambda: Leon.from_module(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6)), splits={"0": [7, -1]}), "splits"),
        (lambda: Leon.from_module(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 6)), splits={"0": 0}), "splits"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            make()


def test_a_sparse_gradient_is_refused_in_words(as_shipped):
    table = nn.Embedding(5, 3, sparse=True)
    for rule in ("matrix", "adamw"):
        optimizer = Leon([{"params": [table.weight], "rule": rule}])
        table(torch.tensor([1, 2])).sum().backward()
        with pytest.raises(InvalidInputError, match="a gradient is sparse"):
            optimizer.step()
        table.weight.grad = None


def test_states_of_other_optimizers_are_refused(tmp_path, as_shipped):
    w, b = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    ours = Leon([w, b])
    theirs = torch.optim.AdamW([{"params": [w]}, {"params": [b]}])
    with pytest.raises(InvalidInputError, match="not of a Leon"):
        ours.load_state_dict(theirs.state_dict())
    w.grad, b.grad = torch.ones(2, 3), torch.ones(3)
    ours.step()
    ours.save(tmp_path / "state.json")
    text = (tmp_path / "state.json").read_text()
    for old, new in (('"rule": "matrix"', '"ruler": "matrix"'), ('"lr": 0.02', '"lr": "x"')):
        assert old in text
        (tmp_path / "state.json").write_text(text.replace(old, new))
        with pytest.raises(InvalidFileError):
            Leon([w, b]).load(tmp_path / "state.json")
    one, two = (
        nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)),
        nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 2)}),
    )
    saved = Leon.from_module(one)
    saved.save(tmp_path / "named.json")
    with pytest.raises(InvalidFileError, match=r"0.weight"):
        Leon.from_module(two).load(tmp_path / "named.json")
