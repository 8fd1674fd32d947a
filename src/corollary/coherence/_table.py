r"""Saved predictions of any system, one row a view: projected in a stream, written again, certified.

Symbols: rows r with distribution q_r, orbit o(r) and weight w_r. One pass sums \(\sum w\), \(\sum w \log q\),
\(\sum w q\) and \(\sum w \|q\|^2\) for each orbit; a second one writes the rows with the coherent answer. Memory grows
with the orbits, not with the rows.
"""

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from corollary.certificates import Assumption, Certificate, save_certificate
from corollary.coherence._inputs import as_views
from corollary.coherence._issue import LOSS, PAPER, SHARED
from corollary.errors import InvalidFileError, InvalidInputError, MissingExtraError
from corollary.runs import RunFolder, write_json

BATCH = 1 << 16
KEPT = 20  # orbits named in the report
Tell = Callable[[str, float], Any]


@dataclass(frozen=True)
class Columns:
    """What the columns of a table of predictions mean.

    Args:
        orbit: which input a row is a view of.
        proba: the columns of probabilities, in the order of the classes; patterns such as `p_*`.
        weight: share of the view in the traffic; None for equal ones.
        transform: name of the transformation that made the view, for the report; None for none.
        label: true class, for the figures beside the predicted gain only; None for none.

    Guarantee: none.

    Example:
        >>> Columns("question", ("p_*",), weight="share").weight
        'share'
    """

    orbit: str
    proba: tuple[str, ...]
    weight: str | None = None
    transform: str | None = None
    label: str | None = None


def cohere_table(
    run: RunFolder,
    source: str | Path,
    columns: Columns,
    *,
    divergence: str = "kl",
    floor: float | None = None,
    tell: Tell | None = None,
) -> dict[str, Any]:
    r"""Project a table of predictions; fill a run folder with `coherent.parquet`, certificate, and `metrics.json`.

    Args:
        run: the open run folder.
        source: `.parquet` or `.csv`.
        columns: what its columns mean.
        divergence: kl or squared.
        floor: as in `project`.
        tell: called with (what, share) as work goes on.

    Returns:
        What `metrics.json` holds: `predicted_gain`, `brier_gain`, `orbits`, `rows`, `by_transform`, `moved`, ...

    Raises:
        InvalidFileError, InvalidInputError: for files and columns that cannot be used; one sentence says why.

    Guarantee: that of `project`; the certificate states it for these orbits.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "p.csv").write_text("x,p_0,p_1\na,0.9,0.1\na,0.5,0.5\nb,0.3,0.7\n")
        >>> with RunFolder(folder / "run", {"verb": "cohere"}) as run:
        ...     told = cohere_table(run, folder / "p.csv", Columns("x", ("p_*",)))
        >>> round(told["predicted_gain"], 3), told["orbits"], told["rows"]
        (0.056, 2, 3)

    Reference: as `project`.
    """
    say: Tell = tell or (lambda *_: None)
    if divergence not in LOSS:
        raise InvalidInputError(f"`divergence` must be kl or squared for tables, got {divergence!r}")
    path = Path(source)
    classes = find_columns(path, columns)
    say("reading", 0.0)
    sums = Sums(len(classes), columns.transform is not None)
    for batch in _batches(path):
        part = _part(batch, columns, classes, floor, path, sums.rows)
        sums.add(part)
    if not sums.rows:
        raise InvalidFileError(path, "holds no rows", "give predictions of at least one input")
    answers = {name: sums.answer(name) for name in LOSS}
    answer, gain = answers[divergence]
    say("certifying", 0.5)
    evidence = {"mean": sums.mean(divergence), "square": sums.square(), "answer": answer}
    certificate = _issue(divergence, evidence, gain, sums)
    say("writing", 0.6)
    shown = _write(run, path, columns, classes, floor, sums, answer)
    metrics = {
        "verb": "cohere",
        "divergence": divergence,
        "rows": sums.rows,
        "orbits": len(gain),
        "classes": list(classes),
        "predicted_gain": float(answers["kl"][1].mean()),
        "brier_gain": float(answers["squared"][1].mean()),
        "coherent_before": float((gain < 1e-9).mean()),
        "incoherence": np.quantile(gain, np.linspace(0, 1, 21)).tolist(),
        "moved": [{"orbit": str(sums.names[i]), "gain": float(gain[i])} for i in np.argsort(-gain)[:KEPT]],
        **shown,
    }
    save_certificate(run.path, certificate, evidence)
    write_json(run.inside("metrics.json"), metrics)
    say("done", 1.0)
    return metrics


