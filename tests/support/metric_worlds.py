"""Discrete distributions small enough to try every classifier."""

import itertools

import numpy as np


def random_world(rng, *, points=8):
    """Masses and class probabilities of `points` inputs."""
    return rng.dirichlet(np.ones(points)), rng.beta(0.7, 1.3, points)


def every_classifier(points):
    return np.array(list(itertools.product([False, True], repeat=points)))


def rates(mass, eta, h):
    """(..., 4) TP, FP, FN, TN of classifiers h (..., points)."""
    p, q = mass * eta, mass * (1 - eta)
    return np.stack([h @ p, h @ q, ~h @ p, ~h @ q], -1)
