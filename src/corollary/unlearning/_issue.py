"""Issuing the certificates of unlearning."""

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from corollary.certificates import Assumption, Certificate, Reference, Undecided, betting, refuse_reuse
from corollary.certificates._concentration import check_level
from corollary.errors import InvalidInputError, NotFittedError
from corollary.unlearning._certificate import dkw_radius, ks_distance
from corollary.unlearning._closeness import closeness
from corollary.unlearning._examples import Examples
from corollary.unlearning._model import TemperTiltModel
from corollary.unlearning.tofu._metrics import kolmogorov_smirnov

PAPER = Reference(
    "Block, Mohri, Mokhtari and Shakkottai (2026), arXiv:2602.10217",
    "classifier guidance with tempering; inequalities derived in the notes",
    "abstract read, authors' code by the notes",
)
Evidence = dict[str, np.ndarray]


def certify_forgotten(
    model: TemperTiltModel, forget: Examples, *, base_before: str, heads: Any = None
) -> tuple[Certificate, Evidence]:
    """Certify the likelihood of the given forget answers, each of them, and that the base is as it was.

    Args:
        model: the model as it is served.
        forget: the answers, all of them.
        base_before: the base's fingerprint before anything was done.
        heads: names of the heads that are on.

    Returns:
        The certificate and its evidence.

    Guarantee: a census: exact for these answers, whatever others there are.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import ByteTokenizer, TemperTiltHead
        >>> base = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> model = TemperTiltModel(base, {"h": TemperTiltHead(16, 256, rank=2)}, temperature=2.0)
        >>> examples = Examples.from_pairs([{"question": "a", "answer": "b"}], ByteTokenizer())
        >>> certificate, evidence = certify_forgotten(model, examples, base_before=base.fingerprint())
        >>> certificate.check(**evidence).status.name
        'HOLDS'

    Reference: definitions only.
    """
    evidence = {
        "log_likelihood": -model.score(forget, heads=heads).mean_nll,
        "base_log_likelihood": -model.score(forget, heads=[]).mean_nll,
        "hash_before": _bytes(base_before),
        "hash_after": _bytes(model.backbone.fingerprint()),
    }
    p = np.exp(evidence["log_likelihood"])
    witness = {"largest": float(p.max()) + 1e-9, "mean": float(p.mean()) + 1e-9}
    certificate = Certificate.issue(
        "unlearning.forgotten",
        statement=f"The base's weights are unchanged, and each of the {len(p)} answers to be forgotten has a "
        f"probability of "
        f"at most {rounded_up(p.max())} a token, {rounded_up(p.mean())} in the mean.",
        evidence=evidence,
        witness=witness,
        reference=PAPER,
        assumptions=(Assumption("the model is served with these heads, temperature and guidance"),),
        pins={"base": base_before, "model": model.fingerprint(), "forget": forget.digest()},
        provenance=_settings(model),
    )
    return certificate, evidence


def certify_paraphrases(
    model: TemperTiltModel, paraphrases: Examples, *, delta: float = 0.02, heads: Any = None, attempts: int = 1
) -> tuple[Certificate, Evidence]:
    """Certify the mean likelihood of paraphrases, which were not trained on.

    Args:
        model: the model as it is served.
        paraphrases: one paraphrased answer a question.
        delta: probability that the bound fails.
        heads: names of the heads that are on.
        attempts: statements drawn from these paraphrases, this one included.

    Returns:
        The certificate and its evidence; under 30 paraphrases it is UNDECIDED.

    Guarantee: over the draw of the paraphrases, that of `betting`; it says nothing about other ways to ask.

    Example:
        >>> certify_paraphrases.__name__
        'certify_paraphrases'

    Reference: betting bounds after Waudby-Smith and Ramdas (2024).
    """
    check_level(delta, "upper")
    evidence = {
        "probability": np.exp(-model.score(paraphrases, heads=heads).mean_nll),
        "base_probability": np.exp(-model.score(paraphrases, heads=[]).mean_nll),
    }
    upper = _upper(evidence["probability"], delta)
    certificate = Certificate.issue(
        "unlearning.paraphrases",
        statement=f"With confidence {1 - delta:.6g} paraphrases of what is forgotten have a mean probability of at "
        f"most "
        f"{rounded_up(upper)} a token.",
        evidence=evidence,
        witness={"delta": delta, "upper": upper + 1e-9},
        reference=PAPER,
        assumptions=(Assumption("the paraphrases are independent draws from those that will be asked for"),),
        confidence=1 - delta,
        pins={"model": model.fingerprint(), "paraphrases": paraphrases.digest()},
        attempts=attempts,
        provenance=_settings(model),
    )
    return certificate, evidence


