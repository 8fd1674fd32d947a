"""`corollary generate`: continue a prompt with a model of a run folder."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from corollary.cli import _console as ui
from corollary.errors import InvalidFileError


def run(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or folder of a saved model.")],
    prompt: Annotated[str, typer.Argument(help="Text to continue.")] = "",
    max_tokens: Annotated[
        int, typer.Option(min=1, help="Longest continuation, in tokens (bytes for byte models).")
    ] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="1 draws from the model, 0 takes the likeliest.")] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0, help="Keep this much of the mass.")] = 0.95,
    trust: Annotated[bool, typer.Option("--trust", help="Afterwards, show which expert was trusted how much.")] = False,
    seed: ui.Seed = 0,
    as_json: ui.Json = False,
) -> None:
    """Continue a prompt, token by token."""
    from corollary.models import generate, load

    folder = path / "model" if (path / "model").is_dir() else path
    if not (folder / "model.json").exists():
        raise InvalidFileError(path, "holds no model", "give a run folder of `corollary compose` or `corollary demo`")
    model = load(folder)
    stream = generate(model, prompt.encode(), max_tokens=max_tokens, seed=seed, temperature=temperature, top_p=top_p)
    said = bytearray()
    for token in stream:
        said.append(int(token))
        if not as_json:
            sys.stdout.buffer.write(bytes([int(token)]))
            sys.stdout.buffer.flush()
    text = bytes(said).decode("utf-8", "replace")
    shares = _trust(model, prompt.encode() + bytes(said)) if trust or as_json else {}
    if as_json:
        ui.emit({"prompt": prompt, "text": text, "trust": shares})
        return
    ui.say()
    if shares:
        ui.table("mean weight of each expert in the gate", list(shares), [[f"{v:.3f}" for v in shares.values()]])


def _trust(model: object, text: bytes) -> dict[str, float]:
    """Mean weight of each expert over the text, where the model is a composed one."""
    from corollary.documents import Documents
    from corollary.gating import ComposedLM

    if not isinstance(model, ComposedLM) or not text:
        return {}
    scores = model.score(Documents.from_texts([text])).select(range(len(model.experts)))
    import numpy as np

    weights = np.exp(model.gate.log_weights(scores)).mean(0)
    return dict(zip(model.experts, weights.round(4).tolist(), strict=True))
