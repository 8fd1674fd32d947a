"""What is refused in a sentence, and numbers that were once taken for others."""

import numpy as np
import pytest
import torch

from corollary.automata import (
    DFA,
    WFA,
    ContinuousHead,
    FiniteHead,
    RationalHead,
    RationalTransductor,
    Stream,
    Transducer,
    TransductorConfig,
    certify,
    equivalent,
    families,
    family,
    fixed_head,
    learn,
    scan,
    snap,
    task,
    universal,
)
from corollary.errors import InvalidInputError

SIZES = {"vocab_size": 3, "classes": 4, "width": 8, "layers": 1, "heads": 2}
A = DFA.from_regex("a*", "ab")


def network(head=None, **options):
    return RationalTransductor(TransductorConfig(**{**SIZES, **options}), head)


def rational():
    return RationalHead(3, 4, seed=0)


def read_on(first, then):
    model, stream = network(rational()), Stream()
    model(torch.zeros(first, 2, dtype=torch.int64), stream=stream)
    return model(torch.zeros(then, 1, dtype=torch.int64), stream=stream)


WORD = torch.tensor([[0, 1]])
REFUSED = {
    "a head over vectors in a network": lambda: network(ContinuousHead(3, 4)),
    "a certificate of a word": lambda: certify("x", A),
    "a certificate of a network without head": lambda: certify(network(), A),
    "a snapped head over vectors": lambda: snap(ContinuousHead(3, 4)),
    "a DFA and a number": lambda: A & 3,
    "a DFA or nothing": lambda: A | None,
    "a WFA plus a number": lambda: WFA.from_dfa(A) + 1,
    "a WFA times a number": lambda: WFA.from_dfa(A) * 2,
    "transitions in a list": lambda: DFA.from_transitions([((0, "a"), 0)], start=0, accepting=[0]),
    "transitions without symbols": lambda: DFA.from_transitions({0: 1}, start=0, accepting=[0]),
    "no alphabet": lambda: DFA.from_regex("a", None),
    "no pattern": lambda: DFA.from_regex(None, "a"),
    "no word": lambda: A.accepts(None),
    "a number for a word": lambda: A.transducer().answers(3),
    "states for flags": lambda: DFA([[0, 1], [1, 2], [2, 0]], accepting=[2, 0, 1]),
    "half a symbol": lambda: task("parity").sample(2, 2.5, np.random.default_rng(0)),
    "a foreign symbol without a head": lambda: network()(torch.tensor([[0, 3]])),
    "a negative symbol without a head": lambda: network()(torch.tensor([[0, -1]])),
    "symbols that are no numbers": lambda: network()([[0, 1]]),
    "a mask of numbers": lambda: network()(WORD, mask=torch.ones(1, 2, dtype=torch.int64)),
    "a mask of another shape": lambda: network()(WORD, mask=torch.ones(1, 3, dtype=torch.bool)),
    "a stream of other sequences": lambda: read_on(2, 3),
    "too few classes": lambda: learn(network(rational(), vocab_size=3, classes=1), task("flip-flop"), steps=1),
    "half a class": lambda: TransductorConfig(**{**SIZES, "classes": 2.5}),
    "yes for causal": lambda: TransductorConfig(**SIZES, causal="yes"),
    "a method that is none": lambda: RationalHead(3, 4, method="foo"),
    "a negative norm": lambda: family("dplr", gamma=-1),
    "a norm that is none": lambda: family("dplr", gamma="large"),
    "half a rank": lambda: family("dplr", rank=1.5),
    "no reflections": lambda: RationalHead(3, 4, family="householder", count=0),
    "a float state of integers": lambda: scan(
        torch.eye(2, dtype=torch.int64)[None], torch.tensor([[0]]), torch.tensor([0.5, 1.0])
    ),
    "a complex state of reals": lambda: scan(torch.eye(2)[None], torch.tensor([[0]]), torch.tensor([1j, 1.0])),
    "a complex bias of reals": lambda: scan(
        torch.eye(2)[None], torch.tensor([[0]]), torch.ones(2), bias=torch.full((1, 2), 1j)
    ),
}


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_in_a_sentence(what):
    with pytest.raises(InvalidInputError) as told:
        REFUSED[what]()
    assert len(str(told.value)) > 20


@pytest.mark.usefixtures("as_shipped")
def test_a_head_over_vectors_is_not_injected():
    transformers = pytest.importorskip("transformers")
    from corollary.automata import inject

    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=8, **size))
    with pytest.raises(InvalidInputError, match="ContinuousHead"):
        inject(model, ContinuousHead(8, 4))


