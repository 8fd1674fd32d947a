r"""Margin surrogates \(\Phi(u)\) of the zero-one loss, with their derivatives and their excess transforms.

Symbols: u = y f(x) the margin, \(\eta'\) the probability under the costs (`_posterior`), gamma the width over which a
kink is rounded off. logistic log(1 + e^-u); exponential e^-u; squared hinge max(0, 1-u)^2; hinge max(0, 1-u);
rho-margin min(1, max(0, 1 - u/rho)).

`transform` is T in \(T(R_{0/1} - R^*_{0/1}) \le R_\Phi - R_\Phi^*\) for all measurable f (normalised, costs summing to
one): 1/2 [(1+t) log(1+t) + (1-t) log(1-t)] for the logistic loss, 1 - sqrt(1 - t^2), t, t^2, t.

Source: Bartlett, Jordan and McAuliffe (2006) and Mao, Mohri and Zhong (2025), section on H-consistency; transforms
derived again and tested.
"""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError

Surrogate = Literal["logistic", "exponential", "hinge", "squared_hinge", "rho_margin"]
SURROGATES = get_args(Surrogate)
STEEPEST = 30.0  # e^-u goes on as its tangent below u = -30, where float64 and line searches would give way
WIDTHS = {"hinge": (1.0, 0.1, 0.01), "rho_margin": (1.0, 0.1, 0.01)}  # kinks are sharpened in these steps

Pair = tuple[np.ndarray, np.ndarray]


def check_surrogate(name: str) -> None:
    """Refuse unknown names."""
    if name not in SURROGATES:
        raise InvalidInputError(f"`surrogate` must be one of {', '.join(SURROGATES)}, got {name!r}")


def surrogate_loss(u: np.ndarray, name: str, *, rho: float = 1.0, width: float = 0.0) -> Pair:
    r"""Values and derivatives of \(\Phi\) at margins u.

    Args:
        u: (...) margins.
        name: one of the five surrogates.
        rho: margin of `rho_margin`.
        width: gamma, over which kinks are rounded off (0: not at all); it moves values by at most gamma / 2.

    Returns:
        \((\Phi(u), \Phi'(u))\), both (...).

    Guarantee: each is an upper bound of the zero-one loss of the sign, up to the rounding-off and a factor log 2 for
        the logistic loss; `transform` gives what its excess is worth.

    Example:
        >>> value, slope = surrogate_loss(np.array([0.0]), "squared_hinge")
        >>> float(value[0]), float(slope[0])
        (1.0, -2.0)
    """
    if name == "logistic":
        return np.logaddexp(0.0, -u), -_sigmoid(-u)
    if name == "exponential":
        inside = np.exp(-np.maximum(u, -STEEPEST))
        return np.where(u < -STEEPEST, inside * (1 - STEEPEST - u), inside), -inside
    if name == "squared_hinge":
        gap = np.maximum(0.0, 1 - u)
        return gap**2, -2 * gap
    if name == "hinge":
        return _hinge(u, width)
    check_surrogate(name)
    upper, lower = _hinge(u / rho, width), _hinge(u / rho + 1, width)
    return upper[0] - lower[0], (upper[1] - lower[1]) / rho


def _sigmoid(u: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit(u))


def _hinge(u: np.ndarray, width: float) -> Pair:
    gap = np.maximum(0.0, 1 - u)
    if width == 0:
        return gap, -(gap > 0).astype(np.float64)
    ramp = np.minimum(gap / width, 1.0)  # the slope grows from 0 to 1 over `width`
    return gap * ramp - width * ramp**2 / 2, -ramp


def transform(t: ArrayLike, name: str) -> Float[np.ndarray, "..."]:
    """T(t) of the surrogate, t in [0, 1]: the least surrogate excess that goes with a target excess of t."""
    from scipy.special import xlog1py

    check_surrogate(name)
    x = np.asarray(t, dtype=np.float64)
    if name == "logistic":
        return np.asarray((xlog1py(1 + x, x) + xlog1py(1 - x, -x)) / 2)
    if name == "exponential":
        return np.asarray(1 - np.sqrt(1 - x**2))
    return np.asarray(x**2) if name == "squared_hinge" else x.copy()


def inverse_transform(excess: ArrayLike, name: str) -> Float[np.ndarray, "..."]:
    r"""\(\Gamma = T^{-1}\), by bisection: the largest target excess that a surrogate excess allows, at most 1.

    Example:
        >>> float(inverse_transform(0.0, "logistic")), float(inverse_transform(0.04, "squared_hinge").round(9))
        (0.0, 0.2)
    """
    goal = np.asarray(excess, dtype=np.float64)
    low, high = np.zeros_like(goal), np.ones_like(goal)
    for _ in range(60):
        middle = (low + high) / 2
        below = transform(middle, name) < goal
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(goal <= 0, 0.0, high)
