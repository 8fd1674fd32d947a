"""The whole job: domains and frozen experts in, a composed model with its baselines, evidence and certificates out.

Every stage is kept in the run folder, so that a killed run goes on where it was and ends with the same numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.certificates import refuse_reuse
from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating._causal_gate import CausalGate
from corollary.gating._composed import ComposedLM
from corollary.gating._mixing import document_bits, mixture_bits
from corollary.gating._prefix_gates import (
    DEFAULT_RATES,
    BayesGate,
    FixedShareGate,
    PrefixGate,
    StaticGate,
    gate_log_probs,
)
from corollary.gating._robust_stage import robust_stage
from corollary.gating._scores import ExpertScores, score_experts
from corollary.models._speakers import speaker_of, text_bytes
from corollary.runs import RunFolder, write_tensors

MIXED_SHARE = 0.3  # of the gate's training weight, on documents that change domain; without it the gate loses on those
LEAST_SHARE = 0.5  # of each domain's even share that it keeps whatever the least favourable mixture says

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Settings:
    """What a composition depends on, beside its data.

    Args:
        order: of the n-gram experts, where they are trained here.
        eps: mass of the safe part on the experts.
        steps: training steps of the causal gate.
        robust_steps: steps of the robust whole-sequence gate.
        delta: probability that a statistical statement fails.
        seed: of everything random.
        device: where the causal gate is trained.
        longest: tokens at which certification documents are cut, and largest number of bytes of one: statistical
            statements need a bound fixed beforehand. Cut texts there before an expert's tokenizer encodes them.
        top: experts used per token; None for all (see `ComposedLM`).
        mixture: rows (A, b) of constraints A lambda <= b on the mixtures of the domains that can occur; None for all.
        against: baselines that the certified gain is stated for, named before certification documents are scored; those
            that a run does not have are left out.

    Guarantee: none; what each setting changes stands where it is used.

    Example:
        >>> Settings().eps
        0.05
    """

    order: int = 6
    eps: float = 0.05
    steps: int = 800
    robust_steps: int = 400
    delta: float = 0.05
    seed: int = 0
    top: int | None = None
    device: str = "cpu"
    longest: int = 2000
    mixture: tuple[Any, Any] | None = None
    against: tuple[str, ...] = ("fixed share", "pooled")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Bits of every held-out document under every method.

    Args:
        methods: names of the columns; the composed model first, then its other components, then the baselines.
        groups: names of the groups of documents: the domains, then the mixed sets.
        bits: (N, M) bits in all of each document under each method.
        size: (N,) bytes of their texts.
        group: (N,) index of each document's group.
        rows: (N,) content hashes.

    Guarantee: none; it is a table.

    Example:
        >>> bits, size, group = np.array([[8.0, 16.0], [4.0, 2.0]]), np.array([4, 2]), np.array([0, 1])
        >>> table = Evaluation(("composed", "uniform"), ("words", "sums"), bits, size, group, np.arange(2))
        >>> table.per_byte()["uniform"]
        {'words': 4.0, 'sums': 1.0}
    """

    methods: tuple[str, ...]
    groups: tuple[str, ...]
    bits: Float[np.ndarray, "n m"]
    size: np.ndarray
    group: np.ndarray
    rows: np.ndarray

    def column(self, method: str) -> Float[np.ndarray, " n"]:
        """(N,) bits under one method."""
        return self.bits[:, self.methods.index(method)]

    def per_byte(self) -> dict[str, dict[str, float]]:
        """Bits per byte of every method on every group."""
        return {
            method: {
                name: float(self.bits[self.group == g, m].sum() / self.size[self.group == g].sum())
                for g, name in enumerate(self.groups)
            }
            for m, method in enumerate(self.methods)
        }

    def mixtures(self, domains: int, *, count: int, seed: int) -> Float[np.ndarray, "count m"]:
        """(count, M) bits per byte under random mixtures of the domains (documents are mixed, not bytes)."""
        weights = np.random.default_rng(seed).dirichlet(np.ones(domains), size=count)
        bits = np.stack([self.bits[self.group == g].mean(0) for g in range(domains)])
        size = np.array([self.size[self.group == g].mean() for g in range(domains)])
        return (weights @ bits) / (weights @ size)[:, None]


