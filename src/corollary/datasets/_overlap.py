"""Domains that share text by a stated amount: a control for methods that tell domains apart."""

import numpy as np

from corollary.datasets._domain import SPLITS, Domain
from corollary.datasets._text_domains import text_domains
from corollary.documents import Documents
from corollary.errors import InvalidInputError


def overlapping_domains(
    *,
    share: float | int = 0.3,
    domain: Domain | None = None,
    seed: int = 0,
    names: tuple[str, str] = ("left", "right"),
) -> dict[str, Domain]:
    """Two domains made of one, with a stated share of their documents in common: a control for tests.

    Of n documents of a split, c = share n / (2 - share) go to both, each side is given half of the rest, so
    that c is the part `share` of each side, up to rounding.

    Args:
        share: from 0 (disjoint) to 1 (the same domain twice).
        domain: what is divided; a small `prose` where none is given.
        seed: draws which documents are common.
        names: names of the two sides.

    Returns:
        The two domains; `provenance["common"]` counts the common documents of each split.

    Raises:
        InvalidInputError: where `share` lies outside of [0, 1].

    Guarantee: exact counts; splits stay as disjoint as those of `domain`.

    Example:
        >>> sums = text_domains(("arithmetic",), train_bytes=9_000, documents=34)["arithmetic"]
        >>> both = overlapping_domains(domain=sums)
        >>> both["left"].provenance["common"]["certify"], len(both["left"].certify)
        (6, 20)
    """
    if not 0 <= share <= 1:
        raise InvalidInputError(f"`share` must lie in [0, 1], got {share}; it is the part of documents held in common")
    if domain is None:
        domain = text_domains(("prose",), train_bytes=200_000, documents=200)["prose"]
    sides: tuple[dict[str, Documents], dict[str, Documents]] = ({}, {})
    common = {}
    for split in SPLITS:
        documents = domain.splits[split]
        order = np.random.default_rng([seed, *split.encode()]).permutation(len(documents))
        common[split] = round(share * len(order) / (2 - share))
        middle = common[split] + (len(order) - common[split]) // 2
        first, left, right = np.split(order, [common[split], middle])
        for side, own in zip(sides, (left, right[: len(left)]), strict=True):
            side[split] = documents.select(np.sort(np.concatenate([first, own])))
    provenance = {"origin": f"half of `{domain.name}`", "share": share, "common": common, "seed": seed}
    return {name: Domain(name, **side, provenance=provenance) for name, side in zip(names, sides, strict=True)}
