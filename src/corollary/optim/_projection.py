r"""Quadratics over the operator-norm ball: what FTRL and Shampoo must solve in each round, and Leon need not.

.. math:: \min_{\|X\|_{op} \le r} \frac12 \mathrm{Tr}((X - C)^T L (X - C) R) + \langle B, X \rangle

Accelerated projected gradient with restarts; the projection clips singular values. It stops at the duality gap
\(\langle \nabla f, X \rangle + r \|\nabla f\|_* \ge f(X) - \min f\). Standard; derived here.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class BallMinimum:
    """The minimiser, its duality gap, and the steps it took."""

    X: Tensor
    gap: float
    steps: int


def clip(X: Tensor, radius: float) -> Float[Tensor, "m n"]:
    """The nearest matrix of operator norm at most `radius` (Frobenius), m <= n."""
    w, V = torch.linalg.eigh(X @ X.mT)
    if not bool(w[-1] > radius**2):
        return X
    factor = (radius / w.clamp_min(radius**2).sqrt()).to(X.dtype)
    return (V * factor) @ (V.mT @ X)


def ball_minimum(
    B: Tensor,
    left: Tensor,
    right: Tensor | None,
    *,
    center: Tensor | None = None,
    radius: float = 1.0,
    tolerance: float = 1e-10,
    max_steps: int = 5000,
    start: Tensor | None = None,
) -> BallMinimum:
    """Minimise over matrices (m, n), m <= n; `left` (m, m) and `right` (n, n) are positive semidefinite, None is I."""
    C = torch.zeros_like(B) if center is None else center
    size = float(torch.linalg.matrix_norm(B, "nuc")) * radius

    def slope(X: Tensor) -> Tensor:
        inner = left @ (X - C)
        return (inner if right is None else inner @ right) + B

    steepest = float(torch.linalg.eigvalsh(left)[-1])
    if right is not None:
        steepest *= float(torch.linalg.eigvalsh(right)[-1])
    X = clip(C if start is None else start, radius)
    if size == 0:
        return BallMinimum(X, 0.0, 0)
    rate = 1 / max(steepest, 1e-12 * size / radius**2, torch.finfo(B.dtype).tiny)
    Y, momentum, gap, i = X, 1.0, float("inf"), 0
    for i in range(1, max_steps + 1):
        new = clip(Y - rate * slope(Y), radius)
        if float(((Y - new) * (new - X)).sum()) > 0:  # the momentum points uphill: start it anew
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        Y, X, momentum = new + (momentum - 1) / following * (new - X), new, following
        if i % 5 == 0 or i < 4:
            g = slope(X)
            gap = float((g * X).sum() + radius * torch.linalg.matrix_norm(g, "nuc"))
            if gap <= tolerance * size:
                break
    return BallMinimum(X, gap, i)
