"""Tiny random models of Hugging Face go through fit, eval, generate, save and load; the processor; composed models."""

import numpy as np
import pytest
import torch
from unlearning_models import local_model, sequences, tiny, with_heads

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.gating import BayesGate, ComposedLM
from corollary.models import LanguageModel, NgramModel, TransformerConfig, TransformerLM, load
from corollary.unlearning import (
    ByteTokenizer,
    Examples,
    TemperTiltModel,
    TemperTiltProcessor,
    WrappedTokenizer,
    fit_temper_tilt,
    load_base,
    tofu,
)
from corollary.unlearning._model import Tilted, ends_of


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_fit_eval_generate_save_load(kind, tmp_path):
    base, tokenizer = load_base(local_model(kind, tmp_path / "base"))
    made = tofu.make_questions(authors=6, forget=2)
    lost, kept = (Examples.from_pairs(rows, tokenizer) for rows in (made.forget, made.retain))
    model = fit_temper_tilt(base, lost, kept, rank=4, epochs=4, temperature=1.3)
    part = tofu.evaluate(model, made.forget[:5], tokenizer, max_new_tokens=8)
    assert part.perturbed.shape == (5, 5)
    assert np.isfinite(part.truth_ratio).all()
    prompts = [lost.prompt(i).tolist() for i in range(3)]
    drawn = model.generate(prompts, max_new_tokens=5, temperature=1.0, top_p=0.9, seed=1)
    model.save_pretrained(tmp_path / "heads")
    again = TemperTiltModel.from_pretrained(tmp_path / "heads", load_base(tmp_path / "base")[0])
    assert again.generate(prompts, max_new_tokens=5, temperature=1.0, top_p=0.9, seed=1) == drawn
    assert isinstance(again, LanguageModel)


def test_wrong_tokenizers_and_folders_are_named(tmp_path):
    folder = local_model("gpt2", tmp_path / "small", extra=-5)
    with pytest.raises(InvalidInputError, match="own tokenizer"):
        load_base(folder)
    with pytest.raises(InvalidInputError, match="end-of-text"):
        WrappedTokenizer(object())
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{}")
    with pytest.raises(InvalidFileError):
        load_base(tmp_path / "bad")
    base, _ = load_base(local_model("llama", tmp_path / "good"))
    long = Examples.from_pairs([{"question": "é" * 3, "answer": "ü"}], ByteTokenizer())
    with pytest.raises(InvalidInputError, match="own tokenizer"):
        fit_temper_tilt(tiny("llama"), long, long)
    assert base is not None


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("beams", "use_cache"), [(1, True), (3, True), (1, False)])
def test_the_processor_gives_the_same_tokens_inside_a_foreign_generate(kind, beams, use_cache, examples):
    base = tiny(kind)
    model = with_heads(base)
    prompts = [examples.prompt(i).tolist() for i in range(4)]
    longest = max(map(len, prompts))
    inputs = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    own = model.generate(prompts, max_new_tokens=6, beams=beams, heads=[["a"], ["b"], [], ["a", "b"]])
    lists = [["a"], ["b"], [], ["a", "b"]]
    options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 6, "pad_token_id": 0, "use_cache": use_cache}
    with TemperTiltProcessor(model, heads=lists, attention_mask=mask) as processor:
        found = base.generate(inputs, attention_mask=mask, logits_processor=[processor], **options)
    for row, expected in zip(found[:, longest:].tolist(), own, strict=True):
        cut = row.index(0) if 0 in row else len(row)
        assert row[:cut] == expected
    assert not base.base_model._forward_hooks


def test_models_without_an_output_layer_are_named(own):
    from corollary.integrations import CorollaryForCausalLM

    bodies = (tiny("llama").base_model, CorollaryForCausalLM.wrap(own))
    for body in bodies:
        with pytest.raises(InvalidInputError, match="no output layer"):
            TemperTiltModel(body)


