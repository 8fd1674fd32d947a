r"""The rules of whole-sequence gates: their duality gap on a finite space, and their normaliser.

`gating.duality_gap` is what a gate on a finite space guarantees, and how far it can be from the best gate.

Derived from the arrays alone: the model is checked against the band of the experts, its largest divergence
gives the upper bound, and the lower bound is the Lagrangian of the inner problem at a multiplier found here
by bisection,

.. math:: \sum_k \lambda_k \mathrm{KL}(p_k \| \pi_\mu) + \mu \Bigl(\sum_x \pi_\mu(x) - 1\Bigr), \qquad
          \pi_\mu = \mathrm{clip}(p_\lambda / \mu, lo, hi),

which by weak duality bounds every gate's worst divergence from below whatever mu >= 0 is; so an inexact bisection can
only loosen the certificate.

And the rule `gating.normaliser`: what a whole-sequence gate sums to, from samples of the experts. Imports no
solver.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corollary.certificates import (
    Claim,
    Rule,
    Undecided,
    betting,
    digest,
    order_from_digest,
    register_rule,
    require_units,
)

ROUND_OFF = 1e-9
BISECTIONS = 200


def derive_duality_gap(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> Sequence[Claim]:
    """The claims on the worst divergence and on the gap, from scratch."""
    domains, experts, pi = (np.asarray(evidence[n], dtype=np.float64) for n in ("domains", "experts", "pi"))
    weights = np.asarray(witness["weights"], dtype=np.float64)
    points = np.asarray(witness["extreme_points"], dtype=np.float64)
    tol, worst, total = float(witness["tol"]), float(witness["worst"]), witness["total"]
    for name, rows in (("domains", domains), ("extreme points", points), ("weights", weights[None])):
        if (rows < 0).any() or (np.abs(rows.sum(1) - 1) > ROUND_OFF).any():
            raise Undecided(f"the {name} given are no distributions")
    low, high = experts.min(0), experts.max(0)
    outside = np.maximum(low - pi, pi - high).max()
    excess = abs(pi.sum() - 1) if total == "one" else max(pi.sum() - 1, 0.0)
    rows = points @ domains
    upper = max(_divergence(p, pi) for p in rows)
    lower = dual_value(weights, rows, low, high)
    gap = upper - lower
    if not gap <= tol:
        raise Undecided(
            f"the worst divergence is {upper:.6g} nats and the lower bound {lower:.6g}: their gap is above "
            f"the {tol:g} asked for"
        )
    free = without_method(domains, experts, rows)
    return [
        Claim("worst divergence over the mixtures (nats)", upper, "<=", worst, tol=ROUND_OFF, trivial=free),
        Claim("gap to the best gate (nats)", gap, "<=", tol, tol=ROUND_OFF, trivial=free),
        Claim("distance of the model from the experts' band", outside, "<=", 0.0, tol=ROUND_OFF),
        Claim("distance of the model's sum from one", excess, "<=", 0.0, tol=ROUND_OFF),
    ]


def dual_value(weights: np.ndarray, rows: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """A lower bound on every gate's worst divergence, by weak duality at the given weights."""
    mixture = weights @ rows
    logs = sum(w * _divergence(p, np.ones_like(p)) for w, p in zip(weights, rows, strict=True))

    def model(mu: float) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where(mixture > 0, np.clip(mixture / mu, low, high), low)

    def lagrangian(mu: float) -> float:
        pi = model(mu)
        return float(logs + _cross(mixture, pi) + mu * (pi.sum() - 1))

    small, large = -700.0, 700.0  # of log mu; the sum of the model falls in mu
    for _ in range(BISECTIONS):
        middle = (small + large) / 2
        small, large = (middle, large) if model(np.exp(middle)).sum() > 1 else (small, middle)
    return max(lagrangian(mu) for mu in (0.0, float(np.exp(small)), float(np.exp(large))))


def without_method(domains: np.ndarray, experts: np.ndarray, rows: np.ndarray) -> float:
    r"""What needs no solver: the uniform mixture; for paired experts also \(\log \sum_k e^{\epsilon_k}\)."""
    uniform = max(_divergence(p, experts.mean(0)) for p in rows)
    if domains.shape != experts.shape:
        return uniform
    errors = np.array([_divergence(p, q) for p, q in zip(domains, experts, strict=True)])
    return min(uniform, float(np.logaddexp.reduce(errors)))


def _cross(p: np.ndarray, q: np.ndarray) -> float:
    with np.errstate(divide="ignore"):
        return float(-(p[p > 0] * np.log(q[p > 0])).sum())


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    return float((p[p > 0] * np.log(p[p > 0])).sum()) + _cross(p, q)


def derive_normaliser(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> Sequence[Claim]:
    """Both sides of log Z, by betting on the ratios pi_g / r in an order fixed by the samples themselves."""
    log_gate, logq = (np.asarray(evidence[n], dtype=np.float64) for n in ("log_gate", "log_likelihoods"))
    limit, delta = float(witness["limit"]), float(witness["delta"])
    count, p = logq.shape
    require_units(count, "samples of the experts")
    if log_gate.shape != logq.shape or not (np.abs(np.logaddexp.reduce(log_gate, axis=1)) <= ROUND_OFF).all():
        raise Undecided("the gate's weights do not sum to one at every sample")
    ratios = np.exp(np.logaddexp.reduce(log_gate + logq, axis=1) - np.logaddexp.reduce(logq - np.log(p), axis=1))
    order = order_from_digest(digest(x=logq), count)
    bound = betting(np.clip(ratios, 0.0, p)[order], delta=delta, high=float(p))
    with np.errstate(divide="ignore"):
        low, high = np.log(bound.lower.item()), np.log(bound.upper.item())
    if max(-low, high) > limit:
        raise Undecided(f"log Z lies in [{low:.4g}, {high:.4g}] at this level, wider than the {limit:g} asked for")
    return [
        Claim("log of the normaliser, upper bound (nats)", high, "<=", limit, tol=ROUND_OFF, trivial=np.log(p)),
        Claim("log of the normaliser, lower bound (nats)", low, ">=", -limit, tol=ROUND_OFF, trivial=-np.inf),
    ]


register_rule(Rule("gating.normaliser", needs=("log_gate", "log_likelihoods"), derive=derive_normaliser))
register_rule(Rule("gating.duality_gap", needs=("domains", "experts", "pi"), derive=derive_duality_gap))
