"""A causal language model of Hugging Face as a `LanguageModel`: an expert to compose, to route to, or to ask.

Here token 0 ends a document; there each tokenizer has an end of its own. The two ids change places on the way in and
on the way out, so that every method of this library works on it unchanged. Weights are loaded from safetensors only.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Integer
from torch import Tensor
from torch.nn import functional

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError, MissingExtraError
from corollary.models import register_loader
from corollary.models._streams import window_after
from corollary.models._training import check_tokens
from corollary.models._windows import scoring_windows
from corollary.runs import write_json

FORMAT = 1
_LONGEST = 1 << 16  # context where a configuration names none
_OF_FILES = {"transformers_version", "architectures", "dtype"}  # of a configuration: set on saving, or of the weights
_LOGITS = 1 << 24  # numbers of logits held at once


@dataclass
class HFState:
    """A stream: the inputs of the present window as the model numbers them, its cache, and what comes next."""

    window: Int[Tensor, "b t"]
    cache: Any
    log_probs: Float[np.ndarray, "b vocab"]
    hidden: Float[Tensor, "b w"]

    def select_rows(self, rows: Integer[np.ndarray, " m"]) -> "HFState":
        """The documents at these rows; the cache is changed in place."""
        at = torch.as_tensor(rows, device=self.window.device)
        self.cache.batch_select_indices(at)
        return HFState(self.window[at], self.cache, self.log_probs[rows], self.hidden[at])


class HFExpert:
    """A causal model of Hugging Face and its tokenizer, as a `LanguageModel`.

    Args:
        model: a folder or a name that `AutoModelForCausalLM.from_pretrained` takes, or a loaded model. One that
            begins like a path (`./`, `/`, `~`) is looked for on this machine only, so that a mistyped folder is told at
            once; `options={"local_files_only": True}` forbids the network for all.
        tokenizer: a loaded tokenizer; by default that of the same folder or name.
        dtype: of the weights, e.g. torch.bfloat16; None keeps that of the file.
        device: where it runs.
        end: id of the token that ends a document; the tokenizer's end by default.
        context: longest window, 2 to the positions of the model, which are the default. Longer documents slide by half
            a window.
        options: further arguments of `from_pretrained`, e.g. `{"revision": ...}`.

    Attributes:
        vocab_size: number of tokens that the model scores.
        width: of its hidden states.
        begin: id of the token that starts every document: the tokenizer's, or its end where it has none.
        vocabulary: SHA-256 of the tokenizer; models are composed only where it agrees.

    Raises:
        MissingExtraError: where transformers is not installed.
        InvalidInputError: for a model without a tokenizer, one without an end, or a window it does not have.

    Guarantee: rows of `next_log_probs` sum to one within 1e-12 (a softmax in float64); stream and batch agree within
        rounding of the model's dtype (1e-4 in float32).

    Example:
        >>> from corollary.integrations import HFExpert
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> from corollary.models import sample
        >>> small = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, n_positions=32))
        >>> expert = HFExpert(small, end=299)
        >>> len(sample(expert, 2, max_tokens=4, seed=0))
        2

    Reference: the public interface of transformers.
    """

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        dtype: torch.dtype | None = None,
        device: Any = "cpu",
        end: int | None = None,
        context: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        if isinstance(model, str | Path):
            model, found = _read(str(model), dtype, dict(options or {}), wanted=tokenizer is None)
            tokenizer = tokenizer if tokenizer is not None else found
        elif dtype is not None:
            model = model.to(dtype)
        self.model, self.tokenizer = model.to(device).eval().requires_grad_(False), tokenizer
        self.vocab_size, self.width = map(int, model.get_output_embeddings().weight.shape)
        given = end if end is not None else getattr(tokenizer, "eos_token_id", None)
        if given is None or not 0 <= int(given) < self.vocab_size:
            raise InvalidInputError(
                f"no token ends a document (found {given!r} among {self.vocab_size} tokens); name one with `end=`"
            )
        self.end = int(given)
        begin = getattr(tokenizer, "bos_token_id", None)
        self.begin = self.end if begin is None else int(begin)
        self.context = _window(context, getattr(model.config, "max_position_embeddings", None))
        self.vocabulary = _vocabulary(tokenizer, self.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights: how exact the numbers are."""
        return self.model.dtype

    def encode(self, text: str) -> Int[np.ndarray, " n"]:
        """Token ids of a text, without the symbols that start and end one, in this library's numbering."""
        return self._swap(np.asarray(self._spoken()(text, add_special_tokens=False)["input_ids"], dtype=np.int32))

    def decode(self, tokens: Any) -> str:
        """The text of token ids."""
        return self._spoken().decode(self._swap(np.asarray(tokens, dtype=np.int32)), skip_special_tokens=True)

    def documents(self, texts: Any) -> Documents:
        """Texts, encoded and packed."""
        return Documents.from_sequences([self.encode(text) for text in texts], dtype=np.int32)

    def _spoken(self) -> Any:
        if self.tokenizer is None:
            raise InvalidInputError("this model has no tokenizer; give one with `tokenizer=`")
        return self.tokenizer

    def _swap(self, tokens: Any) -> Any:
        """Token 0 and the end change places; twice is the identity."""
        return np.where(tokens == 0, self.end, np.where(tokens == self.end, 0, tokens)).astype(tokens.dtype)

    @torch.no_grad()
    def log_probs(self, documents: Documents) -> Float32[np.ndarray, " total"]:
        """(total,) natural-log probability of every token given the earlier ones of its document (by windows)."""
        if self.tokenizer is not None and len(documents.tokens) and documents.tokens.dtype == np.uint8:
            raise InvalidInputError(
                "documents of bytes were given to a model with a tokenizer; encode texts with its `documents(texts)`"
            )
        tokens = self._swap(check_tokens(documents, self.vocab_size).astype(np.int64))
        inputs = np.concatenate([tokens[:1], tokens[:-1]])
        inputs[documents.position == 0] = self.begin
        windows, out = scoring_windows(documents, self.context), np.zeros(len(tokens), dtype=np.float32)
        for chosen in windows.batches(max(self.context, _LOGITS // self.vocab_size)):
            at, scored = windows.gather(chosen)
            logits = self.model(input_ids=torch.from_numpy(inputs[at]).to(self.device), use_cache=False).logits
            logits, at = logits[torch.from_numpy(scored).to(self.device)], at[scored]
            target = torch.from_numpy(tokens[at]).to(self.device)
            out[at] = -functional.cross_entropy(logits.float(), target, reduction="none").cpu().numpy()
        return out

    @torch.no_grad()
    def states(self, inputs: Int[Tensor, "b t"]) -> Float[Tensor, "b t w"]:
        """Hidden states behind the last norm; a row begins with token 0, its start, and may be padded at the right."""
        return self.model.base_model(input_ids=self._inputs(inputs), use_cache=False).last_hidden_state

    @torch.no_grad()
    def states_and_logits(
        self, inputs: Int[Tensor, "b t"], rows: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t w"], Float[Tensor, "m vocab"]]:
        """The same, and the logits of the next token at the positions `rows`, in one pass."""
        found = self.model(input_ids=self._inputs(inputs), use_cache=False, output_hidden_states=True)
        logits = found.logits[rows.to(self.device)]
        logits[:, [0, self.end]] = logits[:, [self.end, 0]]
        return found.hidden_states[-1], logits

    def _inputs(self, inputs: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """Ids as the model numbers them; token 0 in front is the start of a document, elsewhere its end."""
        own = torch.from_numpy(self._swap(inputs.cpu().numpy())).to(self.device)
        own[:, 0] = torch.where(inputs[:, 0].to(self.device) == 0, self.begin, own[:, 0])
        return own

    def start(self, batch: int) -> HFState:
        """State of `batch` documents of which no token was seen."""
        return self._forward(torch.full((batch, 1), self.begin, dtype=torch.int64, device=self.device))

    def next_log_probs(self, state: HFState) -> Float[np.ndarray, "b vocab"]:
        """(B, vocab) natural-log probabilities of the next token, in float64."""
        return state.log_probs

    def next_hidden(self, state: HFState) -> Float[Tensor, "b w"]:
        """(B, width) hidden state from which the next token is read."""
        return state.hidden

    def advance(self, state: HFState, tokens: Integer[np.ndarray, " b"]) -> HFState:
        """The state after one more token of each document; changes the given state's cache."""
        return self.extend(state, np.asarray(tokens)[:, None])

    def extend(self, state: HFState, tokens: Integer[np.ndarray, "b t"]) -> HFState:
        """The state after several more tokens of each document, in one pass."""
        new = torch.from_numpy(self._swap(np.asarray(tokens, dtype=np.int64))).to(self.device)
        seen, more = state.window.shape[1], new.shape[1]
        window, left = torch.cat([state.window, new], dim=1), window_after(seen, more, self.context)
        if left < seen + more:  # the window has slid and is read again
            return self._forward(window[:, -left:])
        return self._forward(window, cache=state.cache, more=more)

    @torch.no_grad()
    def _forward(self, window: Int[Tensor, "b t"], *, cache: Any = None, more: int = 0) -> HFState:
        fresh = window if cache is None else window[:, -more:]
        found = self.model(input_ids=fresh, past_key_values=cache, use_cache=True, output_hidden_states=True)
        hidden = found.hidden_states[-1][:, -1].clone()  # without those before it
        if found.logits.shape[0] == 0:
            return HFState(window, found.past_key_values, np.zeros((0, self.vocab_size)), hidden)
        log_probs = torch.log_softmax(found.logits[:, -1].double(), dim=-1).cpu().numpy()
        log_probs[:, [0, self.end]] = log_probs[:, [self.end, 0]]
        return HFState(window, found.past_key_values, log_probs, hidden)

    def fingerprint(self) -> str:
        """SHA-256 of the configuration, the tokenizer, the end, the context and the weights."""
        told = self.model.config.to_diff_dict()
        kept = {k: v for k, v in told.items() if not k.startswith("_") and k not in _OF_FILES}
        head = [kept, self.vocabulary, self.end, self.begin, self.context]
        state = hashlib.sha256(json.dumps(head, sort_keys=True, default=str).encode())
        for name, p in sorted(self.model.state_dict().items()):
            state.update(f"{name}:{p.dtype}:{tuple(p.shape)};".encode())
            state.update(p.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return state.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write the model and its tokenizer below `folder/hf`, then `model.json`, which names their hash."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(target / "hf")
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(target / "hf")
        told = {"end": self.end, "context": self.context, "spoken": self.tokenizer is not None}
        write_json(target / "model.json", {"kind": "hf", "format": FORMAT, **told, "fingerprint": self.fingerprint()})

    @classmethod
    def load(cls, folder: str | Path, *, device: Any = "cpu") -> "HFExpert":
        """Read what `save` wrote, and check that nothing changed since."""
        from corollary.models._storage import read_header

        return _load(Path(folder), read_header(folder), device=device)


def _window(asked: int | None, able: int | None) -> int:
    """Longest window, an even number: what was asked where the model can, else what its configuration names."""
    if asked is not None and (asked < 2 or asked > (able or asked)):
        among = f"from 2 to {able}, the positions of this model" if able else "at least 2"
        raise InvalidInputError(f"`context` must be {among}, got {asked}; leave it out for the longest")
    longest = int(asked or able or _LONGEST)
    return longest - longest % 2


def _read(name: str, dtype: torch.dtype | None, options: dict[str, Any], *, wanted: bool) -> tuple[Any, Any]:
    from safetensors import SafetensorError

    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", "hf", "loading a Hugging Face model") from None
    if name.startswith((".", "/", "~")):  # a path, no name of a hub's
        options = {"local_files_only": True, **options}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype if dtype is not None else "auto", use_safetensors=True, **options
        )
        return model, AutoTokenizer.from_pretrained(name, **options) if wanted else None
    except (OSError, ValueError, SafetensorError) as problem:
        said = str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__
        raise InvalidFileError(
            name, f"not a causal language model with its tokenizer ({said:.200})", "give the folder that"
            " `save_pretrained` of model and tokenizer wrote, with weights in safetensors",
        ) from None  # fmt: skip


def _vocabulary(tokenizer: Any, size: int) -> str:
    """SHA-256 of what turns text into ids; without a tokenizer, of the number of ids."""
    if tokenizer is None:
        return hashlib.sha256(str(size).encode()).hexdigest()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:  # padding and truncation are how it was last called
        rules = json.loads(backend.to_str())
        told = json.dumps({k: v for k, v in rules.items() if k not in ("padding", "truncation")}, sort_keys=True)
    else:
        told = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(told.encode()).hexdigest()


def _load(folder: Path, header: dict[str, Any], *, device: Any = "cpu") -> HFExpert:
    path = folder / "model.json"
    try:
        end, context, spoken = int(header["end"]), int(header["context"]), bool(header["spoken"])
    except (KeyError, TypeError, ValueError) as problem:
        raise InvalidFileError(path, f"not a saved Hugging Face expert ({problem})", "save it again") from None
    model, tokenizer = _read(str(folder / "hf"), None, {"local_files_only": True}, wanted=spoken)
    expert = HFExpert(model, tokenizer=tokenizer, device=device, end=end, context=context)
    if expert.fingerprint() != header.get("fingerprint"):
        raise InvalidFileError(path, "changed since it was saved (its hash differs)", "save the model again")
    return expert


register_loader("hf", _load)
