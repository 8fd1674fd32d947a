"""Scores of a large corpus on disk: written in parts, taken up after a kill, memory-mapped afterwards.

A folder holds `scores.safetensors`, whose size is known before the first score (the arrays of `ExpertScores`, and the
sums over documents), and one `part-NNNNN.json` for each run of documents whose scores are safely on disk, with their
hash. A part is written first and marked afterwards, so that what a killed process leaves is either marked or written
again; processes under `torchrun` write different parts of the same file.
"""

import hashlib
import json
import mmap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Int

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.gating._distributed import ranks, wait
from corollary.gating._scores import CHUNK_TOKENS, STATISTICS, ExpertScores, score_experts
from corollary.runs import read_json, write_json

KIND = "corollary.scores"
FORMAT = 1
NAME = "scores.safetensors"
PART_TOKENS = 1 << 20
_TYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I64": np.int64}
_AGAIN = "build the cache again, in another folder"


@dataclass(frozen=True, eq=False)
class ScoreCache(ExpertScores):
    """`ExpertScores` that live on disk: the same arrays, memory-mapped, for corpora larger than memory.

    Use it wherever `ExpertScores` is asked for. `CausalGate.fit`, `RobustGate.fit` and `gate_log_probs` go through it
    in runs of documents and hold no more than a run at a time; arrays the size of the corpus (`log_weights`) are the
    caller's to ask for.

    Args:
        offsets: (N + 1,) where documents begin and end.
        log_probs: (total, K) memory-mapped.
        statistics: (total, K, 3) memory-mapped, or zeros that take no room.
        sums: (N, K) log-likelihood of each document, in float64.
        lengths: (N,) tokens of each document, also where only its sums are kept.
        folder: where it lies.

    Guarantee: the numbers are those of `score_experts` on the same documents, bit for bit; parts whose hash differs
        from that of what was written are refused on opening.

    Example:
        >>> import tempfile
        >>> from corollary.models import NgramModel
        >>> docs = Documents.from_texts(["one two one two", "1 2"])
        >>> experts = [NgramModel.fit(docs), NgramModel.fit(docs, order=2)]
        >>> cache = ScoreCache.build(tempfile.mkdtemp(), experts, docs)
        >>> bool((cache.log_probs == score_experts(experts, docs).log_probs).all()), cache.totals().shape
        (True, (2, 2))

    Reference: ours.
    """

    sums: Float[np.ndarray, "n k"]
    lengths: Int[np.ndarray, " n"]
    folder: Path

    lazy: ClassVar[bool] = True

    @classmethod
    def build(
        cls,
        folder: str | Path,
        experts: Sequence[Any],
        documents: Documents,
        *,
        level: str = "token",
        statistics: bool = True,
        part_tokens: int = PART_TOKENS,
        progress: Callable[[int, int], object] | None = None,
    ) -> "ScoreCache":
        """Score a corpus to disk, or go on where an earlier call with the same arguments stopped.

        Args:
            folder: made if it is not there; holds one cache.
            experts: K language models with `fingerprint`.
            documents: what to score; the tokens may be memory-mapped themselves.
            level: "token", or "sequence": one number a document and expert, as if it were one token; what
                `RobustGate` needs, at a fraction of the room.
            statistics: keep the contexts' statistics (n-gram experts have some; networks none).
            part_tokens: tokens scored and marked at a time: what a kill can cost, and what is held in memory.
            progress: called with (parts done, parts).

        Returns:
            The opened cache. Under `torchrun` every process scores its share of the parts, and all of them return.

        Raises:
            InvalidInputError: for no experts or documents, experts without a fingerprint, or a folder that holds the
                cache of other experts or documents.
            InvalidFileError: for files that are foreign, truncated or changed.
        """
        if level not in ("token", "sequence") or part_tokens < 1:
            raise InvalidInputError(f"`level` must be 'token' or 'sequence' and `part_tokens` positive, got {level!r}")
        if not experts or not len(documents.tokens):
            raise InvalidInputError(
                f"{len(experts)} experts and {len(documents.tokens)} tokens were given; give one of each at least"
            )
        told = _identity(experts, documents, level, statistics and level == "token", part_tokens)
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        if ranks()[0] == 0:
            _prepare(target / NAME, told, documents)
        wait()
        found = _map(target / NAME, mode="r+")
        if found[0] != told:
            changed = [n for n in told if found[0].get(n) != told[n]]
            raise InvalidInputError(
                f"{target} holds scores of other {' and '.join(changed)}; give an empty folder, or the same arguments"
            )
        arrays, spans = found[1], _spans(documents.offsets, part_tokens)
        rank, size = ranks()
        for i in range(rank, len(spans), size):
            first, last = spans[i]
            marker = _marker(target, i)
            if not marker.exists():
                where = slice(int(documents.offsets[first]), int(documents.offsets[last]))
                offsets = documents.offsets[first : last + 1] - documents.offsets[first]
                run = Documents(np.asarray(documents.tokens[where]), offsets)
                _fill(arrays, score_experts(experts, run), first, last, where, level)
                told_part = {"first": first, "last": last, "sha256": _hash(arrays, first, last)}
                for array in arrays.values():
                    _flush(array)
                write_json(marker, told_part)
                _release(arrays)
            if progress is not None:
                progress(i + 1, len(spans))
        wait()
        del arrays, found
        return cls.open(target, verify=False)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        experts: Sequence[Any] | None = None,
        documents: Documents | None = None,
        verify: bool = True,
    ) -> "ScoreCache":
        """Map a finished cache.

        Args:
            folder: where `build` wrote.
            experts: refuse a cache of other experts than these.
            documents: refuse a cache of other documents than these.
            verify: hash every part and refuse one that changed; about a second a gigabyte.

        Returns:
            The cache, read only.

        Raises:
            InvalidFileError: for files that are missing, foreign, truncated, unfinished or changed.
            InvalidInputError: where experts or documents are not those of the cache.
        """
        target = Path(folder)
        told, arrays = _map(target / NAME, mode="r")
        if experts is not None and told["experts"] != _fingerprints(experts):
            raise InvalidInputError(f"{target} holds scores of other experts; score with these in another folder")
        if documents is not None and told["documents"] != documents.digest():
            raise InvalidInputError(f"{target} holds scores of other documents; score these in another folder")
        spans = _spans(np.asarray(arrays["document_offsets"]), told["part_tokens"])
        for i, (first, last) in enumerate(spans):
            marker = _marker(target, i)
            if not marker.exists():
                raise InvalidFileError(
                    target / NAME, f"part {i} of {len(spans)} was not scored yet", "call `build` again to go on"
                )
            if verify and _part(marker, first, last) != _hash(arrays, first, last):
                raise InvalidFileError(target / NAME, f"part {i} changed since it was scored", _AGAIN)
            _release(arrays)
        offsets = np.array(arrays["document_offsets"])
        lengths = np.diff(offsets)
        if told["level"] == "sequence":
            offsets = np.arange(len(offsets))
        log_probs = arrays["log_probs"]
        kept = arrays.get("statistics")
        if kept is None:
            kept = np.broadcast_to(np.zeros((), dtype=np.float16), (*log_probs.shape, STATISTICS))
        return cls(offsets, log_probs, kept, arrays["totals"], lengths, target)

    def totals(self) -> Float[np.ndarray, "n k"]:
        """(N, K) log-likelihood of each document under each expert, in float64, read from disk."""
        return np.array(self.sums)

    def parts(self, tokens: int = CHUNK_TOKENS) -> Iterator[tuple[ExpertScores, slice]]:
        """Whole documents in runs of about `tokens`, in memory, with their place in the flat arrays."""
        for first, last in _spans(self.offsets, tokens):
            where = slice(int(self.offsets[first]), int(self.offsets[last]))
            offsets = self.offsets[first : last + 1] - self.offsets[first]
            yield ExpertScores(offsets, np.array(self.log_probs[where]), np.array(self.statistics[where])), where
            self.release()

    def documents(self, index: Any) -> ExpertScores:
        """The documents at `index`, in memory."""
        chosen = super().documents(index)
        self.release()
        return chosen

    def select(self, experts: Sequence[int]) -> "ScoreCache":
        """The scores of some of the experts; neighbours stay on disk."""
        chosen = super().select(experts)
        sums = self.sums[:, list(experts)]
        return ScoreCache(chosen.offsets, chosen.log_probs, chosen.statistics, sums, self.lengths, self.folder)

    def release(self) -> None:
        """Let the system take back the memory of what was read; the next reading maps it again."""
        _release({"log_probs": self.log_probs, "statistics": self.statistics, "sums": self.sums})


