"""Scores a corpus and trains gates; run by `torchrun` in two processes, or called in one. Arrays are the result."""

import hashlib
import sys
from pathlib import Path

import numpy as np


class Table:
    """An expert that is a table of token probabilities."""

    def __init__(self, number):
        self.number = number
        law = np.random.default_rng(number).dirichlet(np.full(16, 0.5)) + 1e-4
        self.table = np.log(law / law.sum()).astype(np.float32)

    def log_probs(self, documents):
        return self.table[documents.tokens]

    def fingerprint(self):
        return hashlib.sha256(f"table {self.number}".encode()).hexdigest()


def results(folder):
    """Scores, gates and mixtures, by name."""
    from corollary.documents import Documents
    from corollary.gating import CausalGate, RobustGate, ScoreCache, gate_log_probs

    rng = np.random.default_rng(0)
    domain = np.arange(90) % 3
    experts = [Table(k) for k in range(3)]
    laws = [np.exp(e.table.astype(float)) for e in experts]
    docs = Documents.from_sequences([rng.choice(16, p=laws[k] / laws[k].sum(), size=12) for k in domain])
    cache = ScoreCache.build(Path(folder) / "cache", experts, docs, part_tokens=64)
    out = {"log_probs": np.array(cache.log_probs), "totals": cache.totals()}
    for network in ("mlp", "gru", "transformer"):
        gate = CausalGate(network=network, hidden=8, steps=25, batch=101).fit([cache])
        out[f"causal {network}"] = gate_log_probs(gate, cache)
    samples = {"samples_log_likelihoods": cache, "samples_expert": domain}
    for name, options in {
        "network": {}, "free": {"normalisation": "free"}, "per expert": {"estimator": "per_expert"},
        "full": {"batch_size": None, "sample_batch_size": None}, "augmented": {"rho": 2.0},
    }.items():  # fmt: skip
        gate = RobustGate(steps=15, checkpoints=3, **({"batch_size": 7, "sample_batch_size": 31} | options)).fit(
            cache, domain, **samples, validation={"log_likelihoods": cache, "domain": domain}
        )
        out[f"robust {name}"] = gate.log_gate(cache).numpy()
        out[f"mixture {name}"] = np.append(gate.mixture_, gate.multiplier_)
    gate = RobustGate(gate="ngram", steps=10, checkpoints=2, batch_size=7).fit(
        cache, domain, features=docs, **samples, samples_features=docs
    )
    out["robust text"] = gate.log_gate(cache, docs).numpy()
    table = RobustGate(gate="tabular", steps=40, entropy=np.zeros(3), batch_size=None, sample_batch_size=None)
    state = docs.tokens.reshape(90, 12)[:, 0].astype(np.int64)
    table.fit(cache, domain, features=state, **samples, samples_features=state)
    out["robust table"] = table.log_gate(cache, state).numpy()
    return out


if __name__ == "__main__":
    import torch
    from leaving import leave
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found = results(sys.argv[1])
    np.savez(Path(sys.argv[1]) / f"rank{distributed.get_rank()}.npz", **found)
    leave()
