"""A run of `corollary unlearn fit`: questions, base and head; then everything is measured and certified."""

from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import MIN_UNITS
from corollary.errors import InvalidInputError
from corollary.runs import RunFolder, read_json, write_json
from corollary.unlearning._base import Tell, embedded, load_base
from corollary.unlearning._examples import Examples
from corollary.unlearning._fit import fit_temper_tilt
from corollary.unlearning._measured import evaluate_run
from corollary.unlearning._model import TemperTiltModel
from corollary.unlearning._opened import BORROWED, SETUP, Opened
from corollary.unlearning._tokens import Tokenizer
from corollary.unlearning._train import HeadTraining
from corollary.unlearning.tofu._questions import Questions, borrow_answers, load_questions, make_questions

NAME = "forgotten"
HELD_OUT = 0.25


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
            questions have wrong answers and others have none; where unseen questions are among the others.

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
    _write_questions(run, forget, retain, unseen, authors=authors, seed=training.seed)
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
    """Of a network, or of all experts together; 0 where none can be counted."""
    if isinstance(experts := getattr(base, "experts", None), dict):
        return sum(map(_parameters, experts.values()))
    found = getattr(base if hasattr(base, "parameters") else getattr(base, "model", None), "parameters", None)
    return sum(p.numel() for p in found()) if callable(found) else 0


def _longest(rows: list[dict[str, Any]], tokenizer: Tokenizer) -> int:
    return min(200, 8 + max(len(tokenizer.answer(row["answer"])) for row in rows))


def _write_questions(
    run: RunFolder,
    forget: str | Path | None,
    retain: str | Path | None,
    unseen: str | Path | None,
    *,
    authors: int,
    seed: int,
) -> None:
    """`questions.json`: what is forgotten, retained and trained on, retained and held out, and in neither set."""
    target = run.inside("questions.json")
    if target.exists():
        return
    if forget is None or retain is None:
        made = make_questions(authors=authors, forget=max(2, authors // 5), seed=seed)
        lost, kept = [dict(r) for r in made.forget], [dict(r) for r in made.retain]
    else:
        lost, kept = load_questions(forget), load_questions(retain)
    without = sum(not row.get("perturbed_answer") for row in (*lost, *kept))
    if 0 < without < len(lost) + len(kept):
        raise InvalidInputError(
            f"{without} of {len(lost) + len(kept)} questions have no `perturbed_answer`; give wrong answers to all of "
            "them, as forget10_perturbed.json does, or to none, and those of other questions are taken"
        )
    if without:
        borrowed = borrow_answers([*lost, *kept], seed=seed)
        lost, kept = borrowed[: len(lost)], borrowed[len(lost) :]
    order = np.random.default_rng([seed, 3]).permutation(len(kept))
    held = max(round(HELD_OUT * len(kept)), min(2 * MIN_UNITS, len(kept) // 2))  # a statement needs 30 of them
    out = set(order[: max(1, held)].tolist())
    parts: dict[str, Any] = {
        "wrong_answers": BORROWED if without else "given",
        "forget": lost,
        "retain": [row for i, row in enumerate(kept) if i not in out],
        "held_out": [row for i, row in enumerate(kept) if i in out],
    }
    if unseen is not None:
        known = {(row["question"], row["answer"]) for row in (*lost, *kept)}
        parts["unseen"] = load_questions(unseen)
        common = sum((row["question"], row["answer"]) in known for row in parts["unseen"])
        if common:
            raise InvalidInputError(
                f"{common} of the {len(parts['unseen'])} unseen questions are to be forgotten or retained; remove them"
            )
    write_json(target, parts)
