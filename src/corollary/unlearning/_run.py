"""A run of `corollary unlearn`: questions, base, head, measurements, sweeps, certificates; and its evidence again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import MIN_UNITS, Certificate, Undecided, save_certificate
from corollary.errors import CorollaryError, InvalidInputError
from corollary.runs import RunFolder, read_json, write_json
from corollary.unlearning import _issue
from corollary.unlearning._base import embedded, load_base
from corollary.unlearning._examples import Examples
from corollary.unlearning._fit import HeadTraining, fit_temper_tilt
from corollary.unlearning._model import TemperTiltModel
from corollary.unlearning._tokens import Tokenizer
from corollary.unlearning.tofu._evaluate import evaluate
from corollary.unlearning.tofu._logs import Logs, Part, save_logs
from corollary.unlearning.tofu._metrics import (
    ForgetQuality,
    forget_quality,
    forget_truth_ratio,
    intervals,
    model_utility,
)
from corollary.unlearning.tofu._questions import Questions, load_questions, make_questions

SETUP = "setup.json"
NAME = "forgotten"
SWEEP_T, SWEEP_S = (1.0, 1.25, 1.5, 2.0, 2.5), (0.0, 0.5, 1.0, 2.0)
SHOWN, SWEPT, HELD_OUT = 12, 60, 0.25
Tell = Callable[[str, float], object]


@dataclass(frozen=True)
class Opened:
    """What a run folder holds: the questions, and where base and reference lie."""

    folder: Path

    @cached_property
    def setup(self) -> dict[str, Any]:
        """What `fit` was asked, resolved."""
        return read_json(self.folder / SETUP)

    def rows(self, part: str) -> list[dict[str, Any]]:
        """`forget`, `retain` (trained on) or `held_out` questions."""
        return read_json(self.folder / "questions.json")[part]

    @cached_property
    def base(self) -> tuple[Any, Tokenizer]:
        """Base model and tokenizer."""
        return load_base(self._inside(self.setup["base"]))

    @property
    def reference(self) -> Path | None:
        """Folder of the retrained model."""
        found = self.setup.get("reference")
        return None if found is None else self._inside(found)

    def _inside(self, path: str) -> Path:
        return Path(path) if Path(path).is_absolute() else self.folder / path

    def model(self, *, temperature: float | None = None, guidance: float | None = None) -> TemperTiltModel:
        """The base with its heads, at the settings of the run unless said otherwise."""
        t = self.setup["temperature"] if temperature is None else temperature
        s = self.setup["guidance"] if guidance is None else guidance
        heads = TemperTiltModel.from_pretrained(self.folder / "heads", self.base[0])
        return heads.with_settings(temperature=t, guidance=s)

    def examples(self, part: str, answer: str = "answer") -> Examples:
        """The questions of a part as tokens."""
        return Examples.from_pairs(self.rows(part), self.base[1], answer=answer)


def fit_run(
    run: RunFolder,
    *,
    model: str | Path | None = None,
    forget: str | Path | None = None,
    retain: str | Path | None = None,
    reference: str | Path | None = None,
    authors: int = 10,
    temperature: float = 1.0,
    guidance: float = 1.0,
    training: HeadTraining | None = None,
    delta: float = 0.06,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Fit a head and measure everything; without a model, on a base trained here on made-up authors.

    Args:
        run: the folder.
        model: folder of the base; None trains one, and a retrained reference.
        forget: file of questions to forget; None makes some.
        retain: file of questions to retain.
        reference: folder of a model retrained without the forget set.
        authors: how many to make up.
        temperature: T of the outputs.
        guidance: s.
        training: of the head.
        delta: probability that one of the certified statements fails.
        tell: called with (what, share).

    Returns:
        What `metrics.json` holds.

    Raises:
        InvalidInputError: where only one of forget and retain is given, or a model without questions.

    Guarantee: that of the certificates.

    Example:
        >>> fit_run.__name__
        'fit_run'
    """
    say: Tell = tell or (lambda what, share: None)
    if (forget is None) != (retain is None) or (forget is None and model is not None):
        raise InvalidInputError(
            "give both questions to forget and to retain, and with a model of your own both of them"
        )
    training = training or HeadTraining()
    _write_questions(run, forget, retain, authors, training.seed)
    setup: dict[str, Any] = {"temperature": temperature, "guidance": guidance, "delta": delta, "limit": 60}
    if model is None:
        setup |= {"base": "base", "reference": "reference"}
        kept = read_json(run.inside("questions.json"))
        questions = Questions(tuple(kept["forget"]), tuple(kept["retain"] + kept["held_out"]))
        run.once("trained", lambda _: embedded(questions, run.path, seed=training.seed, tell=say), lambda _: None)
    else:
        setup["base"] = str(Path(model).resolve())
        setup["reference"] = None if reference is None else str(Path(reference).resolve())
    if (run.path / "metrics.json").exists():  # finished: another evaluation would be a further attempt
        return read_json(run.path / "metrics.json")
    opened = Opened(run.path)
    base, tokenizer = load_base(setup["base"] if model is not None else run.path / "base")
    setup["limit"] = _longest(opened.rows("forget"), tokenizer)
    if not (run.path / "heads" / "model.json").exists():
        sets = [Examples.from_pairs(opened.rows(part), tokenizer) for part in ("forget", "retain")]
        before = TemperTiltModel(base).backbone.fingerprint()
        fitted = fit_temper_tilt(
            base,
            *sets,
            name=NAME,
            temperature=temperature,
            guidance=guidance,
            training=training,
            folder=run.inside("training"),
            progress=say,
        )
        fit = fitted.fits[NAME]
        took = {"seconds": fit.seconds, "caching": fit.caching, "losses": list(fit.losses)}
        setup |= {"base_before": before, "training": took}
        setup["trained_parameters"] = sum(p.numel() for p in fit.head.parameters())
        setup["base_parameters"] = _parameters(base)
        write_json(run.inside(SETUP), setup)
        fitted.save_pretrained(run.inside("heads"))
    return evaluate_run(run, tell=say)


