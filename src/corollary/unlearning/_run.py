"""A run of `corollary unlearn fit`: questions, base and head; then everything is measured and certified."""

from pathlib import Path
from typing import Any

from corollary.errors import InvalidInputError
from corollary.runs import RunFolder, read_json, write_json
from corollary.unlearning._asked import write_questions
from corollary.unlearning._base import Tell, embedded, load_base
from corollary.unlearning._examples import Examples
from corollary.unlearning._fit import fit_temper_tilt
from corollary.unlearning._measured import check_reference, evaluate_run
from corollary.unlearning._model import TemperTiltModel
from corollary.unlearning._opened import SETUP, Opened
from corollary.unlearning._tokens import Tokenizer
from corollary.unlearning._train import HeadTraining
from corollary.unlearning.tofu._questions import Questions

NAME = "forgotten"


def fit_run(
    run: RunFolder,
    *,
    model: str | Path | None = None,
    forget: str | Path | None = None,
    retain: str | Path | None = None,
    reference: str | Path | None = None,
    unseen: str | Path | None = None,
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
        forget: file of questions to forget; None makes some. Where no question has wrong answers, those of other
            questions are taken.
        retain: file of questions to retain.
        reference: folder of a model retrained without the forget set.
        unseen: file of questions that the base never saw, for membership and for what the head does elsewhere.
        authors: how many to make up.
        temperature: T of the outputs.
        guidance: s.
        training: of the head.
        delta: probability that one of the certified statements fails.
        tell: called with (what, share).

    Returns:
        What `metrics.json` holds.

    Raises:
        InvalidInputError: where only one of forget and retain is given, or a model without questions; where some
            questions have wrong answers and others have none; where a question is in two of the files.

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
    if (run.path / "metrics.json").exists():  # finished: another evaluation would be a further attempt
        return read_json(run.path / "metrics.json")
    training = training or HeadTraining()
    given = None if model is None else load_base(model)  # what is refused is refused before anything is written
    if given is not None and reference is not None and not (run.path / SETUP).exists():
        check_reference(load_base(reference)[1], given[1])
    write_questions(run, forget, retain, unseen, authors=authors, seed=training.seed)
    setup: dict[str, Any] = {"temperature": temperature, "guidance": guidance, "delta": delta, "limit": 60}
    if model is None:
        setup |= {"base": "base", "reference": "reference"}
        kept = read_json(run.inside("questions.json"))
        questions = Questions(tuple(kept["forget"]), tuple(kept["retain"] + kept["held_out"]))
        run.once("trained", lambda _: embedded(questions, run.path, seed=training.seed, tell=say), lambda _: None)
    else:
        setup["base"] = str(Path(model).resolve())
        setup["reference"] = None if reference is None else str(Path(reference).resolve())
    opened = Opened(run.path)
    base, tokenizer = given or load_base(run.path / "base")
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
    """Of a network, or of all experts together; 0 where none can be counted."""
    if isinstance(experts := getattr(base, "experts", None), dict):
        return sum(map(_parameters, experts.values()))
    found = getattr(base if hasattr(base, "parameters") else getattr(base, "model", None), "parameters", None)
    return sum(p.numel() for p in found()) if callable(found) else 0


def _longest(rows: list[dict[str, Any]], tokenizer: Tokenizer) -> int:
    return min(200, 8 + max(len(tokenizer.answer(row["answer"])) for row in rows))
