"""The questions of a run: read, checked against each other, split, and only then written."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import MIN_UNITS
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.runs import RunFolder, write_json
from corollary.unlearning._opened import BORROWED
from corollary.unlearning.tofu._questions import borrow_answers, load_questions, make_questions

HELD_OUT = 0.25
Rows = list[dict[str, Any]]


def content_of(path: str | Path) -> str:
    """What a file holds, as 16 hexadecimal digits: a run with a changed file is another run."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as problem:
        raise InvalidFileError(path, f"cannot be read ({problem})", "give a file of questions") from None


def write_questions(
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
    dropped = 0
    if forget is None or retain is None:
        made = make_questions(authors=authors, forget=max(2, authors // 5), seed=seed)
        lost, kept = [dict(r) for r in made.forget], [dict(r) for r in made.retain]
    else:
        read = load_questions(forget), load_questions(retain)
        lost, kept = map(distinct, read)
        dropped = sum(map(len, read)) - len(lost) - len(kept)
    other = [] if unseen is None else load_questions(unseen)
    _refuse_common(lost, kept, "{} of {} questions to forget are also to be retained; remove them from one of the two")
    _refuse_common(other, [*lost, *kept], "{} of {} unseen questions are to be forgotten or retained; remove them")
    lost, kept, borrowed = _with_wrong_answers(lost, kept, seed=seed)
    trained_on, held_out = split(kept, seed=seed)
    parts: dict[str, Any] = {
        "wrong_answers": BORROWED if borrowed else "given",
        "dropped": dropped,
        "forget": lost,
        "retain": trained_on,
        "held_out": held_out,
    }
    write_json(target, parts | ({} if unseen is None else {"unseen": other}))


def distinct(rows: Rows) -> Rows:
    """The rows without those whose question and answer came before."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        first.setdefault((_asked(row), row["answer"].strip()), row)
    return list(first.values())


def split(rows: Rows, *, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on and rows held out, drawn by question: no question lies on both sides."""
    asked = list(dict.fromkeys(_asked(row) for row in rows))
    if len(asked) < 2:
        raise InvalidInputError("there is 1 question to retain, and one must be held out; give at least two")
    order = np.random.default_rng([seed, 3]).permutation(len(asked))
    held = max(round(HELD_OUT * len(asked)), min(2 * MIN_UNITS, len(asked) // 2))  # a statement needs 30 of them
    out = {asked[i] for i in order[:held]}
    return [row for row in rows if _asked(row) not in out], [row for row in rows if _asked(row) in out]


def _asked(row: Mapping[str, Any]) -> str:
    return str(row["question"]).strip()


def _refuse_common(rows: Rows, others: Sequence[Mapping[str, Any]], sentence: str) -> None:
    """A question with another answer is the same question."""
    known = set(map(_asked, others))
    if common := sum(_asked(row) in known for row in rows):
        raise InvalidInputError(sentence.format(common, len(rows)))


def _with_wrong_answers(lost: Rows, kept: Rows, *, seed: int) -> tuple[Rows, Rows, bool]:
    """All questions with as many wrong answers each, those of other questions where none has any."""
    counts = [len(row.get("perturbed_answer", ())) for row in (*lost, *kept)]
    if 0 in counts and any(counts):
        raise InvalidInputError(
            f"{counts.count(0)} of {len(counts)} questions have no `perturbed_answer`; give wrong answers to all of "
            "them, as forget10_perturbed.json does, or to none, and those of other questions are taken"
        )
    for name, part in (("forget", counts[: len(lost)]), ("retain", counts[len(lost) :])):
        if len(set(part)) > 1:
            raise InvalidInputError(
                f"the questions to {name} have from {min(part)} to {max(part)} wrong answers in `perturbed_answer`; "
                "give each of them as many"
            )
    if any(counts):
        return lost, kept, False
    borrowed = borrow_answers([*lost, *kept], seed=seed)
    return borrowed[: len(lost)], borrowed[len(lost) :], True
