"""The certificate of cost and quality: valid where naive certification is not, checked again, refused when edited."""

from dataclasses import replace

import numpy as np
import pytest

from corollary.certificates import Status, Undecided, clopper_pearson, load_certificate, save_certificate
from corollary.deferral._certificate import bounds, passed
from corollary.deferral.routing import PromptRouter, RoutingLog, calibrate
from corollary.errors import InvalidInputError, ReusedRowsError

UNIT = {"cost": [0.0, 1.0], "quality": [0.0, 1.0]}


def null_world(rng, *, rows=500, thresholds=21, quality=0.697):
    """Two models of one quality, just below the .7 that is claimed: every threshold is a bad policy."""
    weak, strong = rng.random((2, rows)) < quality
    gained = np.concatenate([[0], np.cumsum(strong.astype(int) - weak)]) + weak.sum()
    return gained[np.linspace(0, rows, thresholds).astype(int)], weak, strong


def test_naive_certification_of_a_chosen_threshold_errs_a_quarter_of_the_time():
    """A threshold chosen on the rows that certify it errs about 26 % at delta = .1; a fixed sequence does not."""
    rng, runs, delta = np.random.default_rng(0), 1500, 0.1
    naive = sequence = 0
    for _ in range(runs):
        right, _, _ = null_world(rng)
        lower = clopper_pearson(right, 500, delta=delta, side="lower").lower
        naive += bool((lower >= 0.7).any())
        sequence += passed(np.zeros(21), lower, 1.0, np.full(21, 0.7)) > 0
    assert 0.20 < naive / runs < 0.32
    assert sequence / runs < delta + 3 * np.sqrt(delta * (1 - delta) / runs)


def test_joint_bounds_cover_and_a_mutated_level_does_not():
    """Both bounds at level delta; the mean alone in the place of the bound would err half the time."""
    rng, runs, delta = np.random.default_rng(1), 300, 0.1
    over_cost = over_quality = mutated = 0
    for _ in range(runs):
        cost, quality = (rng.random((200, 1)) < 0.3) * 1.0, (rng.random((200, 1)) < 0.7) * 1.0
        rows = rng.integers(2**63, size=200).astype(np.uint64)
        upper, lower = bounds(cost, quality, rows, delta=delta, ranges=UNIT)
        over_cost += upper[0] < 0.3
        over_quality += lower[0] > 0.7
        mutated += bounds(cost, quality, rows, delta=0.9, ranges=UNIT)[0][0] < 0.3
    room = 3 * np.sqrt(delta * (1 - delta) / runs)
    assert over_cost / runs <= delta + room
    assert over_quality / runs <= delta + room
    assert mutated / runs > delta + room


def world(rng, n):
    """Prompts with a visible difficulty x: the cheap model is right with probability 1 - x, the dear one with .9."""
    x = rng.random(n)
    quality = np.stack([rng.random(n) < 1 - x, rng.random(n) < 0.9], 1).astype(float)
    names = tuple(f"request {v:.17g}" for v in rng.random(n))
    return RoutingLog(names, ("cheap", "dear"), quality, given=x[:, None])


@pytest.fixture(scope="module")
def router():
    return PromptRouter(features="none", l2=0.1).fit(world(np.random.default_rng(99), 2000))


def truth(router, price):
    """Cost and quality of the policy over a fine grid of difficulties."""
    x = (np.arange(20_000) + 0.5) / 20_000
    choice = router.route([""] * len(x), price=price, given=x[:, None])
    return choice.mean(), np.where(choice == 1, 0.9, 1 - x).mean()


@pytest.mark.parametrize("target", [{"budget": 0.4}, {"quality": 0.9}])
def test_certified_policies_keep_their_word(router, target):
    rng, delta, runs, false, certified = np.random.default_rng(2), 0.2, 30, 0, 0
    for _ in range(runs):
        found = calibrate(router, world(rng, 900), delta=delta, **target)
        claims = found.certificate.claims
        certified += bool(claims)
        if claims:
            cost, quality = truth(router, found.price)
            false += quality < claims[-1].rhs or cost > target.get("budget", 1.0)
            assert found.certificate.check(**found.evidence).status is Status.HOLDS
    assert certified > 0.7 * runs
    assert false / runs <= delta + 3 * np.sqrt(delta * (1 - delta) / runs)


def test_certificate_is_stored_checked_and_not_to_be_edited(router, tmp_path):
    found = calibrate(router, world(np.random.default_rng(3), 1500), budget=0.4)
    save_certificate(tmp_path, found.certificate, found.evidence)
    certificate, evidence = load_certificate(tmp_path)
    assert certificate.check(**evidence).status is Status.HOLDS
    assert certificate.check().status is Status.UNDECIDED
    cheaper = dict(certificate.witness) | {"budget": 0.2}
    assert replace(certificate, witness=cheaper).check(**evidence).status is not Status.HOLDS
    bold = [replace(c, rhs=0.2) if "cost" in c.name else c for c in certificate.claims]
    assert replace(certificate, claims=tuple(bold)).check(**evidence).status is Status.VIOLATED
    other = dict(evidence) | {"cost": 0.5 * evidence["cost"]}
    assert certificate.check(**other).status is Status.UNDECIDED