def _fingerprints(experts: Sequence[Any]) -> list[str]:
    for k, expert in enumerate(experts):
        if not hasattr(expert, "fingerprint"):
            raise InvalidInputError(
                f"expert {k} has no `fingerprint`, so its scores could not be told from others'; give one"
            )
    return [str(e.fingerprint()) for e in experts]


def _identity(experts: Any, documents: Documents, level: str, statistics: bool, part_tokens: int) -> dict[str, Any]:
    return {
        "kind": KIND, "format": FORMAT, "level": level, "statistics": statistics, "part_tokens": part_tokens,
        "experts": _fingerprints(experts), "documents": documents.digest(),
    }  # fmt: skip


def _spans(offsets: np.ndarray, tokens: int) -> list[tuple[int, int]]:
    """Runs of documents of at most `tokens` tokens, one document at least."""
    spans, first, count = [], 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + tokens, side="right")) - 1
        spans.append((first, last := max(last, first + 1)))
        first = last
    return spans


def _marker(folder: Path, part: int) -> Path:
    return folder / f"part-{part:05d}.json"


def _part(marker: Path, first: int, last: int) -> str:
    told = read_json(marker)
    if not isinstance(told, dict) or (told.get("first"), told.get("last")) != (first, last):
        raise InvalidFileError(marker, "not the mark of a part of this cache", _AGAIN)
    return str(told.get("sha256"))


