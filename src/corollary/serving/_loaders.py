"""From a configuration's tables to upstreams: servers, and models that are loaded into this process."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corollary.errors import InvalidFileError, InvalidInputError, MissingExtraError
from corollary.serving._config import UpstreamTable, secret_of
from corollary.serving._local import LocalModel, LocalUpstream, TokenModel
from corollary.serving._upstream import HttpUpstream, Upstream


def make_upstream(name: str, table: UpstreamTable) -> Upstream:
    """The upstream that a table describes.

    Raises:
        InvalidInputError: for a key or a function that is not there.
        InvalidFileError: for a folder without a model.
    """
    if table.url is not None:
        return HttpUpstream(name, table, secret_of(name, table))
    if table.folder is not None:
        return LocalUpstream(name, table, library_model(table.folder, switchable=table.heads))
    if table.huggingface is not None:
        return LocalUpstream(name, table, huggingface_model(table.huggingface))
    return LocalUpstream(name, table, _made(name, table.function or ""))


def library_model(folder: str | Path, *, switchable: Sequence[str] = ()) -> LocalModel:
    """A model of the library from its folder or its run: composed, n-gram, transformer, unlearned, of Hugging Face.

    Args:
        folder: what `save` of the model, `corollary compose` or `corollary unlearn fit` wrote.
        switchable: heads of an unlearned model that a request may switch.
    """
    from corollary.models import generate, load

    place = Path(folder)
    if (place / "setup.json").is_file() or (place / "base" / "model.json").is_file():
        from corollary.serving._unlearned import UnlearnedModel

        return UnlearnedModel.open(place, switchable=switchable)
    if switchable:
        raise InvalidInputError(f"the model in {place} has no heads to switch; leave `heads` out")
    place = place / "model" if (place / "model" / "model.json").is_file() else place
    model = load(place)
    parts = [model, *getattr(model, "experts", {}).values()]
    speaker = next((part for part in parts if hasattr(part, "encode")), None)  # who has a tokenizer
    if speaker is None and model.vocab_size != 256:
        raise InvalidFileError(place, f"a model of {model.vocab_size} tokens, not of bytes", "serve it by a function")
    if speaker is None:
        return TokenModel(lambda prompt, **options: generate(model, bytes(prompt), **options))
    return TokenModel(
        lambda prompt, **options: generate(model, np.asarray(prompt, dtype=np.int64), **options),
        encode=lambda text: speaker.encode(text).tolist(),
        decode=speaker.decode,
    )


def huggingface_model(folder: str | Path) -> LocalModel:
    """A causal model and its tokenizer from a local folder; nothing is downloaded."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", "hf", "serving a Hugging Face model") from None
    if not (Path(folder) / "config.json").is_file():
        raise InvalidFileError(folder, "holds no Hugging Face model (no config.json)", "give a local folder of one")
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False, use_safetensors=True
    ).eval()

    def template(messages: Sequence[dict[str, Any]]) -> str:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))

    return TokenModel(
        lambda prompt, **options: draw(model, tokenizer.eos_token_id, prompt, **options),
        encode=lambda text: list(tokenizer(text)["input_ids"]),
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
        template=template if getattr(tokenizer, "chat_template", None) else None,
    )


def draw(
    model: Any, end: int | None, prompt: Sequence[int], *, max_tokens: int, seed: int, temperature: float, top_p: float
) -> Iterator[int]:
    """Token by token from a causal network with a cache, by a generator of its own."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([list(prompt) or [end or 0]])
    past = None
    for _ in range(max_tokens):
        with torch.inference_mode():
            out = model(input_ids=ids, past_key_values=past, use_cache=True)
        past, logits = out.past_key_values, out.logits[0, -1].double()
        if temperature == 0:
            token = int(logits.argmax())
        else:
            p, order = torch.softmax(logits / temperature, 0).sort(descending=True)
            p[(p.cumsum(0) - p) >= top_p] = 0  # the fewest tokens that hold top_p
            token = int(order[torch.multinomial(p, 1, generator=generator)])
        if token == end:
            return
        yield token
        ids = torch.tensor([[token]])


def _made(name: str, text: str) -> LocalModel:
    """What a configured function gives: a local model, or anything with `generate`."""
    module, colon, attribute = text.partition(":")
    if not colon or not module or not attribute:
        raise InvalidInputError(f"upstreams.{name}: {text!r} is no `module:function`; write it so")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as problem:
        raise InvalidInputError(f"upstreams.{name}: {text} cannot be found ({problem}); install its module") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    return as_local(found)


def as_local(model: Any) -> LocalModel:
    """A `LocalModel` of whatever has `stream` and `prompt`, or `generate`.

    Raises:
        InvalidInputError: for an object that has neither.

    Guarantee: none; what is drawn is what the object draws.

    Example:
        >>> class Echo:
        ...     def generate(self, prompt_ids, *, max_tokens, seed, temperature, top_p, heads=()):
        ...         yield from prompt_ids[:max_tokens]
        >>> as_local(Echo()).knows_heads
        True
    """
    if isinstance(model, LocalModel):
        return model
    if callable(getattr(model, "generate", None)):
        encode, decode = getattr(model, "encode", None), getattr(model, "decode", None)
        return TokenModel(model.generate, encode=encode, decode=decode)
    raise InvalidInputError(f"a {type(model).__name__} cannot be served; it needs `generate(prompt_ids, ...)`")
