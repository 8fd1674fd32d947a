"""Domains of text made from what every installation holds: six by default, one as a control; no download.

Files, not documents, are drawn into splits; `code` and `prose` draw the files of the standard library
together, so that a whole function of a held-out file (its code and its docstring) was seen by the expert of
neither.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corollary.datasets import _sources
from corollary.datasets._domain import SPLITS, Domain, draw
from corollary.datasets._generated import GENERATORS, Phrases, generate
from corollary.datasets._near_duplicates import Seen, shared_fraction
from corollary.datasets._sources import Piece
from corollary.documents import Documents
from corollary.errors import InvalidInputError

DEFAULT = ("code", "prose", "numpydoc", "c", "json", "logs")
NAMES = (*DEFAULT, "arithmetic")
LOW, HIGH = 200, 2000
PROSE_LOW = 150
PER_FILE = 100
RELATED = 0.5
_HELD_OUT = ("certify", "gate", "validation")

_ORIGIN = {
    "code": (
        "functions of Python's standard library, docstrings and comments removed",
        "PSF-2.0",
        "function",
    ),
    "prose": (
        "docstrings and help topics of Python's standard library; licence texts of Python, numpy, scipy, "
        "scikit-learn, torch",
        "PSF-2.0; each licence text under its own terms",
        "docstring, or block of whole paragraphs",
    ),
    "numpydoc": (
        "docstrings of numpy, scipy and scikit-learn; scikit-learn's descriptions of its data sets",
        "BSD-3-Clause",
        "docstring, or block of whole paragraphs",
    ),
    "c": (
        "C and C++ headers shipped with Python, numpy and torch",
        "PSF-2.0; BSD-3-Clause (numpy, torch)",
        "block of whole paragraphs",
    ),
    "json": (
        "generated records; phrases from training prose",
        "Apache-2.0 (this project)",
        "array of records",
    ),
    "logs": (
        "generated service logs; phrases from training prose",
        "Apache-2.0 (this project)",
        "excerpt of a log",
    ),
    "arithmetic": ("generated sums, differences and products", "Apache-2.0 (this project)", "block of lines"),
}


@dataclass
class _Plan:
    """How many documents each held-out split needs, and how many bytes training may use."""

    counts: dict[str, int]
    train_bytes: int
    seed: int
    seen: Seen = field(default_factory=Seen)


def text_domains(
    names: Sequence[str] = DEFAULT, *, train_bytes: int = 1_000_000, documents: int = 1000, seed: int = 0
) -> dict[str, Domain]:
    """Text domains from what the installation holds, split so that training does not leak.

    Args:
        names: which of "code", "prose", "numpydoc", "c", "json", "logs", "arithmetic".
        train_bytes: bytes of training text a domain is given, where the installation has as many.
        documents: documents of the split `certify`; `gate` has a third of them, `validation` an eighth.
        seed: draws which files go where, and the generated text.

    Returns:
        One `Domain` a name, in the order of `names`; documents of 150 to 2,000 bytes, longer ones cut.

    Raises:
        InvalidInputError: for an unknown or repeated name, a number below one, or more documents than exist.

    Guarantee: no two documents of any split or domain share their text or its first 80 characters after
        normalisation of case, white space and digits; no file (topic, licence, header) of `code`, `prose`,
        `numpydoc` and `c` gives documents to two splits; in these four no document outside of training has
        half of its 60-byte runs (by a sample of one in eight) in the training text of its domain; phrases of
        generated text come from training prose. Deterministic in the arguments and the installation.
        Documents of one file are not independent: a statistical claim is about this pool of files.

    Example:
        >>> domains = text_domains(("code", "json"), train_bytes=20_000, documents=30)
        >>> list(domains), len(domains["code"].certify), len(domains["json"].gate)
        (['code', 'json'], 30, 10)
    """
    _check(names, train_bytes, documents)
    counts = {"certify": documents, "gate": -(-documents // 3), "validation": -(-documents // 8)}
    plan = _Plan(counts, train_bytes, seed)
    made: dict[str, Domain] = {}
    # `code` and `prose` are always drawn together: which files one holds out must not depend on `names`.
    if not {"code", "prose", "json", "logs"}.isdisjoint(names):
        made |= _from_files(["code", "prose"], _stdlib(seed), plan)
    if "numpydoc" in names:
        made |= _from_files(["numpydoc"], _numpydoc(seed), plan)
    if "c" in names:
        made |= _from_files(["c"], _headers(seed, 2 * train_bytes + 3000 * documents), plan)
    phrases = Phrases(made["prose"].train if "prose" in made else Documents.from_texts([]))
    for name in GENERATORS:
        if name in names:
            made[name] = _generated(name, phrases, plan)
    return {name: made[name] for name in names}


def _check(names: Sequence[str], train_bytes: int, documents: int) -> None:
    unknown = [name for name in names if name not in NAMES]
    if isinstance(names, str) or unknown or len(set(names)) != len(names) or not names:
        raise InvalidInputError(
            f"`names` must be different names of {', '.join(NAMES)}, got {names!r}; correct the others"
        )
    for label, value in (("train_bytes", train_bytes), ("documents", documents)):
        if value < 1:
            raise InvalidInputError(f"`{label}` must be at least 1, got {value}; pass a positive number")


def cut(text: bytes) -> bytes:
    """The first 2,000 bytes, ending on a whole character, without blanks at the ends."""
    return text[:HIGH].decode("utf-8", "ignore").strip().encode()


def natural_share(seed: int, origin: str) -> bool:
    """Whether a function of a held-out file is kept whole for the natural mixed documents (one in five)."""
    return draw(seed, f"natural|{origin}") % 5 == 0


def _shuffled(seed: int, items: Iterable[Any], name: Callable[[Any], str]) -> list[Any]:
    return sorted(items, key=lambda item: draw(seed, name(item)))


Source = Iterator[tuple[str, dict[str, list[Piece]]]]


def _stdlib(seed: int) -> Source:
    """File by file, in the drawn order: the pieces it offers to `code` and to `prose`."""
    root = _sources.stdlib_root()
    other: dict[str, list[Piece]] = defaultdict(list)
    for piece in [*_sources.topics(), *_sources.licences()]:
        other[piece.file].append(piece)
    modules = {f"stdlib:{path.relative_to(root).as_posix()}": path for path in _sources.walk(root, (".py",))}
    for file in _shuffled(seed, [*modules, *other], str):
        if file in other:
            yield file, {"prose": other[file]}
            continue
        raw = _sources.read_text(modules[file])
        if raw is not None:
            module = _sources.parse_python(raw)
            yield (
                file,
                {
                    "code": [Piece(f.code, file, f"{file}#{f.name}") for f in module.functions],
                    "prose": [Piece(text, file, f"{file}#{name}") for name, text in module.docstrings],
                },
            )


def _numpydoc(seed: int) -> Source:
    paths = {}
    for package in ("numpy", "scipy", "sklearn"):
        root = _sources.package_root(package)
        for path in _sources.walk(root, (".py", ".rst")) if root else []:
            paths[f"{package}:{path.relative_to(root).as_posix()}"] = path  # type: ignore[arg-type]
    for file in _shuffled(seed, paths, str):
        raw = _sources.read_text(paths[file])
        if raw is None:
            continue
        if file.endswith(".rst"):
            yield file, {"numpydoc": list(_sources.blocks(raw, file))}
        else:
            found = _sources.parse_python(raw, functions=False).docstrings
            yield file, {"numpydoc": [Piece(text, file, f"{file}#{name}") for name, text in found]}


def _headers(seed: int, size: int) -> Source:
    # Python's and numpy's headers are C; torch's only fill up what they leave open. All are drawn together.
    chosen: list[tuple[str, Any]] = []
    held = 0
    for file, path in sorted(_sources.headers(), key=lambda h: (h[0].startswith("header:torch"), draw(seed, h[0]))):
        if file.startswith("header:torch") and held >= size:
            break
        held += path.stat().st_size
        chosen.append((file, path))
    for file, path in _shuffled(seed, chosen, lambda item: item[0]):
        raw = _sources.read_text(path)
        if raw is not None:
            yield file, {"c": list(_sources.blocks(raw, file))}


def _from_files(names: Sequence[str], source: Source, plan: _Plan) -> dict[str, Domain]:
    """Draw files into splits, the held-out ones first, until each has its documents and training its text."""
    pools: dict[tuple[str, str], list[Piece]] = defaultdict(list)
    files: dict[str, list[str]] = {split: [] for split in SPLITS}
    # Some slack for documents that turn out to be relatives of one drawn before.
    goal = {split: count + count // 12 + 2 for split, count in plan.counts.items()}
    for file, offered in source:
        split = next((s for s in _HELD_OUT if any(len(pools[n, s]) < goal[s] for n in names)), "train")
        if split == "train" and all(_size(pools[n, "train"]) > 1.2 * plan.train_bytes for n in names):
            break
        files[split].append(file)
        for name in names:
            offer = (piece for piece in offered.get(name, ()) if _usable(name, split, piece, plan.seed))
            pools[name, split] += _accepted(name, offer, plan)
    return {name: _domain(name, {s: pools[name, s] for s in SPLITS}, files, plan) for name in names}


def _size(pieces: Iterable[Piece]) -> int:
    return sum(len(piece.text) for piece in pieces)


def _usable(name: str, split: str, piece: Piece, seed: int) -> bool:
    """Whole held-out functions kept for the natural mixed documents are in neither `code` nor `prose`."""
    return split == "train" or name not in ("code", "prose") or not natural_share(seed, piece.origin)


def _accepted(name: str, offer: Iterable[Piece], plan: _Plan) -> list[Piece]:
    low = PROSE_LOW if name == "prose" else LOW
    kept: list[Piece] = []
    for piece in _shuffled(plan.seed, offer, lambda p: p.origin):
        text = cut(piece.text)
        if len(kept) < PER_FILE and len(text) >= low and plan.seen.accept(text):
            kept.append(Piece(text, piece.file, piece.origin))
    return kept


def _domain(name: str, pools: dict[str, list[Piece]], files: dict[str, list[str]], plan: _Plan) -> Domain:
    """Drop relatives of documents drawn before, cut to the sizes asked for, pack."""
    drawn = {
        split: Documents.from_texts([p.text for p in _shuffled(plan.seed, pools[split], lambda p: p.origin)])
        for split in (*_HELD_OUT, "train")
    }
    splits: dict[str, Documents] = {}
    for split in (*_HELD_OUT, "train"):
        splits[split] = drawn[split].select(shared_fraction(drawn[split], splits.values()) < RELATED)
    # The share is not symmetric: a short held-out text may lie inside of a long one of training.
    size = np.cumsum(splits["train"].lengths) - splits["train"].lengths
    splits["train"] = splits["train"].select(size < plan.train_bytes)
    for split in _HELD_OUT:
        alone = np.flatnonzero(shared_fraction(splits[split], [splits["train"]]) < RELATED)
        _enough(name, split, len(alone), plan.counts[split])
        splits[split] = splits[split].select(alone[: plan.counts[split]])
    dropped = sum(map(len, drawn.values())) - sum(map(len, splits.values()))
    origin, licence, unit = _ORIGIN[name]
    provenance = {
        "origin": origin,
        "licence": licence,
        "unit": unit,
        "split_by": "file (each help topic and each licence text is one)",
        "files": {split: tuple(sorted(listed)) for split, listed in files.items()},
        "left_over": dropped,
        **_common(plan),
    }
    return Domain(name, splits["train"], splits["gate"], splits["validation"], splits["certify"], provenance)


def _enough(name: str, split: str, held: int, wanted: int) -> None:
    if held < wanted:
        raise InvalidInputError(
            f"this installation gives the domain `{name}` {held} documents for `{split}`, "
            f"{wanted} were asked; "
            "ask for fewer `documents`, or leave the domain out of `names`"
        )


def _common(plan: _Plan) -> dict[str, Any]:
    return {
        "seed": plan.seed,
        "python": ".".join(map(str, sys.version_info[:3])),
        "near_duplicates": "removed",
    }


def _generated(name: str, phrases: Phrases, plan: _Plan) -> Domain:
    splits = {}
    for split in (*_HELD_OUT, "train"):
        size, documents = (plan.train_bytes, None) if split == "train" else (None, plan.counts[split])
        texts = generate(
            name,
            phrases,
            stream=f"{split}|{plan.seed}",
            accept=plan.seen.accept,
            low=LOW,
            high=HIGH,
            size=size,
            documents=documents,
        )
        splits[split] = Documents.from_texts(texts)
    origin, licence, unit = _ORIGIN[name]
    provenance = {
        "origin": origin,
        "licence": licence,
        "unit": unit,
        "split_by": "document",
        "files": {},
        **_common(plan),
    }
    return Domain(name, splits["train"], splits["gate"], splits["validation"], splits["certify"], provenance)
