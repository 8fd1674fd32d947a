r"""G6: low noise makes square-root bounds better, in both stages; the exponent 1 / (2 - a) is seen as a slope.

With \(d^2 \le \kappa e\) pointwise (d excess cost, e excess surrogate) and \(P(gap \le t) \le B t^p\), p = a / (1 - a),
for every t \(E d \le B t^{p + 1} + \kappa E e / t\), since a wrong action costs at least the gap; the best t gives
\(E d \le C (E e)^{1 / (2 - a)}\). Where wrong actions cost at least gamma more, \(E d \le (\kappa / \gamma) E e\).
"""

import numpy as np
import pytest
import torch

from corollary.deferral import softmax_deferral_loss, two_stage_cost, two_stage_loss

HAIR = 1e-10  # by which the wrong action leads


def two_stage(r, gain):
    """Conditional surrogate of COMPSUM-log: linear in the costs, so expected costs do."""
    return two_stage_loss(r, 1 - gain, kind="compsum-log", reduction="none")


def single_stage(h, gain):
    """Conditional surrogate of the log baseline: two labels of probability `gain[:, :2]`, one expert, `gain[:, 2]`."""
    cost = 1 - gain[:, 2:]
    each = [softmax_deferral_loss(h, torch.full((len(h),), y), cost, reduction="none") for y in (0, 1)]
    return gain[:, 0] * each[0] + gain[:, 1] * each[1]


STAGES = {"two-stage": two_stage, "single-stage": single_stage}


def excesses(stage, scores, gain):
    """(N,) excess of the surrogate and of the cost."""
    e = STAGES[stage](scores, gain) - STAGES[stage](gain.log(), gain)
    d = two_stage_cost(scores, 1 - gain, reduction="none") - (1 - gain).min(1).values
    return e.clamp_min(0), d


def world(gap):
    """Gains of three actions, the last the best by `gap`; the first two sum to one, so that they can be labels."""
    gap = torch.as_tensor(gap, dtype=torch.float64)
    return torch.stack([torch.full_like(gap, 0.4), torch.full_like(gap, 0.6), 0.6 + gap], 1)


def barely_wrong(gain):
    """The wrong scores nearest to the optimum: the two best actions level but for a hair."""
    level = (gain[:, 1] + gain[:, 2]) / 2
    r = torch.stack([gain[:, 0], level, level], 1).log()
    r[:, 1] += HAIR
    return r


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("a", [0.0, 0.3, 0.5, 0.75])
def test_the_exponent_is_seen_as_a_slope(stage, a):
    """P(gap <= t) = t^p; wrong exactly where gap <= t: log E d against log E e has slope 1 / (2 - a)."""
    p = a / (1 - a)
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    points = []
    for t in np.geomspace(1e-3, 3e-2, 6):
        gap = t * (u ** (1 / p) if p else torch.ones_like(u))  # the gaps below t; a = 0: all of them equal t
        gain = world(gap)
        e, d = excesses(stage, barely_wrong(gain), gain)
        share = t**p
        points.append((float(e.mean()) * share, float(d.mean()) * share))
    e, d = np.log(np.array(points)).T
    slope = np.polyfit(e, d, 1)[0]
    assert slope == pytest.approx(1 / (2 - a), abs=5e-3)  # the next term of the expansion in t
    if a:
        assert slope > 0.5 + 0.05  # better than what the bound without the noise condition gives


@pytest.mark.parametrize("stage", STAGES)
def test_the_bound_holds_for_any_scores(stage):
    """Random scores in a world with a = 1/2: E d <= C (E e)^(2/3), B = 1 / .35, kappa = 2 W."""
    rng = torch.Generator().manual_seed(0)
    gap = 0.35 * torch.rand(4000, generator=rng, dtype=torch.float64)  # P(gap <= t) = t / .35
    gain = world(gap)
    b, kappa = 1 / 0.35, float(2 * gain.sum(1).max())
    for spread in (0.01, 0.03, 0.1, 0.5, 2.0):
        r = gain.log() + spread * torch.randn(4000, 3, generator=rng, dtype=torch.float64)
        e, d = excesses(stage, r, gain)
        mean = float(e.mean())
        assert (d**2 <= kappa * e + 1e-12).all()
        t = (kappa * mean / (2 * b)) ** (1 / 3)  # where b t^2 + kappa e / t is least
        # of 4000 draws the share of gaps below t may exceed its expectation by a few hundredths
        assert float(d.mean()) <= 1.05 * (b * t**2 + kappa * mean / t)


@pytest.mark.parametrize("stage", STAGES)
def test_a_gap_makes_the_bound_linear(stage):
    rng, gamma = torch.Generator().manual_seed(1), 0.2
    gap = gamma + 0.15 * torch.rand(4000, generator=rng, dtype=torch.float64)
    gain = world(gap)
    kappa = float(2 * gain.sum(1).max())
    worst = 0.0
    for spread in (0.1, 0.3, 1.0, 3.0):
        r = gain.log() + spread * torch.randn(4000, 3, generator=rng, dtype=torch.float64)
        e, d = excesses(stage, r, gain)
        assert float(d.mean()) <= kappa / gamma * float(e.mean())
        worst = max(worst, float((d / e.clamp_min(1e-12)).max()))
    edge, cost = excesses(stage, barely_wrong(gain), gain)
    worst = max(worst, float((cost / edge).max()))
    assert worst > 0.5 * kappa / gamma  # half the constant would be caught
    assert worst <= kappa / gamma
