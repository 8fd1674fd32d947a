"""Routers: they learn what can be learned, are stored without pickle, explain themselves, and run elsewhere."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from corollary.deferral import TwoStageRouter
from corollary.deferral._two_stage import PROPERTIES
from corollary.deferral.routing import AveragedRouter, PromptRouter, RoutingLog, calibrate, export, load
from corollary.errors import InvalidFileError, InvalidInputError, NotFittedError

TOPICS = ("algebra proof", "small talk", "python code")


def text_log(n=300, seed=0):
    """Three topics; model k is right on topic k, the last one everywhere."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(3, size=n)
    prompts = tuple(f"{TOPICS[t]} number {rng.integers(10**9)}" for t in topic)
    quality = np.stack([topic == 0, topic == 1, np.ones(n, dtype=bool)], 1).astype(float)
    return RoutingLog(prompts, ("first", "second", "third"), quality, np.tile([0.1, 0.1, 1.0], (n, 1))), topic


def linear_world(n, seed):
    """A linear router of zero cost exists; costs are not constant."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 6))
    best = (x @ np.random.default_rng(7).normal(size=(6, 4))).argmax(1)
    costs = rng.random((n, 4))
    costs[np.arange(n), best] = 0
    return x, costs


@pytest.mark.parametrize("loss", PROPERTIES)
def test_linear_routers_beat_every_single_expert(loss):
    x, costs = linear_world(1500, 0)
    router = TwoStageRouter(loss=loss, l2=1e-3).fit(x[:1000], costs[:1000])
    paid = 1 - router.score(x[1000:], costs[1000:])
    assert paid < 0.4 * costs.mean(0).min()


def test_realizable_members_find_the_zero_cost_router():
    """Spec 5 (c): EC, T1, T2 reach about .003 with four experts, COMPSUM-log stays near .06."""
    x, costs = linear_world(4000, 1)
    paid = {
        loss: 1
        - TwoStageRouter(loss=loss, l2=1e-3, iterations=400).fit(x[:3000], costs[:3000]).score(x[3000:], costs[3000:])
        for loss in ("compsum-log", "ec", "t1", "t2")
    }
    assert max(paid["ec"], paid["t1"], paid["t2"]) < 0.012
    assert paid["compsum-log"] > 2 * max(paid["ec"], paid["t1"], paid["t2"])


def test_networks_and_user_modules():
    rng = np.random.default_rng(2)
    x = rng.uniform(-1, 1, size=(700, 2))
    best = (x[:, 0] * x[:, 1] > 0).astype(int)  # no linear router sees it
    costs = np.ones((700, 2))
    costs[np.arange(700), best] = 0
    assert 1 - TwoStageRouter().fit(x, costs).score(x, costs) > 0.35
    makers = ("mlp", lambda d, k: torch.nn.Sequential(torch.nn.Linear(d, 32), torch.nn.Tanh(), torch.nn.Linear(32, k)))
    for model in makers:
        router = TwoStageRouter(model=model, rate=1e-2, seed=1, batch=64).fit(x[:550], costs[:550])
        assert 1 - router.score(x[550:], costs[550:]) < 0.1
        again = TwoStageRouter(model=model, rate=1e-2, seed=1, batch=64).fit(x[:550], costs[:550])
        np.testing.assert_array_equal(router.scores(x), again.scores(x))


def test_missing_cells_do_not_bias_values():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4000, 1))
    good = rng.random((4000, 2)) < 1 / (1 + np.exp(-np.stack([x[:, 0], -x[:, 0]], 1)))
    p = np.array([0.3, 0.7])
    costs = np.where(rng.random((4000, 2)) < p, 1 - good, np.nan)
    router = TwoStageRouter(loss="value", l2=1e-3).fit(x, costs, cell_weight=np.tile(1 / p, (4000, 1)))
    np.testing.assert_allclose(router.coef_.ravel(), [1, -1], atol=0.15)  # four standard errors of logistic regression


def test_price_moves_work_to_the_cheap():
    log, topic = text_log()
    router = PromptRouter(l2=0.1).fit(log)
    shares = [np.bincount(router.route(log.prompts, price=p), minlength=3)[2] for p in (0.0, 0.5, 5.0, np.inf)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0
    choice = router.route(log.prompts, price=0.5)
    assert (choice == topic).mean() > 0.98
    assert np.isinf(router.sweep[-1])


def test_decisions_storage_and_batches_agree(tmp_path):
    log, _ = text_log()
    for features in ("hash", "tfidf"):
        router = PromptRouter(features=features, l2=0.1, price=0.5).fit(log)
        folder = router.save(tmp_path / features)
        assert not list(folder.glob("*.pkl"))
        again = load(folder)
        assert again.fingerprint() == router.fingerprint()
        batch = router.route(log.prompts)
        for i in range(0, 300, 17):
            decision = again.decide(log.prompts[i])
            assert decision.model == log.models[batch[i]]
            np.testing.assert_allclose(list(decision.values.values()), router.values([log.prompts[i]])[0], atol=1e-9)
    assert load(tmp_path / "hash").decide("").model in log.models


def test_evidence_adds_up():
    log, _ = text_log()
    router = PromptRouter(l2=0.1, price=0.5).fit(log)
    found = router.explain("algebra proof of something new", most=4)
    assert found["model"] == "first"
    assert any(e["feature"] in ("algebra", "proof", "algebra proof") and e["adds"] > 0 for e in found["evidence"])
    v = found["values"]
    gap = np.log(v["first"] / (1 - v["first"])) - np.log(v[found["runner_up"]] / (1 - v[found["runner_up"]]))
    assert sum(e["adds"] for e in found["evidence"]) + found["rest"] + found["bias"] == pytest.approx(gap, abs=1e-6)


def test_exported_json_runs_without_corollary():
    path = Path(__file__).parents[2] / "examples" / "in_depth" / "route_without_corollary.py"
    spec = importlib.util.spec_from_file_location("plain", path)
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    log, _ = text_log()
    for loss in ("value", "compsum-log"):
        router = PromptRouter(l2=0.1, price=0.5, loss=loss, features="hash-characters").fit(log)
        body = json.loads(json.dumps(export(router)))
        for prompt in (*log.prompts[:10], "", "Ünïcode? 12 + 3 = 15\n", "Algebra proof"):
            model, worth = plain.route(body, prompt)
            decision = router.decide(prompt)
            assert model == decision.model
            np.testing.assert_allclose(worth, list(decision.values.values()), atol=1e-6)  # weights in float32


def test_a_mean_of_routers_is_a_router(tmp_path):
    """Values are means, batches and single decisions agree, storage keeps everything, foreign members are refused."""
    log, _ = text_log()
    members = [PromptRouter(l2=0.1), PromptRouter(features="tfidf", loss="squared", l2=1.0)]
    router = AveragedRouter(members, price=0.5).fit(log)
    both = [m.values(log.prompts) for m in members]
    np.testing.assert_allclose(router.values(log.prompts), (both[0] + both[1]) / 2, atol=1e-12)
    error = [np.square(v - log.quality).mean() for v in (*both, router.values(log.prompts))]
    assert error[2] <= (error[0] + error[1]) / 2
    again = load(router.save(tmp_path / "mean"))
    assert again.fingerprint() == router.fingerprint()
    assert again.price == 0.5
    batch = again.route(log.prompts)
    for i in range(0, 300, 23):
        assert again.decide(log.prompts[i]).model == log.models[batch[i]]
    assert again.explain(log.prompts[0])["model"] == again.decide(log.prompts[0]).model
    found = calibrate(again, text_log(800, seed=5)[0], budget=0.6)
    assert found.certificate.check(**found.evidence).status.name == "HOLDS"
    with pytest.raises(InvalidInputError, match="averaged"):
        export(again)
    PromptRouter(l2=5.0).fit(log).save(tmp_path / "mean" / "member-0")
    with pytest.raises(InvalidFileError):
        load(tmp_path / "mean")
    for wrong in ([], [PromptRouter(loss="ec")]):
        with pytest.raises(InvalidInputError, match="members"):
            AveragedRouter(wrong)
    with pytest.raises(NotFittedError):
        AveragedRouter().decide("a")


def test_foreign_and_edited_files(tmp_path):
    log, _ = text_log(60)
    folder = PromptRouter(l2=0.1).fit(log).save(tmp_path / "router")
    body = json.loads((folder / "router.json").read_text())
    for change in ({"kind": "other"}, {"format": 99}, {"sha256": "0"}, {"features": []}, {"models": ["a"]}):
        (folder / "router.json").write_text(json.dumps({**body, **change}))
        with pytest.raises(InvalidFileError):
            load(folder)
    (folder / "router.json").write_text(json.dumps(body)[:50])
    with pytest.raises(InvalidFileError):
        load(folder)
    (folder / "router.json").write_text(json.dumps(body))
    (folder / "router.safetensors").write_bytes(b"short")
    with pytest.raises(InvalidFileError):
        load(folder)


def test_bad_inputs_say_what_to_do(as_shipped):
    x, costs = linear_world(20, 0)
    for make, words in (
        (lambda: TwoStageRouter().fit(x, costs[:5]), "costs"),
        (lambda: TwoStageRouter().fit(x[:0], costs[:0]), "X"),
        (lambda: TwoStageRouter().fit(np.full((20, 2), np.nan), costs), "NaN"),
        (lambda: TwoStageRouter().fit(x, 3 * costs), r"\[0, 1\]"),
        (lambda: TwoStageRouter().fit(x, np.column_stack([costs, np.full(20, np.nan)])), "no cost"),
        (lambda: TwoStageRouter(loss="wish").fit(x, costs), "kind"),
        (lambda: TwoStageRouter(model="tree").fit(x, costs), "model"),
        (lambda: TwoStageRouter(prices=[1.0]).fit(x, costs), "prices"),
        (lambda: TwoStageRouter().fit(x, costs, cell_weight=-costs), "cell_weight"),
        (lambda: TwoStageRouter().fit(x, costs).predict(x[:, :2]), "features"),
        (lambda: PromptRouter(price=-1.0), "price"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            make()
    with pytest.raises(NotFittedError):
        TwoStageRouter().predict(x)
    with pytest.raises(NotFittedError):
        PromptRouter().decide("a")
