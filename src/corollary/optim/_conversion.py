r"""Online to nonconvex: a learner of directions becomes an optimiser for nonsmooth, nonconvex losses.

.. math:: \tilde W_t = W_{t-1} + s_t X_t,\; s_t \sim U(0, 1), \qquad G_t = \nabla \ell(\tilde W_t), \qquad
    W_t = W_{t-1} + X_t

with \(X_t\) of a learner on \(\beta^{-t} G_t\) over \(\|X\| \le D = (1 - \beta) \rho / (4 \beta)\), and the averaged
iterate \(\bar W_t = \frac{1 - \beta}{1 - \beta^t} \sum_{s \le t} \beta^{t - s} \tilde W_s\).

Paper: Jiang, Mhammedi, Mohri, Mokhtari, COLT 2026 (PMLR 336), appendix G, proposition 25, theorems 12 and 13; read in
full.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.optim._learners import LEARNERS, MatrixLearner


class OnlineToNonconvex:
    r"""The theory's optimiser: `point()`, a gradient there, `update(G)`; `average` is the iterate of the theorem.

    Args:
        start: (m, n) first weights.
        rho: radius of the stationarity: the averaged iterate is the mean of points at mean distance at most rho.
        discount: beta; the theorem has 1 - beta = (eps / (20 C ||Q||_*))^2.
        learner: "faml" (Leon), "ftpl" (Pion), "ftl" (Muon), ..., or a function (shape, radius, grad_bound, discount=)
            -> learner.
        grad_bound: G, on the operator norm of a gradient.
        seed: of the midpoints.

    Raises:
        InvalidInputError: for numbers out of range or an unknown learner.

    Guarantee: theorem 13 with FAML: for random `stopping_time`, E ||mean gradient||_* <= eps after T >= max(8000
    ||Q||_*^2 Delta / (rho eps^3), ...) rounds. Lemma 27: mean distance at most 4 beta D / (1 - beta) = rho.

    Example:
        >>> run = OnlineToNonconvex(torch.ones(1, 2), rho=0.5, discount=0.9, grad_bound=2.0)
        >>> for _ in range(300):
        ...     run.update(run.point().sign())  # the l1 norm
        >>> float(run.average.abs().sum()) < 0.2
        True

    Reference: COLT 2026, appendix G; paper read in full.
    """

    def __init__(
        self,
        start: Any,
        *,
        rho: float,
        discount: float,
        learner: str | Callable[..., MatrixLearner] = "faml",
        grad_bound: float = 1.0,
        seed: int = 0,
    ) -> None:
        if not rho > 0 or not 0 < discount < 1:
            raise InvalidInputError(f"`rho` must be positive and `discount` in (0, 1), got {rho} and {discount}")
        if isinstance(learner, str) and learner not in LEARNERS:
            raise InvalidInputError(f"`learner` must be one of {', '.join(LEARNERS)}, got {learner!r}")
        self.W = torch.as_tensor(start, dtype=torch.float64).clone()
        self.rho, self.discount = rho, discount
        self.radius = (1 - discount) * rho / (4 * discount)
        make = LEARNERS[learner] if isinstance(learner, str) else learner
        rows, columns = self.W.shape
        self.learner = make((rows, columns), self.radius, grad_bound, discount=discount)
        self.generator = torch.Generator().manual_seed(seed)
        self.rounds = 0
        self._points, self._gradients = torch.zeros_like(self.W), torch.zeros_like(self.W)
        self._weight = 0.0
        self._asked: tuple[Tensor, Tensor] | None = None

    def point(self) -> Float[Tensor, "m n"]:
        """Where to take the gradient of this round: a random point between the last iterate and the next."""
        if self._asked is None:
            X = self.learner.predict()
            s = torch.rand((), generator=self.generator, dtype=torch.float64)
            self._asked = self.W + s * X, X
        return self._asked[0]

    def update(self, G: Any) -> None:
        """Take in the gradient at `point()`."""
        self.point()
        assert self._asked is not None
        point, X = self._asked
        G = torch.as_tensor(G, dtype=torch.float64)
        self.learner.update(G)
        self.W = self.W + X
        self._points = self.discount * self._points + point
        self._gradients = self.discount * self._gradients + G
        self._weight = self.discount * self._weight + 1
        self._asked = None
        self.rounds += 1

    @property
    def average(self) -> Float[Tensor, "m n"]:
        """The averaged iterate; the start before the first round."""
        return self._points / self._weight if self.rounds else self.W

    @property
    def mean_gradient(self) -> Float[Tensor, "m n"]:
        """The same average of the gradients; its nuclear norm is the eps of (rho, eps)-stationarity, up to noise."""
        return self._gradients / self._weight if self.rounds else self._gradients

    def stopping_time(self, T: int, *, seed: int = 0) -> int:
        """A draw of the theorem's random tau in 1..T: P(t) = (1 - beta^t) / T, P(T) = (1 - beta^T) / ((1 - beta) T)."""
        t = torch.arange(1, T + 1, dtype=torch.float64)
        weights = (1 - self.discount**t) / T
        weights[-1] /= 1 - self.discount
        generator = torch.Generator().manual_seed(seed)
        return 1 + int(torch.multinomial(weights, 1, generator=generator))