@dataclass
class Part:
    """Rows of a batch: names of orbits, log-probabilities, weights, transformations, labels."""

    orbit: "Names"
    logs: Float[np.ndarray, "r k"]
    weight: Float[np.ndarray, " r"]
    transform: "Names | None"
    label: np.ndarray | None
    table: Any


@dataclass
class Names:
    """A column of words or numbers as codes into its values."""

    codes: Int[np.ndarray, " r"]
    values: list[Any]

    def all(self) -> np.ndarray:
        """(R,) the values themselves."""
        return np.array([str(v) for v in self.values], dtype=object)[self.codes]


class Sums:
    """Sums over the rows of each orbit; orbits are numbered as they come."""

    def __init__(self, classes: int, transforms: bool) -> None:
        self.number: dict[Any, int] = {}
        self.rows, self.transforms = 0, transforms
        self.weight, self.norm = np.zeros(0), np.zeros(0)
        self.log, self.plain = np.zeros((0, classes)), np.zeros((0, classes))

    @property
    def names(self) -> list[Any]:
        """The orbits, in the order of their numbers."""
        return list(self.number)

    def index(self, orbit: Names) -> Int[np.ndarray, " r"]:
        """(R,) numbers of the orbits of these rows."""
        number = self.number
        return np.array([number.setdefault(v, len(number)) for v in orbit.values], dtype=np.int64)[orbit.codes]

    def add(self, part: Part) -> None:
        """Take the rows of a batch in."""
        index = self.index(part.orbit)
        grow = len(self.number) - len(self.weight)
        if grow > 0:
            room = max(grow, len(self.weight) // 2)
            self.weight, self.norm = (np.append(a, np.zeros(room)) for a in (self.weight, self.norm))
            self.log, self.plain = (np.vstack([a, np.zeros((room, a.shape[1]))]) for a in (self.log, self.plain))
        order = np.argsort(index, kind="stable")
        starts = np.flatnonzero(np.diff(index[order], prepend=-1))
        which, w, logs = index[order][starts], part.weight[order], part.logs[order]
        probs = np.exp(logs)
        self.weight[which] += np.add.reduceat(w, starts)
        self.norm[which] += np.add.reduceat(w * (probs**2).sum(-1), starts)
        counted = np.where(w[:, None] > 0, logs, 0.0)
        self.log[which] += np.add.reduceat(np.where(w[:, None] > 0, w[:, None] * counted, 0.0), starts)
        self.plain[which] += np.add.reduceat(w[:, None] * probs, starts)
        self.rows += len(index)

    def mean(self, name: str) -> Float[np.ndarray, "m k"]:
        """(M, K) weighted means of log-probabilities (kl) or probabilities (squared)."""
        m = len(self.number)
        if (self.weight[:m] <= 0).any():
            name_ = self.names[int(np.argmin(self.weight[:m]))]
            raise InvalidInputError(f"orbit {name_!r} has no row with a positive weight")
        return (self.log if name == "kl" else self.plain)[:m] / self.weight[:m, None]

    def square(self) -> Float[np.ndarray, " m"]:
        """(M,) weighted means of the squared norms."""
        m = len(self.number)
        return self.norm[:m] / self.weight[:m]

    def answer(self, name: str) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, " m"]]:
        """(M, K) log-probabilities of the projection and (M,) gains."""
        mean = self.mean(name)
        if name == "squared":
            with np.errstate(divide="ignore"):
                return np.log(mean), np.maximum(self.square() - (mean**2).sum(-1), 0.0)
        top = mean.max(-1, keepdims=True)
        if np.isneginf(top).any():
            orbit = self.names[int(np.flatnonzero(np.isneginf(top[:, 0]))[0])]
            raise InvalidInputError(f"the views of {orbit!r} leave no class that all of them allow; give --floor 1e-6")
        log_z = top + np.log(np.exp(mean - top).sum(-1, keepdims=True))
        return mean - log_z, np.maximum(-log_z[:, 0], 0.0)


