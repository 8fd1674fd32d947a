"""What `corollary calibrate` does with a recorded stream: forecast it online, measure, certify, fill a run folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from corollary.calibration._bounds import calibration_bound
from corollary.calibration._calibrator import Calibrator
from corollary.calibration._certify import certify_stream, tree_settings
from corollary.calibration._forecaster import load_forecaster
from corollary.calibration._groups import Announced, group
from corollary.calibration._measures import brier_decomposition, error_of, external_regret
from corollary.calibration._reliability import expected_calibration_error, reliability
from corollary.calibration._replay import learned, replay
from corollary.calibration._sets import Simplex
from corollary.calibration._stream import Stream, read_stream
from corollary.calibration._tree import PengCal, TreeCal
from corollary.certificates import save_certificate
from corollary.errors import InvalidInputError
from corollary.runs import RunFolder, write_json

Tell = Callable[..., None]
CHUNK = 20_000  # rounds between two saved states
SHOWN = (1, 2)  # norms of the table


def calibrate_stream(
    run: RunFolder,
    data: str | Path,
    *,
    outcome: str = "y",
    forecast: str | None = None,
    method: str = "auto",
    set: str = "auto",
    classes: list[str] | None = None,
    levels: int | None = None,
    branching: int | None = None,
    leaf: int | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> dict[str, Any]:
    r"""Forecast a recorded stream online, round by round, and fill a run folder.

    Args:
        run: the open run folder; gets `certificate.json` with its evidence, and `metrics.json`.
        data: CSV file, a row for each round.
        outcome, forecast, set, classes: as in `read_stream`.
        method: of `Calibrator`.
        levels, branching, leaf: of the tree, where the method is one; None for the calibrator's choice.
        seed: of everything random.
        tell: called with (what, share) as work goes on.

    Returns:
        What `metrics.json` holds: `checkpoints` (after every power of two), `method`, `reasons`, `brier`, ...

    Raises:
        InvalidInputError, InvalidFileError: for a stream that cannot be used; one sentence names the round.

    Guarantee: that of `certify_stream`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "s.csv").write_text("y\n" + "".join(f"{i % 3 % 2}\n" for i in range(64)))
        >>> with RunFolder(folder / "run", {"verb": "calibrate"}) as run:
        ...     result = calibrate_stream(run, folder / "s.csv")
        >>> result["method"], [c["rounds"] for c in result["checkpoints"]]
        ('foster', [1, 2, 4, 8, 16, 32, 64])
    """
    say: Tell = tell or (lambda *_: None)
    say("reading", 0.0)
    stream = read_stream(data, outcome=outcome, forecast=forecast, set=set, classes=classes)
    origin = {"data": str(Path(data).resolve()), "outcome": outcome, "forecast": forecast, "set": set}
    chosen: dict[str, Any] = {"method": method, "levels": levels, "branching": branching, "leaf": leaf, "seed": seed}
    write_json(run.inside("stream.json"), {**origin, **chosen, "classes": classes})
    calibrator = make_calibrator(stream, **chosen)
    announced = announce(calibrator, stream, run=run, say=say)
    say("measuring", 0.7)
    about = {"set": stream.note, "rounds": len(stream.outcomes)}
    result = write_result(run, announced, stream, calibrator, provenance=about)
    say("done", 1.0)
    return result


def make_calibrator(
    stream: Stream, *, method: str, levels: int | None, branching: int | None, leaf: int | None, seed: int
) -> Calibrator:
    """The calibrator of a stream; options of trees are for trees."""
    options: dict[str, Any] = {
        k: v for k, v in {"levels": levels, "branching": branching, "leaf": leaf}.items() if v is not None
    }
    common: dict[str, Any] = {
        "dim": stream.domain,
        "horizon": len(stream.outcomes),
        "outcomes": stream.kind,
        "seed": seed,
    }
    common["base"] = stream.base is not None
    if options:
        picked = Calibrator(method, **common).method
        if "tree" not in picked and picked != "peng":
            raise InvalidInputError(
                f"levels, branching and leaf are for trees, the method is {picked!r}; ask for treecal"
            )
        if "branching" not in options:
            options["branching"] = 2  # the horizon raises it as far as it must be
    return Calibrator(method, **common, **options)


def is_tree(calibrator: Calibrator) -> bool:
    """Whether the theorem of TreeCal speaks of its forecasts."""
    return type(calibrator.forecaster) in (TreeCal, PengCal)


def announce(calibrator: Calibrator, stream: Stream, *, run: RunFolder | None, say: Tell) -> Announced:
    """What the calibrator announces on the stream; with a run folder, chunks that are done are kept."""
    y = stream.outcomes
    if is_tree(calibrator):
        forecaster = calibrator.forecaster
        found = replay(y, domain=stream.domain, **tree_settings(forecaster))
        learned(forecaster, y)  # the state to go on from
        calibrator.rounds = len(y)
        return Announced(found.forecasts(), found.weights(), y)
    parts = []
    for k, begin in enumerate(range(0, len(y), CHUNK)):
        rounds = range(begin, min(begin + CHUNK, len(y)))
        say(f"round {begin + 1}", 0.05 + 0.6 * begin / len(y))
        if run is None:
            parts.append(_chunk(calibrator, stream, rounds))
            continue
        state = run.inside(f"stages/state{k:05d}.json")
        before = run.inside(f"stages/state{k - 1:05d}.json")

        def compute(rounds: range = rounds, before: Path = before, state: Path = state) -> dict[str, np.ndarray]:
            if rounds[0] > calibrator.rounds:  # taken up again: earlier chunks were read, not computed
                _adopt(calibrator, load_forecaster(before))
            made = _chunk(calibrator, stream, rounds)
            calibrator.save(state)
            return made

        parts.append(run.stage(f"chunk{k:05d}", compute))
        if calibrator.rounds < rounds[-1] + 1:
            _adopt(calibrator, load_forecaster(state))
    widest = max(p["weights"].shape[1] for p in parts)
    forecasts = np.concatenate([_wide(p["forecasts"], widest) for p in parts])
    weights = np.concatenate([np.pad(p["weights"], ((0, 0), (0, widest - p["weights"].shape[1]))) for p in parts])
    return Announced(forecasts, weights, y)


def _adopt(calibrator: Calibrator, saved: Any) -> None:
    calibrator.forecaster, calibrator.rounds, calibrator._coins = saved.forecaster, saved.rounds, saved._coins


def _chunk(calibrator: Calibrator, stream: Stream, rounds: range) -> dict[str, np.ndarray]:
    forecasts, weights = [], []
    for t in rounds:
        points, w = calibrator.predict(None if stream.base is None else stream.base[t])
        forecasts.append(points)
        weights.append(w)
        calibrator.update(stream.outcomes[t])
    widest = max(len(w) for w in weights)
    return {
        "forecasts": np.array([_wide(p[None], widest)[0] for p in forecasts]),
        "weights": np.array([np.pad(w, (0, widest - len(w))) for w in weights]),
    }


def _wide(forecasts: np.ndarray, widest: int) -> np.ndarray:
    """(T, widest, d): further copies of the first forecast, which get weight zero."""
    missing = widest - forecasts.shape[1]
    return np.concatenate([forecasts, np.repeat(forecasts[:, :1], missing, axis=1)], axis=1) if missing else forecasts


def write_result(
    run: RunFolder, announced: Announced, stream: Stream, calibrator: Calibrator, *, provenance: dict[str, Any]
) -> dict[str, Any]:
    """Certificate, figures and state of what was announced so far, into the run folder; returns `metrics.json`."""
    certificate, evidence = certify_stream(
        *announced,
        domain=stream.domain,
        forecaster=calibrator.forecaster if is_tree(calibrator) else None,
        provenance={"method": calibrator.method, **provenance},
    )
    save_certificate(run.path, certificate, evidence)
    result = {
        "verb": "calibrate",
        "rounds": len(stream.outcomes),
        "dim": stream.domain.dim,
        "outcomes": stream.kind,
        "set": stream.note,
        "classes": list(stream.classes),
        "method": calibrator.method,
        "reasons": calibrator.reasons,
        **figures(announced, stream, calibrator),
        "certified": certificate.statement,
    }
    calibrator.save(run.inside("state.json"))
    write_json(run.inside("metrics.json"), result)
    return result


def figures(announced: Announced, stream: Stream, calibrator: Calibrator) -> dict[str, Any]:
    """The numbers of `metrics.json`."""
    T = len(stream.outcomes)
    rounds = [1 << k for k in range(T.bit_length()) if 1 << k <= T]
    rounds += [] if rounds[-1] == T else [T]
    tree = tree_settings(calibrator.forecaster) if is_tree(calibrator) else None
    rows = [checkpoint(Announced(*(a[:n] for a in announced)), stream, tree) for n in rounds]
    mean = np.einsum("tl,tld->td", announced.weights, announced.forecasts)
    found: dict[str, Any] = {"checkpoints": rows, "brier": brier_decomposition(*announced)._asdict()}
    if tree:
        found["tree"] = {k: v for k, v in tree.items() if k != "start"}
    if stream.base is not None:
        found["base_brier"] = float(np.square(stream.outcomes - stream.base).sum(1).mean())
    if isinstance(stream.domain, Simplex):
        diagrams = {"calibrated": mean} | ({} if stream.base is None else {"model": stream.base})
        found["ece"] = {
            n: expected_calibration_error(p, stream.outcomes, kind="classwise") for n, p in diagrams.items()
        }
        found["reliability"] = {
            n: {k: np.round(v, 6).tolist() for k, v in reliability(p, stream.outcomes)._asdict().items()}
            for n, p in diagrams.items()
        }
    return found


def checkpoint(data: Announced, stream: Stream, tree: dict[str, Any] | None) -> dict[str, float | int]:
    """Error, regret and bounds after so many rounds; each a round's share."""
    T, groups = len(data.outcomes), group(data)
    squared = error_of(groups, norm="squared") / T
    row: dict[str, float | int] = {"rounds": T}
    for p in SHOWN:
        row[f"l{p}"] = error_of(groups, norm=p) / T
    row |= {"swap_regret": squared, "external_regret": external_regret(*data) / T}
    if tree:
        options = {k: v for k, v in tree.items() if k != "start"}
        row["theorem"] = calibration_bound(stream.domain, T, norm=1, **options).error
        row["theorem_spread"] = calibration_bound(stream.domain, T, norm=1, outcomes=data.outcomes, **options).error
    return {**row, "trivial": stream.domain.diameter(1)}


def rescored(folder: Path) -> dict[str, np.ndarray]:
    """Evidence of a run, from its CSV file."""
    from corollary.calibration._follow import read_log
    from corollary.certificates import Undecided
    from corollary.errors import CorollaryError
    from corollary.runs import read_json

    try:
        if (folder / "log.jsonl").exists():
            return read_log(folder).evidence()
        asked = read_json(folder / "stream.json")
        stream = read_stream(asked["data"], **{n: asked[n] for n in ("outcome", "forecast", "set", "classes")})
        chosen = {n: asked[n] for n in ("method", "levels", "branching", "leaf", "seed")}
        found = announce(make_calibrator(stream, **chosen), stream, run=None, say=lambda *_: None)
    except (CorollaryError, KeyError, TypeError) as problem:
        raise Undecided(f"the stream cannot be read again ({problem})") from None
    return found._asdict()
