"""Run folders with the files that `compose` leaves, made up: what the tests of the report read."""

import numpy as np

from corollary.certificates import Assumption, Certificate, Reference, save_certificate
from corollary.runs import RunFolder, write_json, write_tensors

DOMAINS = ("code", "prose", "json")
BASELINES = ("uniform", "static, robust", "Bayes posterior", "fixed share, many rates", "pooled, equal size")
ANCHORS = ("fixed share", "pooled")
EPS = 0.05
PER_GROUP = 60


def composed_run(folder, *, domains=DOMAINS, verb="demo", separable=False, seed=0, text=None):
    """A finished run of `verb`: bits drawn at random around plausible figures."""
    rng, p = np.random.default_rng(seed), len(domains)
    methods = ("composed", "gate", *domains, *ANCHORS, *BASELINES)
    groups = (*domains, "splice")
    group = np.repeat(np.arange(len(groups)), PER_GROUP)
    size = rng.integers(300, 900, len(group)).astype(np.int64)
    base = np.array([1.6 + 0.1 * g for g in range(len(groups))])[group]
    above = dict.fromkeys(methods, 0.0) | {"uniform": 0.6, "static, robust": 0.5, "Bayes posterior": 0.05}
    above |= {"fixed share": 0.03, "fixed share, many rates": 0.02, "pooled": 0.12, "pooled, equal size": 0.4}
    noise = rng.normal(0, 0.01, (len(group), len(methods)))
    rate = np.stack([base + above[m] for m in methods], axis=1) + noise
    for k, name in enumerate(domains):
        rate[:, methods.index(name)] += np.where(group == k, 0.04, 1.2)
    bits = rate * size[:, None]
    best = bits[:, 2 : 2 + p].min(1)
    limit = float(np.log2(p / EPS))
    anchors = [methods.index(a) for a in ANCHORS]
    bits[:, 0] = np.minimum(bits[:, 0], np.minimum(best, bits[:, anchors].min(1)) + limit)
    with RunFolder(folder, {"verb": verb, "seed": seed, "data": {"code": "a.txt"}}) as run:
        write_tensors(run.inside("stages/evaluation.safetensors"), {"bits": bits, "size": size, "group": group})
        rows = np.arange(len(group), dtype=np.uint64)
        save_certificate(run.path, *_certificate(methods, domains, bits, size, group, rows))
        metrics = _metrics(methods, domains, groups, bits, size, group, limit)
        metrics["separable"] |= {"nearly": separable, "bayes_wins": False}
        write_json(run.inside("metrics.json"), metrics)
        steps = np.arange(0, 2000, 50)
        history = {
            "history_step": steps,
            "history_primal": 1.1 + np.exp(-steps / 300),
            "history_dual": 1.1 - np.exp(-steps / 200),
        }
        write_tensors(run.inside("stages/robust.safetensors"), {"mixture": np.full(p, 1 / p), **history})
        loss = np.stack([np.arange(800), 1.2 + np.exp(-np.arange(800) / 90) + rng.normal(0, 0.05, 800)], axis=1)
        write_tensors(run.inside("model/gate/history.safetensors"), {"loss": loss})
        raw = np.frombuffer(
            (text or "def f(x):\n    return x + 1\nIt was a dark night — really.\n" * 8).encode(), np.uint8
        )
        label = np.arange(len(raw)) * p // len(raw)
        weights = rng.dirichlet(np.ones(p), len(raw)).astype(np.float32) * 0.3
        weights[np.arange(len(raw)), label] += 0.7
        write_tensors(
            run.inside("stages/trust.safetensors"), {"tokens": raw, "weights": weights, "label": label.astype(np.int8)}
        )
    return run.path


def _certificate(methods, domains, bits, size, group, rows):
    p, limit = len(domains), float(np.log2(len(domains) / EPS))
    inside = group < p
    safe = [methods.index(n) for n in ("composed", *domains, *ANCHORS)]
    evidence = {
        "bits": bits[:, safe],
        "paired_bits": bits[inside][:, [0, methods.index("fixed share"), methods.index("pooled")]],
        "bytes": size[inside],
        "domain": group[inside].astype(np.int64),
        "rows": rows[inside],
    }
    shared = {
        "evidence": evidence,
        "pins": {"model": "ab" * 32},
        "provenance": {"corollary": "0.1.0", "python": "3.11"},
    }
    whole = Certificate.issue(
        "gating.every_document",
        statement=f"On every document at most {limit:.3f} bits more than the best expert.",
        witness={"experts": p, "eps": EPS, "top": None, "anchors": list(ANCHORS)},
        reference=Reference("ours", "chain rule", "derived"),
        assumptions=[Assumption("experts are normalised", "here")],
        **shared,
    )
    for column, name in enumerate(ANCHORS, 1):
        largest = int(max(2000, size.max()))
        witness = {"baseline": name, "column": column, "domains": list(domains), "delta": 0.05, "worst": limit}
        whole &= Certificate.issue(
            "gating.every_mixture",
            statement=f"For every mixture of {', '.join(domains)} a gain over {name}.",
            witness=witness | {"largest": largest, "gain": 0.0 if name == "fixed share" else 0.01},
            confidence=0.95,
            reference=Reference("Waudby-Smith and Ramdas (2024)", "Ville's inequality", "derived"),
            assumptions=[
                Assumption("documents are drawn independently"),
                Assumption("nothing saw them before", "row hashes"),
            ],
            **shared,
        )
    return whole, evidence


def _metrics(methods, domains, groups, bits, size, group, limit):
    p = len(domains)

    def rate(m, g):
        return float(bits[group == g, m].sum() / size[group == g].sum())

    table = {name: {g: rate(m, i) for i, g in enumerate(groups)} for m, name in enumerate(methods)}
    weights = np.random.default_rng(0).dirichlet(np.ones(p), 20)
    means = np.stack([bits[group == g].mean(0) for g in range(p)])
    random = (weights @ means) / (weights @ np.array([size[group == g].mean() for g in range(p)]))[:, None]
    return {
        "domains": list(domains),
        "groups": {g: int((group == i).sum()) for i, g in enumerate(groups)},
        "bits_per_byte": table,
        "own_expert": {n: table[n][n] for n in domains},
        "worst_domain": {m: max(table[m][n] for n in domains) for m in methods},
        "even_mixture": {m: sum(table[m][n] for n in domains) / p for m in methods},
        "random_mixtures": {
            m: {"mean": random[:, i].mean(), "worst": random[:, i].max()} for i, m in enumerate(methods)
        },
        "largest_excess_bits": {"composed": 1.5, "gate alone": 21.25},
        "excess_limit_bits": limit,
        "separable": {"bayes_above_own_expert": 0.012, "nearly": False, "bayes_wins": False},
        "least_favourable_mixture": dict.fromkeys(domains, 1 / p),
        "model": "ab" * 32,
    }
