r"""What a composed model certifies, and how it is derived again; imports no solver and no trainer.

(i) `gating.every_document` [deterministic]: on EVERY document given, at most \(\log_2(p/\epsilon)\) bits in all above
the best expert (and above every anchor), because the model holds each of them with mass \(\epsilon/p\) at sequence
level.

(ii) `gating.every_mixture` [confidence 1 - delta]: for EVERY mixture \(\lambda\) of the domains, a gain of at least d
bits per byte over a named baseline. Bits per byte of a mixture is a ratio of means, so the statement is tested in its
linear form: with G the bits gained on a document and U its bytes, \(\sum_k \lambda_k E_k[G] \ge d \sum_k \lambda_k
E_k[U]\) for all \(\lambda\) iff \(E_k[G - d U] \ge 0\) for every domain k. The smallest of the per-domain bounds, each
at level delta, therefore bounds the worst mixture at level delta: it errs only if the bound of the truly worst domain
errs. Each domain's d ends the run of grid levels at which betting rejects "E[G - dU] <= 0"; gains are clipped above at
a fixed number of bits per byte beforehand (conservative) and bounded below by construction.

Our derivation [derived]; betting after Waudby-Smith and Ramdas (2024).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, UInt64

from corollary.certificates import Claim, Rule, Undecided, log_capital, register_rule, require_units
from corollary.documents import Documents
from corollary.gating import _divergence_certificate, _finite_certificate  # noqa: F401  register their rules
from corollary.runs import read_tensors

BITS_TOLERANCE = 1e-6  # bits, for sums of thousands of float64 logarithms
CLIP = 0.35  # bits per byte a document's gain can count at most; fixed before any data is seen
GRID = 0.0005  # bits per byte between the levels that are tested


def every_document(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive (i): evidence `bits` (N, 1 + p + a): the composed model, the experts, the anchors, in bits a document."""
    if witness["top"] is not None:
        raise Undecided("void under top-m truncation: the safe mixture is not there to bound the excess")
    if not witness["eps"] > 0:
        raise Undecided("eps is 0: without the safe mixture nothing bounds the excess")
    bits, p = evidence["bits"], witness["experts"]
    limit = float(np.log2(p / witness["eps"]))
    best = bits[:, 1 : 1 + p].min(1)
    claims = [
        Claim(
            "largest excess over the best expert on any document, bits",
            np.max(bits[:, 0] - best),
            "<=",
            limit,
            BITS_TOLERANCE,
            float("inf"),
        )
    ]
    for j, name in enumerate(witness["anchors"]):
        excess = np.max(bits[:, 0] - bits[:, 1 + p + j])
        name = f"largest excess over {name} on any document, bits"
        claims.append(Claim(name, excess, "<=", limit, BITS_TOLERANCE, float("inf")))
    return claims


def refuted(
    gain: Float64[np.ndarray, " n"],
    size: Float64[np.ndarray, " n"],
    level: Float64[np.ndarray, " g"],
    *,
    delta: float,
    worst: float,
    largest: float,
) -> Bool[np.ndarray, " g"]:
    """Which of the hypotheses "E[gain - d size] <= 0" betting rejects at level delta.

    Args:
        gain: (n,) bits gained a document, in an order fixed without looking at them; at least -worst, clipped above at
            CLIP * size.
        size: (n,) bytes, at most `largest`.
        level: (g,) values of d in bits per byte, in [0, CLIP).
        delta: level of each test.
        worst: bits that no document can lose more than, by construction.
        largest: bytes of the largest document, fixed beforehand.

    Example:
        >>> ones = np.full(400, 100.0)
        >>> refuted(0.1 * ones, ones, np.array([0.05, 0.2]), delta=0.05, worst=7.0, largest=100.0).tolist()
        [True, False]
    """
    low, high = -worst - level * largest, (CLIP - level) * largest
    values = (gain[:, None] - level * size[:, None] - low) / (high - low)
    return log_capital(np.clip(values, 0.0, 1.0), -low / (high - low), delta=delta) >= np.log(1 / delta)


