"""The certificate of the policy that is served: derived again, true in simulated worlds, watched, revoked, composed."""

import numpy as np
import pytest
from running_gateway import ask, post, running, settled, small_router, tables

from corollary.certificates import Certificate, Reference, load_certificate, save_certificate
from corollary.deferral._certificate import cost_and_quality
from corollary.deferral.routing import load
from corollary.errors import InvalidInputError
from corollary.runs import write_tensors
from corollary.serving import GatewayLedger, ledger_log, policy_values
from corollary.serving._certificate import RULE, explore, explored_policy
from corollary.serving._config import RoutingTable
from corollary.serving._policy import Policy
from corollary.serving._watch import Watch


def router_certificate(rng, *, n=800, cost=0.4, quality=0.8, budget=0.5, target=0.7, pins=None):
    """A certificate of one policy with these true means, and its evidence."""
    evidence = {
        "cost": (rng.random((n, 1)) < cost).astype(float),
        "quality": (rng.random((n, 1)) < quality).astype(float),
        "rows": rng.integers(0, 2**62, n).astype(np.uint64),
    }
    witness = {
        "delta": 0.05, "budget": budget, "unit": "requests", "quality": [target], "prices": [0.3], "chosen": 0,
        "ranges": {"cost": [0.0, 1.0], "quality": [0.0, 1.0]}, "state_quality": True, "dearest": 1.0,
        "cheapest_quality": 0.3,
    }  # fmt: skip
    found = Certificate.issue(
        "deferral.cost_and_quality", statement="one policy", evidence=evidence, witness=witness,
        reference=Reference("none"), confidence=0.95, pins=pins,
    )  # fmt: skip
    return found, evidence