def _parameters(base: Any) -> int:
    found = getattr(base, "parameters", None)
    return sum(p.numel() for p in found()) if callable(found) else 0


def _longest(rows: list[dict[str, Any]], tokenizer: Tokenizer) -> int:
    return min(200, 8 + max(len(tokenizer.answer(row["answer"])) for row in rows))


def _write_questions(
    run: RunFolder, forget: str | Path | None, retain: str | Path | None, authors: int, seed: int
) -> None:
    """`questions.json`: what is forgotten, what is retained and trained on, what is retained and held out."""
    target = run.inside("questions.json")
    if target.exists():
        return
    if forget is None or retain is None:
        made = make_questions(authors=authors, forget=max(2, authors // 5), seed=seed)
        lost, kept = [dict(r) for r in made.forget], [dict(r) for r in made.retain]
    else:
        lost, kept = load_questions(forget), load_questions(retain)
    wrong = [row for row in (*lost, *kept) if not row.get("perturbed_answer")]
    if wrong:
        raise InvalidInputError(
            f"{len(wrong)} questions have no `perturbed_answer`; truth ratios need files like forget10_perturbed.json"
        )
    order = np.random.default_rng([seed, 3]).permutation(len(kept))
    held = max(round(HELD_OUT * len(kept)), min(2 * MIN_UNITS, len(kept) // 2))  # a statement needs 30 of them
    out = set(order[: max(1, held)].tolist())
    parts = {
        "forget": lost,
        "retain": [row for i, row in enumerate(kept) if i not in out],
        "held_out": [row for i, row in enumerate(kept) if i in out],
    }
    write_json(target, parts)


def evaluate_run(
    run: RunFolder,
    *,
    temperature: float | None = None,
    guidance: float | None = None,
    reference: str | Path | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    """Measure a fitted run, perhaps at other settings or with another reference, and certify it anew.

    Guarantee: that of the certificates; each evaluation of the same questions counts as a further attempt.

    Example:
        >>> evaluate_run.__name__
        'evaluate_run'
    """
    say: Tell = tell or (lambda what, share: None)
    opened = Opened(run.path)
    setup = dict(opened.setup)
    asked = {"temperature": temperature, "guidance": guidance}
    setup |= {k: v for k, v in asked.items() if v is not None}
    if reference is not None:
        setup["reference"] = str(Path(reference).resolve())
    setup["attempts"] = int(setup.get("attempts", 0)) + 1
    write_json(run.inside(SETUP), setup)
    opened = Opened(run.path)
    model, tokenizer = opened.model(), opened.base[1]
    parts: dict[str, Part] = {}
    for what, heads in (("before", []), ("after", None)):
        for part in ("forget", "held_out"):
            say(f"{part} {what}", 0.2)
            parts[f"{part} {what}"] = evaluate(
                model, opened.rows(part), tokenizer, heads=heads, max_new_tokens=setup["limit"]
            )
    other = _reference_part(opened, tokenizer)
    logs = {w: Logs({"forget": parts[f"forget {w}"], "retain": parts[f"held_out {w}"]}) for w in ("before", "after")}
    for what, log in logs.items():
        save_logs(run.inside(f"logs/{what}"), log)
    reference_logs = Logs({"forget": other}) if other is not None else None
    if reference_logs is not None:
        save_logs(run.inside("logs/reference"), reference_logs)
    say("certifying", 0.7)
    certificate, quality, evidence = certify(opened, model, parts["forget after"], other)
    save_certificate(run.path, certificate, evidence)
    save_certificate(run.inside("forget_quality.json"), quality[0], quality[1])
    result = {
        "verb": "unlearn",
        "temperature": setup["temperature"],
        "guidance": setup["guidance"],
        "questions": {p: len(opened.rows(p)) for p in ("forget", "retain", "held_out")},
        "forget_quality": _plain(forget_quality(logs["after"], reference_logs) if reference_logs else None),
        "forget_quality_before": _plain(forget_quality(logs["before"], reference_logs) if reference_logs else None),
        "figures": {w: _figures(log) for w, log in logs.items()},
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
    held_out, trained_on = opened.examples("held_out"), opened.examples("retain")
    parts.append(_issue.certify_retained(model, held_out, trained_on=trained_on, delta=level, attempts=attempts))
    other = reference.truth_ratio if reference is not None else np.zeros(0)
    quality = _issue.certify_forget_quality(
        forget.truth_ratio, other, delta=level, pins={"model": model.fingerprint()}, attempts=attempts
    )
    if reference is not None:
        parts.append(quality)
    certificate, evidence = parts[0]
    for more, arrays in parts[1:]:
        certificate, evidence = certificate & more, evidence | arrays
    return certificate, quality, evidence


def _reference_part(opened: Opened, tokenizer: Tokenizer) -> Part | None:
    if opened.reference is None:
        return None
    other, own = load_base(opened.reference)
    if own.vocab_size != tokenizer.vocab_size:
        raise InvalidInputError(
            f"the reference has {own.vocab_size} tokens, the base {tokenizer.vocab_size}; retrain with one tokenizer"
        )
    return evaluate(other, opened.rows("forget"), own, generate=False)


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
