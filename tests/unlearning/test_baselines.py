"""Every term against its formula written out once more, its limits, and the one trainer."""

import copy
import math

import numpy as np
import pytest
import torch
from unlearning_models import WORDS, sequences, tiny

from corollary.errors import InvalidInputError
from corollary.unlearning import TemperTiltHead, TemperTiltModel, baselines, fit_temper_tilt
from corollary.unlearning._backbone import backbone_of


@pytest.fixture
def pair(own):
    """A model and what it was before: some weights moved."""
    moved = copy.deepcopy(own)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in moved.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return moved.double(), own.double()


@pytest.fixture
def batch(rng):
    return sequences(rng, 6).batch(np.arange(6))


@pytest.fixture
def step(pair, batch, rng):
    now, before = (backbone_of(m) for m in pair)
    other = baselines.Step(now, sequences(rng, 6).batch(np.arange(6)), frozen=before)
    return baselines.Step(now, batch, frozen=before, alternative=other)


def by_hand(model, batch):
    """Log-probabilities (lists) of the answer tokens of each sequence, and all their logits."""
    rows, logits = [], []
    for b in range(len(batch.inputs)):
        z = model(batch.inputs[b : b + 1])[0]
        own = [t for t in range(z.shape[0]) if batch.scored[b, t]]
        rows.append([z[t].log_softmax(-1)[batch.targets[b, t]] for t in own])
        logits.append([z[t] for t in own])
    return rows, logits


def sums(rows):
    return torch.stack([torch.stack(r).sum() for r in rows])


def test_terms_are_their_formulas(pair, batch, step):
    now, logits = by_hand(pair[0], batch)
    before, old = by_hand(pair[1], batch)
    flat, flat_old = torch.stack([x for r in now for x in r]), torch.stack([z for r in old for z in r])
    z = torch.stack([z for r in logits for z in r])
    p, targets = flat.exp(), batch.targets[batch.scored]
    log_sigmoid = torch.nn.functional.logsigmoid
    ratio = sums(now) - sums(before)
    mean = torch.stack([torch.stack(r).mean() for r in now])
    adjusted = flat_old.clone()
    adjusted[torch.arange(len(z)), targets] -= 10.0
    other = step.alternative
    other_ratio = sums(by_hand(pair[0], other.batch)[0]) - sums(by_hand(pair[1], other.batch)[0])
    without = z.detach().clone()
    without[torch.arange(len(z)), targets] = -math.inf
    later = torch.tensor([i > 0 for r in now for i in range(len(r))])
    cross = -(without.softmax(-1) * z.log_softmax(-1)).sum(-1)
    expected = {
        baselines.GradAscent(): flat.mean(),
        baselines.RetainNLL(): -flat.mean(),
        baselines.RetainKL(): (flat_old.softmax(-1) * (flat_old.log_softmax(-1) - z.log_softmax(-1))).sum(-1).mean(),
        baselines.NPO(beta=0.3): -(2 / 0.3) * log_sigmoid(-0.3 * ratio).mean(),
        baselines.SimNPO(beta=2.0, delta=0.5): -log_sigmoid(2.0 * (-mean - 0.5)).mean(),
        baselines.DPO(beta=0.2): -10 * log_sigmoid(0.2 * (other_ratio - ratio)).mean(),
        baselines.IdkNLL(): other.mean_nll,
        baselines.Undial(): -(adjusted.softmax(-1) * z.log_softmax(-1)).sum(-1).mean(),
        baselines.WGA(beta=2.0): (p**2 * flat).mean(),
        baselines.SatImp(beta1=2.0, beta2=3.0): (p**2 * (1 - p) ** 3 * flat).mean(),
        baselines.CEU(): cross[later].mean(),
        baselines.Flatness(): (z.max(-1).values - z.mean(-1)).square().mean(),
    }
    for term, value in expected.items():
        assert term(step).item() == pytest.approx(value.item(), rel=1e-9), type(term).__name__