def test_the_processor_samples_inside_a_foreign_generate(examples):
    """Cut to one token by top-k, a sample is the greedy answer of the tilted model."""
    base = tiny("gpt2")
    model = with_heads(base)
    prompt = examples.prompt(0).tolist()
    options = {"do_sample": True, "top_k": 1, "max_new_tokens": 6, "pad_token_id": 0}
    with TemperTiltProcessor(model) as processor:
        found = base.generate(torch.tensor([prompt]), logits_processor=[processor], **options)[
            0, len(prompt) :
        ].tolist()
    assert found[: found.index(0) if 0 in found else None] == model.generate([prompt], max_new_tokens=6)[0]


def test_the_processor_refuses_what_it_cannot_serve(own, examples):
    with pytest.raises(InvalidInputError, match="Hugging Face"):
        TemperTiltProcessor(with_heads(own))
    processor = TemperTiltProcessor(with_heads(tiny("gpt2")))
    with pytest.raises(InvalidInputError, match="inside"):
        processor(torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 50))


# The join: heads on composed models


def composed(rng):
    config = TransformerConfig(vocab_size=50, width=16, layers=1, heads=2, context=64)
    experts = {name: TransformerLM(config, seed=i) for i, name in enumerate(("one", "two"))}
    for model in experts.values():
        with torch.no_grad():
            model.embedding.weight.mul_(20)
    return ComposedLM(experts, BayesGate(2))


def test_a_head_on_a_composed_model(rng, tmp_path):
    base = composed(rng)
    lost, kept = sequences(rng, 6), sequences(rng, 18)
    before = base.fingerprint()
    model = fit_temper_tilt(base, lost, kept, rank=4, epochs=80, learning_rate=3e-2, temperature=1.2)
    assert model.backbone.width == 32  # the states of both experts, side by side
    assert base.fingerprint() == before
    off, on = model.score(lost, heads=[]).mean_nll, model.score(lost).mean_nll
    assert on.mean() > off.mean()
    inner = Documents.from_sequences([lost.sequence(i)[1:] for i in range(6)], dtype=np.int32)
    whole = TemperTiltModel(base).score(
        Examples.from_tokens(
            [[0]] * 6, [inner.tokens[a:b] for a, b in zip(inner.offsets, inner.offsets[1:], strict=False)]
        )
    )
    assert np.allclose(whole.log_probs, base.log_probs(inner), atol=1e-4)
    prompts = [lost.prompt(i).tolist() for i in range(4)]
    slow = model.generate(prompts, max_new_tokens=4, use_cache=False)
    assert model.generate(prompts, max_new_tokens=4) == slow
    assert model.generate(prompts[:2], max_new_tokens=4, beams=2) == model.generate(
        prompts[:2], max_new_tokens=4, beams=2, use_cache=False
    )
    model.save(tmp_path)
    assert load(tmp_path).fingerprint() == model.fingerprint()


