r"""The fast linear oracle: cost-weighted surrogate risk, minimised again and again on the same rows.

.. math:: \min_{w, b} \frac1n \sum_i s_i c_{y_i} \Phi(y_i (w \cdot x_i + b)) + \frac{\text{l2}}2 \|w\|^2

Symbols: c_{+1} = c_FN, c_{-1} = c_FP scaled so that the larger is 1; s_i the sample weights.

Why it is fast along a path of costs: the rows are whitened once (a Cholesky factor of their second moments, refreshed
once at the first solution), which leaves L-BFGS a well-conditioned problem, and each solution starts the next.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError
from corollary.metrics._metric import Costs
from corollary.metrics._surrogates import WIDTHS, check_surrogate, surrogate_loss

DENSE = 1500  # above this many features a diagonal replaces the Cholesky factor
KINKED = 1e-7  # relative decrease at which a rounded-off kink is left alone: gradients stay large beside it
REFRESH = 3.0  # the log cost ratio may move this far before the Hessian is factored again
STRETCH = 2.0  # margins that the middle half of the scores spans at the start of a descent of the rho-margin
SHARP, ROUGH = 0.01, 50  # steps at a width above SHARP, which only starts the next
SKETCH = 20_000  # rows that the Hessian is estimated from; it only preconditions


class LinearProblem:
    """Linear classifiers on fixed rows, for any costs of the two errors.

    Args:
        X: (n, p) features, finite.
        y: (n,) truth, positive where larger than 0.
        surrogate: logistic, exponential, hinge, squared_hinge or rho_margin.
        l2: weight of the squared norm (the intercept is free).
        rho: margin of the rho-margin surrogate.
        tol: largest entry of the whitened gradient at which a solve stops.
        max_iter: iterations a solve may take.
        sample_weight: (n,) weights of the rows.

    Raises:
        InvalidInputError: for an unknown surrogate or a negative `l2`.

    Guarantee: the logistic, exponential and squared hinge objectives are convex and smooth: the solution is global up
        to `tol`. hinge is minimised with its kink rounded off over .01, so within .005 of the optimum. rho_margin is
        not convex: the lowest of the stationary points below the logistic, the hinge, the medians' and the latest line.

    Example:
        >>> X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
        >>> problem = LinearProblem(X, np.array([0, 1, 0, 1]), l2=1e-2)
        >>> bool(problem.solve(Costs(1.0, 0.2))[-1] > problem.solve(Costs(0.2, 1.0))[-1])
        True
    """

    def __init__(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        surrogate: str = "logistic",
        l2: float = 1e-4,
        rho: float = 1.0,
        tol: float = 1e-5,
        max_iter: int = 500,
        sample_weight: ArrayLike | None = None,
    ) -> None:
        check_surrogate(surrogate)
        if not (l2 >= 0 and rho > 0):
            raise InvalidInputError(f"`l2` must be zero or more and `rho` positive, got {l2} and {rho}")
        self.X = np.asarray(X, dtype=np.float64)
        self.positive = np.asarray(y) > 0
        self.sign = np.where(self.positive, 1.0, -1.0)
        self.surrogate, self.l2, self.rho, self.tol, self.max_iter = surrogate, float(l2), float(rho), tol, max_iter
        self.weight = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        self.iterations = 0
        self._penalty = np.append(np.full(self.X.shape[1], self.l2), 0.0)
        self._factor: np.ndarray | None = None
        self._path: list[tuple[float, np.ndarray]] = []  # the three latest (log cost ratio, solution)
        self._refreshed_at: float | None = None

    def objective(self, theta: np.ndarray, costs: Costs, *, width: float = 0.0) -> tuple[float, np.ndarray]:
        """Value and gradient at theta = (w, b)."""
        u = self.sign * (self.X @ theta[:-1] + theta[-1])
        value, slope = surrogate_loss(u, self.surrogate, rho=self.rho, width=width)
        c = self._row_costs(costs)
        r = c * slope * self.sign
        gradient = np.append(r @ self.X, r.sum()) / len(u) + self._penalty * theta
        return float(c @ value / len(u) + (self._penalty * theta) @ theta / 2), gradient

    def solve(self, costs: Costs, *, init: np.ndarray | None = None) -> Float[np.ndarray, " p1"]:
        """(p + 1,) the minimiser (w, b), started at `init`, by default extrapolated from the latest three solutions."""
        position = float(np.log(max(costs.fp, 1e-3) / max(costs.fn, 1e-3)))
        self._precondition(position)
        if self.surrogate == "rho_margin" and init is None:
            theta = self._from_convex(costs)
        else:
            theta = self._predict(position) if init is None else init
            widths = WIDTHS.get(self.surrogate, (0.0,))
            for width in widths[-1:] if self._path else widths:
                theta = self._descend(theta, costs, width)
        self._path = [*self._path, (position, theta)][-3:]
        return theta

    def _from_convex(self, costs: Costs) -> np.ndarray:
        """The lowest of several rough descents, finished; offsets are swept first, since flat parts would hold them."""
        *rough, sharp = WIDTHS[self.surrogate]
        starts = [problem.solve(costs) for problem in self._convex] + [self._medians]
        ends = [theta for _, theta in self._path[-1:]]
        for start in starts:
            theta = self._swept(start, costs)
            for width in rough:
                theta = self._descend(theta, costs, width)
            ends.append(theta)
        return self._descend(min(ends, key=lambda theta: self.objective(theta, costs)[0]), costs, sharp)

    def _swept(self, theta: np.ndarray, costs: Costs) -> np.ndarray:
        """Scores on the scale of the margin, and the offset with the least cost of errors on these rows."""
        score = self.X @ theta[:-1]
        spread = 1.4826 * float(np.median(np.abs(score - np.median(score)))) or float(score.std()) or 1.0
        scale = STRETCH * self.rho / spread
        order = np.argsort(score)
        c = self._row_costs(costs)[order] * self.sign[order]
        errors = np.append(0.0, np.cumsum(c))  # of a cut below row k, up to a constant
        k = int(np.argmin(errors))
        ranked = score[order]
        if 0 < k < len(ranked):
            cut = (ranked[k - 1] + ranked[k]) / 2
        else:
            cut = ranked[0] - spread if k == 0 else ranked[-1] + spread
        return scale * np.append(theta[:-1], -cut)

    @functools.cached_property
    def _medians(self) -> np.ndarray:
        """The direction between the medians of the classes, by the spread of each feature: far rows do not turn it."""
        middle = np.median(self.X, 0)
        spread = 1.4826 * np.median(np.abs(self.X - middle), 0)
        spread = np.where(spread > 0, spread, np.maximum(self.X.std(0), 1e-12))
        apart = np.median(self.X[self.positive], 0) - np.median(self.X[~self.positive], 0)
        return np.append(apart / spread**2, 0.0)

    @functools.cached_property
    def _convex(self) -> list["LinearProblem"]:
        shared: dict[str, Any] = {"l2": self.l2, "tol": self.tol, "sample_weight": self.weight}
        return [LinearProblem(self.X, self.positive, surrogate=name, **shared) for name in ("logistic", "hinge")]

    def _predict(self, position: float) -> np.ndarray:
        """Where the path of solutions, as a function of the log cost ratio, goes next."""
        if not self._path:
            return np.zeros(self.X.shape[1] + 1)
        places = np.array([place for place, _ in self._path])
        if len(set(places)) < len(places) or abs(position - places[-1]) > 2 * abs(places[-1] - places[0]):
            return self._path[-1][1]
        others = [np.delete(places, i) for i in range(len(places))]
        weights = [np.prod((position - o) / (p - o)) for p, o in zip(places, others, strict=True)]  # Lagrange
        return sum(
            (w * theta for w, (_, theta) in zip(weights, self._path, strict=True)), np.zeros_like(self._path[0][1])
        )

    def _precondition(self, position: float) -> None:
        """Whiten by the Hessian bound at first, then by the Hessian at a solution; anew where the costs moved far."""
        if self._factor is None:
            self._factor = self._whiten(self._row_costs(Costs(1.0, 1.0)) / 4)
        elif self.surrogate in ("logistic", "exponential"):
            here, theta = self._path[-1]
            if self._refreshed_at is None or abs(position - self._refreshed_at) > REFRESH:
                u = self.sign * (self.X @ theta[:-1] + theta[-1])
                slope = np.abs(surrogate_loss(u, self.surrogate)[1])
                curvature = slope * (1 - slope) if self.surrogate == "logistic" else slope
                ratio = float(np.exp(here))
                costs = Costs(1.0, ratio).scaled()
                self._factor, self._refreshed_at = self._whiten(self._row_costs(costs) * curvature), here

    def score(self, X: ArrayLike, theta: np.ndarray) -> Float[np.ndarray, " n"]:
        """(n,) scores w . x + b; positive means the positive class."""
        return np.asarray(X, dtype=np.float64) @ theta[:-1] + theta[-1]

    def forget_rows(self) -> None:
        """Let the training rows go."""
        self.X = np.empty((0, self.X.shape[1]))
        for kept in ("_convex", "_medians"):
            vars(self).pop(kept, None)

    def _row_costs(self, costs: Costs) -> np.ndarray:
        c = np.where(self.positive, costs.fn, costs.fp)
        return c if self.weight is None else c * self.weight

    def _whiten(self, curvature: np.ndarray) -> np.ndarray:
        """Cholesky factor of the Hessian that `curvature` (n,) gives, or its diagonal where p is large."""
        step = 1 + (len(self.X) - 1) // SKETCH
        X, curvature = self.X[::step], curvature[::step]
        n, p = X.shape
        if p > DENSE:
            diagonal = np.append(curvature @ X**2, curvature.sum()) / n + self._penalty
            return np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        H = np.empty((p + 1, p + 1))
        weighted = curvature[:, None] * X
        H[:p, :p], H[p, :p], H[p, p] = X.T @ weighted, weighted.sum(0), curvature.sum()
        H[:p, p] = H[p, :p]
        H = H / n + np.diag(self._penalty)
        size = np.sqrt(np.where(np.diag(H) > 0, np.diag(H), 1.0))  # features of any scale
        ridge = np.eye(p + 1) * 1e-8
        return size[:, None] * np.linalg.cholesky(H / np.outer(size, size) + ridge)

    def _descend(self, theta: np.ndarray, costs: Costs, width: float) -> np.ndarray:
        from scipy.linalg import solve_triangular
        from scipy.optimize import minimize

        L = self._factor
        assert L is not None

        def back(v: np.ndarray) -> np.ndarray:
            return v / L if L.ndim == 1 else solve_triangular(L, v, lower=True, trans=1, check_finite=False)

        def whitened(v: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self.objective(back(v), costs, width=width)
            g = gradient / L if L.ndim == 1 else solve_triangular(L, gradient, lower=True, check_finite=False)
            return value, g

        v0 = theta * L if L.ndim == 1 else L.T @ theta
        options: dict[str, Any] = {
            "maxiter": self.max_iter if width <= SHARP else ROUGH,
            "maxfun": 10 * self.max_iter,
            "gtol": self.tol,
            "ftol": KINKED if width else 0.0,
        }
        found = minimize(whitened, v0, jac=True, method="L-BFGS-B", options=options)
        self.iterations += int(found.nfev)
        return back(found.x)
