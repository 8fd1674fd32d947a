"""Measuring a run of `corollary unlearn`: figures, sweeps, certificates; and its evidence again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import Certificate, Undecided, save_certificate
from corollary.errors import CorollaryError, InvalidInputError
from corollary.runs import RunFolder, write_json
from corollary.unlearning import _issue
from corollary.unlearning._base import Tell, load_base
from corollary.unlearning._closeness import closeness
from corollary.unlearning._model import TemperTiltModel
from corollary.unlearning._opened import SETUP, Opened
from corollary.unlearning._tokens import Tokenizer
from corollary.unlearning.tofu._evaluate import evaluate
from corollary.unlearning.tofu._logs import Logs, Part, save_logs
from corollary.unlearning.tofu._metrics import (
    ForgetQuality,
    forget_quality,
    forget_truth_ratio,
    intervals,
    membership_auc,
    model_utility,
    privacy_leakage,
)

SWEEP_T, SWEEP_S = (1.0, 1.25, 1.5, 2.0, 2.5), (0.0, 0.5, 1.0, 2.0)
SHOWN, SWEPT = 12, 60


def evaluate_run(
    run: RunFolder,
    *,
    temperature: float | None = None,
    guidance: float | None = None,
    reference: str | Path | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Measure a fitted run, perhaps at other settings or with another reference, and certify it anew.

    The settings stay with the run once everything is measured: it is then generated from and served at them.

    Guarantee: that of the certificates; each evaluation of the same questions counts as a further attempt.

    Example:
        >>> evaluate_run.__name__
        'evaluate_run'
    """
    say: Tell = tell or (lambda what, share: None)
    setup = dict(Opened(run.path).setup)
    asked = {"temperature": temperature, "guidance": guidance}
    setup |= {k: v for k, v in asked.items() if v is not None}
    if reference is not None:
        setup["reference"] = str(Path(reference).resolve())
    setup["attempts"] = int(setup.get("attempts", 0)) + 1
    opened = Opened(run.path, setup)
    model, tokenizer = opened.model(), opened.base[1]
    other = _reference_part(opened, tokenizer)
    parts: dict[str, Part] = {}
    for what, heads in (("before", []), ("after", None)):
        for part in ("forget", "held_out"):
            say(f"{part} {what}", 0.2)
            parts[f"{part} {what}"] = evaluate(
                model, opened.rows(part), tokenizer, heads=heads, max_new_tokens=setup["limit"]
            )
        if opened.rows("unseen"):
            parts[f"unseen {what}"] = evaluate(model, _bare(opened), tokenizer, heads=heads, generate=False)
    unseen = _elsewhere(opened, model, parts, other)
    logs = {w: Logs({"forget": parts[f"forget {w}"], "retain": parts[f"held_out {w}"]}) for w in ("before", "after")}
    reference_logs = Logs({"forget": other}) if other is not None else None
    say("certifying", 0.7)
    certificate, quality, evidence = certify(opened, model, parts["forget after"], other)
    for what, log in (logs if reference_logs is None else {**logs, "reference": reference_logs}).items():
        save_logs(run.inside(f"logs/{what}"), log)
    write_json(run.inside(SETUP), setup)  # only now: what failed leaves the run as it was
    save_certificate(run.path, certificate, evidence)
    save_certificate(run.inside("forget_quality.json"), quality[0], quality[1])
    result = {
        "verb": "unlearn",
        "temperature": setup["temperature"],
        "guidance": setup["guidance"],
        "wrong_answers_borrowed": opened.borrowed,
        "dropped": opened.dropped,
        "questions": {p: len(opened.rows(p)) for p in ("forget", "retain", "held_out", "unseen")},
        "forget_quality": _plain(forget_quality(logs["after"], reference_logs) if reference_logs else None),
        "forget_quality_before": _plain(forget_quality(logs["before"], reference_logs) if reference_logs else None),
        "figures": {w: _figures(log) | unseen.get(w, {}) for w, log in logs.items()},
        "intervals": {k: v._asdict() for k, v in intervals(logs["after"], reference_logs, draws=300).items()},
        "examples": _table(opened, parts),
        "sweep": sweep(opened, reference_logs, tell=say),
        "training": {k: v for k, v in setup["training"].items() if k != "losses"},
        "trained_parameters": setup["trained_parameters"],
        "base_parameters": setup["base_parameters"],
        "certified": certificate.statement,
    }
    write_json(run.inside("metrics.json"), result)
    say("done", 1.0)
    return result


