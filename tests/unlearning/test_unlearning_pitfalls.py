"""What goes wrong in practice: numbers that are none, full disks, fits that are killed, half precision, rare tokens."""

import resource
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.nn import functional
from unlearning_models import WORDS, sequences, tiny, with_heads

from corollary.certificates import Status
from corollary.errors import InvalidInputError, ReusedRowsError
from corollary.models import _storage
from corollary.unlearning import (
    Examples,
    HeadTraining,
    PooledStates,
    TemperTiltHead,
    TemperTiltModel,
    TemperTiltProcessor,
    cache_states,
    closeness,
    fit_temper_tilt,
    tilted_log_probs,
    tofu,
    train_head,
)
from corollary.unlearning._backbone import backbone_of
from corollary.unlearning._tokens import _checked


def test_logits_that_are_no_numbers_are_refused(base, examples):
    """Wherever they would be scored, compared, or drawn from."""
    model = with_heads(base)
    with torch.no_grad():
        next(p for p in reversed(list(base.parameters())) if p.ndim == 1)[3] = float("nan")  # of the last norm
    prompt = [examples.prompt(0).tolist()]
    for act in (
        lambda: model.score(examples),
        lambda: model.score(examples, heads=[]),
        lambda: closeness(model, examples),
        lambda: model.generate(prompt, max_new_tokens=2),
        lambda: model.generate(prompt, max_new_tokens=2, temperature=1.0, heads=[]),
        lambda: model.generate(prompt, max_new_tokens=2, beams=2),
        lambda: model.start(1),
    ):
        with pytest.raises(InvalidInputError, match="not all numbers"):
            act()
    with pytest.raises(InvalidInputError, match="not finite"):
        fit_temper_tilt(base, examples.select(np.arange(4)), examples.select(np.arange(4, 9)), rank=2, epochs=1)


def test_a_head_that_is_no_number_and_infinite_logits_are_refused(own, examples):
    model = with_heads(own)
    with torch.no_grad():
        model.heads["b"].out[7, 0] = float("nan")
    with pytest.raises(InvalidInputError, match="not all numbers"):
        model.score(examples)
    assert np.isfinite(model.score(examples, heads=["a"]).log_probs).all()  # it is switched off there
    pooled, off = torch.zeros(1, 16), torch.zeros(1, 2, dtype=torch.bool)
    masked = torch.zeros(1, WORDS)
    masked[0, 5] = -torch.inf  # a token that is ruled out is no mistake
    assert model.next_token(masked, pooled, off)[0, 5] == -torch.inf
    with pytest.raises(InvalidInputError, match="not all numbers"):
        model.next_token(-masked, pooled, off)


def test_a_processor_refuses_logits_that_are_no_numbers(examples):
    base = tiny("gpt2")
    with torch.no_grad():
        base.transformer.ln_f.weight[0] = float("nan")
    inputs = torch.tensor([examples.prompt(0).tolist()])
    with TemperTiltProcessor(with_heads(base)) as processor, pytest.raises(InvalidInputError, match="not all numbers"):
        base.generate(inputs, logits_processor=[processor], do_sample=False, max_new_tokens=2, pad_token_id=0)


