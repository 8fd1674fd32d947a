"""A fitted `MetroClassifier` and its encoder on disk: `model.json`, `model.safetensors`; boosted trees through skops.

Never pickle: skops files are loaded with the explicit list `TRUSTED`, anything else in them is refused.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from corollary.errors import InvalidFileError, InvalidInputError, MissingExtraError
from corollary.metrics._classifier import MetroClassifier
from corollary.metrics._encoder import TableEncoder
from corollary.metrics._metric import Costs, metric_from_plain
from corollary.metrics._network import NetworkFeatures
from corollary.metrics._oracles import make_oracle
from corollary.runs import read_json, read_tensors, write_atomically, write_json, write_tensors

Encoder = TableEncoder | NetworkFeatures
FORMAT = 1
TRUSTED = ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",)
KINDS = ("linear", "mlp", "gbdt")


def make_mlp(inputs: int, hidden: int, *, seed: int) -> Any:
    """A network with one hidden layer and one logit, initialised by `seed` alone."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1))
    with torch.no_grad():
        for parameter in net.parameters():
            bound = 1 / np.sqrt(inputs if parameter.shape[0] == hidden else hidden)
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * bound)
    return net


def save_classifier(folder: Path, model: MetroClassifier, encoder: Encoder, *, kind: str, extra: Any = None) -> None:
    """Write a fitted classifier and its encoder.

    Args:
        folder: where; it exists.
        model: fitted on labels of text.
        encoder: of the table, or with the hidden layers of a network behind it.
        kind: `linear`, `mlp` or `gbdt`.
        extra: JSON values to keep beside it.

    Raises:
        InvalidInputError: for another kind.
        MissingExtraError: for trees without skops.

    Guarantee: what `load_classifier` reads back scores every row as the original does.

    Example:
        >>> import tempfile
        >>> from corollary.metrics import Table, fit_encoder
        >>> table = Table({"x": np.arange(40.0)})
        >>> encoder = fit_encoder(table)
        >>> labels = np.repeat(["low", "high"], 20)
        >>> model = MetroClassifier().fit(encoder.transform(table), labels)
        >>> folder = Path(tempfile.mkdtemp())
        >>> save_classifier(folder, model, encoder, kind="linear")
        >>> X, again = encoder.transform(table), load_classifier(folder)[0]
        >>> bool((again.decision_function(X) == model.decision_function(X)).all())
        True
    """
    if kind not in KINDS:
        raise InvalidInputError(f"`model` must be one of {', '.join(KINDS)}, got {kind!r}")
    tensors = {"offset": model.offset_, "gain": model.gain_, "trained": model._trained}
    if kind == "linear":
        tensors["theta"] = np.stack(model.models_)
    elif kind == "mlp":
        for j, net in enumerate(model.models_):
            tensors |= {f"net{j}/{name}": value.numpy() for name, value in net.state_dict().items()}
    else:
        for j, trees in enumerate(model.models_):
            _dump_trees(folder / f"trees{j}.skops", trees)
    network = None
    table = encoder.encoder if isinstance(encoder, NetworkFeatures) else encoder
    if isinstance(encoder, NetworkFeatures):
        network = {"layers": len(encoder.layers), "loss": encoder.loss}
        for i, (weight, bias) in enumerate(encoder.layers):
            tensors |= {f"hidden{i}/weight": weight, f"hidden{i}/bias": bias}
    write_tensors(folder / "model.safetensors", tensors)
    plain = {
        "format": FORMAT,
        "kind": kind,
        "metric": model.metric_.as_plain(),
        "classes": [str(c) for c in model.classes_],
        "target_kind": model.kind_,
        "average": model.average,
        "surrogate": model.surrogate_,
        "search": model.search,
        "delta": model.delta,
        "seed": model.seed,
        "rule": model.rule_,
        "level": np.asarray(model.level_).reshape(-1).tolist(),
        "costs": [list(c) for c in model.costs_],
        "features": model.n_features_in_,
        "columns": len(model.models_),
        "encoder": table.as_plain(),
        "network": network,
        "extra": extra or {},
    }
    write_json(folder / "model.json", plain)


