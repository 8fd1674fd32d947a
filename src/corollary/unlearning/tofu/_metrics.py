r"""TOFU's metrics: forget quality, model utility and their parts, each with a bootstrap interval over questions.

Truth ratio R as in `Part`; its aggregate is mean min(R, 1/R) on the forget set and mean max(0, 1 - R) for utility.
Forget quality: p-value of the two-sample Kolmogorov-Smirnov test between truth ratios of a model and of one retrained
without the forget set. Model utility: harmonic mean of {probability, ROUGE, truth ratio} x {retain, authors, facts}.

Maini, Feng, Schwarzschild, Lipton and Kolter, "TOFU" (2024); definitions by the notes, checked against the published
logs.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError
from corollary.unlearning.tofu._logs import UTILITY, Logs, Part


class ForgetQuality(NamedTuple):
    """The Kolmogorov-Smirnov test between two sets of truth ratios.

    Guarantee: none; a large p-value does not show that something was forgotten.

    Example:
        >>> ForgetQuality(pvalue=0.5, statistic=0.1).statistic
        0.1
    """

    pvalue: float
    statistic: float


class Interval(NamedTuple):
    """A value with a bootstrap interval.

    Guarantee: none beyond the bootstrap's, asymptotic one.

    Example:
        >>> Interval(0.5, 0.4, 0.6).upper
        0.6
    """

    value: float
    lower: float
    upper: float


def forget_truth_ratio(part: Part) -> float:
    r"""\(\mathrm{mean} \min(R, 1/R)\): near 1 where right and wrong answers are equally likely.

    Guarantee: none.

    Example:
        >>> part = Part(np.array([0.1]), np.array([0.5]), np.array([[0.5]]), np.array([1.0]))
        >>> forget_truth_ratio(part)
        1.0
    """
    ratio = part.truth_ratio
    with np.errstate(divide="ignore"):
        return float(np.minimum(ratio, 1 / ratio).mean())


def utility_parts(logs: Logs) -> dict[str, dict[str, float]]:
    """The nine numbers of model utility (three for each part that is there).

    Guarantee: none.

    Example:
        >>> part = Part(np.array([0.0]), np.array([0.0]), np.array([[50.0]]), np.array([1.0]))
        >>> {k: round(v, 6) for k, v in utility_parts(Logs({"retain": part}))["retain"].items()}
        {'probability': 1.0, 'rouge': 1.0, 'truth_ratio': 1.0}
    """
    return {
        name: {
            "probability": float((logs[name].probability if name == "retain" else logs[name].chosen).mean()),
            "rouge": float(logs[name].rouge.mean()),
            "truth_ratio": float(np.maximum(0, 1 - logs[name].truth_ratio).mean()),
        }
        for name in UTILITY
        if name in logs
    }


def model_utility(logs: Logs) -> float:
    """Harmonic mean of probability, ROUGE and truth ratio over retain set, real authors and world facts.

    Where the logs lack the last two, as those of a small model without knowledge of the world must, it is that of the
    three numbers of the retain set: say so beside the figure.

    Args:
        logs: with the part `retain` at least.

    Returns:
        A number in [0, 1]; 0 where any of its parts is.

    Guarantee: none; checked against the published logs.

    Example:
        >>> part = Part(np.array([0.0]), np.array([0.0]), np.array([[50.0]]), np.array([1.0]))
        >>> round(model_utility(Logs({"retain": part})), 6)
        1.0
    """
    _ = logs["retain"]
    values = np.array([v for numbers in utility_parts(logs).values() for v in numbers.values()])
    return float(len(values) / (1 / values).sum()) if (values > 0).all() else 0.0


def forget_quality(logs: Logs, reference_logs: Logs) -> ForgetQuality:
    """How alike the truth ratios on the forget set are to those of a model that never saw it.

    Args:
        logs: of the model in question, with the part `forget`.
        reference_logs: of a model retrained without the forget set, on the same questions.

    Returns:
        `pvalue` and `statistic` of the two-sided two-sample test.

    Raises:
        InvalidInputError: where a part is missing or the wrong answers are not as many.

    Guarantee: the same for R and 1/R. It saturates at 1, and is high also for a model that is blurred altogether: read
        it beside probability and ROUGE on the retain set.

    Example:
        >>> part = Part(np.ones(9), np.arange(9.0), np.ones((9, 2)), np.ones(9))
        >>> forget_quality(Logs({"forget": part}), Logs({"forget": part})).pvalue
        1.0
    """
    mine, other = logs["forget"], reference_logs["forget"]
    if mine.perturbed.shape[1] != other.perturbed.shape[1]:
        raise InvalidInputError(
            f"{mine.perturbed.shape[1]} wrong answers a question here, {other.perturbed.shape[1]} in the reference; "
            "both models must be asked the same"
        )
    return kolmogorov_smirnov(mine.truth_ratio, other.truth_ratio)


def kolmogorov_smirnov(a: ArrayLike, b: ArrayLike) -> ForgetQuality:
    """The two-sided two-sample test.

    Guarantee: the p-value is valid for independent samples of continuous distributions.

    Example:
        >>> kolmogorov_smirnov([1.0, 2.0], [1.0, 2.0]).statistic
        0.0
    """
    from scipy.stats import ks_2samp

    with warnings.catch_warnings():  # of its change to the asymptotic form where the exact one is out of reach
        warnings.simplefilter("ignore", RuntimeWarning)
        found = ks_2samp(np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64))
    return ForgetQuality(float(found.pvalue), float(found.statistic))


def ks_statistic(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " m"]) -> float:
    """D alone, by sorting: fast enough for a bootstrap."""
    grid = np.concatenate([a, b])
    at_a = np.searchsorted(np.sort(a), grid, side="right") / len(a)
    at_b = np.searchsorted(np.sort(b), grid, side="right") / len(b)
    return float(np.abs(at_a - at_b).max())


def bootstrap(
    statistic: Callable[..., float],
    *parts: Part,
    paired: bool = True,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A percentile interval of a statistic of parts, questions drawn with replacement.

    Args:
        statistic: of as many parts as are given.
        parts: the data; with `paired` they are of the same questions, which are then drawn together.
        paired: whether to draw the same questions of all parts.
        draws: resamples.
        level: of the interval.
        seed: of the draws.

    Returns:
        The value on the parts given, and the interval.

    Raises:
        InvalidInputError: for paired parts of different length.

    Guarantee: asymptotic in the number of questions, for smooth statistics; a description, not a certificate.

    Example:
        >>> part = Part(np.linspace(0, 1, 200), np.ones(200), np.ones((200, 2)), np.ones(200))
        >>> interval = bootstrap(lambda p: float(p.loss.mean()), part)
        >>> interval.lower < interval.value < interval.upper
        True
    """
    if paired and len({len(p) for p in parts}) > 1:
        raise InvalidInputError(f"paired parts have the same questions, got {[len(p) for p in parts]} of them")
    parts = tuple(replace(p, answers=()) for p in parts)  # texts are of no use here, and slow to draw
    rng = np.random.default_rng(seed)
    found = np.zeros(draws)
    for i in range(draws):
        one = rng.integers(0, len(parts[0]), len(parts[0]))
        found[i] = statistic(*(p.select(one if paired else rng.integers(0, len(p), len(p))) for p in parts))
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(*parts)), float(low), float(high))


