import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import LanguageModel, TransformerConfig, TransformerLM, load, sample, train
from corollary.models import _storage as storage
from corollary.models._transformer import arrays_of
from corollary.models._windows import scoring_windows, training_windows

SMALL = TransformerConfig(width=32, layers=2, heads=2, context=16)
TEXTS = [
    "the quick brown fox",
    "",
    "x",
    "jumps over the lazy dog, " * 4,
    "0123456789abcdef",
    "0123456789abcdefg",
]
DOCUMENTS = Documents.from_texts(TEXTS)


def noisy(config=SMALL, dtype=torch.float64, seed=0):
    """A model whose weights are large enough for its probabilities to differ."""
    model = TransformerLM(config, dtype=dtype, seed=seed)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(6 if p.ndim == 2 else 1)
    return model


def stream(model, document):
    state, out = model.start(1), []
    for token in document:
        out.append(model.next_log_probs(state)[0, token])
        state = model.advance(state, np.array([token]))
    return out


def test_stream_with_cache_equals_batch_also_beyond_the_context():
    model = noisy()
    expected = np.concatenate([stream(model, t.encode()) for t in TEXTS])
    # `log_probs` is float32 by the protocol: values near 8 carry 5e-7.
    np.testing.assert_allclose(model.log_probs(DOCUMENTS), expected, rtol=0, atol=1e-6)
    single = noisy(dtype=torch.float32)
    # Networks in float32: sums in another order.
    np.testing.assert_allclose(single.log_probs(DOCUMENTS), expected, rtol=0, atol=1e-4)
    assert np.std(expected) > 0.3


def test_stream_equals_a_plain_forward_pass_inside_the_context():
    model = noisy()
    document = b"0123456789abcde"
    inputs = torch.tensor([[0, *document]])
    logits = model(inputs)[0].log_softmax(-1).detach().numpy()
    state = model.start(1)
    for t, token in enumerate(document):
        np.testing.assert_allclose(model.next_log_probs(state)[0], logits[t], rtol=0, atol=1e-10)
        state = model.advance(state, np.array([token]))
    np.testing.assert_allclose(model.next_log_probs(state)[0], logits[-1], rtol=0, atol=1e-10)


