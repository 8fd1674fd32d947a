"""Leon trains the other themes' networks: gates, experts, classifiers, routers, rejectors."""

import numpy as np
import pytest
import torch
from torch import nn

from corollary.coherence import ModuleClassifier
from corollary.deferral import DeferralClassifier, TwoStageRouter
from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.gating import CausalGate, RobustGate, score_experts
from corollary.losses import SurrogateClassifier
from corollary.metrics import train_metro
from corollary.models import NgramModel, TransformerConfig, TransformerLM, train
from corollary.optim import Leon

SMALL = TransformerConfig(width=32, layers=1, heads=2, context=16)
DOCUMENTS = Documents.from_texts(["to be or not to be", "that is the question"] * 4)


def blobs(n=300, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    X = rng.normal(size=(n, 4)).astype(np.float32)
    X[:, 0] += 3 * y
    return X, y


def test_leon_trains_a_demo_expert_and_the_gate_over_it():
    texts = ["the cat sat on the mat and slept", "the dog ran in the park all day"] * 6
    sums = ["12 + 30 = 42; 7 + 5 = 12", "9 - 4 = 5; 81 - 1 = 80; 3 + 3 = 6"] * 6
    prose, numbers = Documents.from_texts(texts), Documents.from_texts(sums)
    expert = TransformerLM.fit(prose, config=SMALL, steps=60, lr=1e-2, seed=0, optimizer="leon")
    assert float(expert.log_probs(prose).mean()) > -2.6  # log 256 = 5.5 nats without training
    experts = [expert, NgramModel.fit(numbers)]
    scores = [score_experts(experts, prose), score_experts(experts, numbers)]
    found = {}
    for optimizer in ("leon", "adamw"):
        gate = CausalGate(steps=80, batch=256, optimizer=optimizer, seed=0).fit(scores)
        found[optimizer] = np.mean([gate.token_log_probs(s).mean() for s in scores])
    untrained = CausalGate(steps=1, batch=256, learning_rate=1e-9).fit(scores)
    base = np.mean([untrained.token_log_probs(s).mean() for s in scores])
    assert found["leon"] > base  # the fixed share it starts from
    assert found["leon"] >= found["adamw"] - 0.05


@pytest.mark.parametrize("optimizer", ["leon", "pion", "muon"])
def test_a_killed_training_goes_on_bit_for_bit(optimizer, tmp_path):
    run = {"config": SMALL, "steps": 8, "batch_tokens": 64, "seed": 3, "checkpoint_every": 2, "optimizer": optimizer}

    def die(step, loss):
        if step == 5:
            raise KeyboardInterrupt

    whole = TransformerLM.fit(DOCUMENTS, **run)
    with pytest.raises(KeyboardInterrupt):
        TransformerLM.fit(DOCUMENTS, **run, checkpoint_folder=tmp_path, progress=die)
    resumed = TransformerLM.fit(DOCUMENTS, **run, checkpoint_folder=tmp_path)
    assert resumed.fingerprint() == whole.fingerprint()
    with pytest.raises(InvalidInputError, match="another run"):
        TransformerLM.fit(DOCUMENTS, **{**run, "optimizer": "adamw"}, checkpoint_folder=tmp_path)


def test_a_damaged_state_is_refused(tmp_path):
    import json

    run = {"config": SMALL, "steps": 4, "batch_tokens": 64, "checkpoint_every": 2, "optimizer": "leon"}
    TransformerLM.fit(DOCUMENTS, **run, checkpoint_folder=tmp_path)
    header = json.loads((tmp_path / "model.json").read_text())
    header["optimizer"]["param_groups"] = []
    (tmp_path / "model.json").write_text(json.dumps(header))
    with pytest.raises(InvalidFileError, match="whole checkpoint"):
        TransformerLM.fit(DOCUMENTS, **run, checkpoint_folder=tmp_path)


def test_leon_trains_a_robust_gate_and_resumes(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 3))
    domain = np.arange(80) % 2
    features[:, 0] += 2 * domain
    logq = np.where(domain[:, None] == np.arange(2), -1.0, -3.0) + 0.1 * rng.normal(size=(80, 2))
    options = {"normalisation": "none", "steps": 40, "optimizer": "leon", "hidden": (8, 8)}
    whole = RobustGate(**options).fit(logq, domain, features=features)
    assert isinstance(whole.trainer_.optimizer, Leon)
    half = RobustGate(**options).fit(logq, domain, features=features, until=20)
    half.save(tmp_path)
    again = RobustGate.load(tmp_path).fit(logq, domain, features=features, resume=True)
    for (name, a), b in zip(whole.trainer_.gate.named_parameters(), again.trainer_.gate.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("optimizer", ["leon", "muon", "soap"])
def test_classifiers_and_routers_take_the_name(optimizer):
    torch.manual_seed(0)  # of the networks' first weights
    X, y = blobs()
    losses = SurrogateClassifier(hidden=(16, 16), epochs=10, optimizer=optimizer).fit(X, y)
    assert losses.score(X, y) > 0.85
    coherent = ModuleClassifier(
        nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)),
        epochs=25, learning_rate=1e-2, optimizer=optimizer,
    ).fit(X, y)  # fmt: skip
    assert coherent.score(X, y) > 0.75
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    found = train_metro(net, X[:200], y[:200], X[200:], y[200:], rounds=1, optimizer=optimizer)
    assert found.value > 0.75


def test_routers_take_the_name():
    X, y = blobs()
    right = np.stack([y == 0, y == 1], 1).astype(float)
    router = TwoStageRouter(model="mlp", epochs=10, optimizer="leon").fit(X, 1 - right)
    assert (router.scores(X).argmax(1) == y).mean() > 0.85
    classifier = DeferralClassifier(model="mlp", epochs=8, optimizer="leon").fit(X, y, costs=np.full((len(y), 1), 0.5))
    assert classifier.scores(X).shape[0] == len(y)


def test_unknown_names_are_refused():
    X, y = blobs(40)
    with pytest.raises(InvalidInputError, match="magic"):
        SurrogateClassifier(optimizer="magic").fit(X, y)
    with pytest.raises(InvalidInputError, match="magic"):
        train(TransformerLM(SMALL), DOCUMENTS, steps=1, optimizer="magic")