def test_models_without_states_get_a_bag_of_words(rng):
    lost = [{"question": "who wrote emma", "answer": "jane did"}]
    kept = [{"question": "who wrote faust", "answer": "goethe did"}, {"question": "and ulysses", "answer": "joyce"}]
    table = NgramModel.fit(Documents.from_texts([f"{r['question']}\n{r['answer']}" for r in lost + kept] * 3), order=5)
    base = ComposedLM({"table": table, "same": table}, BayesGate(2))
    sets = [Examples.from_pairs(rows, ByteTokenizer()) for rows in (lost, kept)]
    for model in (table, base):
        tilted = fit_temper_tilt(model, *sets, rank=4, epochs=200, learning_rate=3e-2)
        assert tilted.fits["forgotten"].losses[-1] < 0.3
        gained = [tilted.score(s).mean_nll - tilted.score(s, heads=[]).mean_nll for s in sets]
        assert gained[0].mean() > gained[1].mean() + 0.2


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_processor_follows_caches_chunks_padding_and_further_prompts(kind, examples):
    """The scores of the first new token are those of the tilted model, however the prompt was read."""
    base = tiny(kind)
    model = with_heads(base)
    first, second = examples.prompt(0).tolist(), examples.sequence(1).tolist()
    options = {"do_sample": False, "max_new_tokens": 3, "eos_token_id": None, "return_dict_in_generate": True}

    def said(inputs, **more):
        return base.generate(
            torch.tensor(inputs), logits_processor=[processor], output_scores=True, pad_token_id=49, **options, **more
        )

    def expected(prompt):
        inputs = torch.tensor([prompt])
        on = torch.ones_like(inputs, dtype=torch.bool)
        return Tilted(model, inputs, on, model.switches(None, 1), use_cache=False).log_probs[0]

    with TemperTiltProcessor(model) as processor:
        longer = [*said([first]).sequences[0].tolist(), 8, 9, 10]
    one, two, three, start = (expected(prompt) for prompt in (first, second, longer, [0]))
    with TemperTiltProcessor(model) as processor:
        assert torch.allclose(said([first]).scores[0][0], one, atol=1e-4)
        assert torch.allclose(said([second]).scores[0][0], two, atol=1e-4)  # a second one in one `with`
        assert torch.allclose(said([second], prefill_chunk_size=2).scores[0][0], two, atol=1e-4)
        assert torch.allclose(said([[0]]).scores[0][0], start, atol=1e-4)
        cache = said([first]).past_key_values
        assert torch.allclose(said([longer], past_key_values=cache).scores[0][0], three, atol=1e-4)
        width = max(len(first), len(second)) + 2
        padded = [[49] * (width - len(p)) + p for p in (first, second)]
        found = said(padded, attention_mask=(torch.tensor(padded) != 49).long()).scores[0]
        assert torch.allclose(found, torch.stack([one, two]), atol=1e-4)
        draft = torch.tensor([[0, 5, 6, 5, 6]])
        with pytest.raises(InvalidInputError, match="drafts"):
            base.generate(
                draft, logits_processor=[processor], prompt_lookup_num_tokens=2, max_new_tokens=4, pad_token_id=49
            )
    whole = base.generate(torch.tensor([first]), pad_token_id=49, **options)
    with TemperTiltProcessor(model) as processor, pytest.raises(InvalidInputError, match="came from elsewhere"):
        said([[*whole.sequences[0].tolist(), 8]], past_key_values=whole.past_key_values)
    with (
        TemperTiltProcessor(model, attention_mask=torch.ones(2, 9, dtype=torch.long)) as processor,
        pytest.raises(InvalidInputError, match="leave it out"),
    ):
        said([first[:3]])


def test_sequences_longer_than_the_positions_are_refused(examples):
    """A model of absolute positions has no more of them; a rotary one goes on."""
    model = with_heads(tiny("gpt2"))  # 64 positions
    long = Examples.from_tokens([[0, *[5] * 60]], [[6] * 9])
    for act in (
        lambda: model.score(long),
        lambda: fit_temper_tilt(model.base, long, examples, rank=2, epochs=1),
        lambda: model.generate([[0] + [5] * 70], max_new_tokens=2),
        lambda: model.generate([[0] + [5] * 60], max_new_tokens=20, end=49),
    ):
        with pytest.raises(InvalidInputError, match="has 64 positions"):
            act()
    assert np.isfinite(with_heads(tiny("llama")).score(long).log_probs).all()


@pytest.mark.parametrize("where", ["config", "generation_config"])
def test_every_end_that_a_model_names_ends_a_sequence(where):
    """Llama 3 has several; the first alone would go on into the next turn."""
    base = tiny("llama")
    base.config.eos_token_id = base.generation_config.eos_token_id = None
    model = with_heads(base)
    prompt = [[0, 5, 7, 9]]
    free = model.generate(prompt, max_new_tokens=12, end=-1)[0]
    second = next(t for t in free[2:] if t not in free[:2])
    cut = free[: free.index(second)]
    first = next(t for t in range(base.config.vocab_size) if t not in free)
    getattr(base, where).eos_token_id = [first, second]
    assert second in ends_of(base)
    assert model.generate(prompt, max_new_tokens=12) == [cut]
    assert model.generate(prompt, max_new_tokens=12, end=[first, second]) == [cut]
    assert model.generate(prompt, max_new_tokens=12, end=first) == [free]
    beams = model.generate(prompt, max_new_tokens=12, beams=3)[0]
    assert not {first, second} & set(beams)
    with pytest.raises(InvalidInputError, match="names no token"):
        model.generate(prompt, max_new_tokens=3, end=[])