def certify_retained(
    model: TemperTiltModel,
    held_out: Examples,
    *,
    trained_on: Examples | Sequence[Examples] | None = None,
    delta: float = 0.02,
    heads: Any = None,
    attempts: int = 1,
) -> tuple[Certificate, Evidence]:
    """Certify how far the outputs on retained prompts have moved: total variation to the base.

    Args:
        model: the model as it is served.
        held_out: retained prompts with answers that the head was not trained on.
        trained_on: those it was trained on, to retain and to forget; a common one is refused.
        delta: probability that the bound fails.
        heads: names of the heads that are on.
        attempts: statements drawn from these prompts, this one included.

    Returns:
        The certificate and its evidence; the mean KL stands in the provenance. Under 30 prompts it is UNDECIDED.

    Raises:
        ReusedRowsError: where a held-out prompt was trained on.

    Guarantee: over the draw of the prompts, that of `betting`: a mean over answer positions, then prompts. At the
        length of n
        tokens the distributions of whole answers differ by at most n times as much in the mean.

    Example:
        >>> certify_retained.__name__
        'certify_retained'

    Reference: betting bounds after Waudby-Smith and Ramdas (2024).
    """
    check_level(delta, "upper")
    sets = [trained_on] if isinstance(trained_on, Examples) else list(trained_on or ())
    for given in sets:
        refuse_reuse(held_out.hashes(), training=given.hashes())
    found = closeness(model, held_out, heads=heads)
    evidence = {"variation": found.variation}
    upper = _upper(found.variation, delta)
    unseen = Assumption(
        "the head was not trained on these prompts",
        f"0 of {len(held_out)} are among the {sum(map(len, sets))} trained on" if sets else "",
    )
    certificate = Certificate.issue(
        "unlearning.retained",
        statement=f"With confidence {1 - delta:.6g} the next-token distributions on retained prompts have moved by at "
        f"most "
        f"{rounded_up(upper)} in total variation, in the mean.",
        evidence=evidence,
        witness={"delta": delta, "upper": upper + 1e-9},
        reference=PAPER,
        assumptions=(Assumption("the held-out prompts are independent draws from the retained traffic"), unseen),
        confidence=1 - delta,
        pins={"model": model.fingerprint(), "held_out": held_out.digest()},
        attempts=attempts,
        provenance={**_settings(model), "mean KL to the base (nats a token)": float(found.kl.mean())},
    )
    return certificate, evidence


def certify_retain_error(
    retained: ArrayLike, forgotten: ArrayLike, *, share: float, clip: float = 1e-3, delta: float = 0.05
) -> tuple[Certificate, Evidence]:
    r"""The theorem's own statement, at T = 1: \(\mathrm{KL}(p_r \| \hat p_r) \le R(\hat f) / (1-\gamma)\).

    Args:
        retained: (n,) \(\hat f(x)\) of held-out retained draws: the classifier's probability of being retained.
        forgotten: (m,) the same of held-out forget draws.
        share: gamma, the share of what is to be forgotten in the base.
        clip: \(\hat f\) is clipped to [clip, 1 - clip], in the model, too: that bounds its log-loss.
        delta: probability that the bound fails.

    Returns:
        The certificate and its evidence; under 30 draws of either it is UNDECIDED.

    Raises:
        InvalidInputError: for probabilities, a share or a clip out of range.

    Guarantee: G2: \(\delta = R(\hat f) - R^* \le R(\hat f)\) since the Bayes risk is not negative. Without the
        method the error is
        at most \(\log 1/(1-\gamma)\): for large Bayes risks the claim holds but says nothing.

    Example:
        >>> certificate, evidence = certify_retain_error([0.999] * 3000, [0.001] * 3000, share=0.1)
        >>> certificate.vacuous, certificate.check(**evidence).status.name
        (False, 'HOLDS')

    Reference: G2 is derived here; the paper's constants were not seen.
    """
    check_level(delta, "upper")
    if not 0 < share < 1 or not 0 < clip < 0.5:
        raise InvalidInputError(f"`share` must lie in (0, 1) and `clip` in (0, 1/2), got {share} and {clip}")
    kept, lost = (np.asarray(x, dtype=np.float64) for x in (retained, forgotten))
    for x in (kept, lost):
        if x.ndim != 1 or not ((x >= 0) & (x <= 1)).all():
            raise InvalidInputError("the classifier's answers must be flat arrays of probabilities, without NaN")
    high = float(-np.log(clip))
    evidence = {
        "retain_loss": np.minimum(-np.log(kept.clip(clip, 1 - clip)), high),
        "forget_loss": np.minimum(-np.log1p(-lost.clip(clip, 1 - clip)), high),
    }
    witness: dict[str, Any] = {"share": share, "range": high, "delta": delta}
    bounds = [_upper(x, delta / 2, high=high) for x in evidence.values()]
    upper = ((1 - share) * bounds[0] + share * bounds[1]) / (1 - share)
    certificate = Certificate.issue(
        "unlearning.retain_error",
        statement=f"With confidence {1 - delta:.6g} the tilted density at T = 1 is within {rounded_up(upper)} nats of "
        "the retained one, in KL.",
        evidence=evidence,
        witness={**witness, "upper": upper + 1e-9},
        reference=PAPER,
        assumptions=(
            Assumption("the base is the mixture of retained and forget densities with this share"),
            Assumption("the draws are independent, and the classifier saw none of them"),
            Assumption(f"the classifier in use is clipped to [{clip:g}, {1 - clip:g}]"),
        ),
        confidence=1 - delta,
    )
    return certificate, evidence