def certify(
    opened: Opened, model: TemperTiltModel, forget: Part, reference: Part | None
) -> tuple[Certificate, tuple[Certificate, dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """The composed certificate of a run, that on forget quality alone, and the evidence of the first."""
    level, attempts = opened.setup["delta"] / 3, int(opened.setup.get("attempts", 1))
    parts = [_issue.certify_forgotten(model, opened.examples("forget"), base_before=opened.setup["base_before"])]
    rows = opened.rows("forget")
    if all("paraphrased_answer" in row for row in rows):
        parts.append(
            _issue.certify_paraphrases(
                model, opened.examples("forget", "paraphrased_answer"), delta=level, attempts=attempts
            )
        )
    held_out, trained_on = opened.examples("held_out"), [opened.examples(part) for part in ("retain", "forget")]
    parts.append(_issue.certify_retained(model, held_out, trained_on=trained_on, delta=level, attempts=attempts))
    other = reference.truth_ratio if reference is not None else np.zeros(0)
    quality = _issue.certify_forget_quality(
        forget.truth_ratio,
        other,
        borrowed=opened.borrowed,
        delta=level,
        pins={"model": model.fingerprint()},
        attempts=attempts,
    )
    if reference is not None:
        parts.append(quality)
    certificate, evidence = parts[0]
    for more, arrays in parts[1:]:
        certificate, evidence = certificate & more, evidence | arrays
    return certificate, quality, evidence


def _bare(opened: Opened) -> list[dict[str, Any]]:
    """Questions of neither set: of them only the right answers are scored."""
    return [{**row, "perturbed_answer": [row["answer"]]} for row in opened.rows("unseen")]


def _elsewhere(
    opened: Opened, model: TemperTiltModel, parts: Mapping[str, Part], reference: Part | None
) -> dict[str, dict[str, float]]:
    """On questions of neither set: whether those forgotten can be told from them, and what the head does there."""
    if not opened.rows("unseen"):
        return {}
    moved = float(closeness(model, opened.examples("unseen")).variation.mean())
    told = {w: membership_auc(parts[f"forget {w}"], parts[f"unseen {w}"]) for w in ("before", "after")}
    found = {w: {"membership AUC": told[w]} for w in told}
    if reference is not None and opened.reference is not None:
        other, own = load_base(opened.reference)
        retrained = membership_auc(reference, evaluate(other, _bare(opened), own, generate=False))
        if retrained < 1:
            for w in told:
                found[w]["privacy leakage"] = privacy_leakage(told[w], retrained)
    for w, variation in (("before", 0.0), ("after", moved)):
        found[w]["unseen probability"] = float(parts[f"unseen {w}"].probability.mean())
        found[w]["unseen variation"] = variation
    return found


def _reference_part(opened: Opened, tokenizer: Tokenizer) -> Part | None:
    if opened.reference is None:
        return None
    other, own = load_base(opened.reference)
    check_reference(own, tokenizer)
    return evaluate(other, opened.rows("forget"), own, generate=False)


def check_reference(reference: Tokenizer, base: Tokenizer) -> None:
    """Refuse a reference of another tokenizer."""
    if reference.vocab_size != base.vocab_size:
        raise InvalidInputError(
            f"the reference has {reference.vocab_size} tokens, the base {base.vocab_size}; retrain with one tokenizer"
        )


def _plain(found: ForgetQuality | None) -> dict[str, float] | None:
    return None if found is None else {"pvalue": found.pvalue, "statistic": found.statistic}


def _figures(logs: Logs) -> dict[str, float]:
    forget, retain = logs["forget"], logs["retain"]
    return {
        "forget truth ratio": forget_truth_ratio(forget),
        "forget probability": float(forget.probability.mean()),
        "forget ROUGE": float(forget.rouge.mean()),
        "extraction strength": float(forget.extra["extraction"].mean()),
        "exact memorisation": float(forget.extra["memorised"].mean()),
        "retain probability": float(retain.probability.mean()),
        "retain ROUGE": float(retain.rouge.mean()),
        "model utility (retain only)": model_utility(logs),
    }


def _table(opened: Opened, parts: Mapping[str, Part]) -> list[dict[str, Any]]:
    """Questions with the greedy answers before and after."""
    found = []
    for part in ("forget", "held_out"):
        before, after = parts[f"{part} before"], parts[f"{part} after"]
        for i, row in list(enumerate(opened.rows(part)))[:SHOWN]:
            found.append(
                {
                    "part": "forget" if part == "forget" else "retain",
                    "question": row["question"],
                    "answer": row["answer"],
                    "before": before.answers[i],
                    "after": after.answers[i],
                    "probability_before": float(before.probability[i]),
                    "probability_after": float(after.probability[i]),
                }
            )
    return found


def sweep(opened: Opened, reference: Logs | None, *, tell: Tell) -> list[dict[str, float]]:
    """Temperature at the run's guidance, then guidance at its temperature, on some of the questions."""
    setup = opened.setup
    settings = [(t, setup["guidance"]) for t in SWEEP_T] + [(setup["temperature"], s) for s in SWEEP_S]
    rows = {p: opened.rows(p)[:SWEPT] for p in ("forget", "held_out")}
    heads = opened.model()
    found = []
    for i, (t, s) in enumerate(settings):
        tell("sweeping", 0.75 + 0.2 * i / len(settings))
        model = heads.with_settings(temperature=t, guidance=s)
        forget, retain = (evaluate(model, rows[p], opened.base[1], generate=False) for p in rows)
        row = {
            "temperature": t,
            "guidance": s,
            "forget probability": float(forget.probability.mean()),
            "retain probability": float(retain.probability.mean()),
            "retain hits": float(retain.extra["memorised"].mean()),
        }
        if reference is not None:
            same = Logs({"forget": reference["forget"].select(np.arange(len(forget)))})
            row["forget quality"] = forget_quality(Logs({"forget": forget}), same).pvalue
        found.append(row)
    return found


def rescored(folder: Path) -> dict[str, np.ndarray]:
    """Evidence of a run from its base, heads and questions."""
    opened = Opened(folder)
    try:
        model = opened.model()
        tokenizer = opened.base[1]
        after = evaluate(model, opened.rows("forget"), tokenizer, generate=False)
        return certify(opened, model, after, _reference_part(opened, tokenizer))[2]
    except (CorollaryError, KeyError, TypeError) as problem:
        raise Undecided(f"the run cannot be measured again ({problem})") from None
