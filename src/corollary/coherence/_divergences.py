r"""Bregman divergences given by their potential.

.. math:: D_F(p \| q) = F(p) - F(q) - \langle \nabla F(q), p - q \rangle

Symbols: F strictly convex and differentiable inside its domain; \(\nabla F^{-1}\) the inverse of its gradient.

| name | F | what its expectation under a true p measures |
|---|---|---|
| kl | sum p log p | log-loss |
| squared | sum p^2 | Brier score |
| logistic | sum p log p + (1 - p) log(1 - p) | log-loss of each coordinate against the rest |
| itakura-saito | -sum log p | ratio errors of positive numbers, such as spectra |
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import entr, expit, logit, rel_entr

from corollary.errors import InvalidInputError

Map = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Bregman:
    """A divergence by its potential; all three maps take arrays (..., d).

    Args:
        name: for tables and certificates.
        potential: F, (..., d) to (...).
        gradient: of F, (..., d) to (..., d).
        inverse: of the gradient; +inf where its argument lies above the range of the gradient.

    Guarantee: none; a potential that is not convex gives no divergence. `check` tries it on random points.

    Example:
        >>> def root(g):
        ...     return np.sqrt(np.maximum(g, 0) / 3)
        >>> cubic = Bregman("cubic", lambda p: (p**3).sum(-1), lambda p: 3 * p**2, root)
        >>> round(float(cubic.between(np.array([0.5, 0.5]), np.array([0.2, 0.8]))), 3)
        0.27
    """

    name: str
    potential: Map
    gradient: Map
    inverse: Map

    def between(self, p: np.ndarray, q: np.ndarray) -> Float[np.ndarray, "..."]:
        r"""\(D_F(p \| q)\) over the last axis."""
        if self.name == "kl":
            return np.asarray(rel_entr(p, q).sum(-1) - np.sum(p, -1) + np.sum(q, -1))
        return np.asarray(self.potential(p) - self.potential(q) - (self.gradient(q) * (p - q)).sum(-1))

    def check(self, points: np.ndarray) -> None:
        """Refuse maps that do not belong together on these points (n, d) inside the domain.

        Raises:
            InvalidInputError: where the inverse does not undo the gradient, or a divergence comes out negative.
        """
        back = self.inverse(self.gradient(points))
        if not np.allclose(back, points, rtol=1e-6, atol=1e-8):
            raise InvalidInputError(f"the inverse of {self.name!r} does not undo its gradient; check the formulas")
        if (self.between(points, np.roll(points, 1, axis=0)) < -1e-9).any():
            raise InvalidInputError(f"the potential of {self.name!r} is not convex: a divergence came out negative")


def _ratio_inverse(g: np.ndarray) -> np.ndarray:
    """-1 / g for g < 0, +inf above."""
    return np.where(g < 0, -1 / np.minimum(g, -1e-300), np.inf)


KL = Bregman("kl", lambda p: -entr(p).sum(-1), lambda p: np.log(p) + 1, lambda g: np.exp(g - 1))
SQUARED = Bregman("squared", lambda p: (p**2).sum(-1), lambda p: 2 * p, lambda g: g / 2)
LOGISTIC = Bregman("logistic", lambda p: -(entr(p) + entr(1 - p)).sum(-1), logit, expit)
ITAKURA_SAITO = Bregman("itakura-saito", lambda p: -np.log(p).sum(-1), lambda p: -1 / p, _ratio_inverse)
DIVERGENCES = {d.name: d for d in (KL, SQUARED, LOGISTIC, ITAKURA_SAITO)}


def get_divergence(divergence: str | Bregman) -> Bregman:
    """A divergence by name, or the user's own.

    Raises:
        InvalidInputError: for an unknown name.

    Guarantee: none.

    Example:
        >>> float(get_divergence("squared").between(np.array([1.0, 0.0]), np.array([0.5, 0.5])))
        0.5
    """
    if isinstance(divergence, Bregman):
        return divergence
    if divergence not in DIVERGENCES:
        raise InvalidInputError(f"`divergence` must be {', '.join(DIVERGENCES)} or a Bregman, got {divergence!r}")
    return DIVERGENCES[divergence]
