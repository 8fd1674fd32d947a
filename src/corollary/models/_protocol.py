"""What a language model is to the rest of the library, and where loaders of its kinds are registered."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Integer

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models._storage import read_header


@runtime_checkable
class LanguageModel(Protocol):
    """A distribution over documents, given token by token.

    `p(x) = prod_t p(x_t | x_1 .. x_{t-1})`; token 0 after a document means that it ends there.

    Guarantee: none; each model states its own. `log_probs` and the stream give the same numbers (within 1e-6
    for tables, 1e-4 for networks in float32).

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import LanguageModel, NgramModel
        >>> isinstance(NgramModel.fit(Documents.from_texts(["to be or not to be"])), LanguageModel)
        True
    """

    vocab_size: int

    def log_probs(self, documents: Documents) -> Float32[np.ndarray, " total"]:
        """Natural-log probability of every token given the earlier ones of its document; no end is scored."""
        ...

    def start(self, batch: int) -> Any:
        """The state of `batch` documents of which no token was seen."""
        ...

    def next_log_probs(self, state: Any) -> Float[np.ndarray, "b vocab"]:
        """Natural-log probabilities of the next token, one row a document; rows sum to one after `exp`."""
        ...

    def advance(self, state: Any, tokens: Integer[np.ndarray, " b"]) -> Any:
        """The state after one more token of each document; may change and return the given state."""
        ...

    def fingerprint(self) -> str:
        """SHA-256 of configuration and weights: equal fingerprints give equal probabilities."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write `model.json` and the weights beside it, all or nothing."""
        ...


Loader = Callable[[Path, dict[str, Any]], LanguageModel]

# Kinds of this library by the module whose import registers them, so that torch is loaded only for networks.
_BUILT_IN = {
    "ngram": "corollary.models._ngram",
    "transformer": "corollary.models._transformer",
    "composed": "corollary.gating._composed",
    "routed": "corollary.gating._routed",
    "hf": "corollary.integrations._hf_expert",
    "transductor-lm": "corollary.automata._generation",
    "temper-tilt": "corollary.unlearning._saving",
}
_LOADERS: dict[str, Loader] = {}


def register_loader(kind: str, loader: Loader) -> None:
    """Say how folders whose `model.json` has this `kind` are loaded.

    Args:
        kind: the word in `model.json`; a later registration of the same word replaces the earlier.
        loader: called with the folder and the parsed `model.json`, whose format was checked.

    Guarantee: none.

    Example:
        >>> from corollary.models import register_loader
        >>> register_loader("mine", lambda folder, header: ...)
    """
    if not kind:
        raise InvalidInputError("`kind` is empty; name the kind of model by a word")
    _LOADERS[kind] = loader


def load(folder: str | Path) -> LanguageModel:
    """Load a model from the folder that its `save` wrote.

    Args:
        folder: holds `model.json` and the weights it names.

    Returns:
        The model; its fingerprint is that of the model saved.

    Raises:
        InvalidFileError: for a missing, foreign, truncated or changed file, another format, or an unknown
            kind.

    Guarantee: none; sizes, shapes and the stored hash are checked before the model is used.

    Example:
        >>> import tempfile
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel, load
        >>> model = NgramModel.fit(Documents.from_texts(["to be or not to be"]), order=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(folder)
        ...     load(folder).fingerprint() == model.fingerprint()
        True
    """
    header = read_header(folder)
    kind = header["kind"]
    if kind not in _LOADERS and kind in _BUILT_IN:
        importlib.import_module(_BUILT_IN[kind])
    if kind not in _LOADERS:
        known = ", ".join(sorted(_LOADERS.keys() | _BUILT_IN.keys()))
        raise InvalidFileError(
            Path(folder) / "model.json",
            f"a model of the unknown kind {kind!r} (known: {known})",
            "register a loader for it with register_loader",
        )
    return _LOADERS[kind](Path(folder), header)
