"""Composed models in transformers: its generate, its files, padded batches, beams against a slow reference."""

import numpy as np
import pytest
import tiny_hf
import torch
from transformers import AutoModelForCausalLM

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating import CausalGate, ComposedLM, FixedShareGate, score_experts
from corollary.integrations import CorollaryForCausalLM, HFExpert
from corollary.models import NgramModel, sample


@pytest.fixture(scope="module")
def composed():
    shared = tiny_hf.tokenizer()
    experts = {
        n: HFExpert(tiny_hf.model(n, seed=i, positions=64), tokenizer=shared) for i, n in enumerate(("llama", "gpt2"))
    }
    documents = experts["llama"].documents(["the sea is blue", "one and one is two"] * 3)
    gate = CausalGate(steps=5, batch=16).fit([score_experts(list(experts.values()), documents)])
    return ComposedLM(experts, gate, anchors={"share": FixedShareGate(2)})


@pytest.fixture(scope="module")
def model(composed):
    return CorollaryForCausalLM.wrap(composed)


def ids(model, texts):
    model.tokenizer.padding_side = "left"
    return model.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)


def no_cache(model, row, steps):
    """Greedy, the whole prefix read anew for every token."""
    row = row.tolist()
    for _ in range(steps):
        row.append(int(model(torch.tensor([row]), logits_to_keep=1).logits[0, -1].argmax()))
        if row[-1] == model.config.eos_token_id:
            break
    return row


def test_one_expert_by_itself_is_the_model_of_transformers():
    own = tiny_hf.model("llama", positions=64)
    wrapped = CorollaryForCausalLM.wrap(HFExpert(own, tokenizer=tiny_hf.tokenizer()))
    given = ids(wrapped, ["the sea is"])
    begun = torch.cat([torch.tensor([[0]]), given["input_ids"]], 1)  # documents of this library start with <s>
    for options in ({"max_new_tokens": 12}, {"max_new_tokens": 8, "num_beams": 3}):
        expected = own.generate(
            begun, attention_mask=torch.ones_like(begun), do_sample=False, pad_token_id=1, **options
        )
        assert wrapped.generate(**given, do_sample=False, **options).tolist() == expected[:, 1:].tolist()
    full = wrapped(given["input_ids"]).logits
    with torch.no_grad():
        raw = torch.log_softmax(own(torch.cat([torch.tensor([[0]]), given["input_ids"]], 1)).logits[:, 1:].double(), -1)
    np.testing.assert_allclose(full.numpy(), raw.numpy(), atol=1e-4)  # float32


def test_greedy_with_a_cache_is_greedy_without(model):
    for text in ("the sea is", "two"):
        given = ids(model, [text])
        out = model.generate(**given, max_new_tokens=10, do_sample=False)
        assert out[0].tolist() == no_cache(model, given["input_ids"][0], 10)


def test_padding_changes_nothing(model):
    texts = ["the sea is blue and deep", "two", "one and one", "one and two"]
    together = model.generate(**ids(model, texts), max_new_tokens=8, do_sample=False)
    for text, row in zip(texts, together, strict=True):
        alone = model.generate(**ids(model, [text]), max_new_tokens=8, do_sample=False)[0]
        width = len(alone) - len(ids(model, [text])["input_ids"][0])
        assert row[-8:][:width].tolist() == alone[-width:].tolist()


@pytest.mark.parametrize("text", ["the sea is", "one and"])
def test_beams_against_all_continuations(model, text):
    """With as many beams as tokens, two steps of beam search are a search over all pairs."""
    given = ids(model, [text])
    prefix, ended = given["input_ids"], model.config.eos_token_id
    options = {"num_beams": 280, "do_sample": False, "length_penalty": 0.0, "suppress_tokens": [ended]}
    top = model.generate(**given, max_new_tokens=2, **options)[0, prefix.shape[1] :]
    first = model(prefix, logits_to_keep=1).logits[0, -1]
    second = model(torch.cat([prefix.repeat(280, 1), torch.arange(280)[:, None]], 1), logits_to_keep=1).logits[:, -1]
    joint = first[:, None] + second
    joint[ended], joint[:, ended] = -torch.inf, -torch.inf
    assert top.tolist() == list(divmod(int(joint.argmax()), 280))


def test_sampling_follows_the_seed_and_the_model(model, composed):
    given = ids(model, ["the"])
    torch.manual_seed(0)
    a = model.generate(**given, max_new_tokens=6, do_sample=True, top_k=0, num_return_sequences=3)
    torch.manual_seed(0)
    b = model.generate(**given, max_new_tokens=6, do_sample=True, top_k=0, num_return_sequences=3)
    assert a.tolist() == b.tolist()
    assert len({tuple(row) for row in a.tolist()}) > 1
    own = sample(composed, 1, max_tokens=4, seed=0, prompt=composed.experts["llama"].encode("the"), temperature=0)
    greedy = model.generate(**given, max_new_tokens=4, do_sample=False)[0, -4:]
    assert model._swap(own.tokens).tolist() == greedy.tolist()[: len(own.tokens)]


def test_saved_and_found_by_auto_classes(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    given = ids(model, ["the sea is"])
    for again in (
        CorollaryForCausalLM.from_pretrained(tmp_path / "m"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "m"),
    ):
        assert again.tokenizer is not None
        assert again.inner[0].fingerprint() == model.inner[0].fingerprint()
        out = again.generate(**given, max_new_tokens=5, do_sample=False)
        assert out.tolist() == model.generate(**given, max_new_tokens=5, do_sample=False).tolist()


def test_the_loss_is_that_of_the_documents(model, composed):
    given = ids(model, ["one and one is two"])["input_ids"]
    documents = Documents.from_sequences(list(model._swap(given.numpy())), dtype=np.int32)
    expected = -composed.log_probs(documents)[1:].mean()
    assert float(model(given, labels=given).loss) == pytest.approx(expected, abs=1e-4)


def test_bytes_too():
    inner = NgramModel.fit(Documents.from_texts(["tick tock " * 9]))
    model = CorollaryForCausalLM.wrap(inner)
    out = model.generate(torch.tensor([list(b"tick ")]), max_new_tokens=4, num_beams=2, do_sample=False)
    assert bytes(out[0].tolist()) == b"tick tock"


def test_bad_inputs(model):
    with pytest.raises(InvalidInputError, match="ids below 280"):
        model(torch.tensor([[999]]))
    with pytest.raises(InvalidInputError, match="at the left"):
        model(torch.tensor([[5, 6]]), attention_mask=torch.tensor([[1, 0]]))
    with pytest.raises(InvalidInputError, match="at the left"):
        model(torch.tensor([[5, 6]]), attention_mask=torch.tensor([[0, 0]]))
