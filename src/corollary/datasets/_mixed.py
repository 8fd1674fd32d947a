"""Documents that change domain on the way: splices, and whole functions with their words."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8

from corollary.datasets import _sources
from corollary.datasets._domain import Domain, draw
from corollary.datasets._near_duplicates import Seen, keys, shared_fraction
from corollary.datasets._text_domains import HIGH, LOW, RELATED, cut, natural_share
from corollary.documents import Documents
from corollary.errors import InvalidInputError

# Bytes of a splice, and how many segments it has: the gate learns from other lengths than it is judged on.
_SHAPES = {"gate": ((250, 1400), (2, 3)), "certify": ((400, HIGH), (2, 4))}
_SHORTEST = 40


@dataclass(frozen=True, eq=False)
class MixedDocuments:
    """Documents whose domain changes inside, with the domain of every byte.

    Args:
        documents: N byte documents.
        label: (total,) int8, for every byte the index of its domain in the order of the domains given, or -1.

    Raises:
        InvalidInputError: where there is not one label a byte.

    Guarantee: none; it is a container.

    Example:
        >>> MixedDocuments(Documents.from_texts(["ab"]), np.array([0, 1], dtype=np.int8)).label.tolist()
        [0, 1]
    """

    documents: Documents
    label: Int8[np.ndarray, "..."]

    def __post_init__(self) -> None:
        label = np.asarray(self.label, dtype=np.int8)
        if label.shape != self.documents.tokens.shape:
            raise InvalidInputError(
                f"`label` must have {len(self.documents.tokens)} entries, got shape {label.shape}; "
                "give every byte a label, -1 where it has none"
            )
        object.__setattr__(self, "label", label)

    def __len__(self) -> int:
        return len(self.documents)


def mixed_documents(
    domains: Mapping[str, Domain],
    *,
    kind: str = "splice",
    split: str = "certify",
    count: int = 300,
    seed: int = 0,
) -> MixedDocuments:
    """Held-out documents that hold text of two domains each.

    `splice`: two to four segments (two or three for `gate`), two domains in turn, cut at random from
    documents of the split.
    `natural`: whole functions of the standard library, code with its docstrings and comments, from files
    that neither `code` nor `prose` trained on, and not among their held-out documents either.

    Args:
        domains: what `text_domains` made, or your own for `splice`.
        kind: "splice" or "natural".
        split: "certify" or "gate": which documents the text comes from.
        count: how many documents.
        seed: draws domains, documents and cuts of the splices.

    Returns:
        `count` documents of at most 2,000 bytes, with the domain of every byte; in `natural` docstrings
        (with their quotes) and comments count as `prose`, everything else as `code`.

    Raises:
        InvalidInputError: for an unknown kind or split, fewer than two domains, or more documents than exist.

    Guarantee: nothing of it stands in a training split, up to what `text_domains` states. Splices use a
        document again only when a domain has no fresh one left.

    Example:
        >>> from corollary.datasets import text_domains
        >>> domains = text_domains(("json", "arithmetic"), train_bytes=5_000, documents=30)
        >>> mixed = mixed_documents(domains, count=5)
        >>> len(mixed), sorted(set(mixed.label.tolist()))
        (5, [0, 1])
    """
    if split not in _SHAPES or kind not in ("splice", "natural") or count < 1:
        raise InvalidInputError(
            f"got kind={kind!r}, split={split!r}, count={count}; `kind` is 'splice' or 'natural', "
            "`split` is 'certify' or 'gate', and `count` is at least 1"
        )
    if kind == "natural":
        return _natural(domains, split, count, seed)
    return _splices(domains, split, count, seed)


def _splices(domains: Mapping[str, Domain], split: str, count: int, seed: int) -> MixedDocuments:
    held = [domain.splits[split] for domain in domains.values()]
    if len(held) < 2:
        raise InvalidInputError(f"a splice needs two domains, got {len(held)}; pass two domains or more")
    if empty := [name for name, domain in domains.items() if not len(domain.splits[split])]:
        raise InvalidInputError(
            f"a splice needs a document of every domain, `{empty[0]}` has none in `{split}`; give it more documents"
        )
    rng = np.random.default_rng([seed, *split.encode()])
    queues = [_endless(len(documents), rng) for documents in held]
    (low, high), (fewest, most) = _SHAPES[split]
    texts: list[bytes] = []
    label: list[np.ndarray] = []
    for _ in range(count):
        pair = rng.choice(len(held), size=2, replace=False)
        segments = int(rng.integers(fewest, most + 1))
        spare = int(rng.integers(low, high + 1)) - segments * _SHORTEST
        lengths = _SHORTEST + np.floor(spare * rng.dirichlet(np.ones(segments))).astype(int)
        parts = []
        for number, length in enumerate(lengths):
            domain = int(pair[number % 2])
            text = held[domain][next(queues[domain])]
            start = int(rng.integers(0, max(len(text) - int(length), 0) + 1))
            # Whole characters only: a cut inside of one would mark the seam.
            parts.append(text[start : start + int(length)].decode("utf-8", "ignore").encode())
            label.append(np.full(len(parts[-1]), domain, dtype=np.int8))
        texts.append(b"".join(parts))
    return MixedDocuments(Documents.from_texts(texts), np.concatenate(label))


def _endless(count: int, rng: np.random.Generator) -> Iterator[int]:
    """Every index once in random order, then all again."""
    while True:
        yield from rng.permutation(count).tolist()


def _natural(domains: Mapping[str, Domain], split: str, count: int, seed: int) -> MixedDocuments:
    names = list(domains)
    if not {"code", "prose"} <= set(names) or "files" not in domains["code"].provenance:
        raise InvalidInputError(
            f"natural documents need the embedded `code` and `prose`, got {', '.join(names) or 'none'}; "
            "make them together with text_domains()"
        )
    code, prose = names.index("code"), names.index("prose")
    provenance = domains["code"].provenance
    learned = [domains["code"].train, domains["prose"].train]
    known = {key for documents in learned for text in documents for key in keys(text)}
    seen = Seen()
    found: list[tuple[int, bytes, np.ndarray]] = []
    for file in provenance["files"][split]:
        raw = _sources.read_text(_sources.stdlib_path(file)) if file.startswith("stdlib:") else None
        for function in _sources.parse_python(raw).functions if raw is not None else ():
            origin = f"{file}#{function.name}"
            if not function.documented or not natural_share(provenance["seed"], origin):
                continue
            text = cut(function.text)
            doc = b"".join(function.text[a:b].strip(b"\"'") for a, b in function.words[:1])
            pieces = (text, function.code, doc)
            if len(text) >= LOW and not known & {k for piece in pieces for k in keys(piece)} and seen.accept(text):
                label = np.full(len(text), code, dtype=np.int8)
                for start, end in function.words:
                    label[start:end] = prose
                found.append((draw(seed, origin), text, label))
    found.sort(key=lambda item: item[0])
    documents = Documents.from_texts([text for _, text, _ in found])
    alone = np.flatnonzero(shared_fraction(documents, learned) < RELATED)
    if len(alone) < count:
        raise InvalidInputError(
            f"this installation has {len(alone)} natural mixed documents in `{split}`, {count} were asked; "
            "ask for fewer, or make the domains with more `documents`"
        )
    chosen = alone[:count]
    return MixedDocuments(documents.select(chosen), np.concatenate([found[i][2] for i in chosen]))
