"""Folders of transductors and injections: sizes are compared with the weights before anything is built."""

import json

import numpy as np
import pytest
import torch

from corollary.automata import (
    DFA,
    DirectSum,
    Injection,
    RationalHead,
    RationalTransductor,
    TransductorConfig,
    certify,
    counter_head,
    families,
    from_automaton,
)
from corollary.errors import InvalidFileError, InvalidInputError

SIZES = {"vocab_size": 3, "classes": 4, "width": 8, "layers": 2, "heads": 2}


def both():
    return DirectSum([RationalHead(3, 4, family="householder", count=2, seed=0), counter_head(3, steps=(0, 1, 2))])


def rewritten(folder, change):
    path = folder / "model.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))


FOREIGN = {
    "layers": lambda t: t["config"].update(layers=100_000),
    "classes": lambda t: t["config"].update(classes=10**9),
    "broken classes": lambda t: t["config"].update(classes=4.5),
    "causal": lambda t: t["config"].update(causal="yes"),
    "attention": lambda t: t["config"].update(attention=1),
    "width": lambda t: t["config"].update(width=1 << 16),
    "count": lambda t: t["head"]["heads"][0].update(count=10**9),
    "no count": lambda t: t["head"]["heads"][0].update(count=-1),
    "dimension": lambda t: t["head"]["heads"][0].update(dim=4096),
    "family": lambda t: t["head"]["heads"][0].update(family=["cayley"]),
    "no family": lambda t: t["head"]["heads"][0].pop("family"),
    "rank": lambda t: t["head"]["heads"][0].update(family="dplr", rank=4096),
    "method": lambda t: t["head"]["heads"][0].update(method=5),
    "seed": lambda t: t["head"]["heads"][0].update(seed=3),
    "scale": lambda t: t["head"]["heads"][0].update(scale=float("nan")),
    "states": lambda t: t["head"]["heads"][1].update(states=1 << 16),
    "start": lambda t: t["head"]["heads"][1].update(start=7),
    "broken start": lambda t: t["head"]["heads"][1].update(start=0.5),
    "truth": lambda t: t["head"]["heads"][1].update(vocab_size=True),
    "alphabet": lambda t: t.update(alphabet=["a", "b"]),
    "alphabet of lists": lambda t: t.update(alphabet=[["a"], "b", "c"]),
    "short weights": lambda t: t.update(bfloat16=["nothing"]),
    "short weights that are long": lambda t: t.update(bfloat16=["norm.weight", "head.heads.0.alpha"]),
}


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("change", FOREIGN)
def test_foreign_sizes_are_refused_before_they_are_built(change, tmp_path, monkeypatch):
    RationalTransductor(TransductorConfig(**SIZES), both()).save_pretrained(tmp_path)
    rewritten(tmp_path, FOREIGN[change])
    if change not in ("alphabet", "alphabet of lists", "short weights", "short weights that are long", "start"):

        def build(*args, **options):
            if args[0] != 3:  # the part that is as it was
                raise AssertionError("built before it was checked")
            return RationalHead(*args, **options)

        monkeypatch.setattr("corollary.automata._storage.RationalTransductor", build)
        monkeypatch.setattr("corollary.automata._storage.RationalHead", build)
    with pytest.raises(InvalidFileError):
        RationalTransductor.from_pretrained(tmp_path)


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize(
    "change",
    [
        {"layers": 10**7},
        {"layers": "2"},
        {"width": 10**7},
        {"state": "both"},
        {"state": 3},
        {"bfloat16": 3},
        {"head": None},
    ],
)
def test_foreign_injections_are_refused(change, tmp_path):
    Injection(both(), width=8, layers=2).save_pretrained(tmp_path)
    assert len(Injection.from_pretrained(tmp_path).maps) == 2
    rewritten(tmp_path, lambda told: told.update(change))
    with pytest.raises(InvalidFileError):
        Injection.from_pretrained(tmp_path)


@pytest.mark.parametrize("family", families())
def test_networks_in_bfloat16_run_and_are_read_again_as_they_were(family, tmp_path):
    """Families are made in float32: LAPACK has no shorter numbers, and states would forget."""
    long = RationalTransductor(TransductorConfig(**SIZES), RationalHead(3, 4, family=family, seed=0), seed=0)
    model, x = long.bfloat16(), torch.tensor([[0, 2, 1, 1, 2]])
    told = model(x)
    assert told.dtype == torch.bfloat16
    assert model.head(x).dtype == torch.float32
    told.float().sum().backward()
    model.save_pretrained(tmp_path)
    again = RationalTransductor.from_pretrained(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert torch.equal(again(x), told)
    assert again.fingerprint() == model.fingerprint()


def test_injections_in_bfloat16_run_and_are_read_again(tmp_path):
    made = Injection(both(), width=8, layers=2).bfloat16()
    made.save_pretrained(tmp_path)
    again = Injection.from_pretrained(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    x = torch.tensor([[0, 2, 1]])
    assert torch.equal(again.head(x), made.head(x))


def test_the_alphabet_of_a_network_is_kept_and_compared(tmp_path):
    """Symbols were compared by their numbers: a* over ab was certified to be b* over ba."""
    model = RationalTransductor.from_regex("a*", "ab")
    model.save_pretrained(tmp_path)
    for network in (model, RationalTransductor.from_pretrained(tmp_path), model.snap()):
        assert network.alphabet == ("a", "b")
        with pytest.raises(InvalidInputError, match="in one order"):
            certify(network, DFA.from_regex("b*", "ba"))
        for declared in (DFA.from_regex("a*", "ab"), DFA([[0, 1], [1, 1]], [True, False])):  # symbols, or numbers
            assert certify(network, declared)[0].rule == "automata.all_lengths"
    odd = from_automaton(DFA.from_transitions({(0, (1, 2)): 0}, start=0, accepting=[0]))
    odd.save_pretrained(tmp_path)  # symbols that are no plain values are not written
    assert RationalTransductor.from_pretrained(tmp_path).alphabet is None


def test_what_is_certified_of_a_network_is_its_own_read_out():
    model = RationalTransductor.from_regex("a*", "ab")
    with pytest.raises(InvalidInputError, match="of its own"):
        certify(model, DFA.from_regex("a*", "ab"), read_out=np.array([0, 1]))
    assert "nothing is said of the empty word" in certify(model, DFA.from_regex("a*", "ab"))[0].statement


def test_a_snapped_network_shares_nothing_with_the_original():
    model = RationalTransductor(
        TransductorConfig(vocab_size=2, classes=2, width=8, layers=1, heads=2, attention=False, state="inclusive"),
        counter_head(2),
    )
    snapped, x = model.snap(), torch.tensor([[1, 0, 1]])
    before = model(x)
    with torch.no_grad():
        snapped.readout.bias.add_(torch.tensor([9.0, 0.0]))
    assert torch.equal(model(x), before)
