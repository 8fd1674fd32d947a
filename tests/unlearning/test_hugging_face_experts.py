"""Heads on `HFExpert`s and on composed models of them: states, numbering of tokens, tokenizers, streams."""

import copy

import numpy as np
import pytest
import tiny_hf
import torch
from unlearning_models import sequences

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating import BayesGate, ComposedLM, RoutedLM
from corollary.integrations import HFExpert
from corollary.models import TransformerConfig, TransformerLM, load, sample
from corollary.unlearning import (
    Examples,
    ExpertTokenizer,
    TemperTiltHead,
    TemperTiltModel,
    cache_states,
    fit_temper_tilt,
    load_base,
    tofu,
    tokenizer_of,
)
from corollary.unlearning._backbone import backbone_of

VOCAB = 280
ROWS = [
    {"question": "is the sea blue?", "answer": "the sea is blue"},
    {"question": "one and one?", "answer": "one and one is two"},
    {"question": "two and two?", "answer": "two and two is four"},
    {"question": "how deep?", "answer": "the sea is deep"},
]


def expert(kind, *, seed=0, tokenizer=None):
    """A random model, sharper than at the start, whose sequences begin with its id 0 and end with its id 1."""
    model = tiny_hf.model(kind, seed=seed, positions=64)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4 if kind == "gpt2" else 20)  # tied there
    return HFExpert(model, tokenizer=tokenizer or tiny_hf.tokenizer())


def composed():
    shared = tiny_hf.tokenizer()
    return ComposedLM({k: expert(k, seed=i, tokenizer=shared) for i, k in enumerate(("llama", "gpt2"))}, BayesGate(2))


@pytest.fixture(params=["llama", "gpt2", "composed"])
def base(request):
    return composed() if request.param == "composed" else expert(request.param)


@pytest.fixture
def examples(rng):
    return sequences(rng, 24, vocab=VOCAB)


def heads_on(base, **options):
    heads = {name: TemperTiltHead(backbone_of(base).width, VOCAB, rank=3, seed=i) for i, name in enumerate("ab")}
    for head in heads.values():
        with torch.no_grad():
            head.out.mul_(100)
    return TemperTiltModel(base, heads, **options)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_states_and_logits_are_the_models_own_bitwise(kind, examples):
    """In the model's own ids: 0 begins, 1 ends; here 0 does both, and 1 is the other's 0."""
    one = expert(kind)
    batch = examples.batch(np.arange(24))
    own = batch.inputs.clone()
    own[batch.inputs == 0], own[batch.inputs == 1] = 1, 0
    own[:, 0] = 0
    with torch.no_grad():
        found = one.model(own, output_hidden_states=True)
        hidden, logits = backbone_of(one).outputs(batch.inputs, batch.mask, batch.scored)
    assert (batch.inputs[:, 1:][batch.mask[:, 1:]] == 1).any()
    assert torch.equal(hidden[batch.mask], found.hidden_states[-1][batch.mask])
    swapped = found.logits[batch.scored].clone()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    assert torch.equal(logits, swapped)
    assert torch.allclose(backbone_of(one).hidden(batch.inputs, batch.mask)[batch.mask], hidden[batch.mask], atol=1e-6)


def test_without_guidance_at_temperature_one_it_is_the_base_bitwise(base, examples):
    model = heads_on(base, temperature=2.0)
    plain, off = model.with_settings(temperature=1.0, guidance=0.0), model.score(examples, heads=[])
    assert np.array_equal(plain.score(examples).log_probs, off.log_probs)
    assert not np.allclose(model.score(examples).log_probs, off.log_probs)
    order = next(examples.batches(10**6))
    batch = examples.batch(order)
    with torch.no_grad():
        logits = model.backbone.outputs(batch.inputs, batch.mask, batch.scored)[1]
    found = model.score(examples.select(order), heads=[]).log_probs
    assert np.array_equal(found, logits.log_softmax(-1).gather(1, batch.targets[batch.scored][:, None])[:, 0].double())
    answers = [examples.sequence(i)[1:] for i in range(24)]
    documents = Documents.from_sequences(answers, dtype=np.int32)
    assert np.allclose(plain.log_probs(documents), base.log_probs(documents), atol=1e-4)  # by windows, in float32


