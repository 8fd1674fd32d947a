"""Transductors as language models: continuing symbol by symbol with carried states, and scoring documents.

Symbol 0 ends a document and begins the next, as everywhere in `corollary.models`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Integer
from torch import Tensor, nn

from corollary.automata._storage import arrays, described, load
from corollary.automata._transductor import RationalTransductor, Stream, TransductorConfig
from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.models import _storage, register_loader
from corollary.models._training import check_tokens


@torch.no_grad()
def generate(
    model: RationalTransductor, prompt: Tensor, *, max_tokens: int, temperature: float | int = 1.0, seed: int = 0
) -> Int[Tensor, "b t"]:
    """Prompts and their continuations, (B, T + max_tokens): one product of matrix and vector, and one place, a symbol.

    Each symbol is drawn from the softmax of the logits at the last place, over `temperature`; 0 takes the largest.
    """
    if prompt.ndim != 2 or not prompt.shape[1] or max_tokens < 0 or not 0 <= temperature < float("inf"):
        raise InvalidInputError(
            f"prompts (B, T) of at least one symbol are needed, got {tuple(prompt.shape)}; max_tokens {max_tokens} and "
            f"temperature {temperature} must not be negative"
        )
    if model.config.outputs != model.config.vocab_size or not model.config.causal:
        raise InvalidInputError("only causal networks whose outputs are symbols generate; set `classes=None`")
    stream, draw = Stream(), torch.Generator(device=prompt.device).manual_seed(seed)
    out, given = [prompt], prompt
    for _ in range(max_tokens):
        logits = model(given, stream=stream)[:, -1]
        if temperature == 0:
            given = logits.argmax(-1, keepdim=True)
        else:
            given = torch.multinomial((logits.double() / temperature).softmax(-1), 1, generator=draw)
        out.append(given)
    return torch.cat(out, dim=1)


@dataclass
class DocumentState:
    """Documents that are being read: the stream, and what comes next."""

    stream: Stream
    log_probs: Float[np.ndarray, "b vocab"]


class TransductorLM(nn.Module):
    """A transductor as a `LanguageModel`: an expert beside others, trained by `corollary.models.train`.

    Args:
        network: causal, its outputs the symbols.

    Raises:
        InvalidInputError: for a network of another form.

    Guarantee: next-token distributions are normalised; scoring and streaming agree within rounding, at any length: no
        context is cut, the state is carried and keys are kept.

    Example:
        >>> from corollary.automata import RationalHead, RationalTransductor, TransductorConfig, TransductorLM
        >>> network = RationalTransductor(TransductorConfig(vocab_size=256, layers=1), RationalHead(256, 4, seed=0))
        >>> from corollary.documents import Documents
        >>> TransductorLM(network).log_probs(Documents.from_texts(["ab"])).shape
        (2,)
    """

    def __init__(self, network: RationalTransductor) -> None:
        super().__init__()
        if network.config.outputs != network.vocab_size or not network.config.causal:
            raise InvalidInputError("a language model is causal and its outputs are symbols; set `classes=None`")
        self.network, self.vocab_size = network, network.vocab_size

    @property
    def config(self) -> TransductorConfig:
        """Sizes; `train` reads the longest window from them."""
        return self.network.config

    def forward(self, inputs: Int[Tensor, "b t"]) -> Float[Tensor, "b t vocab"]:
        """Logits of the token after each input; inputs start with token 0."""
        return self.network(inputs)

    @torch.no_grad()
    def log_probs(self, documents: Documents) -> Float32[np.ndarray, " total"]:
        """Natural-log probability of every token given the earlier ones of its document."""
        tokens = check_tokens(documents, self.vocab_size).astype(np.int64)
        out, offsets = np.zeros(len(tokens), dtype=np.float32), documents.offsets
        order = np.argsort(np.diff(offsets), kind="stable")
        first = 0
        while first < len(
            order
        ):  # documents of like length together, padded on the right: causal, so it does not matter
            longest = 1
            last = first
            while last < len(order):
                longest = max(longest, int(np.diff(offsets)[order[last]]))
                if last > first and (last - first + 1) * longest * max(1, self.vocab_size // 64) > 1 << 16:
                    break
                last += 1
            self._score(tokens, offsets, order[first:last], out)
            first = last
        return out

    def _score(self, tokens: np.ndarray, offsets: np.ndarray, chosen: np.ndarray, out: np.ndarray) -> None:
        lengths = offsets[chosen + 1] - offsets[chosen]
        t = int(lengths.max(initial=0))
        if not t:
            return
        place = np.arange(t)
        there = place < lengths[:, None]
        at = np.where(there, offsets[chosen][:, None] + place, 0)
        targets = np.where(there, tokens[at], 0)
        inputs = np.concatenate([np.zeros((len(chosen), 1), dtype=np.int64), targets[:, :-1]], axis=1)
        logits = self(torch.from_numpy(inputs).to(self._device))
        picked = _normalised(logits).gather(-1, torch.from_numpy(targets)[..., None])[..., 0]
        out[at[there]] = picked.numpy()[there]

    @property
    def _device(self) -> torch.device:
        return self.network.embedding.weight.device

    def start(self, batch: int) -> DocumentState:
        """The state of `batch` documents that have only their start symbol."""
        return self._read(Stream(), np.zeros(batch, dtype=np.int64))

    def next_log_probs(self, state: DocumentState) -> Float[np.ndarray, "b vocab"]:
        """(B, vocab) natural-log probabilities of the next token, in float64."""
        return state.log_probs

    def advance(self, state: DocumentState, tokens: Integer[np.ndarray, " b"]) -> DocumentState:
        """The state after one more token of each document."""
        return self._read(state.stream, np.asarray(tokens).astype(np.int64))

    @torch.no_grad()
    def _read(self, stream: Stream, tokens: np.ndarray) -> DocumentState:
        logits = self.network(torch.from_numpy(tokens)[:, None].to(self._device), stream=stream)[:, -1]
        return DocumentState(stream, _normalised(logits).numpy())

    def fingerprint(self) -> str:
        """SHA-256 of sizes, head and weights, computed anew: training changes it."""
        return _storage.fingerprint({"kind": KIND, **described(self.network)}, arrays(self.network))

    def save(self, folder: str | Path) -> None:
        """Write the model."""
        header = {"kind": KIND, "fingerprint": self.fingerprint()}
        _storage.write_model(folder, header, {})
        self.network.save_pretrained(Path(folder) / "network")


KIND = "transductor-lm"


def _normalised(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.double(), dim=-1).cpu()


def _load(folder: Path, header: dict[str, Any]) -> TransductorLM:
    model = TransductorLM(load(folder / "network"))
    _storage.require(
        model.fingerprint() == header.get("fingerprint"), folder / "model.json", "changed since it was saved"
    )
    return model


register_loader(KIND, _load)
