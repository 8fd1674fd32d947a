r"""What the optimizers certify, and how it is derived again; imports no learner and no iteration.

`optim.regret` (deterministic): on the realised stream the actions lie in the ball, the gradients within their bound,
and the regret is at most the theorem's bound for that learner; without any method it is at most
\(D (\sum \|G_t\|_* + \|S_T\|_*)\).
`optim.direction` (deterministic): for one matrix with \(A = S S^T + M / \eta^2\) the operator norm of the direction P
is at most 1 + tol of its method, the residual \(\|A^{1/2} P - S\| / \|S\|\) at most tol (one for P = 0), and P differs
from the exact factor by at most what is stated: on ill-conditioned statistics that is more than the residual, in
directions where the momentum has next to nothing.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from corollary.certificates import Claim, Rule, Undecided, register_rule
from corollary.optim._bounds import CERTIFIED, nuclear, realised_regret, theorem_bound

SAME = 1e-9


def regret(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `actions` and `gradients` (T, m, n)."""
    X, G = evidence["actions"], evidence["gradients"]
    D, largest, learner = float(witness["radius"]), float(witness["grad_bound"]), witness["learner"]
    if X.ndim != 3 or X.shape != G.shape:
        raise Undecided("actions and gradients are not of the same rounds")
    if not np.isfinite(X).all() or not np.isfinite(G).all():
        raise Undecided("some action or gradient is not finite")
    bound = theorem_bound(learner, G, radius=D, grad_bound=largest) if learner in CERTIFIED else None
    if bound is None:
        raise Undecided(f"no theorem bounds the regret of {learner!r} on one stream")
    trivial = D * (float(np.linalg.svd(G, compute_uv=False).sum()) + nuclear(G.sum(0)))
    played, ahead = np.linalg.norm(X, 2, axis=(1, 2)).max(), np.linalg.norm(G, 2, axis=(1, 2)).max()
    return [
        Claim("largest operator norm of an action", float(played), "<=", D, 1e-6 * D),
        Claim("largest operator norm of a gradient", float(ahead), "<=", largest, SAME * largest),
        Claim("regret", realised_regret(X, G, radius=D), "<=", bound, SAME * max(1.0, bound), trivial),
    ]


def direction(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `momentum`, `direction` (m, n), `second_moment` (s, s)."""
    S, P, M = evidence["momentum"], evidence["direction"], evidence["second_moment"].astype(np.float64)
    S, P = (a.T if a.shape[0] > a.shape[1] else a for a in (S.astype(np.float64), P.astype(np.float64)))
    if S.ndim != 2 or P.shape != S.shape or M.shape != (len(S), len(S)):
        raise Undecided("momentum, second moment and direction are not of one matrix")
    if not all(np.isfinite(a).all() for a in (S, P, M)):
        raise Undecided("some statistic is not finite")
    w, V = np.linalg.eigh(S @ S.T + M / float(witness["eta"]) ** 2)
    keep = w > len(w) * np.finfo(np.float64).eps * max(w[-1], 0.0)
    root = np.zeros_like(w)
    root[keep] = w[keep] ** -0.5
    exact = (V * root) @ (V.T @ S)
    tol = float(witness["tolerance"])
    again = (V * np.sqrt(w.clip(0))) @ (V.T @ P)
    residual = np.linalg.norm(again - S) / max(np.linalg.norm(S), np.finfo(np.float64).tiny)
    return [
        Claim("operator norm of the direction", float(np.linalg.norm(P, 2)), "<=", 1 + tol),
        Claim("residual of the factor, relative (Frobenius)", float(residual), "<=", tol, trivial=1.0),
        Claim(
            "distance to the exact factor (operator norm)",
            float(np.linalg.norm(P - exact, 2)),
            "<=",
            float(witness["distance"]),
            SAME,
            trivial=float(np.linalg.norm(exact, 2)),
        ),
    ]


register_rule(Rule("optim.regret", needs=("actions", "gradients"), derive=regret))
register_rule(Rule("optim.direction", needs=("momentum", "second_moment", "direction"), derive=direction))