def intervals(
    logs: Logs, reference_logs: Logs | None = None, *, draws: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Every number of the logs with its interval: means of each part, model utility, and D of the test.

    Guarantee: that of `bootstrap`.

    Example:
        >>> part = Part(np.linspace(0, 1, 50), np.ones(50), np.full((50, 2), 1.5), np.ones(50))
        >>> sorted(intervals(Logs({"forget": part}), draws=50))
        ['forget probability', 'forget rouge', 'forget truth ratio']
    """
    found = {}
    for name, part in logs.items():
        means: Mapping[str, Callable[[Part], float]] = {
            "probability": lambda p: float(p.probability.mean()),
            "rouge": lambda p: float(p.rouge.mean()),
            "truth ratio": forget_truth_ratio
            if name == "forget"
            else lambda p: float(np.maximum(0, 1 - p.truth_ratio).mean()),
            **{k: lambda p, k=k: float(p.extra[k].mean()) for k in part.extra if k != "min_k"},
        }
        for what, mean in means.items():
            found[f"{name} {what}"] = bootstrap(mean, part, draws=draws, seed=seed)
    there = [n for n in UTILITY if n in logs]
    if "retain" in logs:
        found["model utility"] = bootstrap(
            lambda *parts: model_utility(Logs(dict(zip(there, parts, strict=True)))),
            *(logs[n] for n in there),
            paired=False,
            draws=draws,
            seed=seed,
        )
    if reference_logs is not None and "forget" in logs and "forget" in reference_logs:
        mine, other = logs["forget"], reference_logs["forget"]
        found["Kolmogorov-Smirnov D"] = bootstrap(
            lambda a, b: ks_statistic(a.truth_ratio, b.truth_ratio),
            mine,
            other,
            paired=len(mine) == len(other),
            draws=draws,
            seed=seed,
        )
    return found


def membership_auc(members: Part, others: Part) -> float:
    """Area under the curve of telling members by min-k %: the chance that a member's score is higher, ties half.

    Args:
        members: questions that were (or are said to be) forgotten, with `extra["min_k"]`.
        others: questions never seen.

    Guarantee: none; .5 is what cannot be told.

    Example:
        >>> a, b = (Part(np.ones(2), np.ones(2), np.ones((2, 1)), np.ones(2), {"min_k": np.array(s)})
        ...         for s in ([-1.0, -2.0], [-3.0, -2.0]))
        >>> membership_auc(a, b)
        0.875
    """
    try:
        x, y = members.extra["min_k"], others.extra["min_k"]
    except KeyError:
        raise InvalidInputError("membership needs `min_k` of each question; measure it with `evaluate`") from None
    order = np.sort(y)
    below = np.searchsorted(order, x, side="left") + np.searchsorted(order, x, side="right")
    return float(below.mean() / (2 * len(y)))


def privacy_leakage(auc: float, retrained_auc: float = 0.5) -> float:
    r"""PrivLeak: \(100\,((1 - auc) - (1 - auc_{retrained})) / (1 - auc_{retrained})\); 0 is what retraining gives.

    Guarantee: none.

    Example:
        >>> privacy_leakage(0.75)
        -50.0
    """
    if not 0 <= auc <= 1 or not 0 <= retrained_auc < 1:
        raise InvalidInputError(f"areas lie in [0, 1], that of the reference below 1, got {auc} and {retrained_auc}")
    return 100 * ((1 - auc) - (1 - retrained_auc)) / (1 - retrained_auc)
