r"""How far apart the domains are, from the experts' scores of documents whose domain is known, with an interval.

Symbols: domains \(p_k\), mixture weights \(\lambda\), \(p_\lambda = \sum_k \lambda_k p_k\), experts \(q_k\), errors
\(\epsilon_k = \mathrm{KL}(p_k \| q_k)\), posterior at a temperature \(q_T(k|x) \propto \lambda_k q_k(x)^{1/T}\),
floored: \(q_{T,\gamma}(k|x) = (1 - \gamma) q_T(k|x) + \gamma \lambda_k\).

The divergence is the information that a document carries on its domain, and any guess of the domain bounds it below:

.. math:: J_{T,\gamma} = \sum_k \lambda_k \, \mathbb{E}_{p_k}\Bigl[\log \frac{q_{T,\gamma}(k|x)}{\lambda_k}\Bigr]
          \le \mathrm{JSD}_\lambda(\{p_k\}), \qquad
          \mathrm{JSD}_\lambda = J_{1,0} + \sum_k \lambda_k \epsilon_k - \mathrm{KL}(p_\lambda \| q_\lambda)

Source: the bound of Barber and Agakov (2003) on mutual information, textbook; the identity is (I1) of the paper on the
gate applied twice, derived here.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.certificates import Assumption, Certificate, Reference, betting
from corollary.errors import InvalidInputError
from corollary.gating import _divergence_certificate  # noqa: F401  registers the rule
from corollary.numerics import entropy, log_sum_exp

Side = Literal["lower", "upper"]
TEMPERATURES = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0, 40.0, 100.0)
NEAR = 0.01  # nats: a higher floor narrows the range of the values, and with it the interval
FLOORS = (0.01, 0.03, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.97)
FEWEST = 30  # documents of a domain, below which nothing is said


class DomainDivergence(NamedTuple):
    """The Jensen-Shannon divergence of the domains, in nats: what is estimated, and what is known of the truth.

    Args:
        estimate: the mean gain of the guess, J; never above the divergence but by chance.
        lower: below the divergence, with confidence.
        upper: above it, with confidence; the entropy of the weights where the experts' errors are not given.
        entropy: of the weights, the largest value that the divergence can have.
        each: (p,) the share of each domain, E_{p_k} log(q(k|x) / lambda_k).
        temperature, floor: of the guess.

    Guarantee: see `domain_divergence`, which makes it.

    Example:
        >>> DomainDivergence(0.5, 0.4, 0.6, 0.69, np.array([0.5, 0.5]), 1.0, 1e-3).lower
        0.4
    """

    estimate: float
    lower: float
    upper: float
    entropy: float
    each: Float[np.ndarray, " p"]
    temperature: float
    floor: float


def domain_divergence(
    log_likelihoods: ArrayLike,
    domain: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    errors: ArrayLike | None = None,
    calibration: tuple[ArrayLike, ArrayLike] | None = None,
    floor: float = 1e-3,
    delta: float = 0.05,
) -> DomainDivergence:
    r"""An interval for the Jensen-Shannon divergence of the domains, from scored documents.

    .. math:: \mathrm{JSD}_\lambda(\{p_k\}) = \sum_k \lambda_k \mathrm{KL}(p_k \| p_\lambda)

    The experts stand for the domains: what is estimated without bias is J, what their guess of the domain is worth. It
    is below the divergence whatever the experts are, and meets it where they are exact (at T = 1, gamma = 0). Sure and
    wrong guesses cost much; where domains overlap, calibrate.

    Args:
        log_likelihoods: (N, p) of each document under each domain's expert, in nats, on documents that no expert saw.
        domain: (N,) the domain of each document, 0 .. p - 1; at least 30 of each.
        weights: (p,) lambda; uniform where None.
        errors: (p,) upper bounds of eps_k in nats a document, where they are known (a world of your own, a reference
            model); needed for an upper end other than the trivial one.
        calibration: scores and domains of OTHER documents, on which temperature and floor are chosen.
        floor: gamma where they are not; keeps the values within [log gamma, log(1 / min lambda)] and costs at most
            -log(1 - gamma) nats.
        delta: probability of failure.

    Returns:
        `DomainDivergence`.

    Raises:
        InvalidInputError: for shapes that do not fit, NaN, rows impossible under every expert, or domains with too
            few documents.

    Guarantee: with probability at least 1 - delta over independent documents of each domain, lower <= JSD; and
        JSD <= upper too where `errors` bounds every eps_k (betting bounds at delta / p a domain).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> domain = np.repeat([0, 1], 400)
        >>> x = (rng.random(800) < np.where(domain == 0, 0.1, 0.9)).astype(int)
        >>> found = domain_divergence(np.log([[0.9, 0.1], [0.1, 0.9]])[x], domain, errors=[0.0, 0.0])
        >>> bool(found.lower < 0.368 < found.upper)  # the truth, log 2 - H(0.1)
        True

    Reference: Barber and Agakov (2003), textbook; intervals by Waudby-Smith and Ramdas (2024).
    """
    logq, k, counts = _checked(log_likelihoods, domain)
    p = logq.shape[1]
    if counts.min() < FEWEST:
        raise InvalidInputError(
            f"domain {int(counts.argmin())} has {int(counts.min())} documents; score {FEWEST} at least of each"
        )
    lam = np.full(p, 1 / p) if weights is None else np.asarray(weights, dtype=np.float64)
    if lam.shape != (p,) or not (lam > 0).all() or abs(lam.sum() - 1) > 1e-6:
        raise InvalidInputError(f"`weights` must be {p} positive numbers that sum to one, got {lam.tolist()}")
    if not 0 < floor < 1:
        raise InvalidInputError(f"`floor` must lie in (0, 1), got {floor}; 0.001 costs a thousandth of a nat")
    eps = None if errors is None else np.asarray(errors, dtype=np.float64)
    if eps is not None and (eps.shape != (p,) or not (eps >= 0).all()):
        raise InvalidInputError(f"`errors` must be {p} nonnegative numbers, got {eps.tolist()}")
    temperature, least = 1.0, floor
    if calibration is not None:
        temperature, least = _calibrated(*_checked(*calibration), lam, floor)
    level = delta / p if eps is None else delta / (2 * p)
    each, low = np.empty(p), np.empty(p)
    for j, values in enumerate(_gains(logq, k, lam, temperature, least)):
        low[j] = _bound(values, lam[j], least, level, "lower")
        each[j] = values.mean()
    most = upper = float(entropy(lam))
    if eps is not None:  # the identity is about the experts as they are
        raw = _gains(logq, k, lam, 1.0, floor)
        high = np.array([_bound(values, lam[j], floor, level, "upper") for j, values in enumerate(raw)])
        upper = min(most, float(lam @ (high + eps) - np.log1p(-floor)))
    lower = max(float(lam @ low), 0.0)
    return DomainDivergence(float(lam @ each), lower, upper, most, each, temperature, least)


def certify_divergence(
    log_likelihoods: ArrayLike,
    domain: ArrayLike,
    *,
    limit: float,
    weights: ArrayLike | None = None,
    calibration: tuple[ArrayLike, ArrayLike] | None = None,
    floor: float = 1e-3,
    delta: float = 0.05,
) -> Certificate:
    """A certificate that the domains' Jensen-Shannon divergence is at least `limit`.

    Args:
        log_likelihoods: (N, p) as for `domain_divergence`.
        domain: (N,) as there.
        limit: what to claim, in nats; fixed before these documents were scored.
        weights: (p,) lambda; uniform where None.
        calibration: scores and domains of other documents, for the guess.
        floor: of the guess where there are none.
        delta: probability of failure.

    Returns:
        Certificate by the rule `gating.divergence`, checked with `log_likelihoods=` and `domain=`.

    Raises:
        InvalidInputError: as `domain_divergence`, or for a limit or level without meaning.

    Guarantee: with probability at least 1 - delta over independent documents of each domain, JSD >= limit.

    Example:
        >>> k = np.repeat([0, 1], 200)
        >>> logq = np.where(np.arange(2) == k[:, None], 0.0, -20.0)
        >>> certificate = certify_divergence(logq, k, limit=0.4)
        >>> bool(certificate.check(log_likelihoods=logq, domain=k))
        True

    Reference: Barber and Agakov (2003), textbook; bounds of Waudby-Smith and Ramdas (2024).
    """
    if not (limit > 0 and 0 < delta < 1):
        raise InvalidInputError(f"`limit` must be positive and `delta` in (0, 1), got {limit} and {delta}")
    found = domain_divergence(
        log_likelihoods, domain, weights=weights, calibration=calibration, floor=floor, delta=delta
    )  # fmt: skip
    logq, k, counts = _checked(log_likelihoods, domain)
    lam = np.full(len(counts), 1 / len(counts)) if weights is None else np.asarray(weights, dtype=np.float64)
    return Certificate.issue(
        "gating.divergence",
        statement=f"The domains' Jensen-Shannon divergence is at least {limit:g} nats a document.",
        evidence={"log_likelihoods": logq, "domain": k.astype(np.int64)},
        witness={"limit": limit, "delta": delta, "weights": lam.tolist(), "temperature": found.temperature,
                 "floor": found.floor},
        reference=Reference("Barber and Agakov (2003); Waudby-Smith and Ramdas (2024)", "J <= I(K; X)", "textbook"),
        assumptions=[
            Assumption("the documents of each domain were drawn independently, and no expert had seen them"),
            Assumption("the temperature, the floor and the limit were chosen on other documents"),
        ],
        confidence=1 - delta,
    )  # fmt: skip


def _checked(log_likelihoods: ArrayLike, domain: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, domains, and the number of documents of each."""
    logq, k = np.asarray(log_likelihoods, dtype=np.float64), np.asarray(domain)
    if logq.ndim != 2 or 0 in logq.shape or np.isnan(logq).any() or not np.isfinite(logq.max(1)).all():
        raise InvalidInputError(
            f"`log_likelihoods` must be (N, p), each row possible under some expert, got shape {logq.shape}; "
            "drop rows with NaN or without a possible expert"
        )
    n, p = logq.shape
    if k.shape != (n,) or k.dtype.kind not in "iu" or k.min() < 0 or k.max() >= p:
        raise InvalidInputError(f"`domain` must be ({n},) integers from 0 to {p - 1}, got shape {k.shape} of {k.dtype}")
    return logq, k, np.bincount(k, minlength=p)


