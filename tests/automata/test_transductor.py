"""The network: causal, streams, pads, saves, generates, reduces to the plain transformer; the protocol of tasks."""

import json

import numpy as np
import pytest
import torch

from corollary.automata import (
    DirectSum,
    RationalHead,
    RationalTransductor,
    Stream,
    TransductorConfig,
    TransductorLM,
    baseline,
    baselines,
    counter_head,
    fixed_head,
    learn,
    length_accuracy,
    task,
    tasks,
    universal,
)
from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import load, train
from corollary.testing import check_language_model

SIZES = {"vocab_size": 5, "classes": 3, "width": 16, "layers": 2, "heads": 2}


def network(seed=0, head=None, **options):
    config = TransductorConfig(**{**SIZES, **options})
    return RationalTransductor(config, head or RationalHead(5, 4, seed=seed), seed=seed).double()


def words(B=3, T=12, V=5, seed=0):
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("positions", ["none", "sinusoidal", "rotary", "alibi"])
@pytest.mark.parametrize("state", ["inclusive", "exclusive", "both"])
def test_no_place_sees_a_later_one(positions, state):
    model, x = network(positions=positions, state=state), words()
    changed = x.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 5
    a, b = model(x), model(changed)
    assert torch.allclose(a[:, :8], b[:, :8], atol=1e-12)
    assert not torch.allclose(a[:, 8:], b[:, 8:], atol=1e-3)


def test_bidirectional_networks_see_everything():
    model = RationalTransductor(
        TransductorConfig(**SIZES, causal=False), RationalHead(5, 4, seed=0), backward_head=RationalHead(5, 4, seed=1)
    ).double()
    x = words()
    changed = x.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 5
    assert ((model(x) - model(changed)).abs().amax(-1) > 1e-9).all()
    with pytest.raises(InvalidInputError, match="bidirectional"):
        model(x, stream=Stream())
    with pytest.raises(InvalidInputError, match="causal"):
        RationalTransductor(TransductorConfig(**SIZES), None, backward_head=RationalHead(5, 4))


@pytest.mark.parametrize("positions", ["none", "sinusoidal", "rotary", "alibi"])
def test_pieces_and_single_symbols_are_the_whole(positions):
    model, x = network(positions=positions, head=universal(5, orthogonal=4, stochastic=3)), words()
    whole, stream = model(x), Stream()
    parts = [model(x[:, a:b], stream=stream) for a, b in ((0, 5), (5, 6), (6, 7), (7, 12))]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-10)


def test_padding_is_neither_read_nor_attended_to():
    model, x = network(), words(2, 6)
    pad = torch.zeros(2, 3, dtype=torch.int64)
    there, absent = torch.ones(2, 6, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    plain = model(x)
    left = model(torch.cat([pad, x], 1), mask=torch.cat([absent, there], 1))
    right = model(torch.cat([x, pad], 1), mask=torch.cat([there, absent], 1))
    assert torch.allclose(left[:, 3:], plain, atol=1e-10)
    assert torch.allclose(right[:, :6], plain, atol=1e-10)
    assert torch.isfinite(left).all()


def test_padding_of_bidirectional_networks():
    sizes = TransductorConfig(**SIZES, causal=False)
    model = RationalTransductor(sizes, RationalHead(5, 4, seed=0), backward_head=RationalHead(5, 4, seed=1)).double()
    x, pad = words(2, 6), torch.zeros(2, 3, dtype=torch.int64)
    there, absent = torch.ones(2, 6, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    left = model(torch.cat([pad, x], 1), mask=torch.cat([absent, there], 1))
    right = model(torch.cat([x, pad], 1), mask=torch.cat([there, absent], 1))
    assert torch.allclose(left[:, 3:], model(x), atol=1e-10)
    assert torch.allclose(right[:, :6], model(x), atol=1e-10)


def test_it_reduces_to_the_transformer_and_to_a_linear_readout():
    still = fixed_head(torch.eye(4).expand(5, 4, 4), torch.ones(4))  # M = I: a constant bias
    model, x = network(head=still, state="inclusive"), words()
    plain = RationalTransductor(TransductorConfig(**SIZES), seed=0).double()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k in plain.state_dict()})
    for linear in model.inject:
        torch.nn.init.zeros_(linear.weight)
    assert torch.equal(model(x), plain(x))
    bare = network(attention=False)
    assert bare.depends_on_state_only
    assert not plain.depends_on_state_only
    same = torch.tensor([[0, 1, 2, 0], [0, 1, 2, 0]])
    assert torch.equal(*bare(same).unbind(0))


