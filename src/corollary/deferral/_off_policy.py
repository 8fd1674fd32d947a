r"""What another policy would have been worth, from a log of one that drew its choices with known probabilities.

Symbols: context x, logged action a drawn with probability p(a | x), its reward r in [0, 1], target policy pi(. | x),
guess q(x, .) of the rewards, weight w = pi(a | x) / p(a | x).

    inverse propensity   z = w r
    doubly robust        z = sum_a pi(a | x) q(x, a) + w (r - q(x, a))

Both have mean E sum_a pi(a | x) r(x, a) for every guess that does not look at the row's own reward: E[w f(x, a)] =
E sum_a pi(a | x) f(x, a) wherever p > 0 for all that pi may choose. With w <= W, z lies in [0, W] and in
[1 - max(W, 1), 1 + W] or less, so a bound for bounded means gives an interval at any sample size.

Horvitz and Thompson (1952); Dudik, Langford and Li (2011). Textbook; the papers were not read here.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.certificates import betting
from corollary.errors import InvalidInputError


class OffPolicy(NamedTuple):
    """An estimate, its standard error, and an interval that holds at every sample size.

    Args:
        value: the estimate.
        error: its standard error.
        lower, upper: the interval, within [0, 1].
        effective: effective number of rows, (sum w)^2 / sum w^2.

    Guarantee: that of `off_policy`.

    Example:
        >>> OffPolicy(0.5, 0.01, 0.45, 0.55, 900.0).value
        0.5
    """

    value: float
    error: float
    lower: float
    upper: float
    effective: float


def off_policy(
    reward: ArrayLike,
    action: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    *,
    guess: ArrayLike | None = None,
    delta: float = 0.05,
    floor: float | None = None,
) -> OffPolicy:
    r"""The mean reward of a target policy, by inverse propensity or, with a guess, doubly robust.

    .. math:: \hat V = \frac1n \sum_i \sum_a \pi(a | x_i) q(x_i, a) +
              \frac{\pi(a_i | x_i)}{p(a_i | x_i)} (r_i - q(x_i, a_i))

    Args:
        reward: (n,) in [0, 1].
        action: (n,) index of the action that was drawn.
        propensity: (n, K) with which each action could be drawn; rows sum to one.
        target: (n, K) probabilities of the policy to be valued; rows sum to one.
        guess: (n, K) in [0, 1], what each action is held to be worth, made without these rewards; None: inverse
            propensity alone.
        delta: probability that the interval misses.
        floor: least propensity of any action in the design (e.g. exploration / K); it bounds the weights beforehand.
            By default the least one in the table, which is as good where the design fixes it.

    Returns:
        The estimate with its interval.

    Raises:
        InvalidInputError: for shapes or numbers that are none of these, or a target that may choose what could not be
            drawn.

    Guarantee: for independent rows whose rewards are missing independently of them, the interval contains the mean
        reward of the target with probability at least 1 - delta (betting bounds; every n); the estimate is unbiased.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p = np.tile([0.9, 0.1], (4000, 1))
        >>> a = (rng.random(4000) < 0.1).astype(int)
        >>> r = rng.random(4000) < np.where(a == 1, 0.8, 0.4)
        >>> found = off_policy(r, a, p, np.tile([0.0, 1.0], (4000, 1)))
        >>> found.lower < 0.8 < found.upper
        True

    Reference: as the module head.
    """
    r, a = np.asarray(reward, dtype=np.float64), np.asarray(action)
    p, pi = np.asarray(propensity, dtype=np.float64), np.asarray(target, dtype=np.float64)
    _check(r, a, p, pi, delta)
    rows = np.arange(len(r))
    least = float(p[p > 0].min()) if floor is None else float(floor)
    if not 0 < least <= 1 or (p[rows, a] < least - 1e-12).any():
        raise InvalidInputError(f"`floor` must be positive and below every propensity of a drawn action, got {floor}")
    if ((pi > 0) & (p <= 0)).any():
        raise InvalidInputError("the target may choose an action that could not be drawn; explore it first")
    weight = pi[rows, a] / p[rows, a]
    most = 1 / least if ((pi > 0) & (pi < 1)).any() or floor is not None else float((pi / np.where(p > 0, p, 1)).max())
    if guess is None:
        z, low, high = weight * r, 0.0, most
    else:
        q = np.asarray(guess, dtype=np.float64)
        if q.shape != p.shape or not ((q >= 0) & (q <= 1)).all():
            raise InvalidInputError(f"`guess` must have shape {p.shape} and lie in [0, 1], got {q.shape}")
        z = (pi * q).sum(1) + weight * (r - q[rows, a])
        low, high = min(0.0, 1.0 - most) - 1e-12, 1.0 + most
    bound = betting(np.clip(z, low, high), delta=delta, low=low, high=high)
    square = float((weight**2).sum())
    return OffPolicy(
        float(z.mean()),
        float(z.std() / np.sqrt(len(z))),
        max(0.0, float(bound.lower)),
        min(1.0, float(bound.upper)),
        float(weight.sum() ** 2 / square) if square > 0 else 0.0,
    )


def _check(
    r: Float[np.ndarray, "..."], a: np.ndarray, p: Float[np.ndarray, "..."], pi: Float[np.ndarray, "..."], delta: float
) -> None:
    if r.ndim != 1 or len(r) == 0 or not ((r >= 0) & (r <= 1)).all():
        raise InvalidInputError("`reward` must be a flat, non-empty array in [0, 1]")
    if p.ndim != 2 or p.shape[0] != len(r) or p.shape != pi.shape:
        raise InvalidInputError(
            f"`propensity` and `target` must have shape ({len(r)}, K), got {p.shape} and {pi.shape}"
        )
    if a.shape != r.shape or a.dtype.kind not in "iu" or a.min() < 0 or a.max() >= p.shape[1]:
        raise InvalidInputError(f"`action` must be ({len(r)},) indices below {p.shape[1]}")
    for name, x in (("propensity", p), ("target", pi)):
        if not (x >= 0).all() or np.abs(x.sum(1) - 1).max() > 1e-6:
            raise InvalidInputError(f"rows of `{name}` must be probabilities that sum to one")
    if not (p[np.arange(len(r)), a] > 0).all():
        raise InvalidInputError("an action was drawn whose propensity is 0; the log is not of this policy")
    if not 0 < delta < 1:
        raise InvalidInputError(f"`delta` must lie in (0, 1), got {delta}")
