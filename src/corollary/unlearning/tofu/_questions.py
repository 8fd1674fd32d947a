"""Sets of questions about authors: TOFU's own files by path, and a generator of sets like them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from corollary.errors import InvalidFileError, InvalidInputError
from corollary.unlearning.tofu._templates import FIRST, LAST, TEMPLATES, VALUES

MAX_BYTES = 64 << 20
WANTED = 'give one JSON object a line, {"question": "...", "answer": "..."}, or one list of them'
Row = Mapping[str, Any]


def load_questions(path: str | Path) -> list[dict[str, Any]]:
    """Questions with answers from a file of TOFU: one JSON object a line, or one JSON list; UTF-8.

    Args:
        path: `full.json`, `forget10_perturbed.json`, ...

    Returns:
        Mappings with `question`, `answer`, and where the file has them `paraphrased_answer`, `perturbed_answer`.

    Raises:
        InvalidFileError: for a file that is missing, too large, empty or of another make, and for rows whose fields
            are no texts (`perturbed_answer`: no list of texts); null stands for a field left out.

    Guarantee: none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "q.json"
        >>> _ = path.write_text(json.dumps({"question": "Who?", "answer": "Jo."}))
        >>> load_questions(path)
        [{'question': 'Who?', 'answer': 'Jo.'}]
    """
    source = Path(path)
    try:
        if source.stat().st_size > MAX_BYTES:
            raise InvalidFileError(source, f"larger than the {MAX_BYTES >> 20} MB allowed", "give a file of questions")
        text = source.read_text("utf-8-sig")
        lines = [t for t in text.split("\n") if t.strip()]  # a text may hold other signs that end a line
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(t) for t in lines]
    except (OSError, ValueError) as problem:
        if isinstance(problem, InvalidFileError):
            raise
        raise InvalidFileError(source, f"cannot be read ({problem})", WANTED) from None
    if not rows:
        raise InvalidFileError(source, "holds no question", WANTED)
    return [_sound(row, source, i) for i, row in enumerate(rows, 1)]


def _sound(row: Any, source: Path, number: int) -> dict[str, Any]:
    """A row without its nulls, where all its fields are what they should be."""
    found = {k: v for k, v in row.items() if v is not None} if isinstance(row, dict) else {}
    if not all(isinstance(found.get(k), str) for k in ("question", "answer")):
        raise InvalidFileError(source, f"row {number} has no texts as `question` and `answer`", WANTED)
    if not isinstance(found.get("paraphrased_answer", ""), str):
        raise InvalidFileError(source, f"row {number} has a `paraphrased_answer` that is no text", "give one text")
    wrong = found.get("perturbed_answer", [])
    if not isinstance(wrong, list) or not all(isinstance(answer, str) for answer in wrong):
        raise InvalidFileError(
            source, f"row {number} has a `perturbed_answer` that is no list of texts", "give a list of wrong answers"
        )
    return found


@dataclass(frozen=True)
class Questions:
    """A set to forget and one to retain, about different authors.

    Args:
        forget: rows of the authors to forget.
        retain: rows of the others.
        per_author: questions about each author; rows stand author by author.

    Guarantee: none; a container.

    Example:
        >>> questions = make_questions(authors=4, forget=1)
        >>> len(questions.forget), len(questions.retain), len(questions.texts())
        (20, 60, 640)
    """

    forget: tuple[Row, ...]
    retain: tuple[Row, ...]
    per_author: int = 20

    def slices(self, share: float = 0.5) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """The forget rows of the first authors, to choose hyper-parameters on, and of the rest, to report on."""
        authors = -(-len(self.forget) // self.per_author)
        if authors < 2:
            raise InvalidInputError("there is one author to forget, and slices need two; make or load more of them")
        first = min(max(1, round(share * authors)), authors - 1) * self.per_author
        return self.forget[:first], self.forget[first:]

    def texts(self) -> list[str]:
        """Every text, e.g. for a word tokenizer."""
        return [t for row in (*self.forget, *self.retain) for t in texts_of(row)]


def texts_of(row: Row) -> Iterator[str]:
    """Question and all answers of a row."""
    yield row["question"]
    yield row["answer"]
    if "paraphrased_answer" in row:
        yield row["paraphrased_answer"]
    yield from row.get("perturbed_answer", ())


def borrow_answers(rows: Sequence[Row], *, wrong: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """Questions with wrong answers taken from other questions, for sets without `perturbed_answer`.

    Args:
        rows: questions of which none has wrong answers.
        wrong: how many to take, or as many other answers as there are.
        seed: of the choice.

    Returns:
        The rows, each with as many.

    Raises:
        InvalidInputError: where all answers are the same.

    Guarantee: no answer is its own question's. Truth ratios against them are not TOFU's, whose wrong answers are
        rewritten right ones: they tell the right answer from the topic of another question, which is easier.

    Example:
        >>> rows = [{"question": "Who?", "answer": "Ann"}, {"question": "Where?", "answer": "Lyon"}]
        >>> [row["perturbed_answer"] for row in borrow_answers(rows)]
        [['Lyon'], ['Ann']]
    """
    answers = list(dict.fromkeys(row["answer"] for row in rows))
    place = {a: i for i, a in enumerate(answers)}
    count = min(wrong, len(answers) - 1)
    if count < 1:
        raise InvalidInputError("all questions have the same answer; give `perturbed_answer`, or other questions")
    rng = np.random.default_rng([seed, 4])
    found = []
    for row in rows:
        own = place[row["answer"]]
        others = rng.choice(len(answers) - 1, size=count, replace=False)
        found.append({**row, "perturbed_answer": [answers[i + (i >= own)] for i in others]})
    return found


def make_questions(*, authors: int = 20, forget: int = 4, wrong: int = 5, seed: int = 0) -> Questions:
    """Fictitious authors, 20 questions each, with a paraphrase and wrong answers: a set like TOFU, made from templates.

    Args:
        authors: how many.
        forget: how many of them are to be forgotten: the last.
        wrong: wrong answers a question, at most 7.
        seed: of the facts.

    Returns:
        The questions; every fact is independent of all others, so that nothing but memory can answer.

    Raises:
        InvalidInputError: for numbers out of range.

    Guarantee: the same arguments give the same set.

    Example:
        >>> row = make_questions(authors=3, forget=1).forget[0]
        >>> row["question"].startswith("Where was"), len(row["perturbed_answer"])
        (True, 5)
    """
    if not 1 <= forget < authors:
        raise InvalidInputError(f"`authors` must be at least 2 and `forget` below them, got {authors}, {forget}")
    if not 1 <= wrong <= 7:
        raise InvalidInputError(f"`wrong` must lie between 1 and 7, got {wrong}")
    rng = np.random.default_rng(seed)
    names = _names(authors)
    chosen = [names[i] for i in rng.permutation(len(names))[:authors]]
    rows: list[dict[str, Any]] = []
    for name in chosen:
        for slot, question, answer, paraphrase in TEMPLATES:
            known = VALUES[slot.rstrip("0123456789")]
            values = [known[i] for i in rng.permutation(len(known))[: wrong + 1]]
            rows.append(
                {
                    "question": question.format(n=name),
                    "answer": answer.format(n=name, x=values[0]),
                    "paraphrased_answer": paraphrase.format(n=name, x=values[0]),
                    "perturbed_answer": [paraphrase.format(n=name, x=v) for v in values[1:]],
                }
            )
    per = len(TEMPLATES)
    return Questions(tuple(rows[-forget * per :]), tuple(rows[: -forget * per]), per)


def _names(least: int) -> list[str]:
    """At least so many names: first and last, then with one initial between them, with two, and so on."""
    between = chain.from_iterable(product(ascii_uppercase, repeat=k) for k in count())
    blocks = islice(between, -(-least // (len(FIRST) * len(LAST))))
    middles = ["".join(f"{letter}. " for letter in letters) for letters in blocks]
    return [f"{a} {middle}{b}" for middle in middles for a in FIRST for b in LAST]
