"""TOFU's evaluation logs: what is kept of every question, read from TOFU's own files or measured by `evaluate`."""

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.errors import InvalidFileError, InvalidInputError

MAX_BYTES = 256 << 20
FILES = {
    "retain": "eval_log.json",
    "forget": "eval_log_forget.json",
    "real_authors": "eval_real_author_wo_options.json",
    "world_facts": "eval_real_world_wo_options.json",
}
UTILITY = ("retain", "real_authors", "world_facts")


@dataclass(frozen=True, eq=False)
class Part:
    """What was measured on the n questions of one part.

    Args:
        loss: (n,) mean log-loss a token of the right answer, its end included.
        paraphrased: (n,) that of its paraphrase (of the right answer itself where there is none).
        perturbed: (n, k) that of the wrong answers.
        rouge: (n,) ROUGE-L recall of the greedy answer.
        extra: further numbers of each question, e.g. `extraction`, `memorised`, `min_k`.
        answers: the greedy answers, where they were kept.

    Guarantee: none; a container.

    Example:
        >>> part = Part(np.array([0.1]), np.array([0.5]), np.array([[1.0, 2.0]]), np.array([1.0]))
        >>> part.truth_ratio.round(4).tolist()
        [0.3679]
    """

    loss: Float[np.ndarray, " n"]
    paraphrased: Float[np.ndarray, " n"]
    perturbed: Float[np.ndarray, "n k"]
    rouge: Float[np.ndarray, " n"]
    extra: Mapping[str, Float[np.ndarray, " n"]] = field(default_factory=dict)
    answers: tuple[str, ...] = ()

    @property
    def truth_ratio(self) -> Float[np.ndarray, " n"]:
        r"""\(R = \exp(-\overline{NLL}_{wrong}) / \exp(-NLL_{paraphrase})\), a geometric mean over wrong answers."""
        with np.errstate(over="ignore"):  # of models that were destroyed
            return np.exp(self.paraphrased - self.perturbed.mean(1))

    @property
    def probability(self) -> Float[np.ndarray, " n"]:
        r"""\(P(a|q)^{1/|a|}\)."""
        return np.exp(-self.loss)

    @property
    def chosen(self) -> Float[np.ndarray, " n"]:
        """The right answer's share of the probability of all answers."""
        right, wrong = np.exp(-self.loss), np.exp(-self.perturbed).sum(1)
        return right / (right + wrong + 1e-10)

    def select(self, index: Any) -> "Part":
        """Some of the questions."""
        index = np.asarray(index)
        answers = tuple(np.array(self.answers, dtype=object)[index]) if self.answers else ()
        extra = {k: v[index] for k, v in self.extra.items()}
        columns = self.loss[index], self.paraphrased[index], self.perturbed[index], self.rouge[index]
        return Part(*columns, extra=extra, answers=answers)

    def __len__(self) -> int:
        return len(self.loss)


class Logs(Mapping[str, Part]):
    """Parts by name: `retain`, `forget`, `real_authors`, `world_facts`, some perhaps absent.

    Guarantee: none; a container.

    Example:
        >>> part = Part(np.array([0.1]), np.array([0.5]), np.array([[1.0, 2.0]]), np.array([1.0]))
        >>> list(Logs({"forget": part}))
        ['forget']
    """

    def __init__(self, parts: Mapping[str, Part]) -> None:
        unknown = sorted(set(parts) - set(FILES))
        if unknown or not parts:
            raise InvalidInputError(
                f"logs have the parts {', '.join(FILES)}, got {', '.join(unknown) or 'none'}; name them so"
            )
        self._parts = dict(parts)

    def __getitem__(self, name: str) -> Part:
        if name in FILES and name not in self._parts:
            raise InvalidInputError(f"the logs have no part {name!r}, only {', '.join(self._parts)}; evaluate it, too")
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts


def load_logs(folder: str | Path) -> Logs:
    """TOFU's own log files in a folder: `eval_log*.json` and `eval_real_*.json`, gzipped or not.

    Args:
        folder: holds one or more of the four files.

    Returns:
        The parts that are there.

    Raises:
        InvalidFileError: for a folder without any, or a file that is broken, foreign or too large.

    Guarantee: none; every number is checked to be finite and of the same questions.

    Example:
        >>> import tempfile
        >>> load_logs(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidFileError: ...holds no evaluation log of TOFU; give a folder with eval_log.json...
    """
    source = Path(folder)
    parts = {}
    for name, file in FILES.items():
        for path in (source / file, source / f"{file}.gz"):
            if path.is_file():
                parts[name] = _part(path)
                break
    if not parts:
        raise InvalidFileError(
            source, "holds no evaluation log of TOFU", "give a folder with eval_log.json, eval_log_forget.json, ..."
        )
    return Logs(parts)


def _part(path: Path) -> Part:
    data = _read(path)
    names = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss", "rougeL_recall")
    try:
        keys = sorted(data[names[0]], key=int)
        columns = [np.array([data[n][k] for k in keys], dtype=np.float64) for n in names]
    except (KeyError, TypeError, ValueError) as problem:
        raise InvalidFileError(
            path, f"no evaluation log of TOFU ({type(problem).__name__}: {problem})", "give TOFU's own file"
        ) from None
    if not keys or columns[2].ndim != 2 or not all(np.isfinite(c).all() for c in columns):
        raise InvalidFileError(path, "holds no questions, or numbers that are not finite", "evaluate again")
    texts = data.get("generated_text")
    answers = tuple(str(texts[k][1]) for k in keys) if isinstance(texts, dict) and keys[0] in texts else ()
    loss, paraphrased, perturbed, rouge = columns
    return Part(loss, paraphrased, perturbed, rouge, answers=answers)


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as file:
                raw = file.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise InvalidFileError(path, f"larger than the {MAX_BYTES >> 20} MB allowed", "give another file")
        return json.loads(raw)
    except (OSError, EOFError, ValueError) as problem:
        if isinstance(problem, InvalidFileError):
            raise
        raise InvalidFileError(path, f"cannot be read ({problem})", "give TOFU's own file, gzipped or not") from None


def save_logs(folder: str | Path, logs: Logs) -> None:
    """Write logs in TOFU's own format, which `load_logs` reads, further numbers beside.

    Guarantee: `load_logs` gives the same numbers back.

    Example:
        >>> import tempfile
        >>> part = Part(np.array([0.1]), np.array([0.5]), np.array([[1.0, 2.0]]), np.array([1.0]))
        >>> folder = tempfile.mkdtemp()
        >>> save_logs(folder, Logs({"forget": part}))
        >>> load_logs(folder)["forget"].perturbed.tolist()
        [[1.0, 2.0]]
    """
    from corollary.runs import write_json

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, part in logs.items():
        columns: dict[str, Any] = {
            "avg_gt_loss": part.loss,
            "avg_paraphrased_loss": part.paraphrased,
            "average_perturb_loss": part.perturbed,
            "rougeL_recall": part.rouge,
            "truth_ratio": part.truth_ratio,
            **part.extra,
        }
        table = {n: {str(i): v for i, v in enumerate(c.tolist())} for n, c in columns.items()}
        if part.answers:
            table["generated_text"] = {str(i): ["", a, ""] for i, a in enumerate(part.answers)}
        write_json(target / FILES[name], table)