@contextmanager
def small_disk():
    """No file of more than 20 kB can be written: what a full disk says, for real."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_too_small_for_the_states_is_told_at_once(own, rng, tmp_path):
    many, seen = sequences(rng, 200), []
    with small_disk(), pytest.raises(OSError, match="large"):
        cache_states(backbone_of(own), many, folder=tmp_path, progress=lambda *told: seen.append(told))
    assert not seen  # no state was computed in vain
    assert not (tmp_path / "states.json").exists()
    found = cache_states(backbone_of(own), many, folder=tmp_path)  # more room
    assert np.array_equal(found.states, cache_states(backbone_of(own), many).states)


def test_a_disk_that_fills_while_training_keeps_the_checkpoint(own, examples, tmp_path, monkeypatch):
    lost, kept = examples.select(np.arange(6)), examples.select(np.arange(6, 24))
    options = {"rank": 2, "epochs": 30, "batch_size": 4, "seed": 2}
    whole = fit_temper_tilt(own, lost, kept, **options)
    write, count = _storage.write_model, []

    def full(*given):
        count.append(1)
        if len(count) > 1:
            raise OSError(28, "No space left on device")
        return write(*given)

    monkeypatch.setattr(_storage, "write_model", full)
    with pytest.raises(OSError, match="No space"):
        fit_temper_tilt(own, lost, kept, folder=tmp_path, **options)
    monkeypatch.undo()
    assert _storage.read_header(tmp_path / "head")["epoch"] == 10
    again = fit_temper_tilt(own, lost, kept, folder=tmp_path, **options)
    assert torch.equal(again.heads["forgotten"].out, whole.heads["forgotten"].out)


def test_a_fit_killed_among_its_states_starts_them_again(own, examples, tmp_path):
    lost, kept = examples.select(np.arange(6)), examples.select(np.arange(6, 24))

    class Killed(Exception):
        pass

    def kill(what, share):
        if what == "states: retain":
            raise Killed

    options = {"rank": 2, "epochs": 5, "folder": tmp_path}
    with pytest.raises(Killed):
        fit_temper_tilt(own, lost, kept, progress=kill, **options)
    assert (tmp_path / "retain" / "states.npy").exists()
    assert not (tmp_path / "retain" / "states.json").exists()
    seen = []
    again = fit_temper_tilt(own, lost, kept, progress=lambda what, share: seen.append(what), **options)
    assert "states: retain" in seen
    assert "states: forget" not in seen
    whole = fit_temper_tilt(own, lost, kept, rank=2, epochs=5)
    assert torch.equal(again.heads["forgotten"].out, whole.heads["forgotten"].out)


def test_a_checkpoint_of_other_states_is_refused(rng, tmp_path):
    def states(mean, seed):
        x = np.random.default_rng(seed).normal(mean, 1, (40, 4)).astype(np.float16)
        return PooledStates(x, np.full(40, 3), np.arange(0, 41, 4), 0.0)

    lost, kept, other = states(-1, 0), states(1, 1), states(1, 2)
    training = HeadTraining(rank=2, epochs=10)
    done = train_head(lost, kept, vocab_size=8, training=training, folder=tmp_path)
    again = train_head(lost, kept, vocab_size=8, training=training, folder=tmp_path)
    assert torch.equal(again.head.out, done.head.out)
    with pytest.raises(InvalidInputError, match="another run"):
        train_head(lost, other, vocab_size=8, training=training, folder=tmp_path)


def test_the_sum_is_in_float32_and_the_logarithm_of_the_sigmoid_does_not_underflow():
    logits = torch.tensor([[3.0, 1.0, 0.5]], dtype=torch.bfloat16)
    scores = torch.tensor([[-2000.0, 3.0, 2000.0]], dtype=torch.bfloat16)
    out = tilted_log_probs(logits, [scores], torch.tensor([[True]]), temperature=1.5)
    assert out.dtype == torch.float32
    z = logits.double() / 1.5 + functional.logsigmoid(scores.double())
    assert torch.isfinite(out).all()
    assert torch.allclose(out.double(), z.log_softmax(-1), rtol=1e-6)
    assert not torch.isfinite(torch.log(torch.sigmoid(scores.double()))).all()  # what is not done


def test_a_model_in_half_precision_is_tilted_in_float32(examples):
    base = tiny("llama").to(torch.bfloat16)
    model = with_heads(base)
    assert model.heads["a"].out.dtype == torch.float32
    prompts = [examples.prompt(i).tolist() for i in range(3)]
    assert len(model.generate(prompts, max_new_tokens=3)) == 3
    batch = examples.batch(np.arange(4))
    with torch.no_grad():
        hidden, logits = model.backbone.outputs(batch.inputs, batch.mask, batch.scored)
    assert (hidden.dtype, logits.dtype) == (torch.bfloat16, torch.bfloat16)
    assert (
        model.next_token(logits, torch.zeros(len(logits), 16), model.switches([], len(logits))).dtype == torch.float32
    )


def test_tokens_never_seen_keep_a_tilt_of_minus_log_two(own, rng):
    """Their rows of W_2 start small and only decay: a handicap of .69 nats beside confident retained tokens."""
    lost, kept = sequences(rng, 8, vocab=25), sequences(rng, 30, vocab=25)
    states = [cache_states(backbone_of(own), s) for s in (lost, kept)]
    head = train_head(*states, vocab_size=WORDS, training=HeadTraining(epochs=60, rank=8, learning_rate=3e-2)).head
    with torch.no_grad():
        tilt = functional.logsigmoid(head(torch.from_numpy(states[1].states).float()))
    unseen, seen = tilt[:, 25:], tilt[:, :25]
    assert unseen.mean().item() == pytest.approx(-np.log(2), abs=0.05)
    assert unseen.numpy() == pytest.approx(-np.log(2), abs=0.35)  # rows of .02 times features of some 10
    assert seen.std() > 5 * unseen.std()


@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0, 2.5])
def test_what_tempering_costs_is_an_entropy_of_the_base(own, examples, temperature):
    r"""\(\log p_T(v) = \frac1T \log p(v) - (1 - \frac1T) H_{1/T}(p)\), H that of Renyi, whatever is forgotten."""
    model = with_heads(own).with_settings(temperature=temperature, guidance=0.0)
    batch = examples.batch(next(examples.batches(10**6)))
    with torch.no_grad():
        logits = model.backbone.outputs(batch.inputs, batch.mask, batch.scored)[1].double()
    log_p, a = logits.log_softmax(-1), 1 / temperature
    entropy = torch.zeros(len(log_p)) if a == 1 else (log_p * a).logsumexp(-1) / (1 - a)
    target = batch.targets[batch.scored][:, None]
    expected = a * log_p.gather(1, target)[:, 0] - (1 - a) * entropy
    found = model.score(examples.select(next(examples.batches(10**6)))).log_probs
    assert np.allclose(found, expected, atol=1e-4)  # the model is in float32
    assert (entropy <= np.log(WORDS) + 1e-9).all()


def test_paraphrases_are_certified_where_they_are_given(own, rng):
    lost, kept, others = sequences(rng, 5), sequences(rng, 10), sequences(rng, 35)
    model = fit_temper_tilt(own, lost, kept, paraphrases=others, held_out=sequences(rng, 32), rank=2, epochs=3)
    certificate, evidence = model.certified()
    names = [f"unlearning.{n}" for n in ("forgotten", "paraphrases", "retained")]
    assert [p.rule for p in certificate.parts] == names
    assert certificate.check(**evidence).status is Status.HOLDS
    assert certificate.confidence == pytest.approx(0.96)  # twice a chance of .02
    with pytest.raises(ReusedRowsError):
        fit_temper_tilt(own, lost, kept, paraphrases=lost, rank=2, epochs=1)


def test_an_answer_ends_with_its_end_and_is_averaged_by_its_length(own):
    """5.2: the mean token log-loss, the end included."""
    examples = Examples.from_tokens([[0, 4, 5], [0, 6]], [[7, 8, 0], [9, 0]])
    scores = TemperTiltModel(own).score(examples)
    by_hand = []
    for prompt, answer in (([0, 4, 5], [7, 8, 0]), ([0, 6], [9, 0])):
        with torch.no_grad():
            log_p = own(torch.tensor([prompt + answer]))[0].log_softmax(-1)
        by_hand.append(-np.mean([log_p[len(prompt) - 1 + t, v].item() for t, v in enumerate(answer)]))
    assert scores.mean_nll == pytest.approx(by_hand, abs=1e-5)
    assert TemperTiltHead(4, 6, rank=2).offset == 0.0


def test_options_of_the_wrong_kind_are_told_in_one_sentence(own, examples, as_shipped):
    model = with_heads(own)
    lost, kept = examples.select(np.arange(4)), examples.select(np.arange(4, 9))
    braces = "{question} {more}"
    for act, told in (
        (lambda: TemperTiltModel(own, temperature="a"), "must be positive"),
        (lambda: model.generate(["hi"], max_new_tokens=1), "lists of token ids"),
        (lambda: model.generate([1, 2], max_new_tokens=1), "lists of token ids"),
        (lambda: model.generate([[0], [0]], max_new_tokens=1, heads=[["a"], "b"]), "one list of names a row"),
        (lambda: model.generate([[0], [0]], max_new_tokens=1, heads=["a", ["b"]]), "one list of names a row"),
        (lambda: fit_temper_tilt(own, lost, kept, retain_limit=0, rank=2, epochs=1), "at least 1"),
        (lambda: fit_temper_tilt(own, [], kept, rank=2, epochs=1), "the forget set is empty"),
        (lambda: fit_temper_tilt(own, lost, [], rank=2, epochs=1), "the retain set is empty"),
        (lambda: _checked(braces), "braces doubled"),
        (lambda: _checked("{question} {"), "braces doubled"),
        (lambda: tofu.make_questions(authors=3, forget=1).slices(), "need two"),
    ):
        with pytest.raises(InvalidInputError, match=told):
            act()
    assert _checked("{{json}} {question}") == "{{json}} {question}"