def certify_forget_quality(
    ratio: ArrayLike,
    reference: ArrayLike = (),
    *,
    borrowed: bool = False,
    delta: float = 0.05,
    pins: Mapping[str, str] | None = None,
    attempts: int = 1,
) -> tuple[Certificate, Evidence]:
    """Certify how close truth ratios are to those of a retrained model; UNDECIDED without one.

    Args:
        ratio: (n,) truth ratios of the served model on the forget questions.
        reference: (m,) those of a model retrained without them; empty where there is none.
        borrowed: whether the wrong answers are those of other questions, which the statement then says.
        delta: probability that the bound fails.
        pins: digests to record.
        attempts: statements drawn from these questions, this one included.

    Returns:
        The certificate and its evidence.

    Guarantee: for questions drawn independently, the inequality of Dvoretzky, Kiefer and Wolfowitz with Massart's
        constant, on both sides. The p-value stands in the provenance.

    Example:
        >>> certificate, evidence = certify_forget_quality([0.5] * 40)
        >>> certificate.check(**evidence).status.name
        'UNDECIDED'

    Reference: Massart (1990), textbook.
    """
    check_level(delta, "upper")
    a, b = (np.asarray(x, dtype=np.float64).ravel() for x in (ratio, reference))
    d, upper, pvalue = 0.0, 1.0, None
    if len(a) and len(b):
        d, pvalue = ks_distance(a, b), kolmogorov_smirnov(a, b).pvalue
        upper = min(1.0, d + dkw_radius(len(a), delta / 2) + dkw_radius(len(b), delta / 2))
    certificate = Certificate.issue(
        "unlearning.forget_quality",
        statement=f"With confidence {1 - delta:.6g} the truth ratios{' against answers of other questions' * borrowed} "
        f"are within {rounded_up(upper)} of those of a retrained model, in Kolmogorov-Smirnov distance ({d:.4g} on "
        f"these {len(a)} questions" + (f", p = {pvalue:.4g})." if pvalue is not None else ")."),
        evidence={"ratio": a, "reference": b},
        witness={"delta": delta, "upper": upper + 1e-9, "statistic": d},
        reference=PAPER,
        assumptions=(Assumption("the questions are independent draws from those that will be asked"),),
        confidence=1 - delta,
        pins=pins,
        attempts=attempts,
        provenance={} if pvalue is None else {"p-value": pvalue},
    )
    return certificate, {"ratio": a, "reference": b}


def certify_fit(model: TemperTiltModel) -> tuple[Certificate, Evidence]:
    """What `fit_temper_tilt` can certify: a census of what was forgotten; paraphrases, held-out prompts if given."""
    if not model.given:
        raise NotFittedError(model, "certificate_")
    given = model.given
    certificate, evidence = certify_forgotten(model, given["forget"], base_before=given["base_before"])
    parts = []
    if given["paraphrases"] is not None:
        parts.append(certify_paraphrases(model, given["paraphrases"]))
    if given["held_out"] is not None:
        parts.append(certify_retained(model, given["held_out"], trained_on=(given["retain"], given["forget"])))
    for more, arrays in parts:
        certificate, evidence = certificate & more, evidence | arrays
    return certificate, evidence


def rounded_up(x: float) -> str:
    """An upper bound in four digits, rounded upwards: to the nearest it could lie below what is certified."""
    return f"{float(Context(prec=4, rounding=ROUND_CEILING).create_decimal(Decimal(float(x)))):.4g}"


def _upper(x: np.ndarray, delta: float, *, high: float = 1.0) -> float:
    try:
        return float(betting(np.clip(x, 0, high), delta=delta, low=0.0, high=high, side="upper").upper)
    except (Undecided, InvalidInputError):  # `issue` records the reason
        return high


def _bytes(fingerprint: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(fingerprint), dtype=np.uint8)


def _settings(model: TemperTiltModel) -> dict[str, Any]:
    return {"temperature": model.temperature, "guidance": model.guidance, "heads": list(model.heads)}
