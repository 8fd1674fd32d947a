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

from corollary.errors import InvalidFileError, InvalidInputError, NotFittedError
from corollary.gating import _gate_networks as networks
from corollary.gating._distributed import add_gradients, part, total
from corollary.gating._gate_batches import Batches
from corollary.gating._gate_features import FeatureSettings, OrderedStream, StreamFeatures, corpus_features
from corollary.gating._prefix_gates import log_mix
from corollary.gating._scores import STATISTICS, ExpertScores, blocks
from corollary.optim import make_optimizer
from corollary.runs import read_json, read_tensors, write_json, write_tensors

FORMAT = 1
READ_TOKENS = 20_000  # padded tokens that a recurrent gate reads side by side


class CausalGate:
    r"""Weights over frozen experts, learned from cached per-token log-probabilities, run causally.

    .. math:: \log r_\phi = \mathrm{logsoftmax}(s \log w^{share} + \mathrm{MLP}(features)), \quad
        \min_\phi -\sum_g \lambda_g \, E_{t \in g} \log \sum_k r_\phi(k | x_{<t}) q_k(x_t | x_{<t})

    Before training it IS fixed share at rate 0.005; training can only move away from it where the data pay for that.

    Args:
        network: "mlp" (each position by itself), "gru", or "transformer" (the features of the last 64 positions). The
            last two read documents in order: slower, and seldom better by more than .005 bits a byte.
        hidden: width of the hidden layers; 64 suits a handful of experts.
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
        network: str = "mlp",
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
        if network not in networks.NETWORKS:
            raise InvalidInputError(f"`network` must be one of {', '.join(networks.NETWORKS)}, got {network!r}")
        self.network, self.hidden, self.steps, self.batch = network, hidden, steps, batch
        self.learning_rate, self.weight_decay, self.optimizer = learning_rate, weight_decay, optimizer
        self.features = features or FeatureSettings()
        self.device, self.seed = device, seed
        self.network_: networks.CausalNetwork | None = None
        self.experts = 0
        self.loss_history_: list[tuple[int, float]] = []
        self._by_hand: networks.RowsByHand | None = None

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
            groups: scores of groups of documents, e.g. one a domain and one of mixed documents; `ScoreCache`s are gone
                through in random pools of documents, so that memory holds no more than a pool. Under `torchrun`
                every process draws the same batch and works on its part: the gate is that of one process.
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
        shares = self._checked(groups, weights)
        generator = np.random.default_rng(self.seed)
        torch_generator = torch.Generator().manual_seed(self.seed)
        sequential = networks.NETWORKS[self.network].sequential
        batches = Batches(
            groups, shares, document_weights, self.features, sequential=sequential, generator=generator
        )  # fmt: skip
        self.experts = groups[0].experts
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (1,), generator=torch_generator)))
            network = networks.make(self.network, self.features.width(self.experts), self.experts, self.hidden)
        probe = batches.probe(20_000)
        read = len(network.mean)
        network.mean.copy_(torch.from_numpy(probe.mean(0)[:read]))
        network.spread.copy_(torch.from_numpy(np.maximum(probe.std(0), 0.05)[:read]))
        network.to(self.device)
        rates = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        optimizer = make_optimizer(self.optimizer, network, seed=self.seed, **rates)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps)
        base, running = self._base(), 0.0
        for step in range(self.steps):
            x, c, mask = (v.to(self.device) for v in batches.draw(self.batch))
            count, here = mask.sum(), part(len(x))
            log_weights = network(x[here], base)
            losses = -torch.logsumexp(log_weights + c[here], dim=-1) * mask[here]
            loss = total(losses.sum()) / count
            optimizer.zero_grad()
            loss.backward()
            add_gradients(network.parameters())
            optimizer.step()
            schedule.step()
            running = loss.item() if step == 0 else 0.95 * running + 0.05 * loss.item()
            if step % 20 == 0 or step == self.steps - 1:
                self.loss_history_.append((step + 1, running))
                if progress:
                    progress(step + 1, self.steps, running)
        self.network_, self._by_hand = network.cpu().eval(), None
        return self

    def _checked(self, groups: Any, weights: Any) -> Float[np.ndarray, " g"]:
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
        return shares / shares.sum()

    def _base(self) -> slice:
        """Where the base rate's log-weights stand among the features: behind the Bayes posterior's."""
        first = (1 + self.features.base) * self.experts
        return slice(first, first + self.experts)

    def _weights_of(self, features: Float32[np.ndarray, "... f"]) -> Float32[np.ndarray, "... k"]:
        if self.network_ is None:
            raise NotFittedError(self, "log_weights")
        with torch.inference_mode():
            return self.network_(torch.from_numpy(features), self._base()).numpy()

    def log_weights(self, scores: ExpertScores) -> Float32[np.ndarray, "total k"]:
        """(total, K) log-weights before each token."""
        out = np.empty(scores.log_probs.shape, dtype=np.float32)
        for run, where in scores.parts():
            features = corpus_features(run, self.features)
            if not networks.NETWORKS[self.network].sequential:
                out[where] = self._weights_of(features)
                continue
            here = out[where]
            for block in blocks(run.offsets, tokens=READ_TOKENS):
                block.scatter(self._weights_of(features[block.rows.T]).swapaxes(0, 1), here)
        return out

    def token_log_probs(self, scores: ExpertScores) -> Float32[np.ndarray, " total"]:
        """(total,) log-probability of each token under the gated mixture."""
        return log_mix(self.log_weights(scores), scores.log_probs)

    def start(self, batch: int) -> StreamFeatures:
        """State of `batch` documents without a token."""
        if self.network_ is None:
            raise NotFittedError(self, "start")
        if self.network_.sequential:
            return OrderedStream(batch, self.experts, self.features, self.network_.start(batch))
        return StreamFeatures(batch, self.experts, self.features)

    def next_log_weights(self, state: StreamFeatures, statistics: Any) -> Float[np.ndarray, "b k"]:
        """(B, K) log-weights before the next token."""
        if self.network_ is None:
            raise NotFittedError(self, "next_log_weights")
        if isinstance(state, OrderedStream):
            return self._in_order(state)
        if self._by_hand is None:
            self._by_hand = networks.RowsByHand(self.network_, self._base())
        return self._by_hand(state.read(statistics))

    def _in_order(self, state: OrderedStream) -> Float32[np.ndarray, "b k"]:
        """One step of a network with a memory; what the memory becomes waits in the state for `advance`."""
        if self.network_ is None:
            raise NotFittedError(self, "next_log_weights")
        none = np.zeros((*state.likelihood.shape, STATISTICS), dtype=np.float16)  # these networks do not read them
        with torch.inference_mode():
            weights, state.coming = self.network_.step(torch.from_numpy(state.read(none)), state.memory, self._base())
        return weights.numpy()

    def advance(self, state: StreamFeatures, log_probs: Any) -> StreamFeatures:
        """Take in a token; changes and returns the state."""
        if isinstance(state, OrderedStream):
            if state.coming is None:
                self._in_order(state)
            state.memory, state.coming = state.coming, None
        state.push(log_probs)
        return state

    def describe(self) -> dict[str, Any]:
        """Plain settings; the weights are saved by `save`."""
        return {
            "kind": "causal",
            "format": FORMAT,
            "experts": self.experts,
            "network": self.network,
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
            gate = cls(network=data.get("network", "mlp"), hidden=data["hidden"], features=settings)
            gate.experts = data["experts"]
            network = networks.make(gate.network, settings.width(gate.experts), gate.experts, gate.hidden)
        except (KeyError, TypeError, ValueError, InvalidInputError) as problem:
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