def load_classifier(folder: str | Path) -> tuple[MetroClassifier, Encoder, dict[str, Any]]:
    """Read what `save_classifier` wrote: the classifier, its encoder, and the extra values.

    Raises:
        InvalidFileError: for files that are absent, foreign, cut short, or do not fit together.

    Guarantee: none; nothing in the files is executed.

    Example:
        >>> load_classifier("no/such/folder")
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidFileError: no/such/folder/model.json: there is no such file; check the path
    """
    source = Path(folder) / "model.json"
    data = read_json(source)
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("kind") not in KINDS:
        raise InvalidFileError(source, "not a classifier that `corollary fit` wrote", "fit again, or give another run")
    tensors = read_tensors(Path(folder) / "model.safetensors")
    try:
        return _restore(Path(folder), data, tensors)
    except (KeyError, TypeError, IndexError, RuntimeError) as problem:
        raise InvalidFileError(source, f"its parts do not fit together ({problem})", "fit again") from None


def _restore(folder: Path, data: Any, tensors: dict[str, np.ndarray]) -> tuple[MetroClassifier, Encoder, Any]:
    options = {name: data[name] for name in ("average", "surrogate", "search", "delta", "seed")}
    metric, p, columns = metric_from_plain(data["metric"]), int(data["features"]), int(data["columns"])
    nets = []
    if data["kind"] == "mlp":
        for j in range(columns):
            nets.append(_restore_net(tensors, j, p))
    trees = [_load_trees(folder / f"trees{j}.skops") for j in range(columns)] if data["kind"] == "gbdt" else []
    learner = (nets or trees or [None])[0]
    model = MetroClassifier(metric, learner, **options)
    model.metric_, model.kind_, model.rule_ = metric, data["target_kind"], data["rule"]
    model.classes_ = np.array(data["classes"], dtype=object)
    model.models_ = nets or trees or list(tensors["theta"])
    if data["kind"] == "linear":
        if tensors["theta"].shape != (columns, p + 1):
            raise KeyError("weights of another shape")
        model.coef_, model.intercept_ = tensors["theta"][:, :-1], tensors["theta"][:, -1]
    model.costs_ = [Costs(*c) for c in data["costs"]]
    model.level_ = data["level"][0] if columns == 1 else np.array(data["level"])
    model.offset_, model.gain_, model._trained = tensors["offset"], tensors["gain"], tensors["trained"]
    model.n_features_in_, model._statements = p, {}
    nothing = (np.empty((0, p)), np.empty(0))
    model._oracles = [make_oracle(learner, *nothing, surrogate=model.surrogate, seed=0) for _ in range(columns)]
    model.surrogate_ = data["surrogate"]
    return model, _restore_encoder(data, tensors, p), data["extra"]


def _restore_encoder(data: Any, tensors: dict[str, np.ndarray], outputs: int) -> Encoder:
    encoder, network = TableEncoder.from_plain(data["encoder"]), data.get("network")
    if not network:
        return encoder
    layers = [(tensors[f"hidden{i}/weight"], tensors[f"hidden{i}/bias"]) for i in range(int(network["layers"]))]
    widths = [len(encoder.features), *(len(bias) for _, bias in layers)]
    shapes = [(o, i) for i, o in itertools.pairwise(widths)]
    if [weight.shape for weight, _ in layers] != shapes or widths[-1] != outputs:
        raise KeyError("a hidden layer of another shape")
    return NetworkFeatures(encoder, layers, str(network["loss"]))


def _restore_net(tensors: dict[str, np.ndarray], column: int, inputs: int) -> Any:
    import torch

    state = {n.split("/", 1)[1]: torch.from_numpy(a) for n, a in tensors.items() if n.startswith(f"net{column}/")}
    net = make_mlp(inputs, len(state["0.bias"]), seed=0)
    net.load_state_dict(state)
    return net.eval()


def _skops() -> Any:
    try:
        import skops.io
    except ImportError:
        raise MissingExtraError("skops", "tables", "storing boosted trees") from None
    return skops.io


def _dump_trees(path: Path, trees: Any) -> None:
    write_atomically(path, _skops().dumps(trees))


def _load_trees(path: Path) -> Any:
    io = _skops()
    if not path.is_file():
        raise InvalidFileError(path, "there is no such file", "fit again, or copy the whole run folder")
    try:
        unknown = sorted(set(io.get_untrusted_types(file=path)) - set(TRUSTED))
        if unknown:
            raise InvalidFileError(path, f"holds a type that is not trusted ({unknown[0]})", "fit again")
        return io.load(path, trusted=list(TRUSTED))
    except (OSError, ValueError, TypeError, KeyError) as problem:
        if isinstance(problem, InvalidFileError):
            raise
        raise InvalidFileError(path, f"not a skops file ({type(problem).__name__})", "fit again") from None
    except Exception as problem:  # zipfile.BadZipFile and what a damaged archive gives
        raise InvalidFileError(path, f"not a skops file ({type(problem).__name__})", "fit again") from None
