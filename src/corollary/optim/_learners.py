r"""Online learners over \(\|X\|_{op} \le D\): losses \(\langle G_t, X_t \rangle\), revealed after the action.

Gradient-based prediction (follow the leader, FTPL, FAML, FTRL) plays \(X_{t+1} = -D \nabla \Psi(S_t; L_t / \eta)\),
\(S_t = \sum G_s\), \(L_t = (G^2 I + M_t)^{1/2}\), \(M_t = \sum G_s G_s^T\). Shampoo's two take a preconditioned step
and project. With a discount beta < 1 all sums are discounted and G is G / beta: what the conversion to nonconvex
optimisation needs, equal to losses scaled by \(\beta^{-t}\).

Paper: Jiang, Mhammedi, Mohri, Mokhtari, COLT 2026 (PMLR 336), equations 1 to 11 and theorems 4, 6, 8, 16; read in full.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.optim._bounds import theorem_bound
from corollary.optim._directions import draw, inverse_root, leon_direction, muon_direction, pion_direction
from corollary.optim._projection import ball_minimum
from corollary.optim._smoothing import Gaussian, Hyperbolic, NuclearNorm, Potential, Regularised, gaussian_constants


class MatrixLearner:
    """What the learners share: `predict()`, then `update(G)`.

    Args:
        shape: (m, n) of actions and gradients.
        radius: D, the largest operator norm of an action.
        grad_bound: G, the largest operator norm of a gradient.
        discount: beta; 1 for regret, below for the conversion to nonconvex optimisation.

    Raises:
        InvalidInputError: for numbers out of range; `update` for a gradient of another shape, not finite, or above G.

    Guarantee: none of its own.

    Example:
        >>> issubclass(FAML, MatrixLearner)
        True
    """

    name = ""

    def __init__(
        self, shape: tuple[int, int], radius: float = 1.0, grad_bound: float = 1.0, *, discount: float = 1.0
    ) -> None:
        if len(shape) != 2 or min(shape) < 1:
            raise InvalidInputError(f"`shape` must be (m, n), got {shape}")
        if not radius > 0 or not grad_bound > 0 or not 0 < discount <= 1:
            raise InvalidInputError(
                f"`radius` and `grad_bound` must be positive and `discount` in (0, 1], got {radius}, {grad_bound}, "
                f"{discount}"
            )
        self.shape, self.radius, self.grad_bound, self.discount = tuple(shape), radius, grad_bound, discount
        self.tall = shape[0] > shape[1]
        m, n = sorted(shape)
        self.sizes = m, n
        self.rounds = 0
        self.S = torch.zeros(m, n, dtype=torch.float64)
        self.M = torch.zeros(m, m, dtype=torch.float64)

    def restarted(self) -> "MatrixLearner":
        """The same learner before its first round."""
        import copy

        again = copy.deepcopy(self)
        again.rounds = 0
        for name, value in vars(again).items():
            if isinstance(value, Tensor):
                setattr(again, name, torch.zeros_like(value))
        return again

    def predict(self) -> Float[Tensor, "m n"]:
        """The action of the coming round; zero in the first."""
        X = self._action() if self.rounds else torch.zeros_like(self.S)
        return X.mT if self.tall else X

    def update(self, G: Any) -> None:
        """Take in the gradient of the round."""
        G = torch.as_tensor(G, dtype=torch.float64)
        if tuple(G.shape) != self.shape or not bool(torch.isfinite(G).all()):
            raise InvalidInputError(f"a gradient must be finite and of shape {self.shape}, got {tuple(G.shape)}")
        G = G.mT if self.tall else G
        norm = float(torch.linalg.matrix_norm(G, 2))
        if norm > self.grad_bound * (1 + 1e-9):
            raise InvalidInputError(
                f"round {self.rounds + 1}: a gradient of operator norm {norm:.6g}, above `grad_bound` "
                f"{self.grad_bound:g}; raise it, since the bound rests on it"
            )
        self._before(G)
        self.S = self.discount * self.S + G
        self.M = self.discount**2 * self.M + G @ G.mT
        self.rounds += 1
        self._after(G)

    def _before(self, G: Tensor) -> None: ...

    def _after(self, G: Tensor) -> None: ...

    def _action(self) -> Tensor:
        raise NotImplementedError

    @property
    def floor(self) -> float:
        """(G / beta)^2, or G^2 without discount: what is added to M."""
        return (self.grad_bound / (self.discount if self.discount < 1 else 1.0)) ** 2

    def gram(self) -> Float[Tensor, "m m"]:
        """G^2 I + M."""
        return self.M + self.floor * torch.eye(len(self.M), dtype=torch.float64)

    def bound(self, gradients: Any) -> float | None:
        """The theorem's bound on the regret over these gradients (T, m, n); None where none applies (a discount)."""
        if self.discount != 1:
            return None
        return theorem_bound(self.name, gradients, radius=self.radius, grad_bound=self.grad_bound)


