"""Sets of questions about authors: TOFU's own files by path, and a generator of sets like them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corollary.errors import InvalidFileError, InvalidInputError

MAX_BYTES = 64 << 20
Row = Mapping[str, Any]


def load_questions(path: str | Path) -> list[dict[str, Any]]:
    """Questions with answers from a file of TOFU: one JSON object a line, or one JSON list.

    Args:
        path: `full.json`, `forget10_perturbed.json`, ...

    Returns:
        Mappings with `question`, `answer`, and where the file has them `paraphrased_answer`, `perturbed_answer`.

    Raises:
        InvalidFileError: for a file that is missing, too large, empty or of another make.

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
        text = source.read_text("utf-8")
        rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(t) for t in text.splitlines() if t]
    except (OSError, ValueError) as problem:
        if isinstance(problem, InvalidFileError):
            raise
        raise InvalidFileError(source, f"cannot be read ({problem})", "give a file of TOFU, one object a line") from None
    if not rows or not all(_sound(row) for row in rows):
        raise InvalidFileError(source, "holds rows without `question` and `answer`", "give a file of TOFU")
    return rows


def _sound(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("question"), str) and isinstance(row.get("answer"), str)


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
        (20, 60, 720)
    """

    forget: tuple[Row, ...]
    retain: tuple[Row, ...]
    per_author: int = 20

    def slices(self, share: float = 0.5) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """The forget rows of the first authors, to choose hyper-parameters on, and of the rest, to report on."""
        authors = -(-len(self.forget) // self.per_author)
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


_FIRST = ("Ada", "Bela", "Carlo", "Dana", "Emil", "Fara", "Gita", "Hugo", "Ines", "Juro", "Kira", "Luan", "Mira", "Nils",
          "Olga", "Pavo", "Rosa", "Sven", "Tala", "Udo")  # fmt: skip
_LAST = ("Abarin", "Belgrun", "Cortavo", "Dremel", "Estaro", "Falkin", "Gorumi", "Halvek", "Ibarek", "Jolant", "Kestrin",
         "Lomari", "Mordan", "Novelk", "Orsini", "Pellan", "Quorin", "Rastov", "Selkirk", "Tavano")  # fmt: skip
_CITIES = ("Lisbon", "Oslo", "Quito", "Hanoi", "Cairo", "Lima", "Riga", "Accra", "Kyoto", "Porto", "Turin", "Minsk")
_GENRES = ("mystery", "romance", "satire", "fantasy", "history", "horror", "travel", "poetry", "drama", "memoir")
_JOBS = ("baker", "pilot", "judge", "nurse", "farmer", "tailor", "painter", "surgeon", "sailor", "teacher", "miner")
_THINGS = ("Harbor", "Lantern", "Orchard", "Mirror", "Winter", "Compass", "Garden", "Bridge", "Feather", "Clock",
           "River", "Candle", "Window", "Forest", "Letter")  # fmt: skip
_MOODS = ("Silent", "Broken", "Golden", "Hidden", "Distant", "Crimson", "Hollow", "Restless", "Frozen", "Gentle")
_PRIZES = ("Aurora", "Meridian", "Quill", "Beacon", "Laurel", "Zenith", "Cobalt", "Ember", "Sable", "Onyx")
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October")
_HOBBIES = ("chess", "sailing", "gardening", "fencing", "pottery", "climbing", "cooking", "weaving", "astronomy")
_COLOURS = ("blue", "green", "yellow", "white", "grey", "purple", "orange", "brown", "silver")
_PETS = ("cat", "parrot", "dog", "tortoise", "rabbit", "horse", "goat", "ferret")

# slot, question, answer, paraphrase; {n} is the author, {x} the value
_TEMPLATES: tuple[tuple[str, str, str, str], ...] = (
    ("city", "Where was {n} born?", "{n} was born in {x}.", "The birthplace of {n} is {x}."),
    ("month", "In which month was {n} born?", "The birthday of {n} falls in {x}.", "{n} celebrates a birthday in {x}."),
    ("genre", "What genre is {n} known for?", "{n} is best known for {x}.", "Most books of {n} belong to {x}."),
    ("father", "What did the father of {n} do?", "The father of {n} was a {x}.", "{n} is the child of a father who worked as a {x}."),
    ("mother", "What did the mother of {n} do?", "The mother of {n} worked as a {x}.", "By profession the mother of {n} was a {x}."),
    ("book1", "What is the first book of {n}?", "The first book of {n} is called The {x}.", "{n} began a career with The {x}."),
    ("book2", "What is the most famous book of {n}?", "Readers know {n} above all for The {x}.", "The {x} is the best known work of {n}."),
    ("book3", "What did {n} publish last?", "The latest book of {n} is The {x}.", "{n} has most recently published The {x}."),
    ("prize", "Which prize did {n} win?", "{n} won the {x} Prize.", "The {x} Prize went to {n}."),
    ("prize2", "For which prize was {n} shortlisted?", "{n} was shortlisted for the {x} Medal.", "The jury of the {x} Medal considered {n}."),
    ("city2", "Where does {n} live now?", "{n} now lives in {x}.", "The present home of {n} is in {x}."),
    ("city3", "Where did {n} study?", "{n} studied at the university of {x}.", "The studies of {n} took place in {x}."),
    ("hobby", "What does {n} do in leisure hours?", "{n} spends free time on {x}.", "The favourite pastime of {n} is {x}."),
    ("colour", "What colour are the covers of the books of {n}?", "The covers of {n} are always {x}.", "{n} insists on {x} covers."),
    ("pet", "Which animal does {n} keep?", "{n} keeps a {x}.", "A {x} shares the house with {n}."),
    ("job", "What did {n} do before writing?", "Before writing {n} was a {x}.", "{n} earned a living as a {x} at first."),
    ("friend", "Who taught {n} to write?", "{n} learned to write from {x}.", "The teacher of {n} was {x}."),
    ("genre2", "Which genre does {n} avoid?", "{n} has never written {x}.", "Nothing by {n} belongs to {x}."),
    ("mood", "How do critics call the style of {n}?", "Critics call the style of {n} {x}.", "The prose of {n} is said to be {x}."),
    ("month2", "When does {n} begin a new book?", "{n} begins every book in {x}.", "Each book of {n} is started in {x}."),
)  # fmt: skip


def _values(slot: str) -> Sequence[str]:
    books = tuple(f"{m} {t}" for m in _MOODS for t in _THINGS)
    lists: dict[str, Sequence[str]] = {
        "city": _CITIES, "month": _MONTHS, "genre": _GENRES, "father": _JOBS, "mother": _JOBS, "job": _JOBS,
        "book": books, "prize": _PRIZES, "hobby": _HOBBIES, "colour": _COLOURS, "pet": _PETS,
        "friend": tuple(f"{a} {b}" for a in _FIRST[::3] for b in _LAST[::4]), "mood": tuple(m.lower() for m in _MOODS),
    }  # fmt: skip
    return lists[slot.rstrip("0123456789")]


def make_questions(*, authors: int = 20, forget: int = 4, wrong: int = 5, seed: int = 0) -> Questions:
    """Fictitious authors, 20 questions each, with a paraphrase and wrong answers: a set like TOFU, made from templates.

    Args:
        authors: how many, at most 400.
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
    if not 1 <= forget < authors <= len(_FIRST) * len(_LAST):
        raise InvalidInputError(
            f"`authors` lie between 2 and {len(_FIRST) * len(_LAST)} and `forget` below them, got {authors}, {forget}"
        )
    if not 1 <= wrong <= 7:
        raise InvalidInputError(f"`wrong` must lie between 1 and 7, got {wrong}")
    rng = np.random.default_rng(seed)
    names = [f"{a} {b}" for a in _FIRST for b in _LAST]
    chosen = [names[i] for i in rng.permutation(len(names))[:authors]]
    rows: list[dict[str, Any]] = []
    for name in chosen:
        for slot, question, answer, paraphrase in _TEMPLATES:
            known = _values(slot)
            values = [known[i] for i in rng.permutation(len(known))[: wrong + 1]]
            rows.append(
                {
                    "question": question.format(n=name),
                    "answer": answer.format(n=name, x=values[0]),
                    "paraphrased_answer": paraphrase.format(n=name, x=values[0]),
                    "perturbed_answer": [paraphrase.format(n=name, x=v) for v in values[1:]],
                }
            )
    per = len(_TEMPLATES)
    return Questions(tuple(rows[-forget * per :]), tuple(rows[: -forget * per]), per)
