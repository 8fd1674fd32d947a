"""A small causal transformer over bytes: pre-norm, rotary positions, SwiGLU, tied embeddings, a cache.

Inputs are the earlier tokens behind one start symbol (token 0); targets are the tokens and then the end
symbol, token 0. Documents never share a window, so none attends to another. Documents longer than the context
W are read through sliding windows: the first scores W tokens, each later one starts W / 2 further and scores
its second half, so that a token sees between W / 2 and W earlier ones. The stream follows the same rule.

Reference: the usual parts of current decoders, as generally known; no paper is reproduced.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Integer
from torch import Tensor, nn
from torch.nn import functional

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import _storage
from corollary.models._blocks import Block, angles
from corollary.models._protocol import register_loader
from corollary.models._streams import window_after
from corollary.models._training import check_tokens, train
from corollary.models._windows import previous_tokens, scoring_windows

_MAX = {"vocab_size": 1 << 20, "width": 1 << 14, "layers": 256, "heads": 256, "context": 1 << 16}


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a `TransformerLM`.

    Args:
        vocab_size: number of tokens; 256 for bytes.
        width: of the residual stream; a multiple of twice `heads`.
        layers: blocks of attention and feed-forward.
        heads: attention heads.
        context: longest window, even; longer documents slide.

    Raises:
        InvalidInputError: where the sizes do not fit together.

    Guarantee: none.

    Example:
        >>> from corollary.models import TransformerConfig
        >>> TransformerConfig(width=64, layers=2).context
        256
    """

    vocab_size: int = 256
    width: int = 128
    layers: int = 4
    heads: int = 4
    context: int = 256

    def __post_init__(self) -> None:
        for name, largest in _MAX.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
                raise InvalidInputError(f"`{name}` must be from 1 to {largest}, got {value!r}; see the defaults")
        if self.width % (2 * self.heads) or self.context % 2:
            raise InvalidInputError(
                f"`width` must be a multiple of 2 x heads and `context` even, got width {self.width}, "
                f"heads {self.heads}, context {self.context}; change one of them"
            )


@dataclass
class TransformerState:
    """A stream: the inputs of the window, keys and values by block, the states just read, and what comes next."""

    window: Int[Tensor, "b t"]
    cache: list[Tensor]
    hidden: Float[Tensor, "b t_new w"]
    log_probs: Float[np.ndarray, "b vocab"]

    def select_rows(self, rows: Integer[np.ndarray, " m"]) -> "TransformerState":
        """The documents at these rows."""
        at = torch.as_tensor(rows, device=self.window.device)
        cache = [c[:, at] for c in self.cache]
        return TransformerState(self.window[at], cache, self.hidden[at], self.log_probs[rows])