def _gains(logq: np.ndarray, k: np.ndarray, lam: np.ndarray, temperature: float, floor: float) -> list[np.ndarray]:
    """log(q(k|x) / lambda_k) of the documents of each domain."""
    tempered = (logq - logq.max(1, keepdims=True)) / temperature
    own = tempered[np.arange(len(k)), k] - log_sum_exp(tempered, weights=lam)
    gain = np.logaddexp(np.log1p(-floor) + own, np.log(floor))
    return [gain[k == j] for j in range(len(lam))]


def _bound(values: np.ndarray, weight: float, floor: float, level: float, side: Side) -> float:
    least, most = float(np.log(floor)), float(-np.log(weight))
    bounds = betting(np.clip(values, least, most), delta=level, low=least, high=most, side=side)
    return float(bounds.lower if side == "lower" else bounds.upper)


def _calibrated(
    logq: np.ndarray, k: np.ndarray, counts: np.ndarray, lam: np.ndarray, floor: float
) -> tuple[float, float]:
    """Temperature and floor whose guess is worth most on these documents; of what is near, the highest floor."""
    if len(counts) != len(lam) or counts.min() == 0:
        raise InvalidInputError(f"`calibration` must hold documents of all {len(lam)} domains, got {counts.tolist()}")
    grid = [(t, f) for t in TEMPERATURES for f in (floor, *FLOORS) if f >= floor]
    worth = [sum(w * g.mean() for w, g in zip(lam, _gains(logq, k, lam, t, f), strict=True)) for t, f in grid]
    return max((f, t) for (t, f), w in zip(grid, worth, strict=True) if w >= max(worth) - NEAR)[::-1]