def certified_gain(
    gain: Float64[np.ndarray, " n"],
    size: Float64[np.ndarray, " n"],
    rows: UInt64[np.ndarray, " n"],
    *,
    delta: float,
    worst: float,
    largest: float,
) -> float:
    """Largest level d up to which every "E[gain - d size] <= 0" of the grid is rejected; -inf where d = 0 is not.

    Guarantee: exceeds the true E[gain] / E[size] with probability at most delta for independent documents: if it does,
        the smallest grid level above the truth was rejected although its hypothesis is true.

    Example:
        >>> ones = np.full(400, 100.0)
        >>> rows = np.arange(400, dtype=np.uint64)
        >>> certified_gain(0.1 * ones, ones, rows, delta=0.05, worst=7.0, largest=100.0) > 0.08
        True
    """
    order = np.argsort(rows, kind="stable")  # by content hash: nobody chose it
    clipped = np.maximum(np.minimum(gain, CLIP * size), -worst)[order]
    grid = np.arange(0.0, CLIP, GRID)
    rejected = refuted(clipped, size[order], grid, delta=delta, worst=worst, largest=largest)
    count = int(np.argmin(rejected)) if not rejected.all() else len(grid)
    return float(grid[count - 1]) if count else float("-inf")


def domain_gains(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Certified gain of every domain, in bits per byte; raises `Undecided` for domains that are too small."""
    bits, size, domain, rows = (evidence[name] for name in ("paired_bits", "bytes", "domain", "rows"))
    column, gains = witness["column"], {}
    for k, name in enumerate(witness["domains"]):
        here = domain == k
        require_units(len(np.unique(rows[here])), f"distinct documents in domain `{name}`")
        if size[here].max() > witness["largest"]:
            raise Undecided(
                f"a document of domain `{name}` is longer than the {witness['largest']} bytes fixed beforehand"
            )
        gain = bits[here, column] - bits[here, 0]
        gains[name] = certified_gain(
            gain,
            size[here].astype(np.float64),
            rows[here],
            delta=witness["delta"],
            worst=witness["worst"],
            largest=float(witness["largest"]),
        )
    return gains


def every_mixture(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive (ii): evidence `paired_bits` (N, 1 + baselines), `bytes`, `domain`, `rows` (content hashes), all (N,)."""
    gains = domain_gains(witness, evidence)
    name, least = min(gains.items(), key=lambda item: item[1])
    if not least > 0:
        raise Undecided(
            f"no gain over {witness['baseline']} could be certified on domain `{name}` at delta = {witness['delta']}"
        )
    bits = evidence["paired_bits"]
    loss = np.max(bits[:, 0] - bits[:, witness["column"]])
    return [
        Claim(
            f"gain over {witness['baseline']} on every mixture of the domains, bits per byte",
            least,
            ">=",
            witness["gain"],
            0.0,
            0.0,
        ),
        Claim(
            f"largest loss against {witness['baseline']} on any document, bits",
            loss,
            "<=",
            witness["worst"],
            BITS_TOLERANCE,
        ),
    ]


def rescore(folder: Path, pins: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Compute the evidence again from the stored documents and models, both identified by their hashes.

    Raises:
        Undecided: where documents or models are not those that the certificate was issued on.
    """
    from corollary.gating._composed import ComposedLM
    from corollary.gating._mixing import document_bits, mixture_bits
    from corollary.models._speakers import text_bytes

    tensors = read_tensors(folder / "data" / "certify.safetensors")
    documents = Documents(tensors["tokens"], tensors["offsets"])
    if documents.digest() != pins.get("documents"):
        raise Undecided("the stored documents are not those that the certificate was issued on")
    model = ComposedLM.load(folder / "model")
    if model.fingerprint() != pins.get("model"):
        raise Undecided("the stored model is not the one that the certificate was issued on")
    group = tensors["group"]
    scores = model.score(documents)
    components = document_bits(model.component_log_probs(scores), scores.offsets)
    bits = np.concatenate([mixture_bits(components, model.prior), components[:, 1:]], axis=1)
    domains = group < int(tensors["domains"])
    return {
        "bits": bits,
        "paired_bits": bits[:, [0, *range(1 + len(model.experts), bits.shape[1])]][domains],
        "bytes": text_bytes(model, documents)[domains],
        "domain": group[domains],
        "rows": documents.row_hashes()[domains],
    }


register_rule(
    Rule(
        "gating.every_document",
        needs=("bits",),
        derive=every_document,
        rescore=rescore,
        tolerances={"bits": 1e-2, "claims": 1e-2},
    )
)
register_rule(
    Rule(
        "gating.every_mixture",
        needs=("paired_bits", "bytes", "domain", "rows"),
        derive=every_mixture,
        rescore=rescore,
        tolerances={"paired_bits": 1e-2, "claims": 2 * GRID},
    )
)
