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
    """Markdown: mean rank of balanced error over the complete blocks."""
    result = ranks_of(records)
    if not result["blocks"]:
        return "no block (data, setting, seed) was finished by every method yet"
    lines = [
        f"| balanced error, {result['blocks']} complete blocks | mean rank | mean | p against the first |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        p = row["p_against_first"]
        lines.append(f"| {row['method']} | {row['mean_rank']:.2f} | {row['mean']:.4f} | {p:.2g} |")
    return "\n".join(lines)
