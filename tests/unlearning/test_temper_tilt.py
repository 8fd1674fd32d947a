"""Limits and identities of the head, the tilted model, its generation and its storage."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from unlearning_models import WORDS, sequences, tiny, with_heads

from corollary.cli.bench import load_theme
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import LanguageModel, load, sample
from corollary.unlearning import (
    Examples,
    HeadTraining,
    TemperTiltHead,
    TemperTiltModel,
    causal_mean,
    fit_temper_tilt,
    tilted_log_probs,
)
from corollary.unlearning._backbone import backbone_of
from corollary.unlearning._cache import cache_states
from corollary.unlearning._decode import restricted


def loop_mean(hidden, mask):
    """The slow reference of `causal_mean`."""
    out = torch.zeros_like(hidden)
    for b, t in itertools.product(*map(range, mask.shape)):
        rows = [hidden[b, s] for s in range(t + 1) if mask[b, s]]
        if rows:
            out[b, t] = torch.stack(rows).mean(0)
    return out


def test_pooling_is_the_mean_so_far_and_ignores_padding_on_either_side(rng):
    hidden = torch.from_numpy(rng.normal(size=(3, 7, 4)))
    mask = torch.from_numpy(rng.random((3, 7)) < 0.6)
    assert torch.allclose(causal_mean(hidden, mask), loop_mean(hidden, mask), atol=1e-12)
    real = causal_mean(hidden, torch.ones(3, 7, dtype=torch.bool))
    pad = torch.full((3, 2, 4), 1e6, dtype=torch.float64)
    holes, ones = torch.zeros(3, 2, dtype=torch.bool), torch.ones(3, 7, dtype=torch.bool)
    left = causal_mean(torch.cat([pad, hidden], 1), torch.cat([holes, ones], 1))[:, 2:]
    right = causal_mean(torch.cat([hidden, pad], 1), torch.cat([ones, holes], 1))[:, :7]
    assert torch.equal(left, real)
    assert torch.equal(right, real)


@pytest.mark.parametrize(("layers", "activation"), [(1, "identity"), (1, "tanh"), (3, "relu"), (2, "gelu")])
def test_chosen_logits_are_those_of_the_full_head_and_parameters_are_counted(rng, layers, activation):
    head = TemperTiltHead(6, 30, rank=4, layers=layers, activation=activation)
    pooled, tokens = torch.from_numpy(rng.normal(size=(9, 6))).float(), torch.from_numpy(rng.integers(0, 30, 9))
    full = head(pooled)
    assert torch.allclose(head.chosen(pooled, tokens), full.gather(1, tokens[:, None])[:, 0], atol=1e-6)
    trained = sum(p.numel() for p in head.parameters())
    assert trained == 4 * (6 + 30) + (layers - 1) * 16 == TemperTiltHead.count(6, 30, rank=4, layers=layers)


def test_the_share_of_trained_parameters_of_an_8b_model():
    """Against the model itself, made without memory; section 3.1 has the printed figures."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        whole = sum(p.numel() for p in transformers.LlamaForCausalLM(config).parameters())
    counts = [TemperTiltHead.count(config.hidden_size, config.vocab_size, rank=m) for m in (20, 50)]
    assert counts == [2_647_040, 6_617_600]
    assert [f"{n / whole:.3%}" for n in counts] == ["0.033%", "0.082%"]
    rows = load_theme(Path(__file__).parents[2] / "benchmarks", "unlearning").heads([])  # of the page
    assert rows[-2:] == [
        f"| Llama 3.1 8B | {m} | 4,096 | 128,256 | {n:,} | {whole:,} | {n / whole:.3%} |"
        for m, n in zip((20, 50), counts, strict=True)
    ]


