"""`corollary generate`: continue a prompt with a model of a run folder."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.cli._composition import open_model
from corollary.errors import InvalidFileError, InvalidInputError


def run(
    path: Annotated[
        Path, typer.Argument(metavar="RUN", help="Run folder, or folder of a saved model or of a Hugging Face one.")
    ],
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
    from corollary.models import generate

    folder = path / "model" if (path / "model").is_dir() else path
    if not any((folder / name).exists() for name in ("model.json", "config.json")):
        raise InvalidFileError(path, "holds no model", "give a run folder of `corollary compose` or `corollary demo`")
    model = open_model(folder)
    encode, decode = _tongue(model, folder)
    given, said, shown = encode(prompt), list[int](), ""
    before = decode(given)
    for token in generate(model, given, max_tokens=max_tokens, seed=seed, temperature=temperature, top_p=top_p):
        said.append(token)
        text = decode([*given, *said])[len(before) :]
        if not as_json and text.startswith(shown) and not text.endswith(UNFINISHED):
            sys.stdout.write(text[len(shown) :])
            sys.stdout.flush()
            shown = text
    text = decode([*given, *said])[len(before) :]
    shares = _trust(model, [*given, *said]) if trust or as_json else {}
    if as_json:
        ui.emit({"prompt": prompt, "text": text, "trust": shares})
        return
    ui.say(text[len(shown) :])
    if shares:
        ui.table("mean weight of each expert in the gate", list(shares), [[f"{v:.3f}" for v in shares.values()]])


UNFINISHED = "\ufffd"  # what a character decodes to of which not all bytes are there


def _tongue(model: Any, folder: Path) -> tuple[Callable[[str], list[int]], Callable[[list[int]], str]]:
    """How text becomes the model's tokens, and back: by its tokenizer, by the words saved beside it, or as bytes."""
    from corollary.models._speakers import speaker_of

    if (speaker := speaker_of(model)) is not None:
        return lambda text: [int(t) for t in speaker.encode(text)], speaker.decode
    if (folder / "words.json").is_file():
        from corollary.unlearning import WordTokenizer

        words = WordTokenizer.load(folder / "words.json")
        return words.answer, words.decode
    if model.vocab_size != 256:
        raise InvalidInputError(
            f"the model in {folder} has {model.vocab_size} tokens and no tokenizer, so that no text can be read or"
            " written; use `corollary.models.generate` with token ids"
        )
    return lambda text: list(text.encode()), lambda tokens: bytes(tokens).decode("utf-8", "replace")


def _trust(model: Any, tokens: list[int]) -> dict[str, float]:
    """Mean weight of each expert over the tokens, where the model is a composed one."""
    import numpy as np

    from corollary.documents import Documents
    from corollary.gating import ComposedLM
    from corollary.models._speakers import speaker_of

    if not isinstance(model, ComposedLM) or not tokens:
        return {}
    documents = Documents.from_sequences([tokens], dtype=np.uint8 if speaker_of(model) is None else np.int32)
    weights = np.exp(model.gate.log_weights(model.score(documents).select(range(len(model.experts))))).mean(0)
    return dict(zip(model.experts, weights.round(4).tolist(), strict=True))
