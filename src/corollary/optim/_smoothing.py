r"""Smoothings of the nuclear norm, the potentials of gradient-based prediction.

A smoothing \(\Psi(S; L)\) with constants (alpha, beta) is admissible if (a) \(\|\nabla \Psi\|_{op} \le 1\), (b)
\(\Psi(S; L) \ge \|S\|_*\) with equality at L = 0, (c)
\(\Psi(S; L_2) - \Psi(S; L_1) \le \alpha \mathrm{Tr}(L_2 - L_1)\) for \(L_1 \preceq L_2\), (d)
\(B_\Psi(Y \| X) \le \frac\beta2 \mathrm{Tr}((X - Y)^T L^{-1} (X - Y))\). Always alpha beta >= 1/2.

Paper: Jiang, Mhammedi, Mohri, Mokhtari, COLT 2026 (PMLR 336), section 3; read in full.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.optim._directions import inverse_root, polar
from corollary.optim._projection import ball_minimum


class Potential:
    r"""A convex \(\Psi(S; L)\) on matrices (m, n), m <= n: `value`, `gradient`, constants.

    Guarantee: none; `check_admissible` measures the four properties.

    Example:
        >>> Hyperbolic().alpha, Hyperbolic().beta, Hyperbolic().eta
        (1.0, 1.0, 1.0)
    """

    alpha: float = 0.0
    beta: float = float("inf")

    @property
    def eta(self) -> float:
        """sqrt(alpha / beta), the scale that balances both terms of the regret."""
        return (self.alpha / self.beta) ** 0.5

    def value(self, S: Tensor, L: Tensor) -> Float[Tensor, ""]:
        """Psi(S; L)."""
        raise NotImplementedError

    def gradient(self, S: Tensor, L: Tensor) -> Float[Tensor, "m n"]:
        """The gradient in S."""
        raise NotImplementedError

    def bregman(self, Y: Tensor, X: Tensor, L: Tensor) -> Float[Tensor, ""]:
        """Psi(Y) - Psi(X) - <gradient at X, Y - X>."""
        return self.value(Y, L) - self.value(X, L) - (self.gradient(X, L) * (Y - X)).sum()


class NuclearNorm(Potential):
    r"""No smoothing: \(\|S\|_*\), follow the leader, Muon.

    Guarantee: feasible and dominant; not smooth (beta is infinite).

    Example:
        >>> S = torch.eye(2, dtype=torch.float64)
        >>> float(NuclearNorm().value(S, S))
        2.0
    """

    eta = 1.0

    def value(self, S: Tensor, L: Tensor) -> Float[Tensor, ""]:
        """The sum of singular values."""
        return torch.linalg.matrix_norm(S, "nuc")

    def gradient(self, S: Tensor, L: Tensor) -> Float[Tensor, "m n"]:
        """polar(S)."""
        return polar(S)


class Hyperbolic(Potential):
    r"""\(\mathrm{Tr}(S S^T + L L^T)^{1/2}\), the nuclear norm of [S, L]: FAML, Leon.

    Guarantee: admissible with (alpha, beta) = (1, 1), both tight (equations 9 to 11).

    Example:
        >>> S, L = torch.diag(torch.tensor([3.0, 0.0])), torch.diag(torch.tensor([4.0, 1.0]))
        >>> float(Hyperbolic().value(S, L))
        6.0
    """

    alpha = beta = 1.0

    def value(self, S: Tensor, L: Tensor) -> Float[Tensor, ""]:
        """The nuclear norm of [S, L]."""
        return torch.linalg.matrix_norm(torch.cat([S, L], dim=-1), "nuc")

    def gradient(self, S: Tensor, L: Tensor) -> Float[Tensor, "m n"]:
        """(S S^T + L L^T)^(-1/2) S."""
        return inverse_root(S @ S.mT + L @ L.mT) @ S


class Gaussian(Potential):
    r"""\(E \|S + L Z\|_*\) over k fixed normal matrices: FTPL, Pion.

    Args:
        noise: (k, m, n).

    Raises:
        InvalidInputError: for another shape.

    Guarantee: with the exact expectation admissible with (sqrt m + sqrt n, 1 / sqrt(n - m - 1)) for n >= m + 2
    (equations 6 to 8). For the k draws: convex and feasible exactly, the rest up to sampling.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> potential = Gaussian(torch.randn(4, 2, 5, generator=generator))
        >>> round(potential.eta, 3)
        2.272
    """

    def __init__(self, noise: Tensor) -> None:
        if noise.ndim != 3:
            raise InvalidInputError(f"`noise` must be (k, m, n), got {tuple(noise.shape)}; draw k matrices")
        self.noise = noise
        self.alpha, self.beta = gaussian_constants(*noise.shape[-2:])

    def value(self, S: Tensor, L: Tensor) -> Float[Tensor, ""]:
        """Mean nuclear norm over the draws."""
        return torch.linalg.matrix_norm(S + L @ self.noise, "nuc").mean()

    def gradient(self, S: Tensor, L: Tensor) -> Float[Tensor, "m n"]:
        """Mean polar factor over the draws."""
        return polar(S + L @ self.noise).mean(0)


class Regularised(Potential):
    r"""\(\max_{\|X\|_{op} \le 1} \langle S, X \rangle - \frac12 \mathrm{Tr}(X^T L X) + \frac12 \mathrm{Tr} L\): FTRL.

    Args:
        tolerance: duality gap of the inner maximiser, relative to the norm of S.

    Guarantee: admissible with (1/2, 1), the least product there is (equations 4, 5; proposition 5), up to the gap.

    Example:
        >>> S, L = torch.diag(torch.tensor([3.0, 0.1])).double(), torch.eye(2).double()
        >>> Regularised().gradient(S, L).round(decimals=6)
        tensor([[1.0000, 0.0000],
                [0.0000, 0.1000]], dtype=torch.float64)
    """

    alpha, beta = 0.5, 1.0

    def __init__(self, tolerance: float = 1e-10) -> None:
        self.tolerance = tolerance

    def value(self, S: Tensor, L: Tensor) -> Float[Tensor, ""]:
        """The maximum."""
        X = self.gradient(S, L)
        return (S * X).sum() - (X * (L @ X)).sum() / 2 + L.diagonal().sum() / 2

    def gradient(self, S: Tensor, L: Tensor) -> Float[Tensor, "m n"]:
        """The maximiser, by accelerated projected gradient."""
        return ball_minimum(-S, L, None, tolerance=self.tolerance).X


def gaussian_constants(m: int, n: int) -> tuple[float, float]:
    """(alpha, beta) of the Gaussian smoothing; beta is infinite for n < m + 2."""
    return m**0.5 + n**0.5, (n - m - 1) ** -0.5 if n >= m + 2 else float("inf")


@dataclass(frozen=True)
class Admissibility:
    """What `check_admissible` measured: the worst of each property, over alpha and beta where these enter.

    Guarantee: none beyond the draws; a `True` is no proof, a `False` is a counterexample.

    Example:
        >>> Admissibility(1.0, 0.0, 0.0, 0.9, 0.9).holds
        True
    """

    feasibility: float
    dominance: float
    at_zero: float
    stability: float
    smoothness: float

    @property
    def holds(self) -> bool:
        """Whether no draw is a counterexample, up to rounding."""
        small = 1e-7
        return (
            self.feasibility <= 1 + small
            and self.dominance >= -small
            and self.at_zero <= small
            and self.stability <= 1 + small
            and self.smoothness <= 1 + small
        )


def check_admissible(
    potential: Potential,
    shape: tuple[int, int],
    *,
    draws: int = 200,
    seed: int = 0,
    alpha: float | None = None,
    beta: float | None = None,
) -> Admissibility:
    """Measure the four properties of an admissible smoothing on random S, Y, L1 <= L2 over four decades.

    Args:
        potential: any object with `value`, `gradient` and the constants.
        shape: (m, n), m <= n.
        draws, seed: how many, and of what.
        alpha, beta: other constants than the potential's own, to test.

    Returns:
        The worst values; `holds` sums them up.

    Guarantee: none; random draws.

    Example:
        >>> check_admissible(Hyperbolic(), (2, 4), draws=20).holds
        True
        >>> check_admissible(Hyperbolic(), (2, 4), draws=200, alpha=0.9).holds
        False
    """
    alpha = potential.alpha if alpha is None else alpha
    beta = potential.beta if beta is None else beta
    generator = torch.Generator().manual_seed(seed)
    m, n = shape

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    def decade() -> float:
        return float(10 ** (4 * torch.rand((), generator=generator, dtype=torch.float64) - 2))

    def definite() -> Tensor:
        root = normal(m, m)
        return decade() * (root @ root.mT) / m

    norms, gaps, zeros, stable, smooth = [], [], [], [], []
    eye, nuclear = torch.eye(m, dtype=torch.float64), NuclearNorm()
    for i in range(draws):
        S, L1 = decade() * normal(m, n), definite() + 1e-3 * eye
        L2 = L1 + definite()
        Y = S + (decade() if i % 2 else 1e-2) * normal(m, n)
        norms.append(float(torch.linalg.matrix_norm(potential.gradient(S, L1), 2)))
        size = float(nuclear.value(S, L1)) + float(L1.trace())
        gaps.append(float(potential.value(S, L1) - nuclear.value(S, L1)) / size)
        zeros.append(abs(float(potential.value(S, 0 * eye) - nuclear.value(S, L1))) / size)
        for S_ in (S, 1e-2 * S):
            rise = float(potential.value(S_, L2) - potential.value(S_, L1))
            stable.append(
                rise / (alpha * float((L2 - L1).trace())) if alpha else (0.0 if rise <= 1e-9 else float("inf"))
            )
        change = S - Y
        quadratic = float((change * torch.linalg.solve(L1, change)).sum())
        for X, other in ((S, Y), (0 * S, change)):
            bregman = float(potential.bregman(other, X, L1))
            smooth.append(2 * (bregman - 1e-10 * size) / (beta * quadratic))
    return Admissibility(max(norms), min(gaps), max(zeros), max(stable), max(smooth))