def test_tilting_limits(rng):
    logits = torch.from_numpy(rng.normal(size=(5, 12)) * 3).float()
    scores = [torch.from_numpy(rng.normal(size=(5, 12))).float() for _ in range(2)]
    on = torch.ones(5, 2, dtype=torch.bool)
    base = logits.log_softmax(-1)
    assert torch.equal(tilted_log_probs(logits, scores, on, guidance=0.0), base)
    assert torch.equal(tilted_log_probs(logits, scores, ~on, temperature=2.0), base)
    flat = [torch.full((5, 12), 0.7)] * 2  # a constant classifier only tempers
    tempered = (logits / 2).log_softmax(-1)
    assert torch.allclose(tilted_log_probs(logits, flat, on, temperature=2.0), tempered, atol=1e-6)
    assert torch.allclose(tilted_log_probs(logits, scores, on, temperature=2.0, guidance=0.0), tempered, atol=1e-6)
    both = tilted_log_probs(logits, scores, on)
    expected = base + functional.logsigmoid(scores[0]) + functional.logsigmoid(scores[1])
    assert torch.allclose(both, expected.log_softmax(-1), atol=1e-6)
    half = on.clone()
    half[::2] = torch.tensor([True, False])
    half[1] = False
    mixed = tilted_log_probs(logits, scores, half, temperature=1.3)
    assert torch.equal(mixed[1], base[1])
    alone = tilted_log_probs(logits, scores[:1], on[:, :1], temperature=1.3)
    assert torch.allclose(mixed[0], alone[0], atol=1e-6)


def markov_worlds(rng, v):
    """Two Markov chains over v symbols, and a mixing share."""
    start, move = rng.dirichlet(np.ones(v), 2), rng.dirichlet(np.ones(v), (2, v))
    return start, move, rng.uniform(0.05, 0.6)


def path_probability(start, move, path):
    p = start[path[0]]
    for a, b in itertools.pairwise(path):
        p = p * move[a, b]
    return p


@pytest.mark.parametrize("gamma_known", [True, False])
def test_the_token_tilt_with_the_bayes_classifier_is_the_retained_world(rng, gamma_known):
    """Section 3.6: tilting by P(retain | prefix, v) and a softmax give the retain conditional exactly."""
    v, worst = 4, 0.0
    for _ in range(20):
        start, move, gamma = markov_worlds(rng, v)
        for path in itertools.product(range(v), repeat=3):
            whole = [(1 - gamma, 0), (gamma, 1)]
            joint = np.array([s * path_probability(start[k], move[k], path) for s, k in whole])
            nexts = np.array([joint[k] * move[k, path[-1]] for k in (0, 1)])  # (2, v)
            logits = torch.from_numpy(np.log(nexts.sum(0) / joint.sum()))[None]
            posterior = np.log(nexts[0] / nexts[1])
            if gamma_known:
                score = torch.from_numpy(posterior)[None]
            else:  # a balanced classifier, corrected by the offset
                score = torch.from_numpy(posterior - np.log((1 - gamma) / gamma))[None]
                score = score + HeadTraining(share=gamma).offset
            out = tilted_log_probs(logits, [score], torch.ones(1, 1, dtype=torch.bool))
            worst = max(worst, float(np.abs(out.exp().numpy()[0] - move[0, path[-1]]).max()))
    assert worst < 1e-12


def test_the_cached_loss_is_the_masked_mean_on_full_logits(own, examples):
    """Section 4: one step of training sees the mean BCE over all answer tokens of both batches."""
    lost, kept = examples.select(np.arange(10)), examples.select(np.arange(10, 20))
    model = fit_temper_tilt(own, lost, kept, rank=3, epochs=1, batch_size=10, seed=4)
    head = TemperTiltHead(16, WORDS, rank=3, seed=4)
    from corollary.unlearning._train import pairing

    partners = pairing(10, 10, HeadTraining(epochs=1, seed=4))[1][0]
    total, count = 0.0, 0
    for index, data, y in ((np.arange(10), lost, 0.0), (partners, kept, 1.0)):
        batch = data.batch(index)
        with torch.no_grad():
            full = head(causal_mean(own.states(batch.inputs), batch.mask))  # (B, T, V), never built in training
        chosen = full.gather(2, batch.targets[..., None])[..., 0]
        bce = functional.binary_cross_entropy_with_logits(chosen, torch.full_like(chosen, y), reduction="none")
        total, count = total + float(bce[batch.scored].sum()), count + int(batch.scored.sum())
    assert model.fits["forgotten"].losses[0] == pytest.approx(total / count, abs=1e-4)  # states are kept in fp16


