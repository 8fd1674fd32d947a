"""Joins: a transductor as one of the experts of a composed model; a head inside a Hugging Face model."""

import copy
import pickle

import numpy as np
import pytest
import torch

from corollary.automata import (
    ContinuousHead,
    Injection,
    RationalHead,
    RationalTransductor,
    TransductorConfig,
    TransductorLM,
    families,
    inject,
)
from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.gating import ComposedLM, FixedShareGate
from corollary.models import NgramModel, load, sample, train


def test_a_transductor_is_an_expert_beside_others(tmp_path):
    """Words that close as many brackets as they opened mod 3: the transductor's domain; text: the n-gram's."""
    rng = np.random.default_rng(0)
    counted = []
    for _ in range(60):
        steps = rng.integers(0, 2, 24)
        counted.append("".join("ab"[s] + "xyz"[c % 3] for s, c in zip(steps, steps.cumsum(), strict=True)))
    words = Documents.from_texts(["to be or not to be, that is the question. "] * 4)
    config = TransductorConfig(vocab_size=256, width=32, layers=1, heads=2, context=64)
    counter = TransductorLM(RationalTransductor(config, RationalHead(256, 8, seed=0), seed=0))
    train(counter, Documents.from_texts(counted[:50]), steps=60, batch_tokens=1024, lr=1e-2)
    experts = {"counter": counter, "words": NgramModel.fit(words, order=4)}
    model = ComposedLM(experts, FixedShareGate(2), eps=0.05)
    documents = Documents.from_texts([counted[55], "to be, that is", counted[56]])
    bits = {n: -documents.sums(m.log_probs(documents)) / np.log(2) for n, m in {"composed": model, **experts}.items()}
    best = np.minimum(bits["counter"], bits["words"])
    assert (bits["composed"] <= best + model.excess_bits + 1e-6).all()
    assert bits["counter"][0] < bits["words"][0]
    assert bits["words"][1] < bits["counter"][1]
    model.save(tmp_path)
    assert load(tmp_path).fingerprint() == model.fingerprint()
    assert len(sample(model, 1, max_tokens=5, seed=0, prompt=b"to be")[0]) <= 5


@pytest.fixture
def llama():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        pad_token_id=0,
        eos_token_id=31,
    )
    return transformers.LlamaForCausalLM(size).eval()


def injected(model, state="both"):
    made = inject(model, RationalHead(32, 4, seed=0), state=state)
    with torch.no_grad():
        for i, linear in enumerate(made.maps):
            g = torch.Generator().manual_seed(i)
            linear.weight.copy_(0.3 * torch.randn(linear.weight.shape, generator=g))
    return made


