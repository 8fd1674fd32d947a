r"""What unlearning certifies, and how it is derived again; imports no trainer.

`unlearning.forgotten` [exact, a census]: the base's weights are those of before (their hash), and the probability a
token of every given forget answer, \(P(a|q)^{1/|a|}\), is at most the stated one, the base's beside it.
`unlearning.paraphrases` [confidence]: the mean of the same over paraphrases, which were not trained on, by betting.
`unlearning.retained` [confidence]: on held-out retained prompts the total variation between the next-token
distributions of the served model and the base, a mean over answer positions and prompts, by betting; KL is reported,
not certified. `unlearning.retain_error` [confidence]: the theorem's own at T = 1: \(\mathrm{KL}(p_r \| \hat p_r) \le
R(\hat f)/(1-\gamma)\), R the held-out log-loss weighted to the mixture; valid because the Bayes risk is not negative.
Without the method the error is at most \(\log 1/(1-\gamma)\), since \(p \ge (1-\gamma) p_r\).
`unlearning.forget_quality` [confidence]: the Kolmogorov-Smirnov distance between truth ratios of the served and of a
retrained model, by the inequality of Dvoretzky, Kiefer, Wolfowitz and Massart; without a reference nothing is decided.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import Claim, Rule, Undecided, betting, register_rule, require_units

CLOSE = 1e-4  # networks in float32 give the same log-probabilities on another machine up to this


def forgotten(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `log_likelihood`, `base_log_likelihood` (n,), `hash_before`, `hash_after` (32,)."""
    now, before = evidence["log_likelihood"], evidence["base_log_likelihood"]
    if now.shape != before.shape or now.ndim != 1 or not len(now):
        raise Undecided("likelihoods with and without the heads are not of the same answers")
    if not np.isfinite(before).all() or np.isnan(now).any() or (now > CLOSE).any() or (before > CLOSE).any():
        raise Undecided("some likelihood is no probability")
    changed = float((evidence["hash_before"] != evidence["hash_after"]).sum())
    p, q = np.exp(now), np.exp(before)
    return [
        Claim("bytes of the base's hash that changed", changed, "<=", 0.0),
        Claim(
            "largest probability a token of a forget answer", float(p.max()), "<=", witness["largest"], 1e-9, q.max()
        ),
        Claim("mean probability a token of the forget answers", float(p.mean()), "<=", witness["mean"], 1e-9, q.mean()),
    ]


def paraphrases(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claim: evidence `probability`, `base_probability` (n,) a token of one paraphrase a question."""
    x, q = evidence["probability"], evidence["base_probability"]
    require_units(len(x), "paraphrases")
    _in_unit(x, q)
    upper = float(betting(np.clip(x, 0, 1), delta=witness["delta"], low=0.0, high=1.0, side="upper").upper)
    name = "mean probability a token of paraphrases, upper bound"
    return [Claim(name, upper, "<=", witness["upper"], 1e-9, float(q.mean()))]


def retained(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claim: evidence `variation` (n,), the mean over the answer positions of each held-out prompt."""
    x = evidence["variation"]
    require_units(len(x), "held-out prompts")
    _in_unit(x)
    upper = float(betting(np.clip(x, 0, 1), delta=witness["delta"], low=0.0, high=1.0, side="upper").upper)
    return [Claim("total variation to the base, upper bound", upper, "<=", witness["upper"], 1e-9, 1.0)]


def retain_error(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claim: evidence `retain_loss` (n,), `forget_loss` (m,), held-out log-losses in [0, range]."""
    kept, lost = evidence["retain_loss"], evidence["forget_loss"]
    share, high = float(witness["share"]), float(witness["range"])
    if not 0 < share < 1:
        raise Undecided("the share of what is to be forgotten must lie between 0 and 1")
    require_units(len(kept), "retained units")
    require_units(len(lost), "forget units")
    for x in (kept, lost):
        if not np.isfinite(x).all() or x.min() < 0 or x.max() > high:
            raise Undecided(f"a log-loss lies outside [0, {high:g}], the range that the clipping fixes")
    level = witness["delta"] / 2
    bounds = [float(betting(x, delta=level, low=0.0, high=high, side="upper").upper) for x in (kept, lost)]
    risk = (1 - share) * bounds[0] + share * bounds[1]
    trivial = -np.log1p(-share)
    return [Claim("retain error at T = 1 (nats)", risk / (1 - share), "<=", witness["upper"], 1e-9, trivial)]


def forget_quality(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `ratio` (n,) and `reference` (m,) truth ratios; empty without a reference."""
    a, b = evidence["ratio"], evidence["reference"]
    if not len(b):
        raise Undecided("no retrained reference was given; forget quality compares with one")
    require_units(len(a), "questions")
    require_units(len(b), "questions of the reference")
    if np.isnan(a).any() or np.isnan(b).any():
        raise Undecided("some truth ratio is not a number")
    d = ks_distance(a, b)
    upper = min(1.0, d + sum(dkw_radius(len(x), witness["delta"] / 2) for x in (a, b)))
    return [
        Claim("Kolmogorov-Smirnov distance to retraining, upper bound", upper, "<=", witness["upper"], 1e-9, 1.0),
        Claim("Kolmogorov-Smirnov statistic on these questions", d, "==", witness["statistic"], 1e-9),
    ]


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of the two empirical distribution functions."""
    grid = np.concatenate([a, b])
    at_a = np.searchsorted(np.sort(a), grid, side="right") / len(a)
    at_b = np.searchsorted(np.sort(b), grid, side="right") / len(b)
    return float(np.abs(at_a - at_b).max())


MASSART = 2.0  # P(sup |F_n - F| > e) <= 2 exp(-2 n e^2)


def dkw_radius(count: int, delta: float) -> float:
    r"""\(\sqrt{\log(2/\delta) / (2n)}\)."""
    return float(np.sqrt(np.log(2 / delta) / (MASSART * count)))


def _in_unit(*arrays: np.ndarray) -> None:
    for x in arrays:
        if not np.isfinite(x).all() or x.min() < -CLOSE or x.max() > 1 + CLOSE:
            raise Undecided("a value lies outside [0, 1]")


def rescore(run: Path, witness: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Evidence of a run of `corollary unlearn`: base, heads and questions loaded again, everything measured again."""
    from corollary.unlearning._measured import rescored

    return rescored(run)


_LIKELIHOOD = {"log_likelihood": CLOSE, "base_log_likelihood": CLOSE, "claims": CLOSE}
register_rule(
    Rule(
        "unlearning.forgotten",
        needs=("log_likelihood", "base_log_likelihood", "hash_before", "hash_after"),
        derive=forgotten,
        rescore=rescore,
        tolerances=_LIKELIHOOD,
    )
)
register_rule(
    Rule(
        "unlearning.paraphrases",
        needs=("probability", "base_probability"),
        derive=paraphrases,
        rescore=rescore,
        tolerances={"probability": CLOSE, "base_probability": CLOSE, "claims": CLOSE},
    )
)
register_rule(
    Rule(
        "unlearning.retained",
        needs=("variation",),
        derive=retained,
        rescore=rescore,
        tolerances={"variation": CLOSE, "claims": CLOSE},
    )
)
register_rule(Rule("unlearning.retain_error", needs=("retain_loss", "forget_loss"), derive=retain_error))
register_rule(
    Rule(
        "unlearning.forget_quality",
        needs=("ratio", "reference"),
        derive=forget_quality,
        rescore=rescore,
        # truth ratios are exponentials of log-losses; ties within rounding may move D by a few questions
        tolerances={"ratio": 1e-2, "reference": 1e-2, "claims": 2e-2},
    )
)
