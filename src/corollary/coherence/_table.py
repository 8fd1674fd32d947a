r"""Saved predictions of any system, one row a view: projected in a stream, written again, certified.

Symbols: rows r with distribution q_r, orbit o(r) and weight w_r. One pass sums \(\sum w\), \(\sum w \log q\),
\(\sum w q\) and \(\sum w \|q\|^2\) for each orbit; a second one writes the rows with the coherent answer. Memory grows
with the orbits, not with the rows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from corollary.certificates import Certificate, save_certificate
from corollary.coherence._issue import LOSS, OVER_VIEWS, PAPER
from corollary.coherence._stream import Columns, Names, Part, arrow, batches, find_columns, part_of
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.runs import RunFolder, write_json

KEPT = 20  # orbits named in the report
Tell = Callable[[str, float], Any]


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
    for batch in batches(path):
        part = part_of(batch, columns, classes, floor, path, sums.rows)
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


def _issue(divergence: str, evidence: dict[str, np.ndarray], gain: np.ndarray, sums: Sums) -> Certificate:
    witness = {"divergence": divergence, "spread": 1e-6, "gain": float(gain.mean()) - 1e-9}
    return Certificate.issue(
        "coherence.orbits",
        statement=f"On these {len(gain)} inputs with {sums.rows} views the expected {LOSS[divergence]}, averaged over "
        f"the views, drops by {gain.mean():.4f}, whatever the labels are, if the views of an input share one truth.",
        evidence=evidence,
        witness=witness,
        reference=PAPER,
        assumptions=OVER_VIEWS,
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
    pa, pq = arrow(path)
    target = run.inside("coherent.parquet")
    partial = target.with_suffix(".partial")
    by: dict[str, list[float]] = {}
    losses = np.zeros(3)
    writer = None
    try:
        for batch in batches(path):
            part = part_of(batch, columns, classes, floor, path, 0)
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
