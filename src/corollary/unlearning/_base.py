"""Base models of a run: read from a folder of ours or of Hugging Face, or trained on the questions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from corollary.errors import InvalidFileError, InvalidInputError, MissingExtraError
from corollary.models._speakers import speaker_of
from corollary.unlearning._examples import Examples
from corollary.unlearning._tokens import (
    ByteTokenizer,
    ExpertTokenizer,
    Tokenizer,
    WordTokenizer,
    WrappedTokenizer,
)
from corollary.unlearning.tofu._questions import Questions, Row

WORDS = "words.json"
Tell = Callable[[str, float], object]


def load_base(folder: str | Path) -> tuple[Any, Tokenizer]:
    """A base model with its tokenizer.

    Args:
        folder: one that `save` of our models wrote (experts of Hugging Face, alone or composed, bring their tokenizer;
            `words.json` beside it stands for word tokens; bytes otherwise), or a local folder of Hugging Face with
            model and tokenizer.

    Returns:
        Model and tokenizer.

    Raises:
        InvalidFileError: for a folder of neither kind.
        InvalidInputError: where model and tokenizer do not belong together.
        MissingExtraError: without transformers, for a folder of Hugging Face.

    Guarantee: none; nothing is downloaded.

    Example:
        >>> load_base("nowhere")
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidFileError: nowhere: no model lies there; give a folder with model.json or config.json
    """
    source = Path(folder)
    if (source / "model.json").is_file():
        from corollary.models import load

        model: Any = load(source)
        if (source / WORDS).is_file():
            found: Tokenizer = WordTokenizer.load(source / WORDS)
        else:
            found = ByteTokenizer() if speaker_of(model) is None else ExpertTokenizer(model)
        known = model.vocab_size
    elif (source / "config.json").is_file():
        model, found = _from_hugging_face(source)
        known = int(model.get_output_embeddings().weight.shape[0])
    else:
        raise InvalidFileError(source, "no model lies there", "give a folder with model.json or config.json")
    if found.vocab_size > known:
        raise InvalidInputError(
            f"the tokenizer in {source} has {found.vocab_size} tokens, the model {known}; use the model's own tokenizer"
        )
    return model, found


def _from_hugging_face(source: Path) -> tuple[Any, Tokenizer]:
    from safetensors import SafetensorError

    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", "hf", "reading a Hugging Face model") from None
    try:
        model = AutoModelForCausalLM.from_pretrained(source, local_files_only=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError, KeyError, SafetensorError) as problem:
        told = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InvalidFileError(source, f"no causal model with a tokenizer ({told})", "save both there") from None
    return model, WrappedTokenizer(tokenizer)


def train_base(rows: Sequence[Row], tokenizer: WordTokenizer, folder: Path, *, seed: int, tell: Tell) -> None:
    """A small transformer that knows the rows by heart, written to a folder: the embedded default."""
    from corollary.models import TransformerConfig, TransformerLM
    from corollary.unlearning.baselines import fine_tune

    config = TransformerConfig(vocab_size=tokenizer.vocab_size, width=64, layers=2, heads=2, context=128)
    examples = Examples.from_pairs(rows, tokenizer)
    epochs = max(20, round(240 * 32 / max(32, len(rows))))  # about 240 steps of 32 rows
    done = fine_tune(
        TransformerLM(config, seed=seed),
        examples,
        epochs=epochs,
        learning_rate=5e-3,
        seed=seed,
        progress=lambda i, n: tell("training a base", i / n),
    )
    done.model.save(folder)
    tokenizer.save(folder / WORDS)


def embedded(questions: Questions, folder: Path, *, seed: int, tell: Tell) -> None:
    """Base and retrained reference of the embedded questions, under `base/` and `reference/`."""
    tokenizer = WordTokenizer.fit(questions.texts())
    train_base([*questions.forget, *questions.retain], tokenizer, folder / "base", seed=seed, tell=tell)
    train_base(questions.retain, tokenizer, folder / "reference", seed=seed + 1, tell=tell)
