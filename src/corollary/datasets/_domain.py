"""What a text domain is: a name, four splits that share no document, and where the text comes from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from corollary.documents import Documents

SPLITS = ("train", "gate", "validation", "certify")


@dataclass(frozen=True, eq=False)
class Domain:
    """One domain of byte text, in four splits that share no document and, where stated, no file.

    Args:
        name: name of the domain.
        train: documents an expert may learn from.
        gate: documents a gate or router may learn from.
        validation: documents for choosing hyper-parameters and thresholds.
        certify: documents that nothing may see before the certificate.
        provenance: how it was made: `origin`, `licence`, `unit`, `split_by`, `files` (of each split), `seed`.

    Guarantee: none; it is a container. What `text_domains` promises about leaks stands there.

    Example:
        >>> from corollary.documents import Documents
        >>> part = Documents.from_texts(["a"])
        >>> Domain("tiny", part, part, part, part).splits["gate"][0]
        b'a'
    """

    name: str
    train: Documents
    gate: Documents
    validation: Documents
    certify: Documents
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Documents]:
        """The four splits by name."""
        return {name: getattr(self, name) for name in SPLITS}


def draw(seed: int | str, origin: str) -> int:
    """A number in [0, 2^64) from the seed and the origin only: the order in which things are drawn."""
    return int.from_bytes(hashlib.blake2b(f"{seed}|{origin}".encode(), digest_size=8).digest(), "big")