@dataclass(frozen=True, eq=False)
class Composition:
    """What `compose` gives back: the model, its baselines, the robust gate's path, and the held-out evaluation.

    Guarantee: none of its own; `issue` certifies it.

    Example:
        See `compose`.
    """

    model: ComposedLM
    baselines: Mapping[str, Any]
    robust: Mapping[str, np.ndarray]
    evaluation: Evaluation
    documents: Documents


def train_experts(
    run: RunFolder, domains: Mapping[str, Any], *, order: int, pooled: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """One n-gram expert a domain, and two models of the pooled text: as large as one expert, and as all together.

    Args:
        run: the open run folder; what it holds already is read, not trained again.
        domains: name -> `Domain`, of which the split `train` is used.
        order: longest n-gram.
        pooled: whether to train the models of the pooled text, too.

    Returns:
        (name -> expert, name -> pooled model).

    Guarantee: see `NgramModel`.

    Example:
        See `compose`.
    """
    from corollary.models import NgramModel, load

    def keep(name: str, documents: Callable[[], Documents]) -> Any:
        return run.once(name, lambda folder: NgramModel.fit(documents(), order=order).save(folder), load)

    experts = {n: keep(f"model/experts/{n}", lambda d=d: d.train) for n, d in domains.items()}
    if not pooled:
        return experts, {}
    share = len(domains)

    def equal_size() -> Documents:
        return Documents.concatenate([d.train.select(np.arange(len(d.train)) % share == 0) for d in domains.values()])

    everything = keep("baselines/pooled", lambda: Documents.concatenate([d.train for d in domains.values()]))
    return experts, {"pooled": everything, "pooled, equal size": keep("baselines/pooled-equal-size", equal_size)}


def compose(
    run: RunFolder,
    domains: Mapping[str, Any],
    experts: Mapping[str, Any],
    *,
    pooled: Mapping[str, Any] | None = None,
    mixed: Mapping[str, Mapping[str, Any]] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Composition:
    """Fit the gates on the `gate` split, compose, and score every held-out document under every method.

    Args:
        run: the open run folder.
        domains: name -> `Domain`; each name must be that of an expert.
        experts: name -> language model, frozen.
        pooled: name -> language model of pooled text, as baselines; the one named `pooled` also becomes an anchor.
        mixed: kind -> {"gate": documents, "certify": documents} whose domain changes inside the document; optionally
            with "labels", the domain of each token of the latter, for the report.
        settings: what to do.
        progress: called with (what is being done, share done).

    Returns:
        The composition.

    Raises:
        InvalidInputError: for a domain without an expert or without documents.
        ReusedRowsError: where a certification document was used to train or to fit the gate.

    Guarantee: the model's, see `ComposedLM`; the same settings and documents give the same numbers, also after a kill.

    Example:
        >>> import tempfile
        >>> from corollary.datasets import Domain
        >>> from corollary.gating import issue, metrics
        >>> def domain(name, texts):
        ...     documents = Documents.from_texts(texts)
        ...     return Domain(name, *(documents.select(np.arange(len(documents)) % 4 == i) for i in range(4)))
        >>> sums = domain("sums", [f"{a} + {b} = {a + b}" for a in range(12) for b in range(12)])
        >>> words = domain("words", [f"{a} or {b}" for a in ("to be", "up", "in", "yes") for b in "abcdefghijklmnop"])
        >>> domains = {"sums": sums, "words": words}
        >>> with RunFolder(Path(tempfile.mkdtemp()) / "run", {"verb": "example"}) as run:
        ...     experts, pooled = train_experts(run, domains, order=3)
        ...     composition = compose(run, domains, experts, pooled=pooled, settings=Settings(steps=5, robust_steps=5))
        ...     certificate = issue(run, composition, Settings(), {})
        >>> certificate.parts[0].claims[0].holds
        True
        >>> list(metrics(composition, certificate, seed=0)["own_expert"])
        ['sums', 'words']
    """
    settings, mixed, pooled = settings or Settings(), dict(mixed or {}), dict(pooled or {})
    tell: Progress = progress or (lambda what, share: None)
    _check(domains, experts)
    names, p = list(domains), len(experts)
    _refuse_leaks(domains, mixed)

    tell("scoring the gate's documents", 0.0)
    groups = {n: score_experts(list(experts.values()), d.gate) for n, d in domains.items()}
    groups |= {
        kind: score_experts(list(experts.values()), splits["gate"])
        for kind, splits in mixed.items()
        if "gate" in splits
    }

    tell("robust gate", 0.0)
    robust = run.stage(
        "robust", lambda: robust_stage([groups[n] for n in names], list(experts.values()), settings, tell)
    )

    def fit(folder: Path) -> None:
        gate = CausalGate(steps=settings.steps, seed=settings.seed, device=settings.device)
        weights = _group_weights(robust["mixture"], len(groups) - len(names))
        gate.fit(list(groups.values()), weights=weights, progress=lambda i, n, _: tell("causal gate", i / n)).save(
            folder
        )
        write_tensors(folder / "history.safetensors", {"loss": np.array(gate.loss_history_)})

    gate = run.once("model/gate", fit, CausalGate.load)
    anchors: dict[str, Any] = {"fixed share": FixedShareGate(p)}
    if "pooled" in pooled:
        anchors["pooled"] = pooled["pooled"]
    model = ComposedLM(experts, gate, eps=settings.eps, anchors=anchors, top=settings.top)
    model.save(run.inside("model"))

    baselines: dict[str, Any] = {
        "uniform": StaticGate((1 / p,) * p),
        "static, robust": StaticGate(tuple(robust["static"].tolist())),
        "Bayes posterior": BayesGate(p),
        "fixed share, many rates": FixedShareGate(p, DEFAULT_RATES),
        **{name: m for name, m in pooled.items() if name not in anchors},
    }
    held_out = {n: d.certify.truncate(settings.longest) for n, d in domains.items()}
    held_out |= {kind: splits["certify"] for kind, splits in mixed.items() if "certify" in splits}
    run.stage("trust", lambda: _trust(model, mixed, names))
    tensors = run.stage("evaluation", lambda: _evaluate(model, baselines, held_out, tell))
    documents = Documents.concatenate(list(held_out.values()))
    if not run.inside("data/certify.safetensors").exists():
        stored = {"tokens": documents.tokens, "offsets": documents.offsets, "group": tensors["group"]}
        write_tensors(run.inside("data/certify.safetensors"), stored | {"domains": np.array(len(names))})
    methods = ("composed", *model.components, *baselines)
    evaluation = Evaluation(methods, tuple(held_out), **{k: tensors[k] for k in ("bits", "size", "group", "rows")})
    return Composition(model, baselines, robust, evaluation, documents)


def _check(domains: Mapping[str, Any], experts: Mapping[str, Any]) -> None:
    if not domains:
        raise InvalidInputError("no domain was given; give text for one domain at least")
    if lacking := [n for n in domains if n not in experts]:
        raise InvalidInputError(f"domain `{lacking[0]}` has no expert of that name; name experts and domains alike")
    for name, domain in domains.items():
        for split in ("gate", "certify"):
            if not len(getattr(domain, split).tokens):
                raise InvalidInputError(f"domain `{name}` has no text in its `{split}` split; give it more documents")


def _refuse_leaks(domains: Mapping[str, Any], mixed: Mapping[str, Mapping[str, Documents]]) -> None:
    """Certification rows must be new to the experts, to the gate, and to whatever was chosen."""
    splits = {s: [getattr(d, s) for d in domains.values()] for s in ("train", "gate", "validation", "certify")}
    splits["gate"] += [m["gate"] for m in mixed.values() if "gate" in m]
    hashes = {name: np.concatenate([d.row_hashes() for d in parts]) for name, parts in splits.items()}
    refuse_reuse(hashes["certify"], training=hashes["train"], fitting=hashes["gate"], choosing=hashes["validation"])


def _group_weights(mixture: np.ndarray, mixed: int) -> np.ndarray:
    """Domains by the least favourable mixture, none below half its even share; documents that change domain 30 %."""
    even = np.full(len(mixture), 1 / len(mixture))
    domains = LEAST_SHARE * even + (1 - LEAST_SHARE) * mixture
    share = MIXED_SHARE if mixed else 0.0
    return np.concatenate([(1 - share) * domains, np.full(mixed, share / max(mixed, 1))])


def _trust(model: ComposedLM, mixed: Mapping[str, Mapping[str, Any]], names: list[str]) -> dict[str, np.ndarray]:
    """The gate's weights byte by byte on one held-out document that changes domain, for the report."""
    splits = next((s for s in mixed.values() if len(s.get("certify", ()))), None)
    if splits is None:
        return {"tokens": np.zeros(0, np.uint8), "weights": np.zeros((0, len(model.experts)), np.float32)}
    shown = splits["certify"]
    chosen = int(np.argmin(np.abs(shown.lengths - np.median(shown.lengths))))
    document = shown.select([chosen])
    scores = model.score(document).select(range(len(model.experts)))
    found = {"tokens": document.tokens, "weights": np.exp(model.gate.log_weights(scores)).astype(np.float32)}
    speaker = speaker_of(model)
    if speaker is not None:  # shown byte by byte, each with the weight of its token
        pieces = [
            np.frombuffer(speaker.decode(document.tokens[i : i + 1]).encode(), np.uint8)
            for i in range(len(document.tokens))
        ]
        found = {"tokens": np.concatenate(pieces), "weights": found["weights"].repeat(list(map(len, pieces)), axis=0)}
    if "labels" in splits:
        found["label"] = splits["labels"][shown.offsets[chosen] : shown.offsets[chosen + 1]].astype(np.int8)
    return found


def _evaluate(
    model: ComposedLM, baselines: Mapping[str, Any], held_out: Mapping[str, Documents], tell: Progress
) -> dict[str, np.ndarray]:
    bits, p = [], len(model.experts)
    for i, (name, documents) in enumerate(held_out.items()):
        tell(f"scoring {name}", i / len(held_out))
        scores = model.score(documents)
        components = document_bits(model.component_log_probs(scores), scores.offsets)
        composed = mixture_bits(components, model.prior)
        own = scores.select(range(p))
        columns = [baseline_bits(b, own, documents) for b in baselines.values()]
        bits.append(np.concatenate([composed, components, np.stack(columns, axis=1)], axis=1))
    return {
        "bits": np.concatenate(bits),
        "size": np.concatenate([text_bytes(model, d) for d in held_out.values()]),
        "group": np.repeat(np.arange(len(held_out)), [len(d) for d in held_out.values()]),
        "rows": np.concatenate([d.row_hashes() for d in held_out.values()]),
    }


def baseline_bits(baseline: Any, scores: ExpertScores, documents: Documents) -> Float[np.ndarray, " n"]:
    """(N,) bits of each document under an untrained gate over the experts, or under a language model."""
    is_gate = isinstance(baseline, PrefixGate)
    log_probs = gate_log_probs(baseline, scores) if is_gate else baseline.log_probs(documents)
    return document_bits(log_probs[:, None], documents.offsets)[:, 0]
