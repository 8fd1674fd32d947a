"""Wrapped in transformers: start tokens are not read twice, whatever wraps an expert its ids and beams are its own."""

import numpy as np
import pytest
import tiny_hf
import torch

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating import BayesGate, CausalGate, ComposedLM, RoutedLM, score_experts
from corollary.integrations import CorollaryForCausalLM, HFExpert
from corollary.models import TransformerConfig, TransformerLM, load
from corollary.unlearning import TemperTiltHead, TemperTiltModel

TEXTS = ["the sea is blue and deep", "two", "one and one"]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_hf.starting_tokenizer()


@pytest.fixture(scope="module")
def expert(tokenizer):
    return HFExpert(tiny_hf.model("llama", positions=64), tokenizer=tokenizer)


@pytest.fixture(scope="module")
def second(tokenizer):
    return HFExpert(tiny_hf.model("gpt2", seed=1, positions=64), tokenizer=tokenizer)


def batch(tokenizer):
    tokenizer.padding_side = "left"
    given = tokenizer(TEXTS, return_tensors="pt", padding=True)
    assert all(row[m.argmax()] == 0 for row, m in zip(given["input_ids"], given["attention_mask"], strict=True))
    return given


def test_start_tokens_in_front_are_not_read_twice(expert, tokenizer):
    model, given = CorollaryForCausalLM.wrap(expert), batch(tokenizer)
    with torch.no_grad():
        own = expert.model(**given).logits.double().log_softmax(-1)
    real = given["attention_mask"].bool()
    assert torch.allclose(model(**given).logits[real], own[real], atol=1e-4)  # float32
    for options in ({}, {"num_beams": 3}, {"use_cache": False}):
        expected = expert.model.generate(**given, max_new_tokens=6, do_sample=False, pad_token_id=1, **options)
        assert model.generate(**given, max_new_tokens=6, do_sample=False, **options).tolist() == expected.tolist()
    alone = torch.tensor([[0]])
    with torch.no_grad():
        first = expert.model(alone).logits.double().log_softmax(-1)
    assert torch.allclose(model(alone).logits, first, atol=1e-4)
    mixed = torch.tensor([[0, 40, 41], [1, 40, 41]])  # the second row: one pad, and no start token
    rows = model(mixed, attention_mask=torch.tensor([[1, 1, 1], [0, 1, 1]])).logits
    assert torch.allclose(rows[0, 1:], rows[1, 1:], atol=1e-12)


def test_heads_on_an_expert_have_its_ids_and_its_beams(expert, tokenizer):
    model, given = CorollaryForCausalLM.wrap(TemperTiltModel(expert)), batch(tokenizer)
    assert model.tokenizer is tokenizer
    assert model.config.eos_token_id == expert.end
    plain = CorollaryForCausalLM.wrap(expert)
    real = given["attention_mask"].bool()
    assert torch.allclose(model(**given).logits[real], plain(**given).logits[real], atol=1e-4)
    torch.manual_seed(0)
    tilted = TemperTiltModel(expert, {"h": TemperTiltHead(expert.width, 280, rank=2)}, temperature=1.5)
    for inner in (model, CorollaryForCausalLM.wrap(tilted)):
        options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False}
        assert (
            inner.generate(**given, **options).tolist() == inner.generate(**given, use_cache=False, **options).tolist()
        )


def test_beams_of_a_routed_model(expert, second, tokenizer):
    for experts in ({"a": expert, "b": second}, {"a": TemperTiltModel(expert), "b": second}):
        model = CorollaryForCausalLM.wrap(RoutedLM(experts, {"a": second, "b": expert}, stay=0.0))
        given, options = batch(tokenizer), {"max_new_tokens": 6, "num_beams": 3, "do_sample": False}
        found = model.generate(**given, **options)
        assert found.tolist() == model.generate(**given, use_cache=False, **options).tolist()


def test_rows_of_a_routed_stream_go_their_own_ways(expert, second):
    model = RoutedLM({"a": expert, "b": second}, {"a": second, "b": expert}, stay=0.0)
    state = model.advance(model.start(2), np.array([40, 50]))
    model.next_log_probs(state)
    state = state.select_rows(np.array([1, 1, 0]))
    state = model.advance(state, np.array([60, 61, 62]))
    documents = Documents.from_sequences([[50, 60, 7], [50, 61, 7], [40, 62, 7]], dtype=np.int32)
    last = model.log_probs(documents).reshape(3, 3)[:, 2]
    np.testing.assert_allclose(model.next_log_probs(state)[:, 7], last, atol=1e-4)  # float32


def test_a_routed_model_keeps_its_learned_gate(expert, second, tmp_path):
    documents = expert.documents(["the sea is blue", "one and one is two"] * 3)
    models = {"a": expert, "b": second}
    gate = CausalGate(steps=5, batch=16).fit([score_experts(list(models.values()), documents)])
    model = RoutedLM(models, models, gate)
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    np.testing.assert_array_equal(again.log_probs(documents), model.log_probs(documents))
    assert again.fingerprint() == model.fingerprint()
    other = CausalGate(steps=6, batch=16).fit([score_experts(list(models.values()), documents)])
    assert gate.describe() | {"steps": 6} == other.describe() | {"steps": 6}
    with torch.no_grad():
        next(gate.network_.parameters()).add_(0.5)
    assert model.fingerprint() != again.fingerprint()


def test_tokenizers_are_compared_through_whatever_wraps_them(expert, second):
    foreign = HFExpert(tiny_hf.model("llama"), tokenizer=tiny_hf.tokenizer(corpus=["zebras zoom", "quick quiz"]))
    plain = {"a": expert, "b": second}
    for made in (
        lambda: ComposedLM({"a": expert, "b": foreign}, BayesGate(2)),
        lambda: ComposedLM(plain, BayesGate(2), anchors={"pooled": foreign}),
        lambda: ComposedLM({"a": expert, "b": TemperTiltModel(foreign)}, BayesGate(2)),
        lambda: ComposedLM({"a": expert, "b": ComposedLM({"c": foreign}, BayesGate(1))}, BayesGate(2)),
        lambda: RoutedLM({"a": expert, "b": foreign}, plain),
        lambda: RoutedLM(plain, {"a": expert, "b": foreign}),
    ):
        with pytest.raises(InvalidInputError, match="tokenizers that differ"):
            made()
    student = TransformerLM(TransformerConfig(vocab_size=280, width=16, layers=1, heads=2, context=16))
    assert ComposedLM({"a": expert, "b": student}, BayesGate(2)).vocab_size == 280  # ids only: trained on the expert's