def test_generation_carries_state_and_cache():
    config = TransductorConfig(vocab_size=5, width=16, layers=2, heads=2)
    model = RationalTransductor(config, RationalHead(5, 4, seed=0), seed=0).double()
    prompt = words(2, 4)
    drawn = model.generate(prompt, max_tokens=9, temperature=0)
    slow = prompt
    for _ in range(9):
        slow = torch.cat([slow, model(slow)[:, -1:].argmax(-1)], 1)
    assert torch.equal(drawn, slow)
    assert torch.equal(model.generate(prompt, max_tokens=9, seed=3), model.generate(prompt, max_tokens=9, seed=3))
    for bad in ({"max_tokens": -1}, {"max_tokens": 2, "temperature": -1.0}):
        with pytest.raises(InvalidInputError):
            model.generate(prompt, **bad)
    with pytest.raises(InvalidInputError, match="at least one symbol"):
        model.generate(prompt[:, :0], max_tokens=1)
    with pytest.raises(InvalidInputError, match="classes=None"):
        network().generate(prompt, max_tokens=1)


HEADS = {
    "rational": lambda: RationalHead(5, 4, family="signed", seed=3),
    "sum": lambda: universal(5, orthogonal=4, stochastic=3),
    "options": lambda: RationalHead(5, 6, family="dplr", rank=3, gamma=0.9, scale=0.2, seed=1),
    "finite": lambda: counter_head(3, steps=(0, 1, 2, 1, 0)),
    "random": lambda: RationalHead(5, 4, family="random", seed=2),
    "frozen": lambda: fixed_head(
        torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0)).double(), torch.ones(3)
    ),
    "known and learned": lambda: DirectSum([counter_head(3, steps=(0, 1, 2, 1, 0)), RationalHead(5, 4, seed=2)]),
    "represented": lambda: counter_head(3, steps=(0, 1, 2, 1, 0)).represent(),
    "mixed": lambda: DirectSum([RationalHead(5, 4), RationalHead(5, 3, family="basis", count=2)]),
}


@pytest.mark.parametrize("name", HEADS)
def test_saved_and_read_again(name, tmp_path):
    model, x = RationalTransductor(TransductorConfig(**SIZES), HEADS[name](), seed=1), words()
    model.save_pretrained(tmp_path)
    again = RationalTransductor.from_pretrained(tmp_path)
    assert torch.equal(again(x), model(x))
    assert again.fingerprint() == model.fingerprint()
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]
    assert [p.dtype for p in again.parameters()] == [p.dtype for p in model.parameters()]


def test_broken_folders_are_refused(tmp_path):
    model = RationalTransductor(TransductorConfig(**SIZES), counter_head(3, steps=(0, 1, 2, 1, 0)))
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.json"
    good = json.loads(path.read_text())
    changes = [
        {"kind": "transformer"},
        {"config": {**good["config"], "width": 18}},
        {"config": {**good["config"], "vocab_size": 1 << 19}},
        {"config": None},
        {"config": {"nonsense": 1}},
        {"head": {"kind": "pickle"}},
        {"head": {**good["head"], "states": 10**9}},
        {"head": {**good["head"], "start": 2}},
        {"fingerprint": "0" * 64},
    ]
    for change in changes:
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(InvalidFileError):
            RationalTransductor.from_pretrained(tmp_path)
    path.write_text(json.dumps(good))
    weights = tmp_path / good["weights"]
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(InvalidFileError, match="bytes long"):
        RationalTransductor.from_pretrained(tmp_path)
    with pytest.raises(InvalidFileError, match="no such file"):
        RationalTransductor.from_pretrained(tmp_path / "nowhere")


def test_a_language_model_like_the_others(tmp_path):
    config = TransductorConfig(vocab_size=256, width=16, layers=1, heads=2, context=32)
    model = TransductorLM(RationalTransductor(config, RationalHead(256, 4, seed=0), seed=0))
    check_language_model(model)
    documents = Documents.from_texts(["abcabcabc" * 3, "", "ab" * 10])
    before = model.log_probs(documents).mean()
    train(model, documents, steps=20, batch_tokens=256, lr=1e-2)
    assert model.log_probs(documents).mean() > before + 0.5
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.fingerprint() == model.fingerprint()
    assert np.array_equal(again.log_probs(documents), model.log_probs(documents))
    with pytest.raises(InvalidInputError, match="causal"):
        TransductorLM(network())


@pytest.mark.usefixtures("as_shipped")
def test_sizes_that_do_not_fit():
    for bad in (
        {"width": 18, "heads": 4},
        {"layers": 0},
        {"vocab_size": 2.0},
        {"state": "all"},
        {"positions": "some"},
        {"classes": 0},
    ):
        with pytest.raises(InvalidInputError):
            TransductorConfig(**{**SIZES, **bad})
    with pytest.raises(InvalidInputError, match="one alphabet"):
        RationalTransductor(TransductorConfig(**SIZES), RationalHead(4, 4))
    with pytest.raises(InvalidInputError, match="alphabet has 5"):
        network()(torch.tensor([[5]]))
    with pytest.raises(InvalidInputError, match="no padding"):
        network()(words(), mask=torch.ones(3, 12, dtype=torch.bool), stream=Stream())