def _prepare(path: Path, told: dict[str, Any], documents: Documents) -> None:
    """Write header, offsets and room for the rest, unless they are there."""
    if path.exists():
        return
    n, k, total = len(documents), len(told["experts"]), len(documents.tokens)
    rows = total if told["level"] == "token" else n
    shapes: dict[str, tuple[str, list[int]]] = {"totals": ("F64", [n, k]), "document_offsets": ("I64", [n + 1])}
    shapes["log_probs"] = ("F32", [rows, k])
    if told["statistics"]:
        shapes["statistics"] = ("F16", [rows, k, STATISTICS])
    header: dict[str, Any] = {"__metadata__": {"corollary": json.dumps(told, sort_keys=True)}}
    end = 0
    for name, (dtype, shape) in shapes.items():
        size = int(np.prod(shape)) * np.dtype(_TYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(8 + len(text) + header["document_offsets"]["data_offsets"][0])
        file.write(np.ascontiguousarray(documents.offsets).tobytes())
        file.truncate(8 + len(text) + end)  # the rest is a hole until it is scored
    partial.replace(path)


def _map(path: Path, *, mode: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and memory-mapped arrays, checked against the size of the file."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise InvalidFileError(path, "there is no such file", "give the folder of a cache") from None
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < min(size, 1 << 20):
                raise ValueError("no header")
            header = json.loads(file.read(length))
        told = json.loads(header.pop("__metadata__")["corollary"])
        if told["kind"] != KIND or told["format"] != FORMAT or header.keys() - {"statistics"} != {
            "totals", "document_offsets", "log_probs"
        }:  # fmt: skip
            raise ValueError("another kind or format")
        arrays: dict[str, np.ndarray] = {}
        for name, entry in header.items():
            dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            if end - begin != int(np.prod(shape)) * dtype.itemsize or 8 + length + end > size:
                raise InvalidFileError(path, f"cut short: `{name}` ends behind the {size} bytes there are", _AGAIN)
            arrays[name] = np.memmap(path, dtype=dtype, mode=mode, offset=8 + length + begin, shape=shape)
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as problem:
        if isinstance(problem, InvalidFileError):
            raise
        raise InvalidFileError(path, f"not a cache of scores ({problem})", "give the folder of a cache") from None
    return told, arrays


def _fill(arrays: dict[str, np.ndarray], scores: ExpertScores, first: int, last: int, where: slice, level: str) -> None:
    sums = scores.totals()
    arrays["totals"][first:last] = sums
    if level == "sequence":
        arrays["log_probs"][first:last] = sums
        return
    arrays["log_probs"][where] = scores.log_probs
    if "statistics" in arrays:
        arrays["statistics"][where] = scores.statistics


def _hash(arrays: dict[str, np.ndarray], first: int, last: int) -> str:
    """SHA-256 of one part: its documents' place, and every number that was written for them."""
    offsets = arrays["document_offsets"][first : last + 1]
    state = hashlib.sha256(offsets.tobytes())
    per_document = len(arrays["log_probs"]) != int(arrays["document_offsets"][-1])
    rows = slice(first, last) if per_document else slice(int(offsets[0]), int(offsets[-1]))
    state.update(np.ascontiguousarray(arrays["totals"][first:last]).data)
    state.update(np.ascontiguousarray(arrays["log_probs"][rows]).data)
    if "statistics" in arrays:
        state.update(np.ascontiguousarray(arrays["statistics"][rows]).data)
    return state.hexdigest()


def _flush(array: Any) -> None:
    if isinstance(array, np.memmap):
        array.flush()


def _release(arrays: dict[str, Any]) -> None:
    for array in arrays.values():
        mapped = getattr(array, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)
