r"""Online Platt scaling: a map of the base forecast, its parameters by online Newton steps on the log-loss.

Two classes: \(m_{a,b}(f) = \sigma(a \,\mathrm{logit} f + b)\), features u = (logit f, 1), gradient g = (m - y) u,
\(A \leftarrow A + g g^\top\), \(w \leftarrow \Pi(w - A^{-1} g / \gamma)\), start (1, 0). More classes: vector scaling,
softmax(a_i log f_i + b_i), by the same steps on its 2 d parameters [derived].
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.calibration._forecaster import OnlineForecaster, restored
from corollary.calibration._on_base import _needed, early
from corollary.calibration._sets import ConvexSet, Simplex
from corollary.errors import InvalidInputError

FLOOR = 1e-6  # of probabilities, before logarithms


class OnlinePlatt(OnlineForecaster):
    r"""Online Platt scaling of a base model's probabilities (vector scaling for more than two classes).

    Args:
        dim: number of classes, or a `Simplex`; 1 for a single probability.
        rate: \(\gamma\) of the Newton step; smaller steps further.
        radius: R, the parameters stay within \(\|w - w_0\| \le R\) of the identity.
        seed: of `sample`.

    Raises:
        InvalidInputError: from `predict` without a base forecast, and from `update` before `predict`.

    Guarantee: regret O(d log T) in log-loss against the best fixed parameters, for any sequence; none on calibration.

    Example:
        >>> forecaster = OnlinePlatt(2)
        >>> for _ in range(50):
        ...     before, _ = forecaster.predict([0.2, 0.8])
        ...     forecaster.update([1.0, 0.0])
        >>> bool(forecaster.predict([0.2, 0.8])[0][0, 0] > 0.9)
        True

    Reference: Gupta and Ramdas, ICML 2023, arXiv:2305.00070 (abstract read; details recalled, may differ). Hazan,
        Agarwal and Kale (2007).
    """

    def __init__(self, dim: int | ConvexSet, *, rate: float = 0.1, radius: float = 10.0, seed: int = 0) -> None:
        super().__init__(dim, seed=seed)
        if self.domain is not None and not isinstance(self.domain, Simplex):
            raise InvalidInputError(f"online Platt scaling forecasts probabilities, not points of {self.domain!r}")
        if not rate > 0 or not radius > 0:
            raise InvalidInputError(f"`rate` and `radius` must be above 0, got {rate} and {radius}")
        self.rate, self.radius = rate, radius
        self._binary = self.dim <= 2
        size = 1 if self._binary else self.dim
        self._origin = np.repeat([1.0, 0.0], size)
        self._w = self._origin.copy()
        self._inverse = np.eye(2 * size) * rate**2  # of A, which begins at 1 / rate^2
        self._u: np.ndarray | None = None

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The mapped base forecast, of weight 1."""
        self._u = self._features(_needed(self, base))
        return self._map(self._u)[None], np.ones(1)

    def _features(self, p: np.ndarray) -> np.ndarray:
        p = np.clip(p, FLOOR, 1 - FLOOR)
        return np.array([np.log(p[-1]) - np.log1p(-p[-1])]) if self._binary else np.log(p)

    def _map(self, u: np.ndarray) -> np.ndarray:
        a, b = np.split(self._w, 2)
        z = a * u + b
        if self._binary:
            q = 1 / (1 + np.exp(-np.clip(z, -30, 30)))
            return q if self.dim == 1 else np.array([1 - q[0], q[0]])
        grown = np.exp(z - z.max())
        return grown / grown.sum()

    def _learn(self, y: np.ndarray) -> None:
        if self._u is None:
            raise early(self.rounds)
        missed = self._map(self._u) - y
        missed = missed[-1:] if self._binary else missed
        g = np.concatenate([missed * self._u, missed])
        Bg = self._inverse @ g
        self._inverse -= np.outer(Bg, Bg) / (1 + g @ Bg)  # Sherman and Morrison
        w = self._w - self._inverse @ g / self.rate
        away = float(np.linalg.norm(w - self._origin))
        self._w = w if away <= self.radius else self._origin + (w - self._origin) * (self.radius / away)
        self._u = None

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "rate": self.rate, "radius": self.radius}

    def _state(self) -> dict[str, Any]:
        pending = None if self._u is None else self._u.tolist()
        return {"w": self._w.tolist(), "inverse": self._inverse.tolist(), "pending": pending}

    def _restore(self, state: dict[str, Any]) -> None:
        self._w, self._inverse = (restored(state["w"], self._w.shape), restored(state["inverse"], self._inverse.shape))
        self._u = None if state["pending"] is None else np.array(state["pending"], dtype=np.float64)
