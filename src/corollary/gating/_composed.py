r"""Experts and a gate as one language model, with a sequence-level guarantee against every expert.

\(\pi(x) = (1 - \epsilon') \, \pi_{gate}(x) + \frac{\epsilon}{p} \sum_{k=1}^{p} q_k(x) + \frac{\epsilon}{p} \sum_{a}
\pi_a(x)\): the causal gate, each of the p experts, and each anchor (a named baseline that the statement should cover
too), mixed at SEQUENCE level and run causally by prefix posteriors. Hence on EVERY document \(-\log \pi(x) \le -\log
q_k(x) + \log(p/\epsilon)\) for all k, and the same for anchors.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Integer

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.gating._mixing import SINGLE, mix_rows, truncate_weights
from corollary.gating._prefix_gates import (
    PrefixGate,
    gate_from_description,
    gate_log_probs,
    log_mix,
    sequence_mixture,
)
from corollary.gating._scores import STATISTICS, ExpertScores, context_statistics, score_experts
from corollary.models import register_loader
from corollary.models._speakers import check_vocabularies, speaker_of
from corollary.runs import read_json, write_json

FORMAT = 1
GATE = "gate"


class ComposedLM:
    r"""Frozen experts, a causal gate, and the safe mixture around them: a `LanguageModel`.

    .. math:: \pi = (1 - \epsilon (p + a) / p) \, \pi_{gate} + (\epsilon / p) (\textstyle\sum_k q_k + \sum_a \pi_a)

    Args:
        experts: name -> language model; all over the same tokens.
        gate: weights over the experts (a learned `CausalGate`, or one of the untrained ones).
        eps: mass of the safe part on the experts; 0.05 costs at most 0.07 bits a document. 0 switches it off, and the
            guarantee with it.
        anchors: name -> an untrained gate over the experts, or a further language model, that the guarantee should
            cover too.
        top: use only the `top` likeliest experts before each token, renormalised: cheaper where experts are dear, but
            it replaces the safe mixture, so the guarantee is void.

    Raises:
        InvalidInputError: where experts or anchors disagree on vocabulary or tokenizer, the gate on their number, or
            eps leaves [0, 1).

    Guarantee: every next-token distribution is normalised wherever the experts' are (to float32 rounding where all
        experts are float32 networks); with eps > 0 and no `top`, on EVERY document at most \(\log_2(p/\epsilon)\) bits
        in all above the best expert and above every anchor (deterministic, chain rule).

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel, sample
        >>> from corollary.gating import BayesGate, ComposedLM
        >>> docs = Documents.from_texts(["one two one", "1 + 1 = 2"])
        >>> experts = {"words": NgramModel.fit(docs.select([0])), "sums": NgramModel.fit(docs.select([1]))}
        >>> model = ComposedLM(experts, BayesGate(2))
        >>> sample(model, 1, max_tokens=4, seed=0, prompt=b"1 + ", temperature=0)[0]
        b'1 = '

    Reference: safe mixture and prefix posteriors are ours (chain rule); the gate is arXiv:2602.17554's, reconstructed.
    """

    def __init__(
        self,
        experts: Mapping[str, Any],
        gate: PrefixGate,
        *,
        eps: float = 0.05,
        anchors: Mapping[str, Any] | None = None,
        top: int | None = None,
    ) -> None:
        self.experts, self.anchors = dict(experts), dict(anchors or {})
        self.gate, self.eps, self.top = gate, float(eps), top
        p = len(self.experts)
        if p == 0:
            raise InvalidInputError("no expert was given; give at least one language model")
        self.vocab_size: int = check_vocabularies({**self.experts, **self._models()})
        if gate.experts != p:
            raise InvalidInputError(f"the gate weighs {gate.experts} experts, {p} were given; fit it on these")
        if not self.eps >= 0 or not self.eps * (p + len(self.anchors)) / p < 1:
            raise InvalidInputError(
                f"`eps` must leave mass for the gate, got {eps} with {p} experts and {len(self.anchors)} anchors"
            )
        if top is not None and not 1 <= top <= p:
            raise InvalidInputError(f"`top` must lie between 1 and {p}, got {top}")

    def _models(self) -> dict[str, Any]:
        """Anchors that are language models of their own, not gates over the experts."""
        return {name: a for name, a in self.anchors.items() if not hasattr(a, "log_weights")}

    @property
    def _voices(self) -> list[Any]:
        """Every language model in it: the experts, then the anchors that are models."""
        return [*self.experts.values(), *self._models().values()]

    @property
    def components(self) -> tuple[str, ...]:
        """Names of what is mixed at sequence level: the gate, the experts, the anchors."""
        return (GATE, *self.experts, *self.anchors)

    @cached_property
    def _log_prior(self) -> Float64[np.ndarray, " j"]:
        with np.errstate(divide="ignore"):
            return np.log(self.prior)

    @property
    def prior(self) -> Float64[np.ndarray, " j"]:
        """(1 + p + a,) mass of each component."""
        p, safe = len(self.experts), len(self.experts) + len(self.anchors)
        share = 0.0 if self.top is not None else self.eps / p
        return np.concatenate([[1 - share * safe], np.full(safe, share)])

    @property
    def excess_bits(self) -> float:
        """log2(p / eps): how far any document can lie above the best expert; infinite where the guarantee is void."""
        share = self.prior[1] if len(self.prior) > 1 else 0.0
        return float(np.log2(1 / share)) if share > 0 else float("inf")

    def score(self, documents: Documents) -> ExpertScores:
        """What the experts, and after them the anchor models, say of every token."""
        return score_experts(self._voices, documents)

    def component_log_probs(self, scores: ExpertScores) -> Float[np.ndarray, "total j"]:
        """(total, 1 + p + a) log-probability of every token under each component, from `score`."""
        p = len(self.experts)
        own = scores.select(range(p))
        extra = {name: scores.log_probs[:, p + i] for i, name in enumerate(self._models())}
        gate = self._truncated(own) if self.top is not None else gate_log_probs(self.gate, own)
        columns = [gate, *own.log_probs.T]
        columns += [extra[name] if name in extra else gate_log_probs(a, own) for name, a in self.anchors.items()]
        return np.stack(columns, axis=1).astype(np.float64)

    def _truncated(self, scores: ExpertScores) -> Float[np.ndarray, " total"]:
        weights = truncate_weights(self.gate.log_weights(scores), self.top or scores.experts)
        return log_mix(weights, scores.log_probs)

    def log_probs(self, documents: Documents) -> Float32[np.ndarray, " total"]:
        """(total,) natural-log probability of every token given the earlier ones of its document."""
        if not len(documents.tokens):
            return np.zeros(0, dtype=np.float32)
        scores = self.score(documents)
        return sequence_mixture(self.component_log_probs(scores), scores.offsets, self.prior).astype(np.float32)

    def start(self, batch: int) -> dict[str, Any]:
        """State of `batch` documents without a token."""
        return {
            "models": [m.start(batch) for m in self._voices],
            "gates": {name: g.start(batch) for name, g in self._gates().items()},
            "past": np.zeros((batch, len(self.components))),
            "read": np.zeros(batch, dtype=np.int64),  # tokens of each document
        }

    def _gates(self) -> dict[str, PrefixGate]:
        return {GATE: self.gate, **{n: a for n, a in self.anchors.items() if hasattr(a, "log_weights")}}

    def _heard(self, state: dict[str, Any]) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        """(B, V) log-probabilities of each model, and (B, p) log-weights of each gate, before the next token."""
        said = [m.next_log_probs(s) for m, s in zip(self._voices, state["models"], strict=True)]
        p = len(self.experts)
        statistics = np.zeros((len(said[0]), p, STATISTICS), dtype=np.float16)
        for k, model in enumerate(self.experts.values()):
            if hasattr(model, "next_statistics"):
                statistics[:, k] = context_statistics(*model.next_statistics(state["models"][k]))
        weights = {n: g.next_log_weights(state["gates"][n], statistics) for n, g in self._gates().items()}
        if self.top is not None:
            weights[GATE] = truncate_weights(weights[GATE], self.top)
        return said, weights

    def _of_components(self, said: np.ndarray, weights: dict[str, np.ndarray]) -> Float[np.ndarray, "b j"]:
        """(B, J) log-probability of a token under each component, from (B, M) those under the models."""
        p, extra = len(self.experts), list(self._models())
        parts = [log_mix(weights[GATE], said[:, :p]), *said[:, :p].T]
        for name in self.anchors:
            mixed = said[:, p + extra.index(name)] if name in extra else log_mix(weights[name], said[:, :p])
            parts.append(mixed)
        return np.stack(parts, axis=1)

    def _of_models(self, past: np.ndarray, weights: dict[str, np.ndarray]) -> Float[np.ndarray, "b m"]:
        """(B, M) log-weight of each model in the whole: gates over the experts are expanded, then all are added."""
        joint = past + self._log_prior
        posterior, p = joint - log_mix(joint, 0.0)[:, None], len(self.experts)
        gated = [posterior[:, :1] + weights[GATE], posterior[:, 1 : 1 + p]]
        alone = []
        for j, name in enumerate(self.anchors, start=1 + p):
            if name in weights:
                gated.append(posterior[:, j, None] + weights[name])
            else:
                alone.append(posterior[:, j, None])
        return np.concatenate([log_mix(np.stack(gated), 0.0, axis=0), *alone], axis=1)

    def next_log_probs(self, state: dict[str, Any]) -> Float[np.ndarray, "b vocab"]:
        """(B, V) natural-log probabilities of the next token; to float32 rounding where all experts are float32."""
        said, weights = self._heard(state)
        state["next"] = (said, weights)  # the same forward pass serves `advance`
        single = all(str(getattr(m, "dtype", None)) in SINGLE for m in self._voices)
        return mix_rows(self._of_models(state["past"], weights), said, single=single)

    def next_trust(self, state: dict[str, Any]) -> Float[np.ndarray, "b p"]:
        """(B, p) weight of each expert in the gate before the next token: whom the model listens to."""
        return np.exp(self._heard(state)[1][GATE])

    def advance(self, state: dict[str, Any], tokens: Integer[np.ndarray, " b"]) -> dict[str, Any]:
        """The state after one more token of each document; changes and returns the given state."""
        said, weights = state.pop("next") if "next" in state else self._heard(state)
        tokens = np.asarray(tokens, dtype=np.int64)
        rows, p = np.arange(len(tokens)), len(self.experts)
        heard = np.stack([q[rows, tokens] for q in said], axis=1)
        state["past"] = state["past"] + self._of_components(heard, weights)
        state["read"] = state["read"] + 1
        state["gates"] = {n: g.advance(state["gates"][n], heard[:, :p]) for n, g in self._gates().items()}
        state["models"] = [m.advance(s, tokens) for m, s in zip(self._voices, state["models"], strict=True)]
        return state

    def extend(self, state: dict[str, Any], tokens: Integer[np.ndarray, "b t"]) -> dict[str, Any]:
        """The state after several more tokens of each document; from the start, every model reads them at once."""
        from corollary.models import extend

        if state["read"].any() or any(not hasattr(m, "extend") for m in self._voices):
            for token in tokens.T:
                state = self.advance(state, token)
            return state
        bytes_ = self.vocab_size <= 256 and speaker_of(self) is None
        documents = Documents.from_sequences(list(tokens), dtype=np.uint8 if bytes_ else np.int32)
        scores, p = self.score(documents), len(self.experts)
        state["past"] = documents.sums(self.component_log_probs(scores))
        heard = scores.log_probs.reshape(*tokens.shape, -1)[:, :, :p]
        for t in range(tokens.shape[1]):
            state["gates"] = {n: g.advance(state["gates"][n], heard[:, t]) for n, g in self._gates().items()}
        state["models"] = [extend(m, s, tokens) for m, s in zip(self._voices, state["models"], strict=True)]
        state["read"] = state["read"] + tokens.shape[1]
        state.pop("next", None)
        return state

    def generate(
        self,
        prompt: bytes = b"",
        *,
        max_tokens: int = 200,
        seed: int = 0,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> bytes:
        """Continue a prompt; `corollary.models.sample` explains the options, `corollary.models.generate` streams."""
        from corollary.models import sample

        drawn = sample(self, 1, max_tokens=max_tokens, seed=seed, prompt=prompt, temperature=temperature, top_p=top_p)
        return drawn[0]

    def fingerprint(self) -> str:
        """SHA-256 of the parts' fingerprints and of how they are mixed."""
        import hashlib
        import json

        from corollary.certificates import digest

        body = {
            "experts": {n: m.fingerprint() for n, m in self.experts.items()},
            "anchors": {
                n: a.describe() if hasattr(a, "describe") else a.fingerprint() for n, a in self.anchors.items()
            },
            "gate": self.gate.describe(),
            "eps": self.eps,
            "top": self.top,
        }
        network = getattr(self.gate, "network_", None)
        if network is not None:
            body["weights"] = digest(**{k: v.numpy() for k, v in network.state_dict().items()})
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write experts, anchors and gate to one folder, `model.json` last."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name, model in self.experts.items():
            model.save(_inside(target, f"experts/{name}"))
        for name, model in self._models().items():
            model.save(_inside(target, f"anchors/{name}"))
        learned = hasattr(self.gate, "network_")
        if learned:
            self.gate.save(target / GATE)  # type: ignore[attr-defined]
        gates = {n: a.describe() for n, a in self.anchors.items() if n not in self._models()}
        header = {
            "kind": "composed",
            "format": FORMAT,
            "experts": list(self.experts),
            "anchors": {n: gates.get(n) for n in self.anchors},
            "gate": None if learned else self.gate.describe(),
            "eps": self.eps,
            "top": self.top,
            "fingerprint": self.fingerprint(),
        }
        write_json(target / "model.json", header)

    save_pretrained = save

    @classmethod
    def load(cls, folder: str | Path) -> "ComposedLM":
        """Read what `save` wrote, parts first, and check that nothing changed since."""
        from corollary.gating._causal_gate import CausalGate
        from corollary.models import load

        source = Path(folder)
        data = read_json(source / "model.json")
        try:
            if data["kind"] != "composed" or data["format"] != FORMAT:
                raise ValueError(f"kind {data['kind']!r}, format {data['format']!r}")
            experts = {name: load(_inside(source, f"experts/{name}")) for name in data["experts"]}
            anchors = {
                name: gate_from_description(told) if told else load(_inside(source, f"anchors/{name}"))
                for name, told in data["anchors"].items()
            }
            gate = gate_from_description(data["gate"]) if data["gate"] else CausalGate.load(source / GATE)
            model = cls(experts, gate, eps=data["eps"], anchors=anchors, top=data["top"])
        except InvalidFileError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise InvalidFileError(
                source / "model.json", f"not a composed model ({problem})", "compose it again"
            ) from None
        if model.fingerprint() != data.get("fingerprint"):
            raise InvalidFileError(source / "model.json", "parts changed since it was saved", "compose it again")
        return model

    from_pretrained = load


def _inside(folder: Path, name: str) -> Path:
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise InvalidInputError(f"the name {name!r} would leave the model's folder; use a plain name")
    return target


register_loader("composed", lambda folder, header: ComposedLM.load(folder))