def test_training_separates_and_leaves_the_base_bitwise(base, rng):
    lost, kept = sequences(rng, 8), sequences(rng, 30)
    before = backbone_of(base).fingerprint()
    weights = [p.clone() for p in base.parameters()]
    model = fit_temper_tilt(base, lost, kept, epochs=60, rank=8, learning_rate=3e-2)
    losses = model.fits["forgotten"].losses
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)  # small first weights say nothing
    assert losses[-1] < 0.5  # from log 2 = .69: random states of width 16 are not separated perfectly
    assert backbone_of(base).fingerprint() == before
    assert all(torch.equal(a, b) for a, b in zip(weights, base.parameters(), strict=True))
    plain = model.score(lost, heads=[]).mean_nll
    assert (model.score(lost).mean_nll - plain).mean() > (
        model.score(kept).mean_nll - model.score(kept, heads=[]).mean_nll
    ).mean()


def test_scores_without_heads_are_the_base_bitwise(base, examples):
    model = with_heads(base, temperature=2.0)
    order = next(examples.batches(10**6))
    batch = examples.batch(order)
    with torch.no_grad():
        logits = model.backbone.outputs(batch.inputs, batch.mask, batch.scored)[1]
        plain = logits.log_softmax(-1).gather(1, batch.targets[batch.scored][:, None])[:, 0]
    assert len(order) == len(examples)  # the one batch that `score` makes, which fixes the rounding
    found = TemperTiltModel(base).score(examples.select(order)).log_probs
    assert np.array_equal(found, plain.double().numpy())
    ones = model.with_settings(temperature=1.0, guidance=0.0)
    assert np.array_equal(ones.score(examples).log_probs, model.score(examples, heads=[]).log_probs)
    assert not np.allclose(model.score(examples).log_probs, model.score(examples, heads=[]).log_probs)


def padded(prompts, side):
    longest = max(map(len, prompts)) + 2
    rows, mask = np.full((len(prompts), longest), 7), np.zeros((len(prompts), longest), dtype=int)
    for i, p in enumerate(prompts):
        at = slice(longest - len(p), longest) if side == "left" else slice(0, len(p))
        rows[i, at], mask[i, at] = p, 1
    return rows, mask