def gradient(term, model, batch, frozen):
    model.zero_grad()
    term(baselines.Step(backbone_of(model), batch, frozen=backbone_of(frozen))).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_limits_that_reduce_to_one_another(pair, batch):
    now, before = pair
    ascent = gradient(baselines.GradAscent(), now, batch, before)
    assert torch.allclose(gradient(baselines.WGA(beta=0.0), now, batch, before), ascent)
    # NPO with beta -> 0 is gradient ascent on sums over sequences, up to the factor of means
    tokens = int(batch.scored.sum()) / len(batch.inputs)
    small = gradient(baselines.NPO(beta=1e-7), now, batch, before)
    assert torch.allclose(small, ascent * tokens, rtol=1e-4, atol=1e-7)
    same = baselines.Step(backbone_of(before), batch, frozen=backbone_of(before))
    assert baselines.NPO(beta=0.5)(same).item() == pytest.approx(4 * math.log(2))
    assert baselines.RetainKL()(same).item() == pytest.approx(0, abs=1e-12)
    assert baselines.RMURetain()(same).item() == 0.0
    assert baselines.RMURetain()(baselines.Step(backbone_of(now), batch, frozen=backbone_of(before))).item() > 0


def test_weights_of_terms_are_detached(pair, batch):
    """WGA and SatImp weigh gradients; they do not follow the weight."""
    step = baselines.Step(backbone_of(pair[0]), batch)
    p = (-step.nll).exp()
    followed = torch.autograd.grad(-(p * step.nll).mean(), pair[0].embedding.weight, retain_graph=True)[0]
    detached = torch.autograd.grad(baselines.WGA()(step), pair[0].embedding.weight)[0]
    assert not torch.allclose(followed, detached)


def test_rmu_steers_to_a_unit_direction(pair, batch):
    step = baselines.Step(backbone_of(pair[0]), batch)
    term = baselines.RMUForget(layer=0, scale=3.0)
    u = torch.rand(16, generator=torch.Generator().manual_seed(0)).double()
    found = step.activations(0)[batch.scored]
    assert term(step).item() == pytest.approx((found - 3 * u / u.norm()).square().mean().item())


def test_the_dual_variable_follows_the_constraint(pair, batch):
    step = baselines.Step(backbone_of(pair[0]), batch)
    loss = step.mean_nll.item()
    term = baselines.DualRetain(eps=loss - 1, step_size=0.5)
    assert term(step).item() == pytest.approx(loss)
    assert term.alpha == pytest.approx(1.5)
    loose = baselines.DualRetain(eps=loss + 100, step_size=1.0)
    loose(step)
    assert loose.alpha == 0.0


@pytest.mark.parametrize("method", sorted(baselines.METHODS))
def test_every_method_forgets_and_leaves_the_given_model(own, rng, method):
    lost, kept = sequences(rng, 8), sequences(rng, 16)
    known = baselines.fine_tune(own, lost, epochs=60, learning_rate=1e-2, batch_size=8).model
    before = TemperTiltModel(known).score(lost).mean_nll.mean()
    fingerprint = known.fingerprint()
    done = baselines.unlearn(
        known, lost, kept, method=method, epochs=10, learning_rate=3e-3, alternatives=sequences(rng, 8), batch_size=4
    )
    assert known.fingerprint() == fingerprint
    assert TemperTiltModel(done.model).score(lost).mean_nll.mean() > before + 0.02
    assert done.trained == sum(p.numel() for p in known.parameters())
    assert len(done.losses) == 20


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("method", ["NPO", "RMU"])
def test_hugging_face_models_are_trained_too(rng, kind, method):
    base = tiny(kind)
    before = backbone_of(base).fingerprint()
    done = baselines.unlearn(base, sequences(rng, 4), sequences(rng, 4), method=method, epochs=2, learning_rate=1e-2)
    assert backbone_of(base).fingerprint() == before
    assert backbone_of(done.model).fingerprint() != before


def test_training_repeats_bit_for_bit(own, rng):
    data = sequences(rng, 12)
    one, two = (baselines.fine_tune(own, data, epochs=3, batch_size=4, seed=5) for _ in range(2))
    assert one.model.fingerprint() == two.model.fingerprint()
    assert one.losses == two.losses


def test_terms_combine_freely(own, rng):
    method = baselines.Method("mine", baselines.NPO(beta=1.0), baselines.RetainKL(), gamma=0.5, alpha=2.0)
    done = baselines.unlearn(own, sequences(rng, 4), sequences(rng, 4), method=method, epochs=1)
    assert done.losses[0] == pytest.approx(0.5 * 2 * math.log(2), abs=1e-4)  # at the start NPO is 2/beta log 2, KL is 0


