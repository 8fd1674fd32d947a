"""Which parameter goes where, read from the module graph; refusals."""

import pytest
import torch
from torch import nn

from corollary.errors import InvalidInputError
from corollary.models import TransformerConfig, TransformerLM
from corollary.optim import Leon, Muon, leon_direction, split_module


def rules(split):
    return {row.name: row.rule for row in split.rows}


class Zoo(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.positions = nn.Parameter(torch.zeros(1, 5, 8))
        self.attention = nn.MultiheadAttention(8, 2)
        self.experts = nn.Parameter(torch.randn(4, 8, 6))
        self.conv = nn.Conv1d(8, 8, 3)
        self.depthwise = nn.Conv1d(8, 8, 3, groups=8)
        self.norm = nn.LayerNorm(8)
        self.recurrent = nn.LSTM(8, 8)
        self.gate = nn.Linear(8, 1)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.lm_head = nn.Linear(8, 10, bias=False)


def test_every_kind_of_layer():
    split = split_module(Zoo())
    found = rules(split)
    assert found["embedding.weight"] == found["lm_head.weight"] == found["positions"] == "adamw"
    assert found["depthwise.weight"] == found["gate.weight"] == found["norm.weight"] == "adamw"
    assert found["experts"] == found["conv.weight"] == found["attention.in_proj_weight"] == "matrix"
    assert found["recurrent.weight_hh_l0"] == found["attention.out_proj.weight"] == "matrix"
    assert found["frozen.weight"] == "frozen"
    assert all(rule == "adamw" for name, rule in found.items() if "bias" in name and "frozen" not in name)
    forms = {row.name: (row.form, row.splits) for row in split.rows}
    assert forms["experts"] == ("stack", None)
    assert forms["conv.weight"] == ("flatten", None)
    assert forms["attention.in_proj_weight"] == ("matrix", 3)
    assert forms["recurrent.weight_ih_l0"] == ("matrix", 4)
    told = str(split)
    for line in ("stack of matrices", "depthwise", "wants no gradient", "output layer", "split 3", "frozen"):
        assert line in told


def test_every_parameter_stands_in_one_group_and_steps():
    model = Zoo()
    optimizer = Leon.from_module(model, lr=0.1)
    ours = [p for g in optimizer.param_groups for p in g["params"]]
    wanted = [p for p in model.parameters() if p.requires_grad]
    assert len(ours) == len(wanted) == len({id(p) for p in ours})
    before = [p.detach().clone() for p in wanted]
    for p in wanted:
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step()
    assert all(not torch.equal(a, p) for a, p in zip(before, wanted, strict=True))
    expert = model.experts[1].detach() - before[[id(p) for p in wanted].index(id(model.experts))][1]
    g = model.experts.grad[1]
    assert torch.allclose(expert, -0.1 * leon_direction(g, g.T @ g), atol=1e-5)


def test_the_transformer_with_tied_embeddings():
    model = TransformerLM(TransformerConfig(width=32, layers=2, heads=2, context=16))
    split = split_module(model, splits={"qkv": 3, "gate_up": 2})
    found = rules(split)
    assert found["embedding.weight"] == "adamw"
    assert found["blocks.1.down.weight"] == "matrix"  # the last linear layer, but of a list: no output layer
    assert {row.name: row.splits for row in split.rows}["blocks.0.qkv.weight"] == 3


def test_a_tied_output_is_an_embedding():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(4, 10, bias=False)
            self.tokens = nn.Embedding(10, 4)
            self.inner = nn.Linear(4, 4)
            self.out.weight = self.tokens.weight

    assert next((r.name, r.reason) for r in split_module(Tied(), head=None).rows) == ("out.weight", "embedding")


def test_names_decide_where_the_user_says_so():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    assert rules(split_module(model, adamw=["1.weight"]))["1.weight"] == "adamw"
    assert rules(split_module(model, matrix=["2.weight"]))["2.weight"] == "matrix"
    assert rules(split_module(model, head=None))["2.weight"] == "matrix"
    assert rules(split_module(model, head="0"))["0.weight"] == "adamw"
    for options in ({"adamw": ["nothing"]}, {"splits": {"qkv": 3}}, {"head": "nothing"}):
        with pytest.raises(InvalidInputError, match=r"nothing|qkv"):
            split_module(model, **options)


def test_a_single_layer_is_no_output_layer():
    assert rules(split_module(nn.Linear(4, 3)))["weight"] == "matrix"


@pytest.mark.parametrize("model", [
    nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4)), nn.BatchNorm1d(3), nn.Linear(4, 4).requires_grad_(False),
    nn.ReLU(),
])  # fmt: skip
@pytest.mark.parametrize("make", [Leon, Muon])
def test_it_refuses_to_be_adamw_in_silence(model, make):
    with pytest.raises(InvalidInputError, match="would touch no matrix"):
        make.from_module(model)


def test_flattened_parameters_are_refused():
    """What FSDP1 makes of a model: one flat vector."""
    model = nn.Module()
    model.flat = nn.Parameter(torch.zeros(100))
    with pytest.raises(InvalidInputError, match="FSDP"):
        Leon.from_module(model)


def test_the_table_prints(capsys):
    Leon.from_module(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), verbose=True)
    assert "32 of 58 numbers by the matrix rule" in capsys.readouterr().out


def test_depth_of_names_in_groups():
    optimizer = Leon.from_module(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)))
    assert [g["param_names"] for g in optimizer.param_groups] == [["0.weight"], ["0.bias", "1.weight", "1.bias"]]