class TransformerLM(nn.Module):
    """A causal transformer as a `LanguageModel`; `fit` trains one, `load` reads one.

    Args:
        config: the sizes.
        seed: of the first weights.
        dtype: torch.float32 or torch.float64.
        device: where it lives; `model.to(...)` moves it later.

    Guarantee: rows of `next_log_probs` sum to one within 1e-12 (a softmax in float64); the stream and the
    batch agree within rounding (1e-4 in float32, 1e-10 in float64).

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> config = TransformerConfig(width=32, layers=1, heads=2, context=16)
        >>> model = TransformerLM.fit(Documents.from_texts(["to be"] * 4), config=config, steps=3, seed=0)
        >>> model.log_probs(Documents.from_texts(["or not"])).shape
        (6,)

    Reference: standard parts as generally known.
    """

    def __init__(
        self,
        config: TransformerConfig | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: Any = "cpu",
    ) -> None:
        super().__init__()
        self.config = config = config or TransformerConfig()
        if dtype not in (torch.float32, torch.float64):
            raise InvalidInputError(f"`dtype` must be torch.float32 or torch.float64, got {dtype}; use float32")
        self.vocab_size = config.vocab_size
        # On "meta" nothing is drawn, so that the global generator stays as it is.
        with torch.device("meta"):
            self.embedding = nn.Embedding(config.vocab_size, config.width)
            self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.layers))
            self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self.to(dtype)
        if torch.device(device).type == "meta":  # shapes only, for a loader that checks a file
            return
        self.to_empty(device=device)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                # The branches that are added to the stream start smaller, the deeper the model.
                deep = name.endswith(("out.weight", "down.weight"))
                std = 0.02 / (2 * config.layers) ** 0.5 if deep else 0.02
                noise = torch.randn(p.shape, generator=generator, dtype=torch.float64) * std
                p.copy_(noise if p.ndim == 2 else torch.ones(p.shape))

    def forward(
        self, inputs: Int[Tensor, "b t"], *, cache: list[Tensor] | None = None, seen: int = 0
    ) -> Float[Tensor, "b t vocab"]:
        """Logits of the token after each input; inputs start with token 0 where a document starts."""
        return self.logits_of(self.states(inputs, cache=cache, seen=seen))

    def states(
        self, inputs: Int[Tensor, "b t"], *, cache: list[Tensor] | None = None, seen: int = 0
    ) -> Float[Tensor, "b t w"]:
        """Hidden states behind the last norm, from which `logits_of` reads the next token."""
        if seen and cache is None:
            raise InvalidInputError(f"inputs behind {seen} others need the cache that those filled; give `cache`")
        x = self.embedding(inputs)
        position = torch.arange(seen, seen + inputs.shape[1], device=x.device)
        angle = angles(position, self.config.width // self.config.heads)
        for i, block in enumerate(self.blocks):
            x = block(x, angle, cache[i] if cache is not None else None, seen)
        return self.norm(x)

    def logits_of(self, states: Float[Tensor, "... w"]) -> Float[Tensor, "... vocab"]:
        """Logits of the next token from hidden states."""
        return functional.linear(states, self.embedding.weight)

    @classmethod
    def fit(
        cls,
        documents: Documents,
        *,
        config: TransformerConfig | None = None,
        steps: int = 500,
        batch_tokens: int = 4096,
        lr: float = 2e-3,
        seed: int = 0,
        validation: Documents | None = None,
        patience: int = 5,
        evaluate_every: int = 50,
        checkpoint_folder: str | Path | None = None,
        checkpoint_every: int = 50,
        progress: Callable[[int, float], object] | None = None,
        optimizer: str = "adamw",
        dtype: torch.dtype = torch.float32,
        device: Any = "cpu",
    ) -> "TransformerLM":
        """Make a model and train it; see `corollary.models.train` for the arguments and what it raises.

        Guarantee: a run that was killed and is called again with the same arguments and `checkpoint_folder`
        ends with the same weights, bit for bit, on the same machine and number of threads.
        """
        model = cls(config, seed=seed, dtype=dtype, device=device)
        train(
            model,
            documents,
            steps=steps,
            batch_tokens=batch_tokens,
            lr=lr,
            seed=seed,
            validation=validation,
            patience=patience,
            evaluate_every=evaluate_every,
            checkpoint_folder=checkpoint_folder,
            checkpoint_every=checkpoint_every,
            progress=progress,
            optimizer=optimizer,
        )
        return model

    @torch.no_grad()
    def log_probs(self, documents: Documents) -> Float32[np.ndarray, " total"]:
        """Natural-log probability of every token given the earlier ones of its document (by windows)."""
        tokens = check_tokens(documents, self.vocab_size)
        inputs, windows = previous_tokens(documents), scoring_windows(documents, self.config.context)
        out = np.zeros(len(tokens), dtype=np.float32)
        device = self.embedding.weight.device
        for chosen in windows.batches(max(self.config.context, (1 << 22) // self.vocab_size)):
            at, scored = windows.gather(chosen)
            logits = self(torch.from_numpy(inputs[at]).to(device))[torch.from_numpy(scored).to(device)]
            at = at[scored]
            target = torch.from_numpy(tokens[at].astype(np.int64)).to(device)
            loss = functional.cross_entropy(logits.double(), target, reduction="none")
            out[at] = -loss.float().cpu().numpy()
        return out

    def start(self, batch: int) -> TransformerState:
        """The state of `batch` documents that have only their start symbol."""
        return self._read(torch.zeros((batch, 1), dtype=torch.int64, device=self.embedding.weight.device))

    @torch.no_grad()
    def advance(self, state: TransformerState, tokens: Integer[np.ndarray, " b"]) -> TransformerState:
        """The state after one more token of each document; the given state is changed in place, mostly."""
        return self.extend(state, np.asarray(tokens)[:, None])

    @torch.no_grad()
    def extend(self, state: TransformerState, tokens: Integer[np.ndarray, "b t"]) -> TransformerState:
        """The state after several more tokens of each document, in one pass; changes the given state, mostly."""
        new = torch.as_tensor(np.asarray(tokens).astype(np.int64), device=state.window.device)
        seen, more = state.window.shape[1], new.shape[1]
        window, left = torch.cat([state.window, new], dim=1), window_after(seen, more, self.config.context)
        if left < seen + more:  # the window has slid and is read again
            return self._read(window[:, -left:])
        state.window = window
        state.hidden = self.states(new, cache=state.cache, seen=seen)
        state.log_probs = _normalise(self.logits_of(state.hidden[:, -1]))
        return state

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights: how exact the numbers are."""
        return self.embedding.weight.dtype

    def next_log_probs(self, state: TransformerState) -> Float[np.ndarray, "b vocab"]:
        """(B, vocab) natural-log probabilities of the next token, in float64."""
        return state.log_probs

    def next_hidden(self, state: TransformerState) -> Float[Tensor, "b w"]:
        """(B, width) hidden state from which the next token is read."""
        return state.hidden[:, -1]

    @torch.no_grad()
    def _read(self, window: Int[Tensor, "b t"]) -> TransformerState:
        c, weight = self.config, self.embedding.weight
        shape = (2, len(window), c.heads, c.context, c.width // c.heads)
        cache = [torch.empty(shape, dtype=weight.dtype, device=weight.device) for _ in range(c.layers)]
        hidden = self.states(window, cache=cache)
        return TransformerState(window, cache, hidden, _normalise(self.logits_of(hidden[:, -1])))

    def fingerprint(self) -> str:
        """SHA-256 of configuration and weights, computed anew: training changes it."""
        return _storage.fingerprint(asdict(self.config), arrays_of(self))

    def save(self, folder: str | Path) -> None:
        """Write the model; a killed or failed save leaves what the folder held."""
        header = {"kind": "transformer", "config": asdict(self.config), "fingerprint": self.fingerprint()}
        _storage.write_model(folder, header, arrays_of(self))


def arrays_of(model: nn.Module) -> dict[str, np.ndarray]:
    """The weights as numpy arrays."""
    return {name: p.detach().cpu().numpy() for name, p in model.state_dict().items()}


def _normalise(logits: Float[Tensor, "b vocab"]) -> Float[np.ndarray, "b vocab"]:
    return torch.log_softmax(logits.double(), dim=-1).cpu().numpy()


def _load(folder: Path, header: dict[str, Any]) -> TransformerLM:
    path, config = folder / "model.json", header.get("config", {})
    names = TransformerConfig.__annotations__.keys()
    sound = isinstance(config, dict) and config.keys() == names
    _storage.require(sound and all(isinstance(v, int) for v in config.values()), path, "`config` has no sizes")
    try:
        sizes = TransformerConfig(**config)
    except InvalidInputError as problem:
        raise InvalidFileError(path, f"sizes that do not fit ({problem})", "save the model again") from None
    arrays = _storage.read_arrays(folder, header)
    expected = {name: tuple(p.shape) for name, p in TransformerLM(sizes, device="meta").state_dict().items()}
    path = folder / header["weights"]
    _storage.require({k: a.shape for k, a in arrays.items()} == expected, path, "not the shapes of its `config`")
    dtypes = {str(a.dtype) for a in arrays.values()}
    _storage.require(dtypes in ({"float32"}, {"float64"}), path, f"weights of type {sorted(dtypes)}, not one float")
    model = TransformerLM(sizes, dtype=getattr(torch, dtypes.pop()))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    _storage.require(
        model.fingerprint() == header.get("fingerprint"),
        path,
        "changed since it was saved (its hash differs)",
    )
    return model


register_loader("transformer", _load)