class _Predicting(MatrixLearner):
    """Gradient-based prediction: the action is -D times the gradient of the potential."""

    def potential(self) -> Potential:
        """The smoothing as it stands after the rounds so far."""
        raise NotImplementedError

    @property
    def eta(self) -> float:
        """Scale of the smoothing."""
        return self.potential().eta

    def factor(self) -> Float[Tensor, "m m"]:
        """L / eta, the second argument of the potential."""
        return inverse_root(self.gram(), power=0.5) / self.eta

    def _action(self) -> Tensor:
        return -self.radius * self.potential().gradient(self.S, self.factor())


class FollowTheLeader(_Predicting):
    r"""\(X_{t+1} = -D\, \mathrm{polar}(S_t)\): Muon as a learner, linear regret in the worst case.

    Args:
        shape, radius, grad_bound, discount: as in `MatrixLearner`.

    Guarantee: none; `alternating_stream` makes its regret grow linearly.

    Example:
        >>> learner = FollowTheLeader((2, 3))
        >>> learner.update([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> learner.predict()[0]
        tensor([-1., -0., -0.], dtype=torch.float64)

    Reference: COLT 2026, section 3; paper read in full.
    """

    name = "ftl"

    def potential(self) -> Potential:
        """The nuclear norm."""
        return NuclearNorm()

    def _action(self) -> Tensor:
        return -self.radius * muon_direction(self.S)


class FAML(_Predicting):
    r"""Follow the augmented matrix leader, Leon's learner: no projection, no sampling.

    .. math:: X_{t+1} = -\eta D (\eta^2 S_t S_t^T + G^2 I + M_t)^{-1/2} S_t

    Args:
        shape, radius, grad_bound, discount: as in `MatrixLearner`.

    Guarantee: theorem 8: regret at most 2 D Tr (G^2 I + M_T)^(1/2) <= 2 D (Tr M_T^(1/2) + m G) on every stream of
    gradients within G.

    Example:
        >>> learner = FAML((2, 3))
        >>> learner.update([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
        >>> round(float(learner.predict()[0, 0]), 4)  # -(1 + 1 + 1)^(-1/2)
        -0.5774

    Reference: COLT 2026, equations 9 to 11, theorem 8; paper read in full.
    """

    name = "faml"

    def potential(self) -> Potential:
        """The hyperbolic smoothing."""
        return Hyperbolic()

    def _action(self) -> Tensor:
        return -self.radius * leon_direction(self.S, self.gram())


class FTRL(_Predicting):
    r"""Follow the regularised leader, with an inner projection in each round.

    .. math:: X_{t+1} = -D \arg\max_{\|X\| \le 1} \langle S_t, X \rangle - \tfrac1{2 \eta} \mathrm{Tr}(X^T L_t X)

    Args:
        shape, radius, grad_bound, discount: as in `MatrixLearner`.
        tolerance: relative duality gap of the inner problem.

    Guarantee: theorem 4 with (1/2, 1): regret at most sqrt2 D Tr (G^2 I + M_T)^(1/2) + (1 - 1/sqrt2) D ||G_1||_*, the
    best constant of all admissible smoothings, up to T times the inner gap.

    Example:
        >>> learner = FTRL((1, 2))
        >>> learner.update([[0.6, 0.8]])
        >>> float(torch.linalg.vector_norm(learner.predict())) <= 1
        True

    Reference: COLT 2026, equations 4 and 5; paper read in full. The inner solver is ours.
    """

    name = "ftrl"

    def __init__(
        self,
        shape: tuple[int, int],
        radius: float = 1.0,
        grad_bound: float = 1.0,
        *,
        discount: float = 1.0,
        tolerance: float = 1e-8,
    ) -> None:
        super().__init__(shape, radius, grad_bound, discount=discount)
        self.tolerance = tolerance

    def potential(self) -> Potential:
        """The regularised smoothing."""
        return Regularised(self.tolerance)