OPTIONS = [
    {},
    {"temperature": 0.8, "seed": 3},
    {"temperature": 1.0, "top_k": 5, "seed": 4},
    {"temperature": 1.0, "top_p": 0.7, "seed": 5},
    {"beams": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_cache_changes_no_token_whatever_the_padding(base, examples, options):
    model = with_heads(base)
    prompts = [examples.prompt(i).tolist() for i in range(5)]
    slow = model.generate(prompts, max_new_tokens=8, use_cache=False, **options)
    assert model.generate(prompts, max_new_tokens=8, **options) == slow
    for side in ("left", "right"):
        rows, mask = padded(prompts, side)
        assert model.generate(rows, mask=mask, max_new_tokens=8, **options) == slow
        assert model.generate(rows, mask=mask, max_new_tokens=8, use_cache=False, **options) == slow
    if options.get("temperature", 0) == 0:  # rows do not influence one another
        assert [model.generate([p], max_new_tokens=8, **options)[0] for p in prompts] == slow
    assert len({tuple(s) for s in slow}) > 1


def test_heads_are_switched_for_each_request(base, examples):
    model = with_heads(base)
    prompts = [examples.prompt(i).tolist() for i in range(4)]
    lists = [[], ["a"], ["b"], ["a", "b"]]
    mixed = model.generate(prompts, max_new_tokens=8, heads=lists)
    for row, names in enumerate(lists):
        assert mixed[row] == model.generate([prompts[row]], max_new_tokens=8, heads=names)[0]
    assert mixed[0] == TemperTiltModel(base).generate([prompts[0]], max_new_tokens=8)[0]
    alone = model.with_heads(["b"])
    assert alone.generate([prompts[2]], max_new_tokens=8)[0] == mixed[2]
    assert model.with_heads([]).generate([prompts[0]], max_new_tokens=8)[0] == mixed[0]
    with pytest.raises(InvalidInputError):
        model.with_heads(["c"])
    for wrong in (["c"], [["a"]], "a"):
        with pytest.raises(InvalidInputError):
            model.generate(prompts, max_new_tokens=2, heads=wrong)


def test_a_wide_beam_finds_the_likeliest_sequence(rng):
    """Against all sequences of a tiny vocabulary."""
    from corollary.models import TransformerConfig, TransformerLM

    base = TransformerLM(TransformerConfig(vocab_size=4, width=16, layers=1, heads=2, context=16), seed=3)
    with torch.no_grad():
        base.embedding.weight.mul_(30)
    head = TemperTiltHead(16, 4, rank=2)
    model = TemperTiltModel(base, {"h": head}, temperature=1.7)
    for penalty in (0.0, 1.0):
        found = model.generate([[0, 1, 2]], max_new_tokens=4, beams=200, length_penalty=penalty)[0]
        best = {}
        for n in range(5):
            for path in itertools.product(range(1, 4), repeat=n):
                answer = [*path, 0] if n < 4 else list(path)
                log_p = model.score(Examples.from_tokens([[0, 1, 2]], [answer])).log_probs.sum()
                best[path] = log_p / len(answer) ** penalty
        assert best[tuple(found)] == pytest.approx(max(best.values()), abs=1e-4)


def test_restricted_distributions(rng):
    scores = torch.from_numpy(rng.normal(size=(200, 20)) * 2)
    p = scores.softmax(-1).numpy()
    k = restricted(scores, top_k=3).numpy()
    assert (np.count_nonzero(k, axis=1) == 3).all()
    for row, kept in zip(p, restricted(scores, top_p=0.6).numpy(), strict=True):
        falling = np.sort(row)[::-1]
        needed = int(np.searchsorted(np.cumsum(falling), 0.6)) + 1
        assert np.count_nonzero(kept) == needed
    assert np.allclose(restricted(scores).numpy(), p)


def test_sampling_follows_the_tilted_distribution(own):
    model = with_heads(own)
    prompt = [0, 3, 4]
    draws = model.generate([prompt] * 4000, max_new_tokens=1, temperature=1.0, seed=9)
    counts = np.bincount([d[0] if d else 0 for d in draws], minlength=WORDS) / 4000
    answers = Examples.from_tokens([prompt] * WORDS, [[t] for t in range(WORDS)])
    p = np.exp(model.score(answers).log_probs)
    assert p.sum() == pytest.approx(1, abs=1e-4)
    assert np.abs(counts - p).max() < 5 * np.sqrt(0.25 / 4000)


def test_it_is_a_language_model(own, examples):
    model = with_heads(own)
    assert isinstance(model, LanguageModel)
    documents = examples.documents.select(np.arange(6))
    from corollary.documents import Documents

    inner = Documents.from_sequences(
        [documents.tokens[a + 1 : b] for a, b in zip(documents.offsets, documents.offsets[1:], strict=False)],
        dtype=np.int32,
    )
    whole = model.log_probs(inner)
    state, found = model.start(1), []
    for token in inner.tokens[: inner.lengths[0]]:
        step = model.next_log_probs(state)
        assert np.exp(step).sum() == pytest.approx(1, abs=1e-9)
        found.append(step[0, token])
        state = model.advance(state, np.array([token]))
    assert np.allclose(found, whole[: inner.lengths[0]], atol=1e-4)
    assert len(sample(model, 3, max_tokens=5, seed=0)) == 3


def test_long_documents_slide_like_the_base(rng):
    from corollary.models import TransformerConfig, TransformerLM

    base = TransformerLM(TransformerConfig(vocab_size=WORDS, width=16, layers=1, heads=2, context=8), seed=2)
    model = TemperTiltModel(base, {"h": TemperTiltHead(16, WORDS, rank=2)})
    prompt = [0, *rng.integers(1, WORDS, 12).tolist()]
    assert model.generate([prompt], max_new_tokens=6) == model.generate([prompt], max_new_tokens=6, use_cache=False)


class Shown:
    """Somebody's own network: a `LanguageModel` that shows its states, and nothing else."""

    def __init__(self, inner):
        self.vocab_size, self.width = inner.vocab_size, inner.config.width
        for name in ("start", "next_log_probs", "advance", "log_probs", "fingerprint", "save", "states", "next_hidden"):
            setattr(self, name, getattr(inner, name))


def test_a_network_of_ones_own_shows_its_states(own, examples):
    shown = Shown(own)
    head = with_heads(own).heads["a"]
    ours, plain = (TemperTiltModel(m, {"a": head}, temperature=1.5) for m in (shown, own))
    assert np.allclose(ours.score(examples).log_probs, plain.score(examples).log_probs, atol=1e-4)
    prompts = [examples.prompt(i).tolist() for i in range(4)]
    for options in ({}, {"beams": 3}):
        fast = ours.generate(prompts, max_new_tokens=5, **options)
        assert fast == ours.generate(prompts, max_new_tokens=5, use_cache=False, **options)
        assert fast == plain.generate(prompts, max_new_tokens=5, **options)


def test_heads_are_saved_without_the_base_and_bound_to_it(base, examples, tmp_path):
    model = with_heads(base)
    model.save_pretrained(tmp_path / "heads")
    again = TemperTiltModel.from_pretrained(tmp_path / "heads", base)
    assert again.fingerprint() == model.fingerprint()
    assert np.array_equal(again.score(examples).log_probs, model.score(examples).log_probs)
    other = (
        tiny("llama") if not hasattr(base, "generate") else tiny("gpt2" if "Llama" in type(base).__name__ else "llama")
    )
    with pytest.raises(InvalidInputError, match="another model"):
        TemperTiltModel.from_pretrained(tmp_path / "heads", other)
    with torch.no_grad():
        next(iter(base.parameters())).add_(1e-3)
    with pytest.raises(InvalidInputError, match="another model"):
        TemperTiltModel.from_pretrained(tmp_path / "heads", base)


def test_whole_models_load_through_the_registry_and_broken_files_are_named(own, examples, tmp_path):
    model = with_heads(own)
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.fingerprint() == model.fingerprint()
    weights = next((tmp_path / "m").glob("weights-*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(InvalidFileError):
        load(tmp_path / "m")
    (tmp_path / "m" / "model.json").write_text("{")
    with pytest.raises(InvalidFileError):
        TemperTiltModel.from_pretrained(tmp_path / "m", own)
    with pytest.raises(InvalidInputError, match="saved whole"):
        with_heads(tiny("gpt2")).save(tmp_path / "x")


def test_a_killed_fit_goes_on_and_ends_the_same(own, examples, tmp_path):
    lost, kept = examples.select(np.arange(6)), examples.select(np.arange(6, 24))
    options = {"rank": 2, "epochs": 25, "batch_size": 4, "seed": 2}
    whole = fit_temper_tilt(own, lost, kept, **options)

    class Killed(Exception):
        pass

    def kill(what, share):
        if what.startswith("training") and share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        fit_temper_tilt(own, lost, kept, folder=tmp_path, progress=kill, **options)
    seen = []
    again = fit_temper_tilt(own, lost, kept, folder=tmp_path, progress=lambda *told: seen.append(told), **options)
    assert not any(what.startswith("states") for what, _ in seen)  # the cache was found again
    assert torch.equal(again.heads["forgotten"].out, whole.heads["forgotten"].out)
    with pytest.raises(InvalidInputError, match="another"):
        fit_temper_tilt(own, kept, lost, folder=tmp_path, **options)


def test_the_cache_holds_no_more_than_is_drawn(own, rng, tmp_path):
    lost, kept = sequences(rng, 2), sequences(rng, 200)
    seen = []
    fit_temper_tilt(
        own, lost, kept, rank=2, epochs=3, retain_limit=4, folder=tmp_path, progress=lambda w, s: seen.append((w, s))
    )
    states = np.load(tmp_path / "retain" / "states.npy", mmap_mode="r")
    assert states.dtype == np.float16
    assert len(states) <= 4 * 9
    whole = cache_states(backbone_of(own), kept)
    batch = kept.batch(np.array([7]))
    with torch.no_grad():
        exact = causal_mean(own.states(batch.inputs), batch.mask)[batch.scored]
    assert np.allclose(whole.states[whole.rows(np.array([7]))], exact, atol=2e-3)  # fp16


def test_a_second_head_on_a_model_with_one(own, examples):
    parts = [examples.select(np.arange(i, i + 8)) for i in (0, 8, 16)]
    once = fit_temper_tilt(own, parts[0], parts[2], name="first", rank=2, epochs=2)
    twice = fit_temper_tilt(once, parts[1], parts[2], name="second", rank=2, epochs=2)
    assert list(twice.heads) == ["first", "second"]
    assert list(once.heads) == ["first"]
    with pytest.raises(InvalidInputError, match="already"):
        fit_temper_tilt(twice, parts[1], parts[2], name="second", rank=2, epochs=2)


def test_wrong_input_is_refused(as_shipped, own, examples, rng):
    lost, kept = examples.select(np.arange(4)), examples.select(np.arange(4, 24))
    wrong = [
        ((own, lost.select([]), kept), "empty"),
        ((own, lost, kept.select([])), "empty"),
        ((own, lost, examples), "also to be retained"),
        ((own, Examples.from_tokens([[0, 1]], [[WORDS + 3]]), kept), "own tokenizer"),
        ((own, "text", kept), "Examples"),
        ((object(), lost, kept), "causal model"),
    ]
    for given, words in wrong:
        with pytest.raises(InvalidInputError, match=words):
            fit_temper_tilt(*given, epochs=1)
    for options in ({"epochs": 0}, {"share": 1.0}, {"rank": 0}, {"layers": 2}, {"activation": "sine"}):
        with pytest.raises(InvalidInputError):
            fit_temper_tilt(own, lost, kept, **{"epochs": 1, **options})
    with pytest.raises(InvalidInputError, match="fitted on"):
        TemperTiltModel(own, {"h": TemperTiltHead(8, WORDS)})
    for options in ({"temperature": 0.0}, {"guidance": -1.0}, {"temperature": float("nan")}):
        with pytest.raises(InvalidInputError):
            TemperTiltModel(own, **options)
    model = TemperTiltModel(own)
    for prompts in ([[]], [[0, WORDS]], [[5, 6]], []):
        with pytest.raises(InvalidInputError):
            model.generate(prompts, max_new_tokens=1)
    for options in ({"max_new_tokens": 0}, {"top_p": 0.0}, {"beams": 2, "temperature": 1.0}, {"top_k": 0}):
        with pytest.raises(InvalidInputError):
            model.generate([[0, 1]], **{"max_new_tokens": 1, **options})
    with pytest.raises(InvalidInputError):
        Examples.from_tokens([[]], [[1]])
