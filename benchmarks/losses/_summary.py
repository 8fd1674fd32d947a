"""Mean ranks and paired tests from the cells that are done."""

from typing import Any

import numpy as np


def ranks_of(records: list[dict[str, Any]], *, measure: str = "balanced_error") -> dict[str, Any]:
    """Mean rank of every method over (data, setting) pairs, means over seeds, and a paired test against the best.

    Only blocks (data, setting, seed) that every method has finished count.
    """
    blocks: dict[str, dict[str, float]] = {}
    for row in records:
        cell, metrics = row["cell"], row["result"]
        if measure in metrics and cell["setting"]["kind"] not in ("adversarial", "speed"):
            tail = f"{cell['setting']['kind']} {cell['setting'].get('ratio', '')}".strip()
            key = f"{cell['data']} | {tail} | {cell['seed']}"
            blocks.setdefault(key, {})[cell["method"]] = metrics[measure]
    methods = sorted(set().union(*blocks.values()), key=str) if blocks else []
    whole = {k: v for k, v in blocks.items() if set(methods) <= v.keys()}
    if not whole:
        return {"methods": methods, "blocks": 0}
    values = np.array([[v[m] for m in methods] for v in whole.values()])
    ranks = values.argsort(1).argsort(1) + 1.0
    for row, v in zip(ranks, values, strict=True):  # ties share their mean rank
        for x in np.unique(v):
            row[v == x] = row[v == x].mean()
    order = ranks.mean(0).argsort()
    best = order[0]
    return {
        "blocks": len(whole),
        "cells_done": sum(len(v) for v in blocks.values()),
        "rows": [
            {
                "method": methods[i],
                "mean_rank": float(ranks[:, i].mean()),
                "mean": float(values[:, i].mean()),
                "p_against_first": _wilcoxon(values[:, i], values[:, best]),
            }
            for i in order
        ],
    }


def _wilcoxon(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.stats import wilcoxon

    return 1.0 if np.allclose(a, b) else float(wilcoxon(a, b, zero_method="zsplit").pvalue)


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: mean ranks of balanced error, robust accuracy, speed; each for the cells that are there."""
    images = [r for r in records if r["cell"]["data"] == "cifar10"]
    flat = [r for r in records if r["cell"]["data"] != "cifar10"]
    parts = [
        _ranks("tables and digits", ranks_of(flat)),
        _ranks("long-tailed images", ranks_of(images)),
        _robust([r for r in records if r["cell"]["setting"]["kind"] == "adversarial"]),
        _speed([r for r in records if r["cell"]["setting"]["kind"] == "speed"]),
    ]
    return "\n\n".join(p for p in parts if p) or "no block (data, setting, seed) was finished by every method yet"


def _ranks(title: str, result: dict[str, Any]) -> str:
    if not result["blocks"]:
        return ""
    lines = [
        f"| balanced error on {title}, {result['blocks']} complete blocks | mean rank | mean | p against the first |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        p = row["p_against_first"]
        lines.append(f"| {row['method']} | {row['mean_rank']:.2f} | {row['mean']:.4f} | {p:.2g} |")
    return "\n".join(lines)


def _robust(records: list[dict[str, Any]]) -> str:
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for r in records:
        rows.setdefault((r["cell"]["data"], r["cell"]["method"]), []).append(r["result"])
    lines = ["| adversarial training | clean accuracy | under PGD-40 | seeds |", "|---|---|---|---|"]
    for (data, method), found in rows.items():
        shown = [f"{np.mean(v):.3f} ± {np.std(v):.3f}" for v in ([f[k] for f in found] for k in ("clean", "pgd40"))]
        lines.append(f"| {method} on {data} | {shown[0]} | {shown[1]} | {len(found)} |")
    return "\n".join(lines) if records else ""


def _speed(records: list[dict[str, Any]]) -> str:
    if not records:
        return ""
    shape = ", ".join(str(records[0]["cell"]["setting"][k]) for k in ("rows", "classes"))
    lines = [
        f"| forward and backward, ({shape}) | time over torch's cross-entropy: best of each | median of pairs "
        "| extra tensors (torch) |",
        "|---|---|---|---|",
    ]
    for r in records:
        v = r["result"]
        memory = f"{v['extra_tensors']:.2f} ({v['torch_extra_tensors']:.2f})"
        lines.append(f"| {r['cell']['method']} | {v['ratio_of_best']:.2f} | {v['ratio']:.2f} | {memory} |")
    return "\n".join(lines)
