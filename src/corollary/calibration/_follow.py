r"""A live stream, line by line: each line brings the outcome of the round before and is answered with a forecast.

The log is the state: every accepted line is appended to `log.jsonl` of the run folder before it is answered; a run that
was stopped is taken up by learning the log again. A line that cannot be used changes nothing and repeats the answer.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from corollary.calibration._calibrator import Calibrator
from corollary.calibration._forecaster import vector
from corollary.calibration._groups import Announced
from corollary.calibration._sets import Box, ConvexSet, Simplex
from corollary.calibration._stream import DELIMITERS, columns, number
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.runs import RunFolder, write_json

LOG = "log.jsonl"


class Answer(NamedTuple):
    """A forecast of the next round, or what was wrong with a line (the forecast then is the one before)."""

    round: int
    forecasts: list[list[float]]
    weights: list[float]
    mean: list[float]
    problem: str = ""


class Follower:
    """A calibrator on a live stream of CSV lines.

    Args:
        folder: the run folder; a log in it is learned first.
        outcome: column of the outcome of the round before, empty where there was none; a pattern for vectors.
        forecast: pattern of a model's columns for the next round; None without a model.
        classes: names of the classes; None where outcomes are vectors.
        set: of vectors, `"simplex"`, or (`"auto"`, `"box"`) the box [low, high]^d.
        low, high: limits of numeric outcomes.
        method: of `Calibrator`.
        seed: of everything random.

    Raises:
        InvalidInputError: for arguments that do not fit together.
        InvalidFileError: for a log that is not one.

    Guarantee: that of the method; a line that is refused leaves the state as it was.

    Example:
        >>> import tempfile
        >>> follower = Follower(Path(tempfile.mkdtemp()), classes=["no", "yes"])
        >>> answers = list(follower.answer(["y", "", "yes", "maybe", "no"]))
        >>> [a.round for a in answers], answers[2].problem
        ([1, 2, 2, 3], "round 2: the outcome 'maybe' is none of the classes no, yes")
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        outcome: str = "y",
        forecast: str | None = None,
        classes: list[str] | None = None,
        set: str = "auto",
        low: float = 0.0,
        high: float = 1.0,
        method: str = "auto",
        seed: int = 0,
    ) -> None:
        if classes is not None and (len(classes) < 2 or len({*classes}) < len(classes)):
            raise InvalidInputError(f"at least two different classes are needed, got {', '.join(classes)}")
        if set not in ("auto", "simplex", "box"):
            raise InvalidInputError(f"a live stream lies in a simplex or a box given beforehand, not in a {set!r}")
        if not low < high:
            raise InvalidInputError(f"`low` must be below `high`, got {low} and {high}")
        self.folder, self.outcome, self.forecast = Path(folder), outcome, forecast
        self.set = set
        self.classes, self.low, self.high, self.method, self.seed = classes, low, high, method, seed
        self.calibrator: Calibrator | None = None
        self.domain: ConvexSet | None = None
        self.base: np.ndarray | None = None
        self.announced: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.shape = (1, 0)  # columns of the outcome and of the model
        self._last: tuple[np.ndarray, np.ndarray] = (np.empty((0, 0)), np.empty(0))
        self.told = False  # whether the round that is open has been answered

    def answer(self, lines: Iterable[str], *, keep: bool = False) -> Iterator[Answer]:
        """Answers to the lines that follow the header.

        Args:
            lines: the header first, then one line a round.
            keep: whether to hold everything announced in memory, for a certificate; else it is read from the log.
        """
        stream = iter(lines)
        header_line = next(stream, None)
        if header_line is None or not header_line.strip():
            raise InvalidInputError("the first line must be a header that names the columns")
        delimiter = max(DELIMITERS, key=header_line.count)
        header = [name.strip() for name in next(csv.reader([header_line], delimiter=delimiter))]
        y_columns = columns(header, self.outcome, "the header")
        p_columns = columns(header, self.forecast, "the header") if self.forecast else []
        self._begin(len(y_columns), len(p_columns))
        self._learn_log()
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            last: Answer | None = None
            for line in stream:
                if not line.strip() and len(header) > 1:
                    continue
                try:
                    row = next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])
                    row = row or [""]
                    if len(row) != len(header):
                        raise InvalidInputError(f"round {self.round}: {len(row)} fields, the header has {len(header)}")
                    y, base = self._parse(row, y_columns, p_columns, header)
                    last = self._step(y, base, log, keep=keep)
                    yield last
                except InvalidInputError as problem:
                    yield (last or self._now())._replace(problem=str(problem))

    @property
    def dim(self) -> int:
        """Dimension of the outcomes."""
        return len(self.classes) if self.classes is not None else self.shape[0]

    @property
    def round(self) -> int:
        """The round that is open, from 1."""
        return 1 if self.calibrator is None else self.calibrator.rounds + 1

    def _begin(self, outcomes: int, forecasts: int) -> None:
        if self.classes is not None:
            domain: ConvexSet = Simplex(len(self.classes))
            if outcomes != 1:
                raise InvalidInputError(f"labels stand in one column, {self.outcome!r} means {outcomes}")
        elif self.set == "simplex":
            domain = Simplex(outcomes)
        else:
            domain = Box(np.full(outcomes, self.low), np.full(outcomes, self.high))
        if forecasts and forecasts != domain.dim and not (forecasts == 1 and domain.dim == 2):
            raise InvalidInputError(f"the model has {forecasts} columns, the outcomes {domain.dim}")
        kind = "labels" if self.classes else "vectors"
        self.domain, self.shape = domain, (outcomes, forecasts)
        self.calibrator = Calibrator(self.method, dim=domain, outcomes=kind, base=bool(forecasts), seed=self.seed)

    def _parse(
        self, row: list[str], y_columns: list[int], p_columns: list[int], header: list[str]
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        raw = [row[j].strip() for j in y_columns]
        y: np.ndarray | None = None
        if any(raw):
            if self.classes is None:
                y = np.array([number(v, self.round, header[j]) for v, j in zip(raw, y_columns, strict=True)])
            elif raw[0] in self.classes:
                y = np.eye(len(self.classes))[self.classes.index(raw[0])]
            else:
                known = ", ".join(self.classes[:8])
                raise InvalidInputError(f"round {self.round}: the outcome {raw[0]!r} is none of the classes {known}")
        base = np.array([number(row[j], self.round, header[j]) for j in p_columns]) if p_columns else None
        if base is not None and self.classes is not None:
            base = np.array([1 - base[0], base[0]]) if len(base) == 1 else base
            if (base < -1e-6).any() or abs(base.sum() - 1) > 1e-3:
                raise InvalidInputError(
                    f"round {self.round}: the model's forecasts {base.tolist()} are no probabilities"
                )
        return y, base

    def _step(self, y: np.ndarray | None, base: np.ndarray | None, log: Any, *, keep: bool) -> Answer:
        assert self.calibrator is not None
        if y is not None:
            if not self.told and self.calibrator.base:
                raise InvalidInputError(
                    f"round {self.round}: an outcome came before the first forecast; leave it empty"
                )
            y = self.calibrator._checked(y)
        entry = {"y": None if y is None else y.tolist(), "base": None if base is None else base.tolist()}
        log.write(json.dumps(entry) + "\n")
        log.flush()
        os.fsync(log.fileno())
        return self._take(y, base, keep=keep)

    def _take(self, y: np.ndarray | None, base: np.ndarray | None, *, keep: bool) -> Answer:
        assert self.calibrator is not None
        if y is not None:
            points, weights = self.calibrator.predict(self.base) if not self.told else self._last
            if keep:
                self.announced.append((points, weights, y))
            self.calibrator.update(y)
        self.base = base
        self._last = self.calibrator.predict(base)
        self.told = True
        return self._now()

    def _now(self) -> Answer:
        assert self.calibrator is not None
        if not self.told and self.calibrator.base:
            return Answer(self.round, [], [], [])
        points, weights = self._last if self.told else self.calibrator.predict()
        return Answer(self.round, points.tolist(), weights.tolist(), (weights @ points).tolist())

    def _learn_log(self) -> None:
        for y, base in log_entries(self.folder):
            try:
                self._take(y if y is None else vector(y, self.dim, "the log: the outcome"), base, keep=False)
            except InvalidInputError as problem:
                raise InvalidFileError(self.folder / LOG, str(problem), "give another folder") from None


def log_entries(folder: Path) -> Iterator[tuple[np.ndarray | None, np.ndarray | None]]:
    """Outcomes and base forecasts of a log; a last line that was cut short is taken off."""
    path = folder / LOG
    if not path.exists():
        return
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    for t, line in enumerate(whole.decode("utf-8", "replace").splitlines(), 1):
        try:
            entry = json.loads(line)
            y, base = (None if entry[n] is None else np.asarray(entry[n], dtype=np.float64) for n in ("y", "base"))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as problem:
            raise InvalidFileError(path, f"line {t} is none of a log ({problem})", "give another folder") from None
        yield y, base


class Log:
    """A followed stream, run again from its log."""

    def __init__(self, follower: Follower) -> None:
        self.follower = follower

    def evidence(self) -> dict[str, np.ndarray]:
        """Forecasts, weights and outcomes of all rounds that have an outcome."""
        rows = self.follower.announced
        if not rows:
            raise InvalidInputError("no round has an outcome yet")
        widest, d = max(len(w) for _, w, _ in rows), rows[0][2].size
        forecasts, weights = np.zeros((len(rows), widest, d)), np.zeros((len(rows), widest))
        for t, (p, w, _) in enumerate(rows):
            forecasts[t, : len(w)], forecasts[t, len(w) :], weights[t, : len(w)] = p, p[0], w
        return Announced(forecasts, weights, np.array([y for *_, y in rows]))._asdict()


def read_log(folder: Path) -> Log:
    """The log of a run folder, learned from the beginning by a follower with the folder's settings."""
    from corollary.runs import read_json

    asked = read_json(folder / "stream.json")
    follower = Follower(folder, **asked["follower"])
    follower._begin(*asked["columns"])
    for y, base in log_entries(folder):
        follower._take(y, base, keep=True)
    return Log(follower)


def finish(run: RunFolder, follower: Follower, settings: dict[str, Any]) -> dict[str, Any]:
    """Certificate and figures of what was followed so far."""
    from corollary.calibration._calibrate import write_result
    from corollary.calibration._stream import Stream

    calibrator, domain = follower.calibrator, follower.domain
    if calibrator is None or domain is None or calibrator.rounds == 0:
        return {}
    write_json(run.inside("stream.json"), {"follower": settings, "columns": list(follower.shape)})
    again = read_log(run.path)
    data = Announced(**again.evidence())
    stream = Stream(data.outcomes, None, domain, tuple(follower.classes or ()), "given beforehand")
    return write_result(run, data, stream, calibrator, provenance={})
