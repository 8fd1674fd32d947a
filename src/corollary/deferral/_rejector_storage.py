"""Storing a `Rejector` as JSON and safetensors, and reading it back."""

from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import digest
from corollary.deferral._rejector import Rejector
from corollary.deferral._training import standard_network
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.runs import read_json, read_tensors, write_json, write_tensors

FORMAT = 1
KIND = "corollary-rejector"
JSON, TENSORS = "rejector.json", "rejector.safetensors"
TYPES = {"b": bool, "i": int, "u": int, "f": float, "U": str}  # labels that JSON holds


def save_rejector(rejector: Rejector, folder: str | Path) -> Path:
    """Write a fitted rejector: what decides, its threshold, and the hashes of the rows it has seen.

    Args:
        rejector: fitted, "linear" or "mlp"; networks of your own are stored by yourself.
        folder: made where it is absent.

    Raises:
        InvalidInputError: for a network of the user's, or labels that are neither numbers nor words.

    Guarantee: `load_rejector` gives equal scores, and certifies only rows that this one has not seen.

    Example:
        >>> import tempfile
        >>> x = np.arange(40.0)[:, None] / 40
        >>> place = save_rejector(Rejector(cost=0.3).fit(x, x[:, 0] < 0.7), tempfile.mkdtemp())
        >>> load_rejector(place).accept([[0.1], [0.9]]).tolist()
        [True, False]
    """
    if callable(rejector.model):
        raise InvalidInputError("a network of your own has no plain form; store its state_dict yourself")
    kind = rejector.classes_.dtype.kind
    if kind not in TYPES:
        raise InvalidInputError(f"labels of dtype {rejector.classes_.dtype} cannot be stored; use numbers or words")
    if rejector.model == "linear":
        arrays = {"coef": rejector.coef_, "intercept": rejector.intercept_}
    else:
        arrays = {f"network/{n}": v.numpy() for n, v in rejector.network_.state_dict().items()}
        arrays |= {"mean": rejector.mean_.numpy(), "spread": rejector.spread_.numpy()}
    arrays["seen"] = rejector._seen
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    write_tensors(target / TENSORS, arrays)
    body = {
        "format": FORMAT,
        "kind": KIND,
        "options": rejector.get_params(),
        "classes": [TYPES[kind](c) for c in rejector.classes_.tolist()],
        "features": rejector.n_features_in_,
        "cost": rejector.cost_,
        "unit": rejector.unit_,
        "threshold": rejector.threshold_,
        "sha256": digest(**arrays),
    }
    write_json(target / JSON, body)
    return target


def load_rejector(folder: str | Path) -> Rejector:
    """Read what `save_rejector` wrote.

    Args:
        folder: the folder given there.

    Raises:
        InvalidFileError: for absent, foreign, edited or truncated files.

    Guarantee: as `save_rejector`.

    Example:
        >>> import tempfile
        >>> load_rejector(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidFileError: ...there is no such file; check the path
    """
    source = Path(folder)
    body = read_json(source / JSON)
    if not isinstance(body, dict) or body.get("kind") != KIND or body.get("format") != FORMAT:
        raise InvalidFileError(source / JSON, "not a rejector of this version", "save it again")
    arrays = read_tensors(source / TENSORS)
    if digest(**arrays) != body.get("sha256"):
        raise InvalidFileError(source / TENSORS, "not the weights that rejector.json speaks of", "save it again")
    try:
        return _restored(body, arrays)
    except (KeyError, TypeError, ValueError, RuntimeError) as problem:
        told = f"incomplete ({type(problem).__name__}: {problem})"
        raise InvalidFileError(source / JSON, told, "save it again") from None


def _restored(body: dict[str, Any], arrays: dict[str, np.ndarray]) -> Rejector:
    import torch

    rejector = Rejector(**body["options"])
    rejector.classes_ = np.array(body["classes"])
    rejector.n_features_in_ = int(body["features"])
    rejector.cost_, rejector.unit_ = float(body["cost"]), float(body["unit"])
    rejector.threshold_ = float(body["threshold"])
    rejector._seen, rejector._statements = arrays["seen"], {}
    if rejector.model == "linear":
        rejector.coef_, rejector.intercept_ = arrays["coef"], arrays["intercept"]
        if rejector.coef_.shape != (rejector.n_features_in_,):
            raise ValueError("weights and features do not fit together")
        return rejector
    rejector.mean_, rejector.spread_ = torch.from_numpy(arrays["mean"]), torch.from_numpy(arrays["spread"])
    network = standard_network(rejector.model, rejector.n_features_in_, 1, hidden=rejector.hidden)
    state = {n.removeprefix("network/"): torch.from_numpy(a) for n, a in arrays.items() if n.startswith("network/")}
    network.load_state_dict(state)
    rejector.network_ = network.eval()
    return rejector
