r"""The theorems' bounds on the regret over a realised stream, \(M = \sum G G^T\), \(N = \sum G^T G\).

Theorem 4 with constants (alpha, beta): \(2 \sqrt{\alpha\beta} D \mathrm{Tr}(G^2 I + M)^{1/2}
+ (1 - \sqrt{\alpha\beta}) D \|G_1\|_*\). NumPy only: the rule of the certificate uses these functions, too.

Paper: Jiang, Mhammedi, Mohri, Mokhtari, COLT 2026 (PMLR 336), theorems 4, 6, 8, 16, lemma 19; read in full. Constants
of one-sided Shampoo derived here.
"""

from typing import Any

import numpy as np

CERTIFIED = ("faml", "ftrl", "one_sided_shampoo", "shampoo")  # FTPL's bound is in expectation, FTL has none


def nuclear(X: np.ndarray) -> float:
    """The sum of singular values."""
    return float(np.linalg.norm(X, "nuc"))


def realised_regret(actions: Any, gradients: Any, *, radius: float = 1.0) -> float:
    r"""Regret against the best fixed matrix of operator norm at most D.

    .. math:: \mathrm{Reg}_T = \sum_t \langle G_t, X_t \rangle + D \|S_T\|_*

    Args:
        actions: (T, m, n); gradients: (T, m, n); radius: D.

    Returns:
        The regret.

    Guarantee: exact; an identity.

    Example:
        >>> realised_regret([[[0.0]], [[-1.0]]], [[[1.0]], [[1.0]]])
        1.0
    """
    X, G = np.asarray(actions, dtype=np.float64), np.asarray(gradients, dtype=np.float64)
    return float((X * G).sum()) + radius * nuclear(G.sum(0))


def theorem_bound(learner: str, gradients: Any, *, radius: float = 1.0, grad_bound: float = 1.0) -> float | None:
    """The bound for a learner ("faml", "ftrl", "ftpl" in expectation, "one_sided_shampoo", "shampoo") on a stream.

    Args:
        learner: its name.
        gradients: (T, m, n), each of operator norm at most `grad_bound`.
        radius: D; grad_bound: G.

    Returns:
        The bound; None for follow the leader, and for FTPL where n < m + 2.

    Guarantee: theorems 4, 6, 8 and 16 of the paper, exact up to rounding.

    Example:
        >>> theorem_bound("faml", [[[1.0, 0.0]]] * 3)  # 2 Tr (1 + 3)^(1/2)
        4.0
    """
    G = np.asarray(gradients, dtype=np.float64)
    G = G.transpose(0, 2, 1) if G.shape[1] > G.shape[2] else G
    D, (m, n) = radius, G.shape[1:]
    w = np.linalg.eigvalsh(np.tensordot(G, G, axes=([0, 2], [0, 2]))).clip(0)
    augmented = float(np.sqrt(grad_bound**2 + w).sum())
    if learner == "faml":
        return 2 * D * augmented
    if learner == "ftrl":
        return 2**0.5 * D * augmented + (1 - 0.5**0.5) * D * nuclear(G[0])
    if learner == "ftpl":
        if n < m + 2:
            return None
        return 2 * 2**0.5 * D * (n / (n - m - 1)) ** 0.25 * (float(np.sqrt(w).sum()) + m * grad_bound)
    if learner == "one_sided_shampoo":
        return 2 * 2**0.5 * D * float(np.sqrt(w).sum())
    if learner == "shampoo":
        v = np.linalg.eigvalsh(np.tensordot(G, G, axes=([0, 1], [0, 1]))).clip(0)
        diameter = 2 * D
        eta = diameter / 2**0.5
        sides = w[-1] ** 0.25 * (v**0.25).sum() + (w**0.25).sum() * v[-1] ** 0.25
        return float(diameter**2 / (2 * eta) * sides + eta * np.sqrt((w**0.5).sum() * (v**0.5).sum()))
    return None