class FTPL(_Predicting):
    r"""Follow the perturbed leader, Pion's learner: noise shaped by the second moment, no projection.

    .. math:: X_{t+1} = -\frac Dk \sum_{i=1}^k \mathrm{polar}(S_t + \eta^{-1} L_t Z_t^{(i)})

    Args:
        shape, radius, grad_bound, discount: as in `MatrixLearner`.
        samples: k.
        seed: of the noise; that of round t depends on seed and t only.
        scale: eta; None for the theory's, which needs max(m, n) >= min(m, n) + 2.

    Raises:
        InvalidInputError: for fewer than one sample, or a shape too square for the theory's eta.

    Guarantee: theorem 6, in expectation over the noise and for gradients fixed beforehand: regret at most 2 sqrt2 D
    (n / (n - m - 1))^(1/4) (Tr M_T^(1/2) + m G). Nothing is certified of one run.

    Example:
        >>> learner = FTPL((2, 5), samples=4)
        >>> learner.update(torch.eye(2, 5))
        >>> float(torch.linalg.matrix_norm(learner.predict(), 2)) <= 1
        True

    Reference: COLT 2026, equations 6 to 8, theorem 6; paper read in full.
    """

    name = "ftpl"

    def __init__(
        self,
        shape: tuple[int, int],
        radius: float = 1.0,
        grad_bound: float = 1.0,
        *,
        samples: int = 8,
        seed: int = 0,
        scale: float | None = None,
        discount: float = 1.0,
    ) -> None:
        super().__init__(shape, radius, grad_bound, discount=discount)
        alpha, beta = gaussian_constants(*self.sizes)
        if scale is None and beta == float("inf"):
            raise InvalidInputError(
                f"the theory needs n >= m + 2, got a shape of {shape}; give `scale` (1 is usual), without a theorem"
            )
        if samples < 1:
            raise InvalidInputError(f"`samples` must be at least 1, got {samples}")
        self.samples, self.seed = samples, seed
        self.theory = (alpha / beta) ** 0.5 if beta < float("inf") else float("nan")
        self.scale = self.theory if scale is None else float(scale)

    @property
    def eta(self) -> float:
        """Scale of the noise."""
        return self.scale

    def bound(self, gradients: Any) -> float | None:
        """Theorem 6's, at the theory's scale; None at another."""
        return super().bound(gradients) if self.scale == self.theory else None

    def potential(self) -> Potential:
        """The Gaussian smoothing with this round's draws."""
        return Gaussian(self._noise())

    def _noise(self) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed + 1) * 0x9E3779B97F4A7C15 % 2**63 ^ self.rounds)
        return draw((self.samples, *self.sizes), generator, self.S)

    def factor(self) -> Float[Tensor, "m m"]:
        """Cholesky factor of G^2 I + M over eta: L Z has the law of the root times Z."""
        return torch.linalg.cholesky(self.gram()) / self.eta

    def _action(self) -> Tensor:
        return -self.radius * pion_direction(
            self.S, self.gram(), eta=self.eta, samples=self.samples, noise=self._noise()
        )


class OneSidedShampooOGD(MatrixLearner):
    r"""One-sided Shampoo (ASGO) as projected gradient descent in its own norm.

    .. math:: X_{t+1} = \arg\min_{\|X\| \le D} \langle G_t, X - X_t \rangle
        + \tfrac1{2\eta} \mathrm{Tr}((X - X_t)^T M_t^{1/2} (X - X_t)), \qquad \eta = \sqrt2 D

    Args:
        shape, radius, grad_bound, discount: as in `MatrixLearner`.
        tolerance: relative duality gap of the inner problem.

    Guarantee: regret at most 2 sqrt2 D Tr M_T^(1/2), from proposition 18 and lemma 19 with eta = diameter / sqrt2; the
    constant is derived here.

    Example:
        >>> learner = OneSidedShampooOGD((1, 2))
        >>> learner.update([[0.6, 0.8]])
        >>> round(float(torch.linalg.vector_norm(learner.predict())), 6)
        1.0

    Reference: COLT 2026, equation 1 and appendix; paper read in full.
    """

    name = "one_sided_shampoo"

    def __init__(
        self,
        shape: tuple[int, int],
        radius: float = 1.0,
        grad_bound: float = 1.0,
        *,
        discount: float = 1.0,
        tolerance: float = 1e-8,
    ) -> None:
        super().__init__(shape, radius, grad_bound, discount=discount)
        self.tolerance = tolerance
        self.X = torch.zeros_like(self.S)
        self.N = torch.zeros(self.sizes[1], self.sizes[1], dtype=torch.float64)

    def _metric(self) -> tuple[Tensor, Tensor | None]:
        return inverse_root(self.M, power=0.5), None

    def _after(self, G: Tensor) -> None:
        left, right = self._metric()
        eta = 2**0.5 * self.radius
        found = ball_minimum(
            eta * G, left, right, center=self.X, radius=self.radius, tolerance=self.tolerance, start=self.X
        )
        self.X = found.X

    def _action(self) -> Tensor:
        return self.X


class ShampooOGD(OneSidedShampooOGD):
    r"""Shampoo as projected gradient descent: \(M_t^{1/4}\) on the left and \(N_t^{1/4}\), \(N_t = \sum G^T G\), right.

    Args:
        shape, radius, grad_bound, discount, tolerance: as in `OneSidedShampooOGD`.

    Guarantee: with diam = 2 D, eta = diam / sqrt2, proof of theorem 16: regret at most diam^2 / (2 eta)
    (||M||^(1/4) Tr N^(1/4) + Tr M^(1/4) ||N||^(1/4)) + eta sqrt(Tr M^(1/2) Tr N^(1/2)).

    Example:
        >>> learner = ShampooOGD((2, 2))
        >>> learner.update([[0.5, 0.0], [0.0, 0.0]])
        >>> round(float(learner.predict()[0, 0]), 6)
        -1.0

    Reference: COLT 2026, equation 1, theorem 16; paper read in full.
    """

    name = "shampoo"

    def _before(self, G: Tensor) -> None:
        self.N = self.discount**2 * self.N + G.mT @ G

    def _metric(self) -> tuple[Tensor, Tensor | None]:
        return inverse_root(self.M, power=0.25), inverse_root(self.N, power=0.25)


LEARNERS = {cls.name: cls for cls in (FollowTheLeader, FAML, FTRL, FTPL, OneSidedShampooOGD, ShampooOGD)}
