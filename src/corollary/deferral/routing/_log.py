"""`RoutingLog`: prompts, what each model's answer was worth, what it cost; read from wide and long tables."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt64

from corollary.deferral.routing._readers import as_numbers, read_columns, read_rows
from corollary.deferral.routing._roles import cost_column, find_models, find_prompt, find_quality
from corollary.errors import InvalidInputError

SHARE = "share of requests sent to the dearer model"


@dataclass(frozen=True, eq=False)
class RoutingLog:
    """N prompts and K models.

    Args:
        prompts: the prompts.
        models: names of the models.
        quality: (N, K) in [0, 1]; NaN where the model was not asked.
        cost: (N, K) cost of a request, in `unit`; NaN where unknown; None where the log has none.
        propensity: (N, K) probability with which the model was asked; None where unknown.
        group: (N,) unit of clustering (a subject, a user); None: each prompt is its own.
        given: (N, d) numbers beside each prompt, or None.
        unit: of the costs.
        roles: column -> what it was taken for.

    Raises:
        InvalidInputError: for shapes that do not match or values out of range.

    Guarantee: none; it is a container.

    Example:
        >>> log = RoutingLog(("a", "b"), ("cheap", "dear"), np.array([[0.0, 1.0], [1.0, 1.0]]))
        >>> log.dearer, log.complete
        (1, True)
    """

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    quality: Float[np.ndarray, "n k"]
    cost: Float[np.ndarray, "n k"] | None = None
    propensity: Float[np.ndarray, "n k"] | None = None
    group: np.ndarray | None = None
    given: Float[np.ndarray, "n d"] | None = None
    unit: str = SHARE
    roles: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.prompts), len(self.models))
        if shape[0] == 0 or shape[1] < 2:
            raise InvalidInputError(f"a log needs prompts and at least two models, got {shape[0]} and {shape[1]}")
        if len(set(self.models)) != shape[1]:
            raise InvalidInputError(f"a model is named twice in {', '.join(self.models)}; rename one")
        for name in ("quality", "cost", "propensity"):
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise InvalidInputError(f"`{name}` must have shape {shape}, got {array.shape}")
        seen = ~np.isnan(self.quality)
        if not seen.any(0).all():
            raise InvalidInputError(f"model {self.models[int(np.argmin(seen.any(0)))]!r} was never asked; leave it out")
        if (self.quality[seen] < 0).any() or (self.quality[seen] > 1).any():
            raise InvalidInputError(
                "`quality` must lie in [0, 1]; rescale it, e.g. a mark of 1 to 10 by (mark - 1) / 9"
            )
        if self.cost is not None and ((self.cost < 0) | np.isinf(self.cost)).any():
            raise InvalidInputError("`cost` must be finite and at least 0; check the units")
        if self.propensity is not None:
            p = self.propensity[seen]
            if not ((p > 0) & (p <= 1)).all():
                raise InvalidInputError("`propensity` must lie in (0, 1] wherever a model was asked")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def complete(self) -> bool:
        """Whether every model was asked on every prompt."""
        return not bool(np.isnan(self.quality).any())

    @property
    def mean_quality(self) -> Float[np.ndarray, " k"]:
        """(K,) mean quality of each model over what it was asked."""
        return np.nanmean(self.quality, axis=0)

    @property
    def dearer(self) -> int:
        """The model that counts as the dear one: of highest mean cost, or of highest mean quality without costs."""
        by = self.mean_quality if self.cost is None else np.nanmean(self.cost, axis=0)
        return int(np.argmax(by))

    @property
    def costs(self) -> Float[np.ndarray, "n k"]:
        """(N, K) cost of a request: the log's (empty cells at the model's mean), else 1 for the dearer model and 0."""
        if self.cost is None:
            return np.tile(np.arange(len(self.models)) == self.dearer, (len(self), 1)).astype(np.float64)
        return np.where(np.isnan(self.cost), np.nanmean(self.cost, axis=0), self.cost)

    def select(self, index: Any) -> "RoutingLog":
        """The rows at `index` (integers, a boolean mask, or a slice)."""
        rows = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]

        def take(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[rows]

        return replace(
            self,
            prompts=tuple(self.prompts[i] for i in rows),
            quality=self.quality[rows],
            cost=take(self.cost),
            propensity=take(self.propensity),
            group=take(self.group),
            given=take(self.given),
        )

    def row_hashes(self) -> UInt64[np.ndarray, " n"]:
        """(N,) first 64 bits of the SHA-256 of each prompt: the identity of a row."""
        encoded = (p.encode("utf-8", "surrogateescape") for p in self.prompts)
        return np.array([int.from_bytes(hashlib.sha256(e).digest()[:8], "big") for e in encoded], dtype=np.uint64)

    def without(self, prompts: Sequence[str]) -> "RoutingLog":
        """The log without these prompts (decontamination)."""
        drop = set(prompts)
        return self.select(np.array([p not in drop for p in self.prompts]))


def read_log(
    path: str | Path,
    *,
    prompt: str | None = None,
    models: Sequence[str] | None = None,
    group: str | None = None,
    exclude: str | Path | None = None,
    prices: Mapping[str, float] | None = None,
) -> RoutingLog:
    r"""Read a log of requests.

    Args:
        path: `.jsonl`, `.csv` or `.parquet`, wide (one column of quality per model) or long (`model, quality`).
        prompt: the column of prompts; found by itself (see `_roles`).
        models: the models to keep, in that order; all that are found by default.
        group: the column that names each prompt's cluster, for grouped splits and clustered intervals.
        exclude: JSONL of prompts to drop: strings, or objects with `eval_prompt` or the prompt column.
        prices: cost of a request to each model, where the log has no costs.

    Returns:
        The log. Without costs and prices: two models, 1 for the one of higher mean quality and 0 for the other; more
        models, the sizes in their names ("-70b"), the largest counting 1.

    Raises:
        InvalidInputError: where columns are absent or contradict each other.
        InvalidFileError: for foreign or truncated files.

    Guarantee: none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "log.csv"
        >>> _ = path.write_text("prompt,cheap,dear\nhello,0,1\nbye,1,1\n")
        >>> read_log(path).roles
        {'prompt': 'prompt', 'cheap': 'quality of cheap', 'dear': 'quality of dear'}
    """
    columns = read_columns(path)
    name = find_prompt(columns, prompt)
    if group is not None and group not in columns:
        raise InvalidInputError(f"there is no column {group!r} to group by; the log has {', '.join(columns)}")
    quality = find_quality(columns)
    log = _long(columns, name, quality, models, group) if quality else _wide(columns, name, models, group)
    if exclude is not None:
        log = log.without(_excluded(exclude, name))
    return _priced(log, prices)


def _texts(columns: Mapping[str, Sequence[Any]], name: str) -> list[str]:
    if any(v is None for v in columns[name]):
        raise InvalidInputError(f"row {columns[name].index(None) + 1} has no {name!r}; remove or fill it")
    return [str(v) for v in columns[name]]


def _wide(
    columns: Mapping[str, Sequence[Any]], prompt: str, models: Sequence[str] | None, group: str | None
) -> RoutingLog:
    skipped = {k: v for k, v in columns.items() if k != group or (models is not None and k in models)}
    names = find_models(skipped, prompt=prompt, named=models)
    roles = {prompt: "prompt", **{n: f"quality of {n}" for n in names}}
    quality = np.column_stack([_numbers(columns, n) for n in names])
    priced = [cost_column(columns, n) for n in names]
    cost = None
    if any(priced):
        if lacking := [n for n, c in zip(names, priced, strict=True) if c is None]:
            raise InvalidInputError(
                f"model {lacking[0]!r} has no cost column while others have; add it, or give prices"
            )
        cost = np.column_stack([_numbers(columns, c) for c in priced if c])
        roles |= {c: f"cost of {n}" for n, c in zip(names, priced, strict=True) if c}
    given, given_roles = _given(columns)
    groups = None if group is None else np.array([str(v) for v in columns[group]])
    roles |= given_roles | ({group: "group"} if group else {})
    kept = ~np.isnan(quality).all(1)
    log = RoutingLog(
        tuple(_texts(columns, prompt)), tuple(names), quality, cost, None, groups, given, _unit(cost), roles
    )
    return log if kept.all() else log.select(kept)


def _long(
    columns: Mapping[str, Sequence[Any]], prompt: str, quality: str, models: Sequence[str] | None, group: str | None
) -> RoutingLog:
    texts, asked = _texts(columns, prompt), [str(m) for m in columns["model"]]
    names = list(models) if models is not None else sorted(set(asked))
    if absent := [m for m in names if m not in set(asked)]:
        raise InvalidInputError(f"model {absent[0]!r} is not in the log; it has {', '.join(sorted(set(asked)))}")
    first = {text: i for i, text in reversed(list(enumerate(texts)))}
    order = sorted(first.values())
    row_of = {texts[i]: r for r, i in enumerate(order)}
    column_of = {m: j for j, m in enumerate(names)}
    keep = [i for i, m in enumerate(asked) if m in column_of]
    rows, cols = np.array([row_of[texts[i]] for i in keep]), np.array([column_of[asked[i]] for i in keep])
    if len(np.unique(rows * len(names) + cols)) != len(rows):
        raise InvalidInputError("a model answers the same prompt twice; keep one answer, or make the prompts distinct")

    def table(name: str) -> np.ndarray:
        out = np.full((len(order), len(names)), np.nan)
        out[rows, cols] = _numbers(columns, name)[keep]
        return out

    roles = {prompt: "prompt", "model": "model", quality: "quality"}
    roles |= {n: n for n in ("cost", "propensity") if n in columns} | ({group: "group"} if group else {})
    values = table(quality)
    cost = table("cost") if "cost" in columns else None
    propensity = table("propensity") if "propensity" in columns else None
    groups = None if group is None else np.array([str(columns[group][i]) for i in order])
    prompts = tuple(texts[i] for i in order)
    kept = ~np.isnan(values).all(1)
    log = RoutingLog(prompts, tuple(names), values, cost, propensity, groups, None, _unit(cost), roles)
    return log if kept.all() else log.select(kept)


def _numbers(columns: Mapping[str, Sequence[Any]], name: str) -> np.ndarray:
    values = as_numbers(columns[name])
    if values is None:
        raise InvalidInputError(f"column {name!r} holds what is no number; clean it, or name other columns")
    return values


def _given(columns: Mapping[str, Sequence[Any]]) -> tuple[np.ndarray | None, dict[str, str]]:
    parts, roles = [], {}
    for name in [c for c in columns if c.startswith("feature:")]:
        parts.append(_numbers(columns, name)[:, None])
        roles[name] = "number beside the prompt"
    if "embedding" in columns:
        try:
            parts.append(np.array(columns["embedding"], dtype=np.float64))
        except (TypeError, ValueError):
            raise InvalidInputError("column 'embedding' must hold lists of numbers of one length") from None
        if parts[-1].ndim != 2:
            raise InvalidInputError("column 'embedding' must hold lists of numbers of one length")
        roles["embedding"] = "embedding"
    if not parts:
        return None, {}
    given = np.concatenate(parts, axis=1)
    if not np.isfinite(given).all():
        raise InvalidInputError("numbers beside the prompt (feature:NAME, embedding) must be finite; fill the gaps")
    return given, roles


def _excluded(path: str | Path, prompt: str) -> list[str]:
    found = []
    for row in read_rows(path):
        value = (
            row if isinstance(row, str) else row.get("eval_prompt", row.get(prompt)) if isinstance(row, dict) else None
        )
        if not isinstance(value, str):
            raise InvalidInputError(f"{path}: a line has neither `eval_prompt` nor `{prompt}`; give strings or objects")
        found.append(value)
    return found


def _unit(cost: np.ndarray | None) -> str:
    return SHARE if cost is None else "the log's unit"


def _priced(log: RoutingLog, prices: Mapping[str, float] | None) -> RoutingLog:
    if prices:
        if lacking := [m for m in log.models if m not in prices]:
            raise InvalidInputError(
                f"no price is given for {lacking[0]!r}; give one for each of {', '.join(log.models)}"
            )
        return replace(
            log, cost=np.tile([float(prices[m]) for m in log.models], (len(log), 1)), unit="the prices' unit"
        )
    if log.cost is not None or len(log.models) == 2:
        return log
    sizes = [re.search(r"(?<![\d.])(\d+(?:\.\d+)?)b\b", m.lower()) for m in log.models]
    if not all(sizes):
        raise InvalidInputError(
            "the log has no costs and more than two models; give `prices`, the cost of a request to each of "
            + ", ".join(log.models)
        )
    size = np.array([float(s.group(1)) for s in sizes if s])
    return replace(log, cost=np.tile(size / size.max(), (len(log), 1)), unit="requests to the largest model (by size)")
