"""A million sequences scored by eight experts: cached, and both gates trained from the cache, in bounded memory.

The experts are tables, so that what is measured is this library and not the experts. Each cell is a process of its own,
whose largest resident memory is reported.
"""

import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EXPERTS, LENGTH, TOKENS = 8, 32, 64
CELLS = [{"data": "million", "seed": 0, "sequences": 1_000_000}]
QUICK = [{"data": "million", "seed": 0, "sequences": 50_000}]
MORE = []


class Table:
    """An expert that is a law over tokens."""

    def __init__(self, number):
        self.number = number
        law = np.random.default_rng([number, 1]).dirichlet(np.full(TOKENS, 0.7)) + 1e-5
        self.law = law / law.sum()
        self.table = np.log(self.law).astype(np.float32)

    def log_probs(self, documents):
        """One look-up a token."""
        return self.table[documents.tokens]

    def fingerprint(self):
        """Its number says all."""
        return hashlib.sha256(f"table {self.number}".encode()).hexdigest()


def sequences(count, seed):
    """Documents in which the first half is of the domain's expert, the second half of another's; and the domains."""
    from corollary.documents import Documents

    rng = np.random.default_rng(seed)
    laws = np.cumsum([Table(k).law for k in range(EXPERTS)], axis=1)
    domain, other = rng.integers(EXPERTS, size=(2, count))
    tokens = np.empty((count, LENGTH), dtype=np.uint8)
    for where, who in ((slice(0, LENGTH // 2), domain), (slice(LENGTH // 2, LENGTH), other)):
        for k in range(EXPERTS):
            rows = np.flatnonzero(who == k)
            u = rng.random((len(rows), LENGTH // 2), dtype=np.float32)
            tokens[rows, where] = np.searchsorted(laws[k][:-1], u)
    return Documents(tokens.reshape(-1), np.arange(count + 1, dtype=np.int64) * LENGTH), domain


def work(count, seed, folder):
    """Times in seconds, and what the gates reach."""
    import torch

    from corollary.gating import CausalGate, FixedShareGate, RobustGate, ScoreCache, gate_log_probs

    torch.set_num_threads(1)
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    documents, domain = sequences(count, seed)
    experts = [Table(k) for k in range(EXPERTS)]
    begun = time.perf_counter()
    cache = ScoreCache.build(folder, experts, documents, statistics=False)
    scored = time.perf_counter()
    held, _ = sequences(2_000, seed + 1)
    fresh = ScoreCache.build(Path(folder) / "held", experts, held, statistics=False)
    causal = CausalGate(steps=200, batch=4096, seed=seed).fit([cache])
    learned = time.perf_counter()
    robust = RobustGate(steps=500, checkpoints=4, normalisation="free").fit(
        cache, domain, samples_log_likelihoods=fresh, seed=seed
    )
    done = time.perf_counter()
    return {
        "sequences": count, "experts": EXPERTS, "tokens": len(documents.tokens),
        "cache_gib": (Path(folder) / "scores.safetensors").stat().st_size / 2**30,
        "scoring_seconds": scored - begun, "causal_seconds": learned - scored, "robust_seconds": done - learned,
        "imports_gib": imported / 2**20,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "causal_nats": float(-gate_log_probs(causal, fresh).mean()),
        "fixed_share_nats": float(-gate_log_probs(FixedShareGate(EXPERTS), fresh).mean()),
        "worst_mixture": [float(v) for v in robust.mixture_],
    }  # fmt: skip


def run(cell):
    """In a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, str(cell["sequences"]), str(cell["seed"]), folder]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def table(records):
    """One line a cell."""
    lines = [
        "| sequences x experts | tokens | on disk | scoring | causal gate | whole-sequence gate | largest memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in (r["result"] for r in records):
        lines.append(
            f"| {r['sequences']:,} x {r['experts']} | {r['tokens']:,} | {r['cache_gib']:.2f} GiB | "
            f"{r['scoring_seconds']:.0f} s | {r['causal_seconds']:.0f} s | {r['robust_seconds']:.0f} s | "
            f"{r['peak_gib']:.2f} GiB, of which imports {r['imports_gib']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(work(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