def test_length_zero():
    model = network()
    assert model(words(2, 0)).shape == (2, 0, 3)
    assert RationalHead(5, 4)(words(2, 0)).shape == (2, 0, 4)
    assert counter_head(3)(words(2, 0, V=2)).shape == (2, 0, 3)


@pytest.mark.parametrize("name", baselines())
def test_baselines_are_causal_and_learn_something(name):
    model, x = baseline(name, vocab_size=5, classes=2, width=16, heads=2), words()
    changed = x.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 5
    with torch.no_grad():
        assert torch.allclose(model(x)[:, :8], model(changed)[:, :8], atol=1e-5)
    copy = task("flip-flop")
    small = baseline(name, vocab_size=3, classes=2, width=16, layers=1, heads=2)
    losses = []
    learn(small, copy, steps=12, lengths=(4, 6), lr=1e-2, progress=lambda _, loss: losses.append(loss))
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_baselines_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    a, b = (baseline("lstm", vocab_size=3, classes=2, seed=1) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(InvalidInputError, match="known"):
        baseline("mamba", vocab_size=3, classes=2)


SLOW = {  # what each answer means, word by word
    "parity": lambda w: sum(w) % 2,
    "mod": lambda w: sum(w) % 5,
    "cycle": lambda w: sum(x - 1 for x in w) % 5,
    "even-pairs": lambda w: int(w[0] == w[-1]),
    "flip-flop": lambda w: next((x - 1 for x in reversed(w) if x), 0),
}


@pytest.mark.parametrize("name", SLOW)
def test_answers_word_by_word(name):
    x, y = task(name).sample(20, 30, np.random.default_rng(0))
    for row, answers in zip(x.tolist(), y.tolist(), strict=True):
        assert answers == [SLOW[name](row[: t + 1]) for t in range(30)]


def test_arithmetic_is_pythons():
    problem = task("arithmetic")
    names = problem.automaton.alphabet
    x, y = problem.sample(30, 31, np.random.default_rng(0))
    for row, answers in zip(x.tolist(), y.tolist(), strict=True):
        text = "".join(str(names[i]) for i in row)
        for t in range(0, 31, 2):
            assert answers[t] == eval(text[: t + 1]) % 5
        assert set(answers[1::2]) == {-1}


def test_boolean_and_dyck_words():
    problem = task("boolean", depth=3)
    names, x = problem.automaton.alphabet, problem.sample(20, 60, np.random.default_rng(0))
    for row, answers in zip(*(a.tolist() for a in x), strict=True):
        at = 0
        for t, answer in enumerate(answers):
            if answer >= 0:
                value, end = formula([names[i] for i in row], at)
                assert (value, end) == (answer, t + 1)
                at = t + 1
    deep = task("dyck", depth=3)
    x, y = deep.sample(20, 40, np.random.default_rng(1))
    opens = np.isin(np.array(deep.automaton.alphabet)[x], ["(", "["])
    assert (np.where(opens, 1, -1).cumsum(1) == y).all()
    assert y.max() <= 3


def formula(tokens, at):
    if tokens[at] in "01":
        return int(tokens[at]), at + 1
    first, end = formula(tokens, at + 1)
    if tokens[at] == "!":
        return 1 - first, end
    second, end = formula(tokens, end)
    return (first & second if tokens[at] == "&" else first | second), end


def test_every_task_samples_and_is_minimal():
    for name in tasks():
        problem = task(name)
        x, y = problem.sample(3, 20, np.random.default_rng(0))
        assert x.shape == y.shape == (3, 20)
        assert y.max() < problem.classes
        assert problem.automaton.minimise().states == problem.automaton.states
    for bad in (lambda: task("unknown"), lambda: task("parity", k=3)):
        with pytest.raises(InvalidInputError):
            bad()


def test_shares_count_what_they_say():
    problem = task("parity")

    def wrong_at_the_end(x):
        y = x.cumsum(1) % 2
        y[:, -1] = 1 - y[:, -1]
        return torch.nn.functional.one_hot(y, 2).float()

    found = length_accuracy(wrong_at_the_end, problem, [10], count=8)
    assert found[10] == {"last": 0.0, "all": 0.9, "words": 0.0}


def test_training_is_repeatable_and_named_when_it_fails():
    problem = task("parity")
    losses = [learn(network_for(problem), problem, steps=5, seed=4) for _ in range(2)]
    assert losses[0] == losses[1]
    with pytest.raises(InvalidInputError, match="positive"):
        learn(network_for(problem), problem, steps=0)
    broken = network_for(problem)
    with torch.no_grad():
        broken.readout.bias.fill_(torch.nan)
    with pytest.raises(InvalidInputError, match="lower `lr`"):
        learn(broken, problem, steps=1)


def network_for(problem):
    config = TransductorConfig(vocab_size=problem.vocab_size, classes=problem.classes, width=16, layers=1, heads=2)
    return RationalTransductor(config, RationalHead(problem.vocab_size, 4, family="signed", seed=0), seed=0)