def test_rule_of_the_sliding_windows():
    model = noisy()
    document = np.frombuffer(TEXTS[3].encode(), dtype=np.uint8)
    inputs = np.concatenate([[0], document[:-1]]).astype(np.int64)
    got, w = model.log_probs(Documents.from_sequences([document])), SMALL.context
    for i in (0, 7, 15, 16, 23, 24, 50, 99):
        first = 0 if i < w else ((i - w) // (w // 2) + 1) * (w // 2)
        logits = model(torch.from_numpy(inputs[None, first : i + 1]))[0, -1]
        assert abs(got[i] - float(logits.log_softmax(-1)[document[i]].detach())) < 1e-6
        assert w // 2 <= i - first + 1 <= w or i < w // 2


def test_no_token_sees_a_later_one_or_another_document():
    model = noisy()
    document = np.frombuffer(TEXTS[3].encode(), dtype=np.uint8)
    base = model.log_probs(Documents.from_sequences([document]))
    for t in (1, 8, 15, 16, 17, 40, 99):
        other = document.copy()
        other[t:] = 33
        changed = model.log_probs(Documents.from_sequences([other, document[:5]]))
        np.testing.assert_allclose(changed[:t], base[:t], rtol=0, atol=1e-6)
        assert abs(changed[t] - base[t]) > 1e-6
        np.testing.assert_allclose(changed[100:], base[:5], rtol=0, atol=1e-6)


def test_batch_size_does_not_matter():
    model = noisy()
    alone = np.concatenate([model.log_probs(Documents.from_texts([t])) for t in TEXTS])
    np.testing.assert_allclose(model.log_probs(DOCUMENTS), alone, rtol=0, atol=1e-6)
    together = model.start(5)
    tokens = np.random.default_rng(0).integers(0, 256, (40, 5))
    alone = [model.start(1) for _ in range(5)]
    for row in tokens:
        for b in range(5):
            np.testing.assert_allclose(
                model.next_log_probs(together)[b], model.next_log_probs(alone[b])[0], rtol=0, atol=1e-10
            )
        together = model.advance(together, row)
        alone = [model.advance(s, row[b : b + 1]) for b, s in enumerate(alone)]
    np.testing.assert_allclose(np.exp(model.next_log_probs(together)).sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("context", [2, 4, 10, 16])
def test_windows_score_every_token_once(context):
    documents = Documents.from_sequences([np.zeros(n) for n in [0, 1, 2, 3, 9, 10, 11, 15, 16, 17, 0, 64]])
    for windows in (scoring_windows(documents, context), training_windows(documents, context)):
        seen, groups = np.zeros(len(documents.tokens), dtype=int), windows.batches(40)
        for chosen in groups:
            at, scored = windows.gather(chosen)
            assert at.size <= max(40, context)
            np.add.at(seen, at[scored], 1)
            owners = documents.owner[np.where(scored, at, at[:, :1])]
            assert (owners == owners[:, :1]).all()
        assert (seen == 1).all() or (windows.skip == 0).all()
        assert ((seen == 1) | (seen == 2)).all()
        stream = windows.shuffled_batches(40, 0)
        epoch = np.concatenate([next(stream) for _ in groups])
        np.testing.assert_array_equal(np.sort(epoch), np.arange(len(windows.start)))


def test_rotary_angles_see_distances_only():
    from corollary.models._blocks import angles, rotate

    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    at = [rotate(v, angles(torch.tensor([p]), 8)) for v, p in [(q, 3), (k, 1), (q, 103), (k, 101), (k, 100)]]
    near, far, other = (at[0] * at[1]).sum(), (at[2] * at[3]).sum(), (at[2] * at[4]).sum()
    assert abs(near - far) < 1e-10
    assert abs(near - other) > 1e-3


def test_overfits_a_tiny_text_and_ends_it():
    text = "to be or not to be"
    documents = Documents.from_texts([text] * 4)
    model = TransformerLM.fit(documents, config=SMALL, steps=150, batch_tokens=128, lr=1e-2, seed=0)
    assert -model.log_probs(documents).mean() < 0.1
    assert sample(model, 1, max_tokens=40, seed=0, temperature=0)[0].decode() == text
    assert isinstance(model, LanguageModel)


RUN = {"config": SMALL, "steps": 24, "batch_tokens": 64, "lr": 5e-3, "seed": 3, "checkpoint_every": 4}
VALIDATED = {"validation": Documents.from_texts(["the lazy fox", "dog"]), "evaluate_every": 3, "patience": 3}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("extra", [{}, VALIDATED])
def test_a_killed_run_ends_with_the_same_weights(tmp_path, extra):
    expected = TransformerLM.fit(DOCUMENTS, **RUN, **extra).fingerprint()
    steps = []

    def die(step, loss):
        steps.append(step)
        if step in (3, 6, 11) and steps.count(step) == 1:
            raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            TransformerLM.fit(DOCUMENTS, **RUN, **extra, checkpoint_folder=tmp_path, progress=die)
    resumed = TransformerLM.fit(DOCUMENTS, **RUN, **extra, checkpoint_folder=tmp_path, progress=die)
    assert resumed.fingerprint() == expected
    assert steps[:12] == [1, 2, 3, 1, 2, 3, 4, 5, 6, 5, 6, 7]  # from the start, then from checkpoint 4
    again = TransformerLM.fit(DOCUMENTS, **RUN, **extra, checkpoint_folder=tmp_path)
    assert again.fingerprint() == expected
    assert TransformerLM.fit(DOCUMENTS, **{**RUN, "seed": 4}).fingerprint() != expected
    with pytest.raises(InvalidInputError, match="another run"):
        TransformerLM.fit(DOCUMENTS, **{**RUN, "lr": 1e-3}, **extra, checkpoint_folder=tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    TransformerLM.fit(DOCUMENTS, **RUN, checkpoint_folder=tmp_path)
    path = tmp_path / "model.json"
    good = path.read_text()
    path.write_text(json.dumps({**json.loads(good), "step": None}))
    with pytest.raises(InvalidFileError, match="not a whole checkpoint"):
        TransformerLM.fit(DOCUMENTS, **RUN, checkpoint_folder=tmp_path)
    path.write_text(json.dumps({**json.loads(good), "best_loss": 1.0}))
    with pytest.raises(InvalidFileError, match="not those of this model"):
        TransformerLM.fit(DOCUMENTS, **RUN, checkpoint_folder=tmp_path)
    with pytest.raises(InvalidFileError, match="unknown kind"):
        load(tmp_path)


def test_early_stopping_keeps_the_best_weights():
    # Validation text has bytes that training never shows: after a while its loss only rises.
    validation = Documents.from_texts(["QQQQWWWW" * 3])
    losses, seen = [], []
    options = {**RUN, "steps": 200, "validation": validation, "evaluate_every": 2, "patience": 4}
    model = TransformerLM.fit(DOCUMENTS, **options, progress=lambda step, loss: seen.append(step))
    assert seen[-1] < 200
    best = -model.log_probs(validation).mean(dtype=np.float64)
    plain = TransformerLM(SMALL, seed=3)

    def watch(step, loss):
        if step % 2 == 0:
            losses.append(-plain.log_probs(validation).mean(dtype=np.float64))

    train(plain, DOCUMENTS, **{**{k: v for k, v in RUN.items() if k != "config"}, "steps": 200}, progress=watch)
    reached = losses[: seen[-1] // 2]
    assert best == min(reached)
    assert np.argmin(reached) == len(reached) - 5


def test_round_trip(tmp_path):
    for dtype in (torch.float32, torch.float64):
        model = noisy(dtype=dtype)
        model.save(tmp_path)
        back = load(tmp_path)
        assert back.fingerprint() == model.fingerprint()
        assert back.embedding.weight.dtype == dtype
        np.testing.assert_array_equal(back.log_probs(DOCUMENTS), model.log_probs(DOCUMENTS))


def changed(model, name, change):
    arrays = arrays_of(model)
    arrays[name] = change(arrays[name])
    return arrays


@pytest.mark.parametrize(
    ("header", "change", "problem"),
    [
        ({}, lambda a: a * np.nan, "not finite"),
        ({}, lambda a: a[:-1], "not the shapes"),
        ({}, lambda a: a + 1, "hash differs"),
        ({}, lambda a: a.astype(np.float64), "one float"),
        ({"config": {"width": 32}}, lambda a: a, "no sizes"),
        ({"config": None}, lambda a: a, "no sizes"),
        ({"config": {**SMALL.__dict__, "width": 33}}, lambda a: a, "do not fit"),
        ({"config": {**SMALL.__dict__, "width": 10**9}}, lambda a: a, "do not fit"),
        ({"config": {**SMALL.__dict__, "width": "a"}}, lambda a: a, "no sizes"),
        ({"config": {**SMALL.__dict__, "width": 16384}}, lambda a: a, "not the shapes"),
    ],
)
def test_wrong_files_are_refused(tmp_path, header, change, problem):
    model = TransformerLM(SMALL)
    full = {"kind": "transformer", "config": SMALL.__dict__, "fingerprint": model.fingerprint(), **header}
    storage.write_model(tmp_path, full, changed(model, "embedding.weight", change))
    with pytest.raises(InvalidFileError, match=problem):
        load(tmp_path)


def test_wrong_inputs():
    for sizes in ({"width": 30}, {"context": 7}, {"layers": 0}, {"vocab_size": -1}):
        with pytest.raises(InvalidInputError):
            TransformerConfig(**{"heads": 4, **sizes})
    with pytest.raises(InvalidInputError, match="dtype"):
        TransformerLM(SMALL, dtype=torch.float16)
    for options in ({"steps": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"patience": 0}, {"batch_tokens": 0}):
        with pytest.raises(InvalidInputError, match="positive"):
            TransformerLM.fit(DOCUMENTS, config=SMALL, **options)
    for empty in (Documents.from_texts([]), Documents.from_texts([""])):
        with pytest.raises(InvalidInputError, match="without a token"):
            TransformerLM.fit(empty, config=SMALL)
        with pytest.raises(InvalidInputError, match="without a token"):
            TransformerLM.fit(DOCUMENTS, config=SMALL, validation=empty)
        assert TransformerLM(SMALL).log_probs(empty).shape == (0,)
    narrow = TransformerLM(TransformerConfig(vocab_size=100, width=8, layers=1, heads=1, context=4))
    with pytest.raises(InvalidInputError, match="0 to 99"):
        narrow.log_probs(DOCUMENTS)
    with pytest.raises(InvalidInputError, match="give `cache`"):
        narrow(torch.zeros((1, 2), dtype=torch.int64), seen=1)
    with pytest.raises(InvalidInputError, match="lower `lr`"):
        TransformerLM.fit(DOCUMENTS, config=SMALL, lr=1e30, steps=20, batch_tokens=64)


def test_seeds_and_global_state():
    state = torch.get_rng_state()
    first, second, third = (TransformerLM(SMALL, seed=s).fingerprint() for s in (1, 1, 2))
    assert first == second != third
    assert torch.equal(state, torch.get_rng_state())


def test_load_finds_the_kind_in_a_new_process(tmp_path):
    TransformerLM(SMALL).save(tmp_path)
    code = f"from corollary.models import load; load({str(tmp_path)!r})"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
