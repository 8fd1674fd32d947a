"""Certificates and figures of a composition, from its held-out evaluation."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from corollary.certificates import (
    Assumption,
    Certificate,
    Reference,
    digest,
    save_certificate,
)
from corollary.gating._certificate import domain_gains
from corollary.gating._compose import Composition, Settings
from corollary.runs import RunFolder, read_json, write_json

MIXTURES = 20  # random mixtures of the domains in the tables
NATURAL = Reference(
    "Cortes, Mohri, Zhong, arXiv:2602.17554 (the gate); the safe mixture is ours",
    "chain rule for a sequence-level mixture",
    "gate reconstructed from abstract and notes; bound derived here",
)
BETTING = Reference(
    "Waudby-Smith and Ramdas (2024), betting; the linear form over mixtures is ours",
    "Ville's inequality, and convexity in the mixture",
    "reconstructed from the published formulas; derived here",
)


def evidence_of(composition: Composition) -> dict[str, np.ndarray]:
    """The arrays from which both certificates follow.

    `bits` covers every held-out document, mixed ones too; `paired_bits`, `bytes`, `domain`, `rows` the domains'
    documents only.
    """
    e, model = composition.evaluation, composition.model
    domains = e.group < _domain_count(composition)
    safe = [e.column("composed"), *(e.column(n) for n in model.components[1:])]
    anchors = [e.column(n) for n in model.anchors]
    return {
        "bits": np.stack(safe, axis=1),
        "paired_bits": np.stack([e.column("composed"), *anchors], axis=1)[domains],
        "bytes": e.size[domains],
        "domain": e.group[domains].astype(np.int64),
        "rows": e.rows[domains],
    }


def _domain_count(composition: Composition) -> int:
    return len(composition.robust["mixture"])


def issue(run: RunFolder, composition: Composition, settings: Settings, provenance: Mapping[str, Any]) -> Certificate:
    """Issue (i) and, for each named baseline, (ii); store them with their evidence; return the whole.

    Args:
        run: the open run folder.
        composition: what `compose` gave.
        settings: as given to `compose`.
        provenance: versions and seeds, for the reader.

    Guarantee: (i) deterministic, by the chain rule; (ii) with probability 1 - delta for each baseline, by betting.

    Example:
        See `compose`, whose example goes on to `issue` and `metrics`.
    """
    evidence, model, e = evidence_of(composition), composition.model, composition.evaluation
    domains = list(e.groups[: _domain_count(composition)])
    pins = {"documents": composition.documents.digest(), "model": model.fingerprint()}
    attempts = _count_attempt(run, digest(rows=evidence["rows"]), settings)
    p, limit = len(model.experts), model.excess_bits
    shared: dict[str, Any] = {"evidence": evidence, "pins": pins, "attempts": attempts, "provenance": provenance}
    whole = Certificate.issue(
        "gating.every_document",
        statement=(
            f"On every one of the {len(e.rows)} held-out documents the composed model needs at most "
            f"log2({p} / {model.eps:g}) = {limit:.3f} bits in all more than the best of the {p} experts, "
            f"and than each of: {', '.join(model.anchors)}. "
            "The same holds for every other document, by construction."
        ),
        witness={"experts": p, "eps": model.eps, "top": model.top, "anchors": list(model.anchors)},
        reference=NATURAL,
        assumptions=[
            Assumption("experts are normalised over the next token", "the bound itself, on every document scored here"),
            Assumption("the model is run as saved, in float32 or wider", "by its SHA-256"),
        ],
        **shared,
    )
    for name in (n for n in settings.against if n in model.anchors):
        witness: dict[str, Any] = {
            "baseline": name,
            "column": 1 + list(model.anchors).index(name),
            "domains": domains,
            "delta": settings.delta,
            "worst": limit,
            "largest": settings.longest,
            "gain": 0.0,
        }
        if np.isfinite(limit):
            witness["gain"] = _gain(witness, evidence)
        whole &= Certificate.issue(
            "gating.every_mixture",
            statement=_statement(name, witness["gain"], domains),
            witness=witness,
            confidence=1 - settings.delta,
            reference=BETTING,
            assumptions=[
                Assumption("each domain's documents are drawn independently from what the domain will bring"),
                Assumption("each document comes from one domain; documents that mix domains inside are not covered"),
                Assumption(
                    f"documents are cut at {settings.longest} tokens, and each still counts as one",
                    "on every document scored here",
                ),
                Assumption(
                    "nothing saw the certification documents before",
                    "row hashes against training, gate and validation splits",
                ),
            ],
            **shared,
        )
    save_certificate(run.path, whole, evidence)
    return whole


def _gain(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> float:
    from corollary.certificates import Undecided

    try:
        return max(0.0, min(domain_gains(witness, evidence).values()))
    except Undecided:
        return 0.0


def _statement(baseline: str, gain: float, domains: list[str]) -> str:
    names = ", ".join(domains)
    if gain <= 0:
        return f"No gain over {baseline} could be certified for every mixture of {names}."
    return (
        f"For every mixture of the domains {names} the composed model gains at least "
        f"{gain:.4f} bits per byte over {baseline}."
    )


def _count_attempt(run: RunFolder, split: str, settings: Settings) -> int:
    """How often statements were drawn from this split; the same settings again count once."""
    path = run.inside("attempts.json")
    seen = read_json(path) if path.exists() else {}
    key, setting = (
        split[:16],
        digest(seed=settings.seed, steps=settings.steps, eps=settings.eps, delta=settings.delta)[:16],
    )
    tried = seen.get(key, [])
    if setting not in tried:
        tried.append(setting)
        write_json(path, seen | {key: tried})
    return len(tried)


def metrics(composition: Composition, certificate: Certificate, *, seed: int) -> dict[str, Any]:
    """The figures of a composition as plain values: what `metrics.json` holds and the report shows.

    Args:
        composition: what `compose` gave.
        certificate: what `issue` gave.
        seed: of the random mixtures.

    Guarantee: none; they are measured, not certified.

    Example:
        See `compose`, whose example goes on to `issue` and `metrics`.
    """
    e, p = composition.evaluation, _domain_count(composition)
    names, table = list(e.groups[:p]), e.per_byte()
    own = {n: table[n][n] for n in names}
    random = e.mixtures(p, count=MIXTURES, seed=seed)
    even = {m: float(v) for m, v in zip(e.methods, _even(composition), strict=True)}
    safe = e.column("composed")[:, None] - np.stack([e.column(n) for n in composition.model.experts], axis=1)
    raw = e.column("gate") - np.min([e.column(n) for n in composition.model.experts], axis=0)
    return {
        "domains": names,
        "groups": {g: int((e.group == i).sum()) for i, g in enumerate(e.groups)},
        "bits_per_byte": table,
        "own_expert": own,
        "worst_domain": {m: max(table[m][n] for n in names) for m in e.methods},
        "even_mixture": even,
        "random_mixtures": {
            m: {"mean": float(random[:, i].mean()), "worst": float(random[:, i].max())} for i, m in enumerate(e.methods)
        },
        "largest_excess_bits": {"composed": float(safe.max(1).max()), "gate alone": float(raw.max())},
        "excess_limit_bits": _plain(composition.model.excess_bits),
        "separable": separable(table, own),
        "least_favourable_mixture": dict(zip(names, composition.robust["mixture"].tolist(), strict=True)),
        "claims": {c.name: _plain(c.lhs) for c in certificate.claims},
        "model": composition.model.fingerprint(),
    }


def separable(table: Mapping[str, Mapping[str, float]], own: Mapping[str, float]) -> dict[str, Any]:
    """Whether the untrained Bayes posterior already finds the domain: how far above the own experts it stays."""
    gap = max(table["Bayes posterior"][n] - own[n] for n in own)
    best = max(table["composed"][n] - table["Bayes posterior"][n] for n in own)
    return {"bayes_above_own_expert": gap, "nearly": bool(gap < 0.02), "bayes_wins": bool(best >= 0)}


def _even(composition: Composition) -> np.ndarray:
    e, p = composition.evaluation, _domain_count(composition)
    bits = np.mean([e.bits[e.group == g].mean(0) for g in range(p)], axis=0)
    return bits / np.mean([e.size[e.group == g].mean() for g in range(p)])


def _plain(value: float) -> float | str:
    return float(value) if np.isfinite(value) else repr(float(value))