def test_the_mixture_of_the_means():
    """Oracle: the claims of the mixture are the mixture of the router's claims, on random evidence."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        made, evidence = router_certificate(rng, n=400, cost=0.3, quality=0.85)
        share = float(rng.random())
        plain = {c.name: c for c in cost_and_quality(made.witness, evidence)}
        mixed = explored_policy({**made.witness, "exploration": share}, evidence)
        cost = next(c for c in mixed if c.name.startswith("mean cost"))
        quality = next(c for c in mixed if c.name.startswith("mean quality"))
        before = plain["mean cost per request, requests"], plain["mean quality"]
        assert cost.lhs == pytest.approx((1 - share) * before[0].lhs + share, abs=1e-12)
        assert cost.rhs == pytest.approx((1 - share) * 0.5 + share, abs=1e-12)
        assert quality.lhs == pytest.approx((1 - share) * before[1].lhs, abs=1e-12)
        assert (cost.holds, quality.holds) == (before[0].holds, before[1].holds)


def test_the_statement_is_true_of_the_served_policy_as_often_as_it_says():
    """Coverage: a world at the edge; where the certificate holds, the served mixture must keep it."""
    rng = np.random.default_rng(1)
    share, wrong, held = 0.1, 0, 0
    for _ in range(120):
        cost, quality = rng.uniform(0.35, 0.5), rng.uniform(0.65, 0.9)
        made, evidence = router_certificate(rng, n=300, cost=cost, quality=quality, budget=0.45)
        served = explore(made, evidence, share)
        if not served.check(**evidence):
            continue
        held += 1
        true_cost, true_quality = (1 - share) * cost + share * 0.5, (1 - share) * quality + share * 0.5
        wrong += true_cost > (1 - share) * 0.45 + share or true_quality < (1 - share) * 0.7
    assert held > 12
    assert wrong / held < 0.2  # delta is .05 over all draws, not only those that hold


def test_tighter_numbers_and_another_exploration_are_caught():
    rng = np.random.default_rng(2)
    made, evidence = router_certificate(rng)
    served = explore(made, evidence, 0.1)
    assert served.rule == RULE
    assert served.check(**evidence)
    assert explore(made, evidence, 0.0) is made
    for witness in ({"exploration": 0.5}, {"exploration": 2.0}, {"budget": 0.2}, {"delta": 1e-9}):
        changed = Certificate(**{**vars(served), "witness": {**served.witness, **witness}})
        assert not changed.check(**evidence)
    assert not served.check(**{**evidence, "quality": 1 - evidence["quality"]})
    with pytest.raises(InvalidInputError):
        explore(made, evidence, 1.5)
    with pytest.raises(InvalidInputError):
        explore(served, evidence, 0.1)


# choosing


def test_draws_follow_the_probabilities_that_are_written_down(tmp_path):
    policy = Policy(load(small_router(tmp_path)), RoutingTable(exploration=0.3, seed=0))
    found = [policy.choose("hard 1") for _ in range(600)]
    assert {c.greedy for c in found} == {"large"}
    assert found[0].propensity == {"small": pytest.approx(0.15), "large": pytest.approx(0.85)}
    share = np.mean([c.drawn == "small" for c in found])
    assert abs(share - 0.15) < 4 * np.sqrt(0.15 * 0.85 / 600)
    assert policy.choose("hard 1", allowed={"small"}).propensity == {"small": 1.0}
    assert policy.choose("hard 1", price=0.0).propensity["large"] == 1.0  # a wish of the request's is not drawn over
    assert not policy.choose("hard 1", quality=0.5).standard
    assert policy.choose("easy 1").standard
    assert policy.choose("hard 1", quality=1.0).drawn == "large"
    with pytest.raises(InvalidInputError):
        policy.choose("hard 1", allowed=set())


# watching


@pytest.fixture
def certified(tmp_path):
    """A run folder whose router has a certificate and calibration scores."""
    rng = np.random.default_rng(3)
    folder = tmp_path / "run"
    small_router(folder / "router")
    router = load(folder)
    made, evidence = router_certificate(rng, pins={"router": router.fingerprint(price=router.price)})
    save_certificate(folder, made, evidence)
    values = router.values([f"{w} {i}" for i in range(40) for w in ("hard", *["easy"] * 9)])
    write_tensors(folder / "router" / "drift.safetensors", {"scores": values.max(1) - values[:, 0]})
    return folder


def test_a_watch_revokes_once_and_says_why(certified):
    watch = Watch(certified, load(certified), exploration=0.1, alpha=0.01)
    assert (watch.status, watch.confidence) == ("holds", 0.95)
    for _ in range(300):
        watch.judged(1.0)
        watch.paid(0.0)
    assert watch.status == "holds"
    for _ in range(400):
        watch.judged(0.0)
    assert (watch.status, watch.confidence) == ("revoked", None)
    assert "worth less" in watch.revoked
    assert watch.document()["monitors"]["quality"]["revoked"]
    dear = Watch(certified, load(certified), exploration=0.1, alpha=0.01)
    for _ in range(400):
        dear.paid(7.0)  # beyond the range: counted as its top
    assert "cost more" in dear.revoked


def test_no_false_alarm_on_the_traffic_of_the_calibration(certified):
    router, rng = load(certified), np.random.default_rng(4)
    alarms = 0
    for run in range(40):
        watch = Watch(certified, router, exploration=0.0, alpha=0.05)
        scores = rng.permutation(watch._scores)
        watch._scores = scores[:200]  # exchangeable with the other half
        watch.epoch = 1
        watch._begin()
        for score in scores[200:]:
            watch.saw(float(score))
        alarms += bool(watch.revoked)
        assert run >= 0
    assert alarms <= 6  # .05 of 40 is 2; four standard deviations above


def test_an_epoch_ends_and_its_levels_sum_to_alpha(certified, monkeypatch):
    from corollary.serving import _watch

    monkeypatch.setattr(_watch, "EPOCH", 50)
    watch = Watch(certified, load(certified), exploration=0.0, alpha=0.01)
    levels = [watch.drift.alpha]
    for score in np.resize(watch._scores, 500):
        watch.saw(float(score))
        if watch.drift.alpha != levels[-1]:
            levels.append(watch.drift.alpha)
    assert len(levels) == 11
    assert sum(levels) < 0.01
    assert len(watch.drift._seen) <= len(watch._scores) + 50  # memory stays flat


def test_another_routers_certificate_is_not_served(certified):
    router = load(certified)
    router.price = 0.7
    assert Watch(certified, router, exploration=0.1, alpha=0.01).status == "none"


def test_certificate_of_router_and_served_model_composed(certified, tmp_path, mock):
    rng = np.random.default_rng(5)
    other, evidence = router_certificate(rng, n=300)
    model = tmp_path / "model-run"
    from corollary.documents import Documents
    from corollary.models import NgramModel

    NgramModel.fit(Documents.from_texts(["tick tock " * 9])).save(model / "model")
    save_certificate(model, other, evidence)
    up = {**tables(mock.url), "mine": {"folder": str(model)}}
    with running({"upstreams": up, "routing": {"exploration": 0.1}}, certified, path=tmp_path) as (base, _):
        import json
        import urllib.request

        found = json.loads(urllib.request.urlopen(base + "/v1/certificate", timeout=10).read())
        assert found["status"] == "holds"
        assert found["parts"] == [RULE, "deferral.cost_and_quality"]
        assert found["confidence"] == pytest.approx(0.9)  # the deltas add up
        _, headers, _ = ask(base, model="corollary/auto")
        assert (headers["x-corollary-certificate"], headers["x-corollary-confidence"]) == ("holds", "0.9")
    stored, arrays = load_certificate(certified)
    assert stored.check(**arrays)


def test_feedback_and_drift_revoke_through_the_door_and_for_the_next_gateway_too(certified, tmp_path, mock):
    config = {"upstreams": tables(mock.url)}
    with running(config, certified, path=tmp_path) as (base, gateway):
        for i in range(400):
            status, headers, _ = post(base, {"messages": [{"role": "user", "content": f"hard {i}"}]}, "/v1/route")
            assert status == 200
            if gateway.watch.revoked:
                break
        assert gateway.watch.status == "revoked"  # only hard prompts: not the traffic of the calibration
        _, headers, _ = ask(base, model="corollary/auto")
        assert headers["x-corollary-certificate"] == "revoked"
        assert "x-corollary-confidence" not in headers
        import urllib.request

        text = urllib.request.urlopen(base + "/metrics", timeout=10).read().decode()
        assert 'corollary_certificate{status="revoked"} 1.0' in text
        assert 'corollary_monitor_log_capital{monitor="drift"}' in text
    with running(config, certified, path=tmp_path) as (_, gateway):
        assert gateway.watch.status == "revoked"
        assert "no longer look" in gateway.watch.revoked


# learning from the log


def test_the_log_values_policies_and_trains_a_router(tmp_path, mock):
    """A world in which the small model is right on what is easy: exploration, feedback, values, a new router."""
    from corollary.deferral.routing import PromptRouter

    folder = small_router(tmp_path / "router", price=10.0)  # so dear that all go to the small model
    ledger = {"url": f"sqlite:///{tmp_path}/log.sqlite", "prompts": "text"}
    config = {"upstreams": tables(mock.url), "ledger": ledger, "routing": {"exploration": 0.5, "seed": 1}}
    rng = np.random.default_rng(6)
    with running(config, folder) as (base, gateway):
        for i in range(160):
            hard = rng.random() < 0.5
            text = f"{'hard' if hard else 'easy'} {i % 20}"
            _, headers, _ = post(base, {"model": "corollary/auto", "messages": [{"role": "user", "content": text}]})
            good = headers["x-corollary-model"] == "large" or not hard
            assert post(base, {"id": headers["x-corollary-id"], "score": float(good)}, "/v1/feedback")[0] == 200
        assert post(base, {"id": "req-nobody", "score": 1}, "/v1/feedback")[0] == 404
        settled(gateway, 160)
    book = GatewayLedger(ledger["url"], read_only=True)
    values = policy_values(book)
    for kind in ("ips", "dr"):
        assert values["always large"][kind].lower < 1.0 <= values["always large"][kind].upper + 1e-9
        assert values["always small"][kind].lower < 0.5 < values["always small"][kind].upper
    log = ledger_log(book)
    book.close()
    assert len(log) == 160
    assert log.models == ("large", "small")
    assert set(np.round(log.propensity[~np.isnan(log.propensity)], 6)) == {0.25, 0.75}
    learned = PromptRouter(features="hash-words", l2=0.1, price=2000.0).fit(log)
    assert learned.decide("hard 7").model == "large"
    assert learned.decide("easy 7").model == "small"