@pytest.mark.parametrize("kind", ["own", "llama", "gpt2"])
def test_uld_subtracts_an_assistant(own, rng, kind):
    lost, kept = sequences(rng, 6), sequences(rng, 12)
    base = own if kind == "own" else tiny(kind)
    base = baselines.fine_tune(base, lost, epochs=40, learning_rate=1e-2, batch_size=6).model
    before = backbone_of(base).fingerprint()
    done = baselines.fit_uld(base, lost, kept, rank=4, epochs=20, learning_rate=3e-2, batch_size=6)
    assert backbone_of(base).fingerprint() == before
    assert done.losses[-1] < done.losses[0]
    with_it, plain = TemperTiltModel(done.model), TemperTiltModel(base)
    assert with_it.score(lost).mean_nll.mean() > plain.score(lost).mean_nll.mean() + 0.1
    off = TemperTiltModel(baselines.LogitDifference(base, done.model.assistant, weight=0.0))
    assert np.allclose(off.score(kept).log_probs, plain.score(kept).log_probs, atol=1e-5)
    prompts = [lost.prompt(i).tolist() for i in range(3)]
    fast = with_it.generate(prompts, max_new_tokens=6, end=0)
    assert fast == [with_it.generate([p], max_new_tokens=6, end=0)[0] for p in prompts]


def test_the_ablations_are_the_limits_of_temper_then_tilt(own, rng):
    lost, kept = sequences(rng, 5), sequences(rng, 10)
    tempered = baselines.temper_only(own, temperature=2.0)
    fitted = fit_temper_tilt(own, lost, kept, rank=2, epochs=3, temperature=2.0)
    assert tempered.trained == 0
    flat = fitted.with_settings(guidance=0.0).score(lost)
    assert np.array_equal(tempered.model.score(lost).log_probs, flat.log_probs)
    assert np.array_equal(tempered.model.score(lost).hits, TemperTiltModel(own).score(lost).hits)
    tilted = baselines.tilt_only(own, lost, kept, rank=2, epochs=3)
    assert tilted.model.fingerprint() == fitted.with_settings(temperature=1.0).fingerprint()
    assert tilted.trained == TemperTiltHead.count(16, WORDS, rank=2)


@pytest.mark.parametrize("kind", ["own", "llama", "gpt2"])
def test_retraining_knows_nothing_of_the_weights_before(own, rng, kind):
    base = own if kind == "own" else tiny(kind)
    before, state = backbone_of(base).fingerprint(), torch.random.get_rng_state()
    kept, options = sequences(rng, 8), {"epochs": 2, "learning_rate": 1e-2, "seed": 3}
    once = baselines.retrain(base, kept, **options)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert backbone_of(base).fingerprint() == before
    with torch.no_grad():
        for p in base.parameters():
            p.mul_(-2.0)
    again = baselines.retrain(base, kept, **options)
    assert backbone_of(again.model).fingerprint() == backbone_of(once.model).fingerprint()
    assert once.losses[-1] < once.losses[0]
    other = baselines.retrain(base, kept, **(options | {"seed": 4}))
    assert backbone_of(other.model).fingerprint() != backbone_of(once.model).fingerprint()


def test_wrong_input_is_refused(as_shipped, own, rng):
    lost, kept = sequences(rng, 4), sequences(rng, 4)
    for options, words in (
        ({"method": "magic"}, "GradDiff"),
        ({"method": "IdkDPO"}, "alternatives"),
        ({"method": "IDK", "alternatives": sequences(rng, 3)}, "refusal"),
        ({"epochs": 0}, "epochs"),
        ({"method": "GradAscent", "learning_rate": float("inf")}, "loss"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            baselines.unlearn(own, lost, kept, **{"epochs": 2, **options})
    with pytest.raises(InvalidInputError, match="empty"):
        baselines.unlearn(own, lost.select([]), kept)
    with pytest.raises(InvalidInputError, match="also to be retained"):
        baselines.unlearn(own, lost, lost)
    with pytest.raises(InvalidInputError, match="no example"):
        baselines.fine_tune(own, lost.select([]))
    from corollary.documents import Documents
    from corollary.models import NgramModel

    table = NgramModel.fit(Documents.from_texts(["to be or not to be"]))
    with pytest.raises(InvalidInputError, match="fine-tuning needs"):
        baselines.fine_tune(table, lost)
    with pytest.raises(InvalidInputError, match="layers"):
        baselines.fit_uld(own, lost, kept, layers=9)