OPTIONS = [{}, {"temperature": 1.0, "top_p": 0.9, "top_k": 20, "seed": 3}, {"beams": 3}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_cache_changes_no_token(base, examples, options):
    model = heads_on(base, temperature=1.3)
    prompts = [examples.prompt(i).tolist() for i in range(4)]
    assert len({len(p) for p in prompts}) > 1
    slow = model.generate(prompts, max_new_tokens=4, use_cache=False, **options)
    assert model.generate(prompts, max_new_tokens=4, **options) == slow
    lists = [[], ["a"], ["b"], ["a", "b"]]
    mixed = model.generate(prompts, max_new_tokens=4, heads=lists, **options)
    assert mixed == model.generate(prompts, max_new_tokens=4, heads=lists, use_cache=False, **options)
    assert mixed[3] == slow[3] or options.get("temperature")  # rows are drawn one after the other
    assert slow != model.generate(prompts, max_new_tokens=4, heads=[], **options)


def test_fit_save_and_load(base, tmp_path):
    tokenizer = tokenizer_of(base)
    assert isinstance(tokenizer, ExpertTokenizer)
    lost, kept = (Examples.from_pairs(rows, tokenizer) for rows in (ROWS[:1], ROWS[1:]))
    before = base.fingerprint()
    model = fit_temper_tilt(base, lost, kept, rank=4, epochs=40, learning_rate=5e-2, temperature=1.2)
    assert model.backbone.width == (64 if isinstance(base, ComposedLM) else 32)
    assert base.fingerprint() == before
    assert model.fits["forgotten"].losses[-1] < 0.4
    tilt = model.with_settings(temperature=1.0)
    gained = [tilt.score(s).mean_nll - tilt.score(s, heads=[]).mean_nll for s in (lost, kept)]
    assert gained[0].mean() > gained[1].mean()
    certificate, evidence = model.certified()
    assert certificate.check(**evidence)
    model.save(tmp_path / "whole")
    again = load(tmp_path / "whole")
    assert again.fingerprint() == model.fingerprint()
    loaded, reader = load_base(tmp_path / "whole" / "base")
    assert reader.prompt("is the sea blue?") == tokenizer.prompt("is the sea blue?")
    prompts = [[0, *reader.prompt(row["question"])] for row in ROWS]
    assert again.generate(prompts, max_new_tokens=5) == model.generate(prompts, max_new_tokens=5)
    model.save_pretrained(tmp_path / "heads")
    assert TemperTiltModel.from_pretrained(tmp_path / "heads", loaded).fingerprint() == model.fingerprint()
    with pytest.raises(InvalidInputError, match="another model"):
        TemperTiltModel.from_pretrained(tmp_path / "heads", expert("llama", seed=9))
    part = tofu.evaluate(model, [{**row, "perturbed_answer": ["no"]} for row in ROWS], tokenizer, max_new_tokens=5)
    assert np.isfinite(part.truth_ratio).all()
    assert len(sample(model, 2, max_tokens=3, seed=0)) == 2


def test_questions_may_be_given_as_texts(own):
    one, options = expert("llama"), {"rank": 2, "epochs": 2}
    tokenizer = tokenizer_of(one)
    sets = [Examples.from_pairs(rows, tokenizer) for rows in (ROWS[:1], ROWS[1:])]
    expected = fit_temper_tilt(one, *sets, **options).fingerprint()
    assert fit_temper_tilt(one, ROWS[:1], ROWS[1:], **options).fingerprint() == expected
    assert fit_temper_tilt(one, ROWS[:1], sets[1], tokenizer=tokenizer, **options).fingerprint() == expected
    with pytest.raises(InvalidInputError, match="give `tokenizer`"):
        fit_temper_tilt(own, ROWS[:1], ROWS[1:], **options)
    with pytest.raises(InvalidInputError, match="forget set is empty"):
        fit_temper_tilt(one, [], ROWS, **options)
    with pytest.raises(InvalidInputError, match="'answer'"):
        fit_temper_tilt(one, [{"question": "who?"}], ROWS, **options)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_expert_is_the_wrapped_model_in_other_numbers(kind):
    """The head sees the same states, whether the model comes bare or as an expert."""
    one, spoken = expert(kind), tiny_hf.tokenizer()
    sets = [Examples.from_pairs(ROWS, t) for t in (one, spoken)]
    ours, theirs = (cache_states(backbone_of(m), s) for m, s in zip((one, one.model), sets, strict=True))
    assert np.allclose(ours.states, theirs.states, atol=2e-3)  # fp16
    scores = [TemperTiltModel(m).score(s) for m, s in zip((one, one.model), sets, strict=True)]
    assert np.allclose(scores[0].log_probs, scores[1].log_probs, atol=1e-4)
    assert np.array_equal(scores[0].hits, scores[1].hits)


def test_prompts_longer_than_the_context_slide_like_the_expert(rng):
    one = HFExpert(tiny_hf.model("gpt2", positions=16), tokenizer=tiny_hf.tokenizer())
    model = TemperTiltModel(one, {"h": TemperTiltHead(32, VOCAB, rank=2)})
    prompt = [0, *rng.integers(1, VOCAB, 20).tolist()]
    fast = model.generate([prompt], max_new_tokens=6, end=-1)
    assert fast == model.generate([prompt], max_new_tokens=6, end=-1, use_cache=False)


def test_text_is_read_by_whoever_has_a_tokenizer():
    shared = tiny_hf.tokenizer()
    mute = HFExpert(tiny_hf.model("llama"), end=1)
    with pytest.raises(InvalidInputError, match="reads no text"):
        ExpertTokenizer(mute)
    with pytest.raises(InvalidInputError, match="question"):
        ExpertTokenizer(expert("llama", tokenizer=shared), template="no place")
    tokenizer = ExpertTokenizer(expert("llama", tokenizer=shared), template="{question} =")
    prompt = tokenizer.prompt("two")
    assert tokenizer.decode(prompt) == "two ="
    assert tokenizer.decode([*tokenizer.answer("four"), 0]) == "four"
    assert 0 not in prompt


def test_a_routed_model_has_no_states_to_show(rng):
    """Its experts read only what they are asked, so that a head on it is a bag of words."""
    config = TransformerConfig(vocab_size=50, width=16, layers=1, heads=2, context=32)
    experts = {n: TransformerLM(config, seed=i) for i, n in enumerate(("one", "two"))}
    base = RoutedLM(experts, copy.deepcopy(experts))
    backbone = backbone_of(base)
    assert (backbone.sources, backbone.width) == ([], 64)
    model = TemperTiltModel(base, {"h": TemperTiltHead(64, 50, rank=2)})
    prompts = [[0, 3, 4], [0, 5]]
    for options in ({}, {"beams": 2}):
        fast = model.generate(prompts, max_new_tokens=4, **options)
        assert fast == model.generate(prompts, max_new_tokens=4, use_cache=False, **options)
