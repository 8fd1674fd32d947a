"""Worlds for budgeted deferral: linear routers, experts with regions, a hard tenth of the data, thresholds."""

import numpy as np


def linear_world(seed, *, t=3000, routers=1500, experts=3, d=4, noise=0.0, scale=1.0):
    """The true router is among the candidates; its expert costs 0, the others 1, each flipped with rate `noise`."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(d, experts))
    away = rng.uniform(0, 1, (routers, 1, 1))
    away[0] = 0
    candidates = scale * (truth + away * rng.normal(size=(routers, d, experts)))
    x = rng.normal(size=(t, d))
    best = (x @ candidates[0]).argmax(1)
    costs = 1.0 - np.eye(experts)[best]
    flips = rng.random(costs.shape) < noise
    return x, np.where(flips, 1 - costs, costs), candidates


def finite_world(rng, *, routers=8, points=30, experts=3, noise=0.3):
    """Random losses of every router on every point, and the chance of each expert to err there."""
    losses = rng.random((routers, points, experts)) ** rng.uniform(0.2, 4, (routers, 1, 1))  # some bad all over
    error = np.clip(rng.random((points, experts)) + noise * rng.normal(size=(points, experts)), 0.0, 1.0)
    return losses, error


def thresholds(size):
    """`size` + 1 thresholds on [0, 1]: below, expert 0 is taken, above, expert 1; x -> (R, N, 2) probabilities."""
    place = np.arange(size + 1) / size

    def taken(x):
        left = (x[None] < place[:, None]).astype(float)
        return np.stack([left, 1 - left], 2)

    return place, taken


def regions(seed, *, t=3000, experts=5, d=10):
    """Experts that are right with a probability that is a logistic function of the input; costs are 0 or 1."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(d, experts))
    x = rng.normal(size=(t, d))
    chance = 1 / (1 + np.exp(-(x @ direction)))
    return x, (rng.random(chance.shape) > chance).astype(float), chance


def mostly_easy(seed, *, t=4000, experts=5, d=8):
    """Nine tenths where expert 0 is nearly always right and the others are not; a tenth where the others share."""
    rng = np.random.default_rng(seed)
    direction = np.random.default_rng(99).normal(size=(d, experts - 1))
    hard = rng.random(t) < 0.1
    x = rng.normal(size=(t, d))
    chance = np.full((t, experts), 0.1)
    chance[~hard, 0] = 0.97
    best = (x @ direction).argmax(1) + 1
    chance[hard] = 0.15
    chance[hard, best[hard]] = 0.95
    flag = hard[:, None].astype(float)
    return np.hstack([flag, x * flag]), (rng.random(chance.shape) > chance) * 1.0, chance, hard
