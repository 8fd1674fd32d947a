r"""One expert at a time: a gate that reads the prefix through cheap guides names it, the others catch up when called.

\(k_t = \arg\max_k \log w_{t,k} + s \, [k = k_{t-1}]\), \(\pi(x_t | x_{<t}) = q_{k_t}(x_t | x_{<t})\): weights w of any
untrained or learned gate over guides \(h_k\) (small n-grams, say), s nats that another expert must be ahead to take
over. An expert that was not chosen keeps the tokens it missed and reads them in one pass when it is.

Derived; the truncation of section 6 of our notes on arXiv:2602.17554, with experts that do not run at all.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Integer

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating._prefix_gates import FixedShareGate, PrefixGate, gate_from_description
from corollary.gating._scores import STATISTICS, blocks, context_statistics, score_experts
from corollary.models import extend, load, register_loader, select_rows
from corollary.models._speakers import check_vocabularies, parts_of
from corollary.runs import read_json, write_json


class RoutedState(dict[str, Any]):
    """A stream of `RoutedLM`: the gate, the guides, and for each document its experts with what they missed."""

    frozen: tuple[Any, ...] = ()  # models that states may point to: never copied with them

    def select_rows(self, rows: Integer[np.ndarray, " m"]) -> "RoutedState":
        """The documents at these rows; where one is wanted twice the states of its experts are copied."""
        shared = {id(model): model for model in self.frozen}

        def chosen(kept: list[Any]) -> list[Any]:
            return [deepcopy(kept[i], dict(shared)) if i in rows[:j] else kept[i] for j, i in enumerate(rows)]

        own = {name: chosen(self[name]) for name in ("experts", "missed")}
        state = RoutedState({name: own[name] if name in own else select_rows(self[name], rows) for name in self})
        state.frozen = self.frozen
        return state


class RoutedLM:
    """Experts of which one runs for each token, chosen by a gate over guides: a `LanguageModel`.

    Args:
        experts: name -> language model; all over the same tokens.
        guides: name -> cheap language model over the same tokens, by the same names.
        gate: weights over the guides; fixed share at rate 0.005 by default.
        stay: nats of log-weight by which another expert must lead before it takes over.

    Raises:
        InvalidInputError: where experts, guides and gate do not fit, or read with different tokenizers.

    Guarantee: normalised wherever the experts are. No bound on its loss: a document whose guides mislead is scored by
        the wrong expert. Where the bound matters use `ComposedLM`, which runs all of them.

    Example:
        >>> from corollary.models import NgramModel, sample
        >>> docs = Documents.from_texts(["one two one two", "1 + 1 = 2"])
        >>> experts = {n: NgramModel.fit(docs.select([i]), order=5) for i, n in enumerate(("words", "sums"))}
        >>> guides = {n: NgramModel.fit(docs.select([i]), order=2) for i, n in enumerate(("words", "sums"))}
        >>> model = RoutedLM(experts, guides)
        >>> sample(model, 1, max_tokens=4, seed=0, prompt=b"1 + ", temperature=0)[0]
        b'1 = '

    Reference: derived.
    """

    def __init__(
        self,
        experts: Mapping[str, Any],
        guides: Mapping[str, Any],
        gate: PrefixGate | None = None,
        *,
        stay: float = 2.0,
    ) -> None:
        self.experts, self.guides, self.stay = dict(experts), dict(guides), float(stay)
        if not self.experts or list(self.experts) != list(self.guides):
            raise InvalidInputError(
                f"experts and guides need the same names in the same order, got {list(self.experts)} and"
                f" {list(self.guides)}"
            )
        guided = {f"guide {name}": g for name, g in self.guides.items()}
        self.vocab_size: int = check_vocabularies({**self.experts, **guided})
        if not self.stay >= 0:
            raise InvalidInputError(f"`stay` must not be negative, got {stay}")
        self.gate = gate if gate is not None else FixedShareGate(len(self.experts))
        if self.gate.experts != len(self.experts):
            raise InvalidInputError(f"the gate weighs {self.gate.experts} guides, {len(self.experts)} were given")

    def choices(self, documents: Documents) -> Int[np.ndarray, " total"]:
        """(total,) the expert that scores each token, known before it."""
        scores = score_experts(list(self.guides.values()), documents)
        log_weights = self.gate.log_weights(scores)
        out = np.zeros(len(log_weights), dtype=np.int64)
        for block in blocks(scores.offsets):
            path, chosen = np.empty(block.rows.shape, dtype=np.int64), None
            for t in range(len(path)):
                chosen = self._choose(log_weights[block.rows[t]], chosen)
                path[t] = chosen
            block.scatter(path, out)
        return out

    def _choose(self, log_weights: Float[np.ndarray, "b k"], present: Any) -> Int[np.ndarray, " b"]:
        """The heaviest, unless it leads the present one by less than `stay`."""
        best, rows = log_weights.argmax(1), np.arange(len(log_weights))
        if present is None:
            return best
        ahead = log_weights[rows, best] - log_weights[rows, present] > self.stay
        return np.where(ahead, best, present)

    def log_probs(self, documents: Documents) -> Float32[np.ndarray, " total"]:
        """(total,) natural-log probability of every token given the earlier ones of its document."""
        if not len(documents.tokens):
            return np.zeros(0, dtype=np.float32)
        said, choices = score_experts(list(self.experts.values()), documents).log_probs, self.choices(documents)
        return said[np.arange(len(choices)), choices]

    def start(self, batch: int) -> RoutedState:
        """State of `batch` documents without a token; experts are kept document by document."""
        p = len(self.experts)
        state = RoutedState(
            gate=self.gate.start(batch),
            guides=[g.start(batch) for g in self.guides.values()],
            experts=[[None] * p for _ in range(batch)],
            missed=[[[] for _ in range(p)] for _ in range(batch)],
            chosen=None,
            switches=np.zeros(batch, dtype=np.int64),
            caught_up=np.zeros(batch, dtype=np.int64),
        )
        state.frozen = tuple(part for model in self.experts.values() for part in parts_of(model))
        return state

    def _listen(self, state: RoutedState) -> None:
        """Choose experts for the next token, once."""
        if "now" in state:
            return
        statistics = None
        if hasattr(self.gate, "network_"):  # the untrained gates do not read them
            statistics = np.zeros((len(state["missed"]), len(self.guides), STATISTICS), dtype=np.float16)
            for k, guide in enumerate(self.guides.values()):
                if hasattr(guide, "next_statistics"):
                    statistics[:, k] = context_statistics(*guide.next_statistics(state["guides"][k]))
        weights = self.gate.next_log_weights(state["gate"], statistics)
        chosen = self._choose(weights, state["chosen"])
        if state["chosen"] is not None:
            state["switches"] = state["switches"] + (chosen != state["chosen"])
        state["now"] = chosen

    def next_log_probs(self, state: RoutedState) -> Float[np.ndarray, "b vocab"]:
        """(B, V) natural-log probabilities of the next token, of the chosen expert of each document."""
        self._listen(state)
        models, out = list(self.experts.values()), np.empty((len(state["now"]), self.vocab_size))
        for row, k in enumerate(state["now"]):
            own, missed = state["experts"][row], state["missed"][row]
            if own[k] is None:
                own[k] = models[k].start(1)
            if missed[k]:
                state["caught_up"][row] += len(missed[k]) - 1
                own[k] = extend(models[k], own[k], np.array(missed[k], dtype=np.int64)[None])
                missed[k] = []
            out[row] = models[k].next_log_probs(own[k])[0]
        return out

    def advance(self, state: RoutedState, tokens: Integer[np.ndarray, " b"]) -> RoutedState:
        """The state after one more token of each document: the guides read it, the experts note it."""
        self._listen(state)
        tokens, rows = np.asarray(tokens, dtype=np.int64), np.arange(len(tokens))
        for row, token in enumerate(tokens.tolist()):
            for missed in state["missed"][row]:
                missed.append(token)
        guides = list(self.guides.values())
        heard = [
            g.token_log_probs(s, tokens) if hasattr(g, "token_log_probs") else g.next_log_probs(s)[rows, tokens]
            for g, s in zip(guides, state["guides"], strict=True)
        ]
        state["gate"] = self.gate.advance(state["gate"], np.stack(heard, axis=1))
        state["guides"] = [g.advance(s, tokens) for g, s in zip(guides, state["guides"], strict=True)]
        state["chosen"] = state.pop("now")
        return state

    def fingerprint(self) -> str:
        """SHA-256 of the parts' fingerprints, the gate with its weights, and `stay`."""
        import hashlib
        import json

        from corollary.certificates import digest

        parts = {n: m.fingerprint() for n, m in self.experts.items()}
        guides = {n: m.fingerprint() for n, m in self.guides.items()}
        body = [parts, guides, self.gate.describe(), self.stay]
        network = getattr(self.gate, "network_", None)
        if network is not None:
            body.append(digest(**{k: v.numpy() for k, v in network.state_dict().items()}))
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write experts, guides and a learned gate to one folder, `model.json` last."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for kind, models in (("experts", self.experts), ("guides", self.guides)):
            for name, model in models.items():
                model.save(target / kind / _plain(name))
        learned = hasattr(self.gate, "network_")
        if learned:
            self.gate.save(target / "gate")  # type: ignore[union-attr]
        header = {
            "kind": "routed", "format": 1, "experts": list(self.experts),
            "gate": None if learned else self.gate.describe(), "stay": self.stay, "fingerprint": self.fingerprint(),
        }  # fmt: skip
        write_json(target / "model.json", header)

    @classmethod
    def load(cls, folder: str | Path) -> "RoutedLM":
        """Read what `save` wrote, and check that nothing changed since."""
        from corollary.errors import InvalidFileError
        from corollary.gating._causal_gate import CausalGate

        source = Path(folder)
        data = read_json(source / "model.json")
        try:
            names = [_plain(name) for name in data["experts"]]
            experts, guides = ({n: load(source / kind / n) for n in names} for kind in ("experts", "guides"))
            gate = gate_from_description(data["gate"]) if data["gate"] else CausalGate.load(source / "gate")
            model = cls(experts, guides, gate, stay=data["stay"])
        except (KeyError, TypeError, AttributeError) as problem:
            raise InvalidFileError(source / "model.json", f"not a routed model ({problem})", "save it again") from None
        if model.fingerprint() != data.get("fingerprint"):
            raise InvalidFileError(source / "model.json", "parts changed since it was saved", "save it again")
        return model


def _plain(name: str) -> str:
    if not name or Path(name).name != name or name in (".", ".."):
        raise InvalidInputError(f"the name {name!r} would leave the model's folder; use a plain name")
    return name


register_loader("routed", lambda folder, header: RoutedLM.load(folder))
