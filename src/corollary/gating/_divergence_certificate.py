r"""The rule `gating.divergence`: the domains differ by at least so much, from the experts' scores. Imports no solver.

Symbols: as in `_divergence.py`; the guess's temperature T and floor gamma stand in the witness.

.. math:: \sum_k \lambda_k L_k \le \mathrm{JSD}_\lambda(\{p_k\}), \qquad L_k \text{ a lower bound at level }
          \delta / p \text{ on } \mathbb{E}_{p_k}[\log(q_{T,\gamma}(k|x) / \lambda_k)]
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corollary.certificates import Claim, Rule, Undecided, betting, digest, order_from_digest, register_rule
from corollary.certificates import require_units as at_least

ROUND_OFF = 1e-9


def derive_divergence(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> Sequence[Claim]:
    """The lower bound, domain by domain, the documents in an order fixed by their scores."""
    logq, k = np.asarray(evidence["log_likelihoods"], dtype=np.float64), np.asarray(evidence["domain"])
    lam, limit = np.asarray(witness["weights"], dtype=np.float64), float(witness["limit"])
    temperature, floor, delta = (float(witness[n]) for n in ("temperature", "floor", "delta"))
    n, p = logq.shape
    if lam.shape != (p,) or not (lam > 0).all() or abs(lam.sum() - 1) > 1e-6 or not (temperature > 0 and 0 < floor < 1):
        raise Undecided("the weights are no mixture of the domains, or the guess is none")
    if k.shape != (n,) or k.min() < 0 or k.max() >= p:
        raise Undecided(f"the domains are not {n} numbers from 0 to {p - 1}")
    at_least(int(np.bincount(k, minlength=p).min()), "documents in the smallest domain")
    joint = np.log(lam) + (logq - logq.max(1, keepdims=True)) / temperature
    guess = joint[np.arange(n), k] - np.logaddexp.reduce(joint, axis=1)  # log q_T(k|x)
    value = np.logaddexp(np.log1p(-floor) + guess - np.log(lam[k]), np.log(floor))
    low, order = 0.0, order_from_digest(digest(x=logq), n)
    for j in range(p):
        here = value[order][k[order] == j]
        least, most = float(np.log(floor)), float(-np.log(lam[j]))
        bound = betting(np.clip(here, least, most), delta=delta / p, low=least, high=most, side="lower")
        low += lam[j] * float(bound.lower)
    if low < limit:
        raise Undecided(f"at this level the divergence is at least {low:.4g} nats, less than the {limit:g} asked for")
    return [Claim("divergence of the domains, lower bound (nats)", low, ">=", limit, tol=ROUND_OFF, trivial=0.0)]


register_rule(Rule("gating.divergence", needs=("log_likelihoods", "domain"), derive=derive_divergence))