@pytest.mark.parametrize("name", families())
def test_masked_places_may_hold_anything(name):
    there = torch.tensor([[False, True, True, False, True], [True, True, True, True, False]])
    x = torch.tensor([[0, 2, 1, 0, 1], [1, 2, 0, 1, 0]])
    strange = torch.where(there, x, torch.tensor([-100, 99, -1, 10**9, -7]))
    for head in (RationalHead(3, 4, family=name, seed=0), RationalHead(3, 4, family=name, method="sequential")):
        for reverse in (False, True):
            assert torch.equal(head(strange, mask=there, reverse=reverse), head(x, mask=there, reverse=reverse))
        short = RationalHead(64, 4, family=name, seed=0)  # more symbols than places
        assert torch.equal(short(strange, mask=there), short(x, mask=there))


def test_networks_and_scans_read_over_masked_places():
    there = torch.tensor([[False, True, True, True], [True, True, False, False]])
    x = torch.tensor([[0, 2, 1, 0], [1, 2, 0, 0]])
    strange = x.masked_fill(~there, -100)
    finite = FiniteHead([[0, 1, 1], [1, 0, 1]])
    for model in (
        network(rational()),
        network(finite),
        network(universal(3), positions="sinusoidal"),
        RationalTransductor(TransductorConfig(**SIZES, causal=False), rational(), backward_head=finite),
    ):
        assert torch.equal(model(strange, mask=there)[there], model(x, mask=there)[there])
        with pytest.raises(InvalidInputError, match="mark padding"):
            model(strange)
    one = torch.ones(1, dtype=torch.float64)
    told = scan(2 * one[None, None], torch.tensor([[0, -1]]), one, mask=torch.tensor([[True, False]]))
    assert told.flatten().tolist() == [2.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_symbols_of_short_integers(dtype):
    """Bytes were taken for a mask of places."""
    x = torch.tensor([[0, 1, 2, 1]])
    for name in families():
        head = RationalHead(3, 4, family=name, seed=0)
        assert torch.equal(head(x.to(dtype)), head(x))
    model = network(rational())
    assert torch.equal(model(x.to(dtype)), model(x))


def test_large_finite_matrices_are_no_infinities():
    M = torch.full((1, 2, 2), 3e38)
    told = scan(M, torch.tensor([[0]]), torch.tensor([1.0, 0.0]))
    assert torch.equal(told[0, 0], M[0, :, 0])
    with pytest.raises(InvalidInputError, match="NaN"):
        scan(M * 10, torch.tensor([[0]]), torch.tensor([1.0, 0.0]))


def test_weights_are_compared_by_their_own_size():
    small, larger = (WFA([1.0], [[[w]]], [1.0]) for w in (1e-6, 1.0001e-6))
    assert equivalent(small, larger).witness == (0,)
    scaled = WFA([1e6], [[[1e-6]]], [1e-6])
    assert equivalent(small, scaled).equal
    assert equivalent(scaled, larger).witness == (0,)
    rng = np.random.default_rng(0)
    for _ in range(20):  # other coordinates, and powers that vanish up to rounding
        n = int(rng.integers(2, 5))
        Q = np.linalg.qr(rng.normal(size=(n, n)))[0]
        M, alpha, beta = np.triu(rng.normal(size=(2, n, n)), 1), rng.normal(size=n), rng.normal(size=n)
        f, g = WFA(alpha, M, beta), WFA(Q @ alpha, Q @ M @ Q.T, Q @ beta)
        assert equivalent(f, g).equal
        assert not equivalent(f, WFA(Q @ alpha, Q @ M @ Q.T, Q @ beta * (1 + 1e-6))).equal


def test_snapping_needs_numbers():
    head = RationalHead(2, 4, seed=0)
    with torch.no_grad():
        head.alpha[0] = float("nan")
    with pytest.raises(InvalidInputError, match="NaN"):
        head.snap()
    with pytest.raises(InvalidInputError, match="NaN"):
        fixed_head([[[float("inf")]]], [1.0]).snap()


def test_an_optimizer_of_ones_own_keeps_its_rates_and_momentum():
    model = network(rational())
    parts = list(model.parameters())
    own = torch.optim.SGD([{"params": parts[:2], "lr": 0.5}, {"params": parts[2:], "lr": 1e-3}], lr=1.0, momentum=0.3)
    seen = []
    own.register_step_pre_hook(lambda o, *_: seen.append([(g["lr"], g["momentum"]) for g in o.param_groups]))
    learn(model, task("flip-flop"), steps=40, optimizer=own)
    rates, momenta = np.array(seen).transpose(2, 1, 0)
    assert rates.max(1) == pytest.approx([0.5, 1e-3], rel=0.01)  # the top lies between two steps
    assert (momenta == 0.3).all()
    assert [g["lr"] for g in own.param_groups] == [0.5, 1e-3]


def test_flags_and_machines_as_before():
    assert DFA([[0, 1], [1, 0]], accepting=[1, 0]).accepts([1, 1])
    assert Transducer([[0]], [[1]]).answers([0, 0]) == [1, 1]