def find_columns(path: Path, columns: Columns) -> tuple[str, ...]:
    """The columns of probabilities that the patterns name, all columns being there.

    Raises:
        InvalidFileError, InvalidInputError: for absent files or columns, or fewer than two classes.
    """
    names = _schema(path)
    for role in ("orbit", "weight", "transform", "label"):
        wanted = getattr(columns, role)
        if wanted is not None and wanted not in names:
            raise InvalidInputError(f"{path} has no column {wanted!r} for --{role}; it has {', '.join(names[:12])}")
    taken = {columns.orbit, columns.weight, columns.transform, columns.label}
    found = [n for pattern in columns.proba for n in names if fnmatch.fnmatchcase(n, pattern) and n not in taken]
    if len(found) < 2:
        raise InvalidInputError(
            f"--proba {','.join(columns.proba)} names {len(found)} columns of {path}, at least two classes are needed; "
            f"it has {', '.join(names[:12])}"
        )
    return tuple(dict.fromkeys(found))


def read_rows(path: str | Path, columns: Columns, *, floor: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(R,) orbits and (R, K) log-probabilities of a whole table, for audits."""
    source = Path(path)
    classes = find_columns(source, columns)
    parts = [_part(b, columns, classes, floor, source, 0) for b in _batches(source)]
    if not parts:
        raise InvalidFileError(source, "holds no rows", "give predictions of at least one input")
    return np.concatenate([p.orbit.all() for p in parts]), np.concatenate([p.logs for p in parts])


def _issue(divergence: str, evidence: dict[str, np.ndarray], gain: np.ndarray, sums: Sums) -> Certificate:
    witness = {"divergence": divergence, "spread": 1e-6, "gain": float(gain.mean()) - 1e-9}
    return Certificate.issue(
        "coherence.orbits",
        statement=f"On these {len(gain)} inputs with {sums.rows} views the expected {LOSS[divergence]}, averaged over "
        f"the views, drops by {gain.mean():.4f}, whatever the labels are, if the views of an input share one truth.",
        evidence=evidence,
        witness=witness,
        reference=PAPER,
        assumptions=(
            Assumption(SHARED),
            Assumption("the weights are the shares of the views in the traffic; single views are not covered"),
        ),
        provenance={"rows": sums.rows},
    )


def _write(
    run: RunFolder,
    path: Path,
    columns: Columns,
    classes: tuple[str, ...],
    floor: float | None,
    sums: Sums,
    answer: np.ndarray,
) -> dict[str, Any]:
    """The rows with the coherent answer in the place of theirs; figures by transformation and label on the way."""
    pa, pq = _arrow(path)
    target = run.inside("coherent.parquet")
    partial = target.with_suffix(".partial")
    by: dict[str, list[float]] = {}
    losses = np.zeros(3)
    writer = None
    try:
        for batch in _batches(path):
            part = _part(batch, columns, classes, floor, path, 0)
            index = sums.index(part.orbit)
            table = part.table
            probs = np.exp(answer[index])
            for k, name in enumerate(classes):
                table = table.set_column(table.schema.get_field_index(name), name, pa.array(probs[:, k]))
            if writer is None:
                writer = pq.ParquetWriter(partial, table.schema)
            writer.write_table(table)
            apart = _kl(answer[index], part.logs)
            if part.transform is not None:
                moved = np.bincount(part.transform.codes, weights=apart, minlength=len(part.transform.values))
                count = np.bincount(part.transform.codes, minlength=len(part.transform.values))
                for name, m, c in zip(part.transform.values, moved.tolist(), count.tolist(), strict=True):
                    total = by.setdefault(str(name), [0.0, 0])
                    by[str(name)] = [total[0] + m, total[1] + c]
            if part.label is not None:
                at = np.arange(len(index)), part.label
                share = part.weight / (sums.weight[index] * len(sums.number))
                losses += [(-share * part.logs[at]).sum(), (-share * answer[index][at]).sum(), share.sum()]
        assert writer is not None
        writer.close()
        partial.replace(target)
    except BaseException:
        if writer is not None:
            writer.close()
        partial.unlink(missing_ok=True)
        raise
    shown: dict[str, Any] = {"by_transform": {n: {"moved": s / c, "rows": c} for n, (s, c) in by.items()}}
    if columns.label is not None:
        shown["log_loss"] = {"before": float(losses[0]), "after": float(losses[1])}
    return shown


def _kl(g: np.ndarray, q: np.ndarray) -> Float[np.ndarray, " r"]:
    p = np.exp(g)
    with np.errstate(invalid="ignore"):
        return np.where(p > 0, p * (g - q), 0.0).sum(-1)


def _part(batch: Any, columns: Columns, classes: tuple[str, ...], floor: float | None, path: Path, done: int) -> Part:
    """A batch as arrays, checked."""
    pa, _ = _arrow(path)
    table = pa.Table.from_batches([batch])

    def numbers(name: str) -> np.ndarray:
        try:
            return table[name].cast(pa.float64()).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise InvalidInputError(f"column {name!r} of {path} holds text where probabilities are due") from None

    probs = np.stack([numbers(n) for n in classes], -1)
    if not np.isfinite(probs).all() or (probs < 0).any():
        row = done + int(np.argmax(~(np.isfinite(probs) & (probs >= 0)).all(-1)))
        raise InvalidInputError(
            f"row {row} of {path} holds a missing or negative probability; drop the row, or mend it"
        )
    with np.errstate(divide="ignore"):
        try:
            logs = as_views(np.log(probs)[None], floor=floor)[0]
        except InvalidInputError:
            total = probs.sum(-1)
            row = int(np.argmax(np.abs(total - 1)))
            raise InvalidInputError(
                f"the probabilities in row {done + row} of {path} sum to {total[row]:.4g}, not 1; check --proba"
            ) from None
    weight = np.ones(len(probs)) if columns.weight is None else numbers(columns.weight)
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise InvalidInputError(f"column {columns.weight!r} of {path} must hold weights that are not negative")

    def names(column: str) -> Names:
        coded = table[column].combine_chunks().dictionary_encode(null_encoding="encode")
        return Names(coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist())

    label = None
    if columns.label is not None:
        told, place = names(columns.label), {**{n: i for i, n in enumerate(classes)}, **_bare(classes)}
        if unknown := [v for v in told.values if str(v) not in place]:
            raise InvalidInputError(f"label {unknown[0]!r} of {path} is none of the classes {', '.join(classes)}")
        label = np.array([place[str(v)] for v in told.values], dtype=np.int64)[told.codes]
    transform = None if columns.transform is None else names(columns.transform)
    return Part(names(columns.orbit), logs, weight, transform, label, table)


def _bare(classes: tuple[str, ...]) -> dict[str, int]:
    """Classes without what their columns' names begin with alike: `p_cat`, `p_dog` are cat and dog."""
    start = 0
    while all(len(c) > start + 1 and c[start] == classes[0][start] for c in classes):
        start += 1
    return {c[start:]: i for i, c in enumerate(classes)}


def _schema(path: Path) -> list[str]:
    if not path.is_file():
        raise InvalidFileError(path, "there is no such file", "check the path")
    return list(_open(path).schema.names) if path.suffix == ".csv" else list(_open(path).schema_arrow.names)


def _batches(path: Path) -> Iterator[Any]:
    opened = _open(path)
    yield from opened if path.suffix == ".csv" else opened.iter_batches(batch_size=BATCH)


def _open(path: Path) -> Any:
    pa, pq = _arrow(path)
    try:
        if path.suffix == ".parquet":
            return pq.ParquetFile(path)
        if path.suffix == ".csv":
            from pyarrow import csv

            return csv.open_csv(path)
    except (pa.ArrowInvalid, OSError) as problem:
        raise InvalidFileError(
            path, f"not a readable table ({str(problem).splitlines()[0]})", "save it again"
        ) from None
    raise InvalidFileError(path, f"the ending {path.suffix!r} is not known", "give a .parquet or .csv file")


def _arrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "tables", f"reading {path.name}") from None
    return pyarrow, parquet