def test_injection_changes_nothing_at_first_and_can_be_taken_out(llama, tmp_path):
    x = torch.randint(1, 31, (3, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = llama(x).logits
        first = inject(llama, RationalHead(32, 4, seed=0))
        assert torch.equal(llama(x).logits, before)
        first.remove()
        del llama.rational
        made = injected(llama)
        changed = llama(x).logits
        assert (changed - before).abs().max() > 1e-3
        made.save_pretrained(tmp_path)
        made.remove()
        del llama.rational
        assert torch.equal(llama(x).logits, before)
        inject(llama, tmp_path)
        assert torch.equal(llama(x).logits, changed)
    with pytest.raises(InvalidInputError, match="already"):
        inject(llama, RationalHead(32, 4))
    with pytest.raises(InvalidFileError):
        Injection.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("state", ["inclusive", "exclusive", "both"])
def test_generation_carries_the_state_through_caches_beams_and_padding(llama, state):
    injected(llama, state)
    x = torch.randint(1, 31, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = llama(x).logits
        first = llama(x[:, :5], use_cache=True)
        rest = llama(x[:, 5:], past_key_values=first.past_key_values, use_cache=True).logits
        assert torch.allclose(torch.cat([first.logits, rest], 1), whole, atol=1e-5)
        pad = torch.cat([torch.zeros(3, 4, dtype=torch.int64), x], 1)
        there = (pad != 0).long()
        places = (there.cumsum(1) - 1).clamp(min=0)
        assert torch.allclose(llama(pad, attention_mask=there, position_ids=places).logits[:, 4:], whole, atol=1e-5)
    for options in ({}, {"num_beams": 3}):
        drawn = [llama.generate(x, max_new_tokens=5, do_sample=False, use_cache=c, **options) for c in (True, False)]
        assert torch.equal(*drawn)


def test_injection_trains_and_refuses_what_it_cannot_read(llama):
    made = injected(llama)
    x = torch.randint(1, 31, (2, 6), generator=torch.Generator().manual_seed(1))
    llama(x, labels=x).loss.backward()
    assert made.head.weights["weight"].grad.abs().sum() > 0
    assert made.maps[1].weight.grad.abs().sum() > 0
    assert any(p is made.maps[0].weight for p in llama.parameters())
    with pytest.raises(InvalidInputError, match="input_ids"):
        llama(inputs_embeds=torch.zeros(1, 2, 16))
    from transformers import DynamicCache

    cache = DynamicCache()
    cache.update(torch.zeros(2, 2, 3, 8), torch.zeros(2, 2, 3, 8), 0)
    with pytest.raises(InvalidInputError, match="does not hold the state"):
        llama(x, past_key_values=cache)


def test_models_and_heads_that_do_not_fit(llama):
    with pytest.raises(InvalidInputError, match="reads 8 symbols"):
        inject(llama, RationalHead(8, 4))
    with pytest.raises(InvalidInputError, match="list of layers"):
        inject(torch.nn.Linear(2, 2), RationalHead(8, 4))


def other(name):
    """Small decoders of other families: learned, rotary and no places, layers called in different ways."""
    t = pytest.importorskip("transformers")
    size = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "eos_token_id": 31, "bos_token_id": 1}
    made = {
        "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, **ends)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**size, num_key_value_heads=1, **ends)),
        "neox": lambda: t.GPTNeoXForCausalLM(t.GPTNeoXConfig(**size, intermediate_size=32, **ends)),
        "opt": lambda: t.OPTForCausalLM(t.OPTConfig(**size, word_embed_proj_dim=16, ffn_dim=32, **ends)),
        "bloom": lambda: t.BloomForCausalLM(t.BloomConfig(vocab_size=32, hidden_size=16, n_layer=2, n_head=2, **ends)),
    }
    torch.manual_seed(0)
    return made[name]().eval()


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "neox", "opt", "bloom"])
def test_heads_go_into_other_families_of_models(name):
    model = other(name)
    x = torch.randint(1, 31, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = model(x).logits
        injected(model)
        whole = model(x).logits
        assert (whole - plain).abs().max() > 1e-3
        first = model(x[:, :5], use_cache=True)
        rest = model(x[:, 5:], past_key_values=first.past_key_values, use_cache=True).logits
        assert torch.allclose(torch.cat([first.logits, rest], 1), whole, atol=1e-5)
    drawn = [model.generate(x, max_new_tokens=4, do_sample=False, num_beams=2, use_cache=c) for c in (True, False)]
    assert torch.equal(*drawn)
    pad = torch.cat([torch.zeros(3, 4, dtype=torch.int64), x], 1)
    alone = model.generate(x, max_new_tokens=4, do_sample=False)
    padded = model.generate(pad, attention_mask=(pad != 0).long(), max_new_tokens=4, do_sample=False)
    assert torch.equal(padded[:, 13:], alone[:, 9:])


def test_caches_that_cannot_carry_the_state_are_refused(llama):
    """A model that passes its memory otherwise would restart the head at every symbol."""
    injected(llama)
    x = torch.randint(1, 31, (1, 3), generator=torch.Generator().manual_seed(0))
    with pytest.raises(InvalidInputError, match="cannot travel on `cache_params`"):
        llama(x, cache_params=object())
    with pytest.raises(InvalidInputError, match="cannot travel on `past_key_values`"):
        llama(x, past_key_values=((torch.zeros(1), torch.zeros(1)),))


@pytest.mark.parametrize("carried", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_of_a_model_have_a_head_of_their_own(llama, carried):
    injected(llama)
    x = torch.randint(1, 31, (2, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        told = llama(x).logits
        twin = carried(llama)
        assert torch.equal(twin(x).logits, told)
        twin.rational.maps[0].weight.add_(1.0)
        assert torch.equal(llama(x).logits, told)
        assert not torch.equal(twin(x).logits, told)
        twin.rational.remove()
        assert not torch.equal(twin(x).logits, told)
        assert torch.equal(llama(x).logits, told)


def test_the_base_alone_is_refused_in_a_sentence(llama):
    injected(llama)
    with pytest.raises(InvalidInputError, match="call the model itself"):
        llama.model(torch.tensor([[1, 2]]))
    broken = llama.model.norm.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # a pass that fails leaves no state behind
        llama(torch.tensor([[1, 2]]))
    broken.remove()
    with pytest.raises(InvalidInputError, match="call the model itself"):
        llama.model(torch.tensor([[1, 2]]))


def test_the_state_follows_what_is_done_to_a_cache(llama):
    """Cropped, repeated, selected, reordered and copied caches go on as the whole words would."""
    injected(llama)
    x = torch.randint(1, 31, (3, 9), generator=torch.Generator().manual_seed(3))
    rest = torch.randint(1, 31, (6, 4), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():

        def goes_on(cache, prefix, new):
            told = llama(new, past_key_values=cache, use_cache=True).logits
            whole = llama(torch.cat([prefix, new], 1)).logits[:, prefix.shape[1] :]
            assert torch.allclose(told, whole, atol=1e-5)

        cache = llama(x, use_cache=True).past_key_values
        twin = copy.deepcopy(cache)
        cache.batch_repeat_interleave(2)
        goes_on(cache, x.repeat_interleave(2, 0), rest)
        twin.crop(-3)
        goes_on(copy.deepcopy(twin), x[:, :6], rest[:3])
        twin.batch_select_indices(torch.tensor([2, 0]))
        other = copy.deepcopy(twin)
        twin.reorder_cache(torch.tensor([1, 1]))
        goes_on(twin, x[[0, 0], :6], rest[:2])
        goes_on(other, x[[2, 0], :6], rest[:2])
        with pytest.raises(InvalidInputError, match="does not hold the state"):
            llama(rest[:3], past_key_values=other)
    options = {"max_new_tokens": 8, "do_sample": False}
    repeated = x[:1, :3].repeat(1, 3)
    plain = llama.generate(repeated, **options)
    assert torch.equal(llama.generate(repeated, prompt_lookup_num_tokens=3, **options), plain)


def test_a_saved_injection_keeps_its_state_or_says_so(llama, tmp_path):
    injected(llama, "exclusive").save_pretrained(tmp_path)
    llama.rational.remove()
    del llama.rational
    with pytest.raises(InvalidInputError, match="exclusive"):
        inject(llama, tmp_path, state="both")
    assert inject(llama, tmp_path, state="exclusive").state == "exclusive"


@pytest.mark.parametrize("family", families())
def test_networks_and_heads_of_every_family_can_be_pickled(family):
    config = TransductorConfig(vocab_size=3, width=8, layers=1, heads=2)
    model = RationalTransductor(config, RationalHead(3, 4, family=family, seed=0))
    twin, x = pickle.loads(pickle.dumps(model)), torch.tensor([[0, 2, 1]])
    assert torch.equal(twin(x), model(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))
    driven = pickle.loads(pickle.dumps(ContinuousHead(2, 4, seed=0)))
    assert driven(torch.zeros(1, 2, 2)).shape == (1, 2, 4)
