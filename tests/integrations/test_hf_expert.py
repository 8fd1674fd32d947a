"""A Hugging Face model is a language model of this library: same numbers as its own forward, streams, files, errors."""

import sys

import numpy as np
import pytest
import tiny_hf
import torch

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError, MissingExtraError
from corollary.gating import BayesGate, ComposedLM
from corollary.integrations import HFExpert
from corollary.models import LanguageModel, load, sample


@pytest.fixture(params=["llama", "gpt2"])
def expert(request):
    return HFExpert(tiny_hf.model(request.param), tokenizer=tiny_hf.tokenizer())


def test_text_goes_there_and_back_and_the_end_is_zero(expert):
    assert isinstance(expert, LanguageModel)
    ids = expert.encode("the sea is two!")
    assert expert.decode(ids) == "the sea is two!"
    assert 0 not in ids
    assert expert._swap(np.array([0, 1, 7])).tolist() == [1, 0, 7]


def test_log_probs_are_those_of_its_own_forward(expert):
    documents = expert.documents(["the sea is deep", "", "one"])
    got = expert.log_probs(documents)
    raw = expert.tokenizer("the sea is deep")["input_ids"]
    with torch.no_grad():
        own = torch.log_softmax(expert.model(torch.tensor([[0, *raw]])).logits[0].double(), -1)
    expected = [own[t, token].item() for t, token in enumerate(raw)]
    np.testing.assert_allclose(got[: len(raw)], expected, atol=1e-5)  # float32


@pytest.mark.parametrize("length", [5, 32, 33, 90])
def test_the_stream_gives_the_same_numbers_also_past_the_context(expert, rng, length):
    tokens = rng.integers(0, 280, size=(2, length))
    tokens[0, 2] = 0  # an end inside a document is a token like any other
    documents = Documents.from_sequences(list(tokens), dtype=np.int32)
    state, streamed = expert.start(2), []
    for t in range(length):
        rows = expert.next_log_probs(state)
        np.testing.assert_allclose(np.exp(rows).sum(1), 1, atol=1e-12)
        streamed.append(rows[[0, 1], tokens[:, t]])
        state = expert.advance(state, tokens[:, t])
    np.testing.assert_allclose(np.stack(streamed, 1).ravel(), expert.log_probs(documents), atol=1e-4)


def test_the_states_of_a_stream_are_those_of_a_batch(expert, rng):
    tokens = rng.integers(0, 280, size=(3, 9))
    inputs = torch.from_numpy(np.concatenate([np.zeros((3, 1), dtype=np.int64), tokens], axis=1))
    batch, logits = expert.states_and_logits(inputs, torch.ones(3, 10, dtype=torch.bool))
    assert batch.shape == (3, 10, expert.width)
    assert torch.allclose(expert.states(inputs), batch, atol=1e-6)
    state = expert.start(3)
    for t in range(10):
        assert torch.allclose(expert.next_hidden(state), batch[:, t], atol=1e-5)
        own = logits.view(3, 10, -1)[:, t].double().log_softmax(-1)
        np.testing.assert_allclose(expert.next_log_probs(state), own, atol=1e-5)
        state = expert.advance(state, tokens[:, t]) if t < 9 else state
    picked = expert.next_hidden(state.select_rows(np.array([2, 0])))
    assert torch.allclose(picked, batch[[2, 0], -1], atol=1e-5)


def test_saved_loaded_and_refused_when_changed(expert, tmp_path):
    before = expert.fingerprint()
    expert.tokenizer(["a", "longer text"], padding=True)  # leaves a trace in the tokenizer, not in what it is
    expert.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.fingerprint() == before
    documents = expert.documents(["two and two is four"])
    np.testing.assert_array_equal(again.log_probs(documents), expert.log_probs(documents))
    assert again.fingerprint() == expert.fingerprint()
    again.model.get_output_embeddings().weight[0, 0] += 1
    again.model.save_pretrained(tmp_path / "m" / "hf")
    with pytest.raises(InvalidFileError, match="changed since"):
        load(tmp_path / "m")
    (tmp_path / "m" / "hf" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidFileError, match="not a causal language model"):
        load(tmp_path / "m")


def test_a_folder_as_transformers_wrote_it(tmp_path):
    tiny_hf.save(tmp_path / "plain")
    expert = HFExpert(tmp_path / "plain", dtype=torch.bfloat16)
    assert next(expert.model.parameters()).dtype == torch.bfloat16
    text = expert.decode(sample(expert, 1, max_tokens=5, seed=0, prompt=expert.encode("the sea")).tokens)
    assert isinstance(text, str)


def test_experts_are_composed_and_a_foreign_tokenizer_is_refused(tmp_path):
    shared = tiny_hf.tokenizer()
    experts = {n: HFExpert(tiny_hf.model(n, seed=i), tokenizer=shared) for i, n in enumerate(("llama", "gpt2"))}
    composed = ComposedLM(experts, BayesGate(2))
    documents = experts["llama"].documents(["the sea is blue", "one and one"])
    bits = {n: -documents.sums(m.log_probs(documents)[:, None]) / np.log(2) for n, m in experts.items()}
    own = -documents.sums(composed.log_probs(documents)[:, None]) / np.log(2)
    assert (own <= np.minimum(*bits.values()) + composed.excess_bits + 1e-4).all()
    composed.save(tmp_path / "c")
    assert load(tmp_path / "c").fingerprint() == composed.fingerprint()
    other = HFExpert(tiny_hf.model("gpt2"), tokenizer=tiny_hf.tokenizer(corpus=["quite other words, wholly so"] * 5))
    with pytest.raises(InvalidInputError, match="tokenizers that differ"):
        ComposedLM({"a": experts["llama"], "b": other}, BayesGate(2))


def test_bad_models(tmp_path, monkeypatch):
    bare = tiny_hf.model("gpt2")
    with pytest.raises(InvalidInputError, match="no token ends a document"):
        HFExpert(bare)
    with pytest.raises(InvalidInputError, match="no tokenizer"):
        HFExpert(bare, end=1).encode("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidFileError, match="not a causal language model"):
        HFExpert(tmp_path / "empty")
    with pytest.raises(InvalidInputError, match="use its tokenizer"):
        HFExpert(bare, end=1).log_probs(Documents.from_sequences([[999]], dtype=np.int32))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"corollary\[hf\]"):
        HFExpert(tmp_path / "empty")


@pytest.mark.parametrize(("context", "kind"), [(1, "llama"), (-4, "gpt2"), (34, "gpt2"), (0, "llama")])
def test_windows_that_no_model_has_are_refused(context, kind):
    with pytest.raises(InvalidInputError, match=r"`context` must be from 2 to 32, .* got"):
        HFExpert(tiny_hf.model(kind), end=1, context=context)


@pytest.mark.parametrize("name", ["./typo_folder", "../typo/folder", "/typo/folder"])
def test_a_mistyped_folder_is_told_without_the_network(name, monkeypatch):
    import transformers

    asked = []

    def pretend(name, **options):
        asked.append(options.get("local_files_only"))
        raise OSError("not here")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", pretend)
    with pytest.raises(InvalidFileError, match="not here"):
        HFExpert(name)
    with pytest.raises(InvalidFileError):
        HFExpert(name, options={"local_files_only": False})
    with pytest.raises(InvalidFileError):
        HFExpert("owner/name")
    with pytest.raises(InvalidFileError):
        HFExpert("gpt2")
    assert asked == [True, False, None, None]
