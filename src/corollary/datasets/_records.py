"""Simulated records whose true means are known, to test the coverage of statistical certificates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from corollary.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class GainWorld:
    """One record a document (bits of a baseline, our bits, bytes, domain), and each domain's true gain.

    Args:
        baseline_bits: (N,) bits the baseline spends on each document.
        our_bits: (N,) bits we spend.
        bytes: (N,) bytes of each document.
        domain: (N,) index of its domain.
        true_gain: (p,) E[baseline - ours] / E[bytes] of each domain, bits per byte.
        loss_bound: bits by which ours exceeds the baseline at most, on any document.

    Guarantee: none; it is a container.

    Example:
        >>> gain_world(documents=10, true_gain=(0.1, 0.2)).true_gain.tolist()
        [0.1, 0.2]
    """

    baseline_bits: Float[np.ndarray, " n"]
    our_bits: Float[np.ndarray, " n"]
    bytes: Int[np.ndarray, " n"]
    domain: Int[np.ndarray, " n"]
    true_gain: Float[np.ndarray, " p"]
    loss_bound: float


# Factors M >= 0 with mean one; "rare" is what breaks bounds that trust the sample variance.
_FACTORS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "smooth": lambda rng, n: 2 * rng.beta(2, 2, size=n),
    "skewed": lambda rng, n: rng.exponential(size=n),
    "rare": lambda rng, n: (rng.random(n) < 0.02) / 0.02,
}


def gain_world(
    *,
    documents: int = 1000,
    true_gain: float | int | Sequence[float | int] = (0.02, 0.05, 0.1),
    loss_bound: float | int = 7.0,
    shape: str = "smooth",
    follows: str = "bytes",
    seed: int = 0,
) -> GainWorld:
    """Records of `documents` documents a domain whose true gain in bits per byte is known exactly.

    D = baseline - ours = (m + loss_bound) M - loss_bound, with M >= 0 of mean one, independent of the bytes
    U, and m = g U (`follows="bytes"`) or m = g E[U] (`"document"`); so D >= -loss_bound, and E[D] = g E[U]
    either way. With "document" the mean of the ratios D / U is NOT g: only the ratio of the means is.

    Args:
        documents: documents of each domain.
        true_gain: g of each domain, bits per byte; a negative gain is a true loss.
        loss_bound: bits by which ours exceeds the baseline at most.
        shape: law of M: "smooth" (twice a Beta(2, 2)), "skewed" (exponential) or "rare" (50 with
            probability 1/50, else 0).
        follows: whether the gain grows with the bytes, or is the same for every document.
        seed: seed.

    Returns:
        The records, domain after domain. U is uniform on 200..2000.

    Raises:
        InvalidInputError: for an unknown option, or a loss that the bound cannot hold.

    Guarantee: the means and the bound are exact.

    Example:
        >>> world = gain_world(documents=500, true_gain=0.1)
        >>> bool((world.our_bits - world.baseline_bits <= world.loss_bound + 1e-9).all())
        True
    """
    gain = np.atleast_1d(np.asarray(true_gain, dtype=np.float64))
    low, high = 200, 2000
    if shape not in _FACTORS or follows not in ("bytes", "document") or documents < 1:
        raise InvalidInputError(
            f"got shape={shape!r}, follows={follows!r}, documents={documents}; "
            f"take a shape of {', '.join(_FACTORS)}, "
            "let the gain follow 'bytes' or 'document', and ask for at least one document"
        )
    if not np.isfinite(gain).all() or loss_bound < 0 or (gain * high < -loss_bound).any() or loss_bound >= low:
        raise InvalidInputError(
            f"a gain of {gain.min()} bits per byte on {high} bytes does not fit loss_bound={loss_bound}; "
            f"raise the bound (below {low}) or the gain"
        )
    rng = np.random.default_rng(seed)
    domain = np.repeat(np.arange(len(gain)), documents)
    size = rng.integers(low, high + 1, size=len(domain))
    mean = gain[domain] * (size if follows == "bytes" else (low + high) / 2)
    difference = (mean + loss_bound) * _FACTORS[shape](rng, len(domain)) - loss_bound
    ours = size * rng.uniform(1.0, 2.5, size=len(domain))
    return GainWorld(ours + difference, ours, size, domain, gain, float(loss_bound))


@dataclass(frozen=True, eq=False)
class BoundedMean:
    """A distribution on [0, 1] whose mean is known.

    Args:
        name: a name for reports.
        mean: its mean.
        draw: function of a generator and a shape.

    Guarantee: none; it is a container.

    Example:
        >>> family = BoundedMean("half", 0.5, lambda rng, shape: rng.integers(0, 2, shape) * 1.0)
        >>> family.sample((2, 3), seed=0).shape
        (2, 3)
    """

    name: str
    mean: float
    draw: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

    def sample(self, shape: int | tuple[int, ...], *, seed: int = 0) -> Float[np.ndarray, "..."]:
        """Independent draws of the given shape."""
        return self.draw(np.random.default_rng(seed), (shape,) if isinstance(shape, int) else shape)


def bounded_means_world() -> tuple[BoundedMean, ...]:
    """Distributions on [0, 1] with known means: what a confidence bound for a bounded mean has to cover.

    Returns:
        Bernoulli, Beta, two-point with a rare top, uniform, a discrete law and a constant.

    Guarantee: the means are exact.

    Example:
        >>> {family.name: family.mean for family in bounded_means_world()}["uniform"]
        0.5
    """
    points, weights = np.array([0.0, 0.1, 0.5, 1.0]), np.array([0.5, 0.25, 0.2, 0.05])

    def bernoulli(chance: float) -> BoundedMean:
        return BoundedMean(f"bernoulli {chance}", chance, lambda rng, shape: (rng.random(shape) < chance) * 1.0)

    def beta(a: float, b: float) -> BoundedMean:
        return BoundedMean(f"beta {a} {b}", a / (a + b), lambda rng, shape: rng.beta(a, b, shape))

    return (
        *(bernoulli(chance) for chance in (0.02, 0.1, 0.5, 0.9)),
        *(beta(a, b) for a, b in ((0.3, 0.7), (2.0, 5.0), (20.0, 20.0), (8.0, 0.5))),
        BoundedMean("rare top", 0.1 + 0.9 * 0.01, lambda rng, shape: np.where(rng.random(shape) < 0.01, 1.0, 0.1)),
        BoundedMean("rare bottom", 0.99 * 0.6, lambda rng, shape: np.where(rng.random(shape) < 0.01, 0.0, 0.6)),
        BoundedMean("uniform", 0.5, lambda rng, shape: rng.random(shape)),
        BoundedMean("discrete", float(points @ weights), lambda rng, shape: rng.choice(points, size=shape, p=weights)),
        BoundedMean("constant", 0.25, lambda rng, shape: np.full(shape, 0.25)),
    )
