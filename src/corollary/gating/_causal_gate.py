r"""The learned causal gate: structural distillation of a robust gate into weights that see the prefix only.

Source: Cortes, Mohri, Zhong, "A Theoretical Framework for Modular Learning of Robust Generative Models",
arXiv:2602.17554, section 7
(structural distillation). Fidelity: reconstructed; only the section's title was seen, features, network and training
are ours.

Symbols: experts \(q_k\), causal weights \(r_\phi(k | x_{<t})\), student \(\pi_r(x) = \prod_t \sum_k r_\phi(k|x_{<t})
q_k(x_t|x_{<t})\), loss
\(-\sum_n w_n \sum_t \log \sum_k r_\phi q_k\): p numbers a token, never the vocabulary.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from corollary.errors import InvalidFileError, InvalidInputError, NotFittedError
from corollary.gating._gate_features import FeatureSettings, StreamFeatures, corpus_features
from corollary.gating._prefix_gates import log_mix
from corollary.gating._scores import CHUNK_TOKENS, ExpertScores
from corollary.optim import make_optimizer
from corollary.runs import read_json, read_tensors, write_json, write_tensors

FORMAT = 1


class _Network(nn.Module):
    """Features -> K corrections of the base log-weights; the last layer starts at zero: the gate starts at the base."""

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int, experts: int, hidden: int, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(width, hidden, dtype=dtype), nn.GELU(), nn.Linear(hidden, hidden, dtype=dtype), nn.GELU()
        )
        self.head = nn.Linear(hidden, experts, dtype=dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))  # of the base
        self.register_buffer("mean", torch.zeros(width, dtype=dtype))
        self.register_buffer("spread", torch.ones(width, dtype=dtype))

    def forward(self, features: Tensor, base: slice) -> Tensor:
        standard = (features - self.mean) / self.spread
        return torch.log_softmax(self.scale * features[:, base] + self.head(self.body(standard)), dim=-1)


class CausalGate:
    r"""Weights over frozen experts, learned from cached per-token log-probabilities, run causally.

    .. math:: \log r_\phi = \mathrm{logsoftmax}(s \log w^{share} + \mathrm{MLP}(features)), \quad
        \min_\phi -\sum_g \lambda_g \, E_{t \in g} \log \sum_k r_\phi(k | x_{<t}) q_k(x_t | x_{<t})

    Before training it IS fixed share at rate 0.005; training can only move away from it where the data pay for that.

    Args:
        hidden: width of the two hidden layers; 64 suits a handful of experts.
        steps: optimisation steps; 800 take seconds.
        batch: tokens a step, drawn at random over the corpus.
        learning_rate: peak of the one-cycle schedule.
        weight_decay: decoupled.
        optimizer: a name of `corollary.optim.make_optimizer`, e.g. "leon".
        features: rates and decays of the features.
        device: where the network is trained; it is kept on the CPU afterwards.
        seed: of initialisation and batches.

    Guarantee: exactly normalised over the next token wherever the experts are. None on its loss: see `ComposedLM`.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel
        >>> from corollary.gating import CausalGate, score_experts
        >>> docs = Documents.from_texts(["one two", "1 2 3 4"] * 8)
        >>> experts = [NgramModel.fit(docs.select([0])), NgramModel.fit(docs.select([1]))]
        >>> gate = CausalGate(steps=20, batch=64).fit([score_experts(experts, docs)])
        >>> gate.log_weights(score_experts(experts, docs)).shape
        (112, 2)

    Reference: arXiv:2602.17554, section 7; reconstructed from the section's title and our derivation, may differ.
    """

    def __init__(
        self,
        *,
        hidden: int = 64,
        steps: int = 800,
        batch: int = 4096,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.01,
        optimizer: str = "adamw",
        features: FeatureSettings | None = None,
        device: str | torch.device = "cpu",
        seed: int = 0,
    ) -> None:
        self.hidden, self.steps, self.batch = hidden, steps, batch
        self.learning_rate, self.weight_decay, self.optimizer = learning_rate, weight_decay, optimizer
        self.features = features or FeatureSettings()
        self.device, self.seed = device, seed
        self.network_: _Network | None = None
        self.experts = 0
        self.loss_history_: list[tuple[int, float]] = []

    def fit(
        self,
        groups: Sequence[ExpertScores],
        *,
        weights: Any = None,
        document_weights: Sequence[Any] | None = None,
        progress: Callable[[int, int, float], None] | None = None,
    ) -> "CausalGate":
        r"""Learn the weights from scored documents.

        Args:
            groups: scores of groups of documents, e.g. one a domain and one of mixed documents.
            weights: \(\lambda_g\), how much each group counts, whatever its size; None for equal. Use the least
                favourable mixture
                of a robust gate, or give mixed documents a share (0.3 is a good one: without any, the gate loses on
                documents that change).
            document_weights: for each group (N_g,) weights of its documents, e.g. \(\pi_{g^*}(x) / p_{\lambda_0}(x)\)
                or SIR weights, to
                distil a whole-sequence gate; None for equal.
            progress: called now and then with (step, steps, loss in nats per token).

        Returns:
            self.

        Raises:
            InvalidInputError: where groups are empty, disagree on the experts, or weights do not fit.
        """
        shares, rows = self._checked(groups, weights, document_weights)
        generator = np.random.default_rng(self.seed)
        torch_generator = torch.Generator().manual_seed(self.seed)
        features = [corpus_features(g, self.features).astype(np.float16) for g in groups]
        targets = [g.log_probs for g in groups]
        width, self.experts = features[0].shape[1], groups[0].experts
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=torch_generator)))
            network = _Network(width, self.experts, self.hidden)
        probe = np.concatenate([f[generator.integers(len(f), size=20_000)] for f in features]).astype(np.float32)
        network.mean.copy_(torch.from_numpy(probe.mean(0)))
        network.spread.copy_(torch.from_numpy(np.maximum(probe.std(0), 0.05)))
        network.to(self.device)
        rates = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        optimizer = make_optimizer(self.optimizer, network, seed=self.seed, **rates)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps)
        base, running = self._base(), 0.0
        for step in range(self.steps):
            counts = generator.multinomial(self.batch, shares)
            picks = [r(generator, n) for r, n in zip(rows, counts, strict=True)]
            x = torch.from_numpy(
                np.concatenate([f[i] for f, i in zip(features, picks, strict=True)]).astype(np.float32)
            )
            c = torch.from_numpy(np.concatenate([t[i] for t, i in zip(targets, picks, strict=True)]))
            log_weights = network(x.to(self.device), base)
            loss = -torch.logsumexp(log_weights + c.to(self.device), dim=-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
            if step % 20 == 0 or step == self.steps - 1:
                self.loss_history_.append((step + 1, running))
                if progress:
                    progress(step + 1, self.steps, running)
        self.network_ = network.cpu().eval()
        return self

    def _checked(self, groups: Any, weights: Any, document_weights: Any) -> tuple[np.ndarray, list[Any]]:
        if not groups or any(len(g.log_probs) == 0 for g in groups):
            raise InvalidInputError("the gate needs at least one token in every group; leave empty groups out")
        if len({g.experts for g in groups}) > 1:
            raise InvalidInputError(
                f"groups disagree on the experts: {sorted({g.experts for g in groups})}; score all alike"
            )
        shares = np.full(len(groups), 1 / len(groups)) if weights is None else np.asarray(weights, dtype=np.float64)
        if shares.shape != (len(groups),) or not (shares >= 0).all() or not shares.sum() > 0:
            raise InvalidInputError(
                f"`weights` must be {len(groups)} nonnegative numbers, got {np.asarray(weights).tolist()}"
            )
        rows = []
        for g, scores in enumerate(groups):
            given = None if document_weights is None else document_weights[g]
            rows.append(_row_sampler(scores, given))
        return shares / shares.sum(), rows

    def _base(self) -> slice:
        """Where the base rate's log-weights stand among the features: behind the Bayes posterior's."""
        first = (1 + self.features.base) * self.experts
        return slice(first, first + self.experts)

    def _weights_of(self, features: Float32[np.ndarray, "b f"]) -> Float32[np.ndarray, "b k"]:
        if self.network_ is None:
            raise NotFittedError(self, "log_weights")
        with torch.inference_mode():
            return self.network_(torch.from_numpy(features), self._base()).numpy()

    def log_weights(self, scores: ExpertScores) -> Float32[np.ndarray, "total k"]:
        """(total, K) log-weights before each token."""
        out = np.empty(scores.log_probs.shape, dtype=np.float32)
        for part, where in _chunks(scores):
            out[where] = self._weights_of(corpus_features(part, self.features))
        return out

    def token_log_probs(self, scores: ExpertScores) -> Float32[np.ndarray, " total"]:
        """(total,) log-probability of each token under the gated mixture."""
        return log_mix(self.log_weights(scores), scores.log_probs)

    def start(self, batch: int) -> StreamFeatures:
        """State of `batch` documents without a token."""
        if self.network_ is None:
            raise NotFittedError(self, "start")
        return StreamFeatures(batch, self.experts, self.features)

    def next_log_weights(self, state: StreamFeatures, statistics: Any) -> Float[np.ndarray, "b k"]:
        """(B, K) log-weights before the next token."""
        return self._weights_of(state.read(statistics))

    def advance(self, state: StreamFeatures, log_probs: Any) -> StreamFeatures:
        """Take in a token; changes and returns the state."""
        state.push(log_probs)
        return state

    def describe(self) -> dict[str, Any]:
        """Plain settings; the weights are saved by `save`."""
        return {
            "kind": "causal",
            "format": FORMAT,
            "experts": self.experts,
            "hidden": self.hidden,
            "rates": list(self.features.rates),
            "base": self.features.base,
            "decays": list(self.features.decays),
        }

    def save(self, folder: str | Path) -> None:
        """Write `gate.json` and `gate.safetensors` to a folder."""
        if self.network_ is None:
            raise NotFittedError(self, "save")
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        write_tensors(target / "gate.safetensors", {k: v.numpy() for k, v in self.network_.state_dict().items()})
        write_json(target / "gate.json", self.describe())

    @classmethod
    def load(cls, folder: str | Path) -> "CausalGate":
        """Read what `save` wrote; shapes and finiteness are checked."""
        path = Path(folder) / "gate.json"
        data = read_json(path)
        try:
            if data["kind"] != "causal" or data["format"] != FORMAT:
                raise ValueError(f"kind {data['kind']!r}, format {data['format']!r}")
            settings = FeatureSettings(tuple(data["rates"]), data["base"], tuple(data["decays"]))
            gate = cls(hidden=data["hidden"], features=settings)
            gate.experts = data["experts"]
            network = _Network(settings.width(gate.experts), gate.experts, gate.hidden)
        except (KeyError, TypeError, ValueError) as problem:
            raise InvalidFileError(
                path, f"not a causal gate ({problem})", "give the folder that `save` wrote"
            ) from None
        arrays = read_tensors(path.with_suffix(".safetensors"))
        wanted = network.state_dict()
        wrong = arrays.keys() != wanted.keys() or any(arrays[k].shape != tuple(v.shape) for k, v in wanted.items())
        if wrong or not all(np.isfinite(a).all() for a in arrays.values()):
            raise InvalidFileError(
                path.with_suffix(".safetensors"), "weights of another shape, or not finite", "fit the gate again"
            )
        network.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()})
        gate.network_ = network.eval()
        return gate


def _row_sampler(scores: ExpertScores, document_weights: Any) -> Callable[[np.random.Generator, int], np.ndarray]:
    """Draws token rows: uniformly, or documents in proportion to weight times length."""
    total = len(scores.log_probs)
    if document_weights is None:
        return lambda generator, count: generator.integers(total, size=count)
    given = np.asarray(document_weights, dtype=np.float64)
    lengths = np.diff(scores.offsets)
    if given.shape != lengths.shape or not (given >= 0).all() or not (given * lengths).sum() > 0:
        raise InvalidInputError(f"`document_weights` must be {len(lengths)} nonnegative numbers, not all zero")
    ends = np.cumsum(np.repeat(given, lengths))
    return lambda generator, count: np.searchsorted(ends, generator.random(count) * ends[-1], side="right")


def _chunks(scores: ExpertScores) -> Any:
    """Whole documents in runs of about `CHUNK_TOKENS`, with their place in the flat arrays."""
    first = 0
    while first < len(scores.offsets) - 1:
        last = int(np.searchsorted(scores.offsets, scores.offsets[first] + CHUNK_TOKENS, side="right")) - 1
        last = max(last, first + 1)
        where = slice(int(scores.offsets[first]), int(scores.offsets[last]))
        offsets = scores.offsets[first : last + 1] - scores.offsets[first]
        yield ExpertScores(offsets, scores.log_probs[where], scores.statistics[where]), where
        first = last
