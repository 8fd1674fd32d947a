"""Sets, random outcomes in them, and a naive calibration error to compare with."""

import numpy as np

from corollary.calibration import Ball, Box, Polytope, Product, Simplex

SETS = (
    Simplex(2),
    Simplex(5),
    Ball(3),
    Ball(4, norm=1),
    Ball(3, norm=np.inf, radius=2.0),
    Box([0.0, -1.0], [1.0, 2.0]),
    Polytope([[0, 0], [2, 0], [0, 1], [1, 1]]),
    Product((Simplex(3), Ball(2))),
)


def points_in(domain, count, rng):
    """Random points of a set, some of them extreme."""
    if isinstance(domain, Simplex):
        return rng.dirichlet(np.full(domain.dim, rng.choice([0.2, 1.0])), count)
    if isinstance(domain, Ball):
        x = rng.normal(size=(count, domain.dim))
        size = np.abs(x).max(1) if domain.p == np.inf else (np.abs(x) ** domain.p).sum(1) ** (1 / domain.p)
        return x * (domain.radius * rng.random(count) ** rng.choice([0.01, 0.5]) / size)[:, None]
    if isinstance(domain, Box):
        return rng.uniform(domain.low, domain.high, (count, domain.dim))
    if isinstance(domain, Polytope):
        return rng.dirichlet(np.full(len(domain.vertices), 0.3), count) @ domain.vertices
    return np.concatenate([points_in(p, count, rng) for p in domain.parts], axis=1)


def naive_error(forecasts, weights, outcomes, norm=1, power=1):
    """The definition, by a dictionary."""
    seen = {}
    for points, w, y in zip(forecasts, weights, outcomes, strict=True):
        for p, x in zip(points, w, strict=True):
            entry = seen.setdefault(tuple(np.round(p, 12) + 0.0), [0.0, 0.0])
            entry[0] += x
            entry[1] = entry[1] + x * y
    return sum(
        total * np.linalg.norm(sums / total - np.array(p), norm) ** power for p, (total, sums) in seen.items() if total
    )
