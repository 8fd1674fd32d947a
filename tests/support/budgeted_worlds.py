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