def test_nothing_certified_is_said(router):
    found = calibrate(router, world(np.random.default_rng(4), 1000), quality=1.2)
    assert not found.certificate.claims
    assert found.certificate.check(**found.evidence).status is Status.UNDECIDED
    assert "Nothing could be certified" in found.certificate.statement
    few = calibrate(router, world(np.random.default_rng(5), 40), budget=0.5)
    assert "at least 30" in few.certificate.undecided


def test_training_rows_are_refused(router):
    log = world(np.random.default_rng(6), 300)
    with pytest.raises(ReusedRowsError):
        calibrate(router, log, budget=0.5, trained_on=log.row_hashes()[:3])


def test_a_cost_out_of_range_decides_nothing():
    rows = np.arange(100, dtype=np.uint64)
    with pytest.raises(Undecided, match="range"):
        bounds(np.full((100, 1), 2.0), np.ones((100, 1)), rows, delta=0.1, ranges=UNIT)


@pytest.mark.parametrize("logged", [True, False])
def test_gaps_in_the_log(logged):
    """Propensities that depend on the difficulty: doubly robust values stay unbiased. Unknown ones: asked at random."""
    rng = np.random.default_rng(7)
    log = world(rng, 4000)
    dear = 0.2 + 0.6 * log.given[:, 0] if logged else np.full(4000, 0.5)
    asked = np.stack([rng.random(4000) < 1 - dear, rng.random(4000) < dear], 1)
    asked[~asked.any(1), 0] = True  # at least one answer a request
    p = np.stack([1 - dear + dear * (1 - dear), dear], 1)
    gaps = replace(log, quality=np.where(asked, log.quality, np.nan), propensity=p if logged else None)
    learned = PromptRouter(features="none", l2=0.1).fit(gaps.select(slice(0, 1500)))
    found = calibrate(learned, gaps.select(slice(1500, None)), budget=0.5)
    cost, quality = truth(learned, found.price)
    assert found.certificate.claims
    assert cost <= 0.5
    assert quality >= found.certificate.claims[-1].rhs
    texts = " ".join(a.text for a in found.certificate.assumptions)
    assert ("propensities" in texts) == logged
    assert ("at random" in texts) != logged


def with_gaps(log, rng, *, ignorable):
    """One answer a request: the dear model asked more often where it is hard; with the propensities, or without."""
    dear = np.clip(0.2 + 0.6 * log.given[:, 0], 0, 1)
    asked = rng.random(len(log)) < dear
    seen = np.stack([~asked, asked], 1)
    p = np.stack([1 - dear, dear], 1)
    return replace(log, quality=np.where(seen, log.quality, np.nan), propensity=None if ignorable else p)


def test_doubly_robust_certificates_cover_where_ignoring_the_choice_does_not():
    """One answer a request, asked by difficulty: with propensities the certified quality is kept; taken as asked at
    random, the means themselves are biased (the cheap model was asked on easy prompts)."""
    rng, delta, runs, false, stated = np.random.default_rng(11), 0.2, 25, 0, 0
    learned = PromptRouter(features="none", l2=0.1).fit(with_gaps(world(rng, 3000), rng, ignorable=False))
    for _ in range(runs):
        found = calibrate(learned, with_gaps(world(rng, 2000), rng, ignorable=False), budget=0.5, delta=delta)
        claims = found.certificate.claims
        stated += bool(claims)
        if claims:
            cost, quality = truth(learned, found.price)
            false += quality < claims[-1].rhs or cost > 0.5
    assert stated > 0.8 * runs
    assert false / runs <= delta + 3 * np.sqrt(delta * (1 - delta) / runs)
    naive = with_gaps(world(rng, 20_000), rng, ignorable=True)
    assert np.nanmean(naive.quality[:, 0]) > 0.5 + 0.05  # the cheap model's true mean is .5


def test_values_learned_from_a_choosing_log_are_unbiased():
    """Inverse propensities in training: the estimated worth of the cheap model is its own, not that of easy prompts."""
    rng = np.random.default_rng(12)
    log = with_gaps(world(rng, 12_000), rng, ignorable=False)
    shallow = replace(log, given=np.zeros((len(log), 1)) + rng.random((len(log), 1)))  # features that say nothing
    for logged in (True, False):
        data = shallow if logged else replace(shallow, propensity=None)
        router = PromptRouter(features="none", l2=0.1).fit(data)
        mean = router.values([""] * 200, rng.random((200, 1))).mean(0)[0]
        assert (abs(mean - 0.5) < 0.03) == logged


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either"),
        ({"budget": 0.1, "quality": 0.9}, "either"),
        ({"budget": -1.0}, "budget"),
        ({"quality": 0.0}, "quality"),
        ({"budget": 0.1, "delta": 1.0}, "delta"),
    ],
)
def test_senseless_targets(router, options, words):
    with pytest.raises(InvalidInputError, match=words):
        calibrate(router, world(np.random.default_rng(8), 100), **options)
    other = replace(world(np.random.default_rng(8), 100), models=("x", "y"))
    with pytest.raises(InvalidInputError, match="models"):
        calibrate(router, other, budget=0.5)
