"""Budgeted training on nine models: how good a router is whose answers were bought for 40 % of the queries.

Training rows are four fifths of the log; a committee on 64 directions of the prompts' features chooses what is asked
(uniform sampling at equal spend beside it), the router then learns from all features and the answers that were bought.
All are measured on the other fifth: mean quality when quality alone counts, and AIQ.
"""

import os
from pathlib import Path

SHARE = 0.4
CELLS = [{"data": "budgeted", "seed": s} for s in range(5)]
MORE = [{"data": "budgeted", "seed": s} for s in range(5, 20)]
MEMBERS, DIRECTIONS = 8, 64


def run(cell):
    """Full, budgeted and uniform training on one split."""
    import time
    from dataclasses import replace

    import numpy as np
    from sklearn.decomposition import TruncatedSVD

    from corollary.deferral import BudgetedDeferral
    from corollary.deferral.routing import PromptRouter, evaluate, read_log

    data = os.environ.get("COROLLARY_DATA")
    if not data:
        raise SystemExit("set COROLLARY_DATA to the folder of the benchmark data (see docs/embedded-data.md)")
    log = read_log(Path(data) / "routing" / "nine_llms_train.parquet")
    seed = cell["seed"]
    order = np.random.default_rng(seed).permutation(len(log))
    cut = len(log) // 5
    learn, rest = log.select(order[cut:]), log.select(order[:cut])
    router = PromptRouter()
    x = router.features.fit_transform(learn.prompts)
    few = TruncatedSVD(DIRECTIONS, random_state=seed).fit_transform(x)
    few /= few.std(0) + 1e-9
    values, shares, queries, seconds = {}, {}, {}, 0.0
    values["all answers"] = router.fit_features(x, learn).values(rest.prompts)
    settings = {"loss": "value", "budget": SHARE, "compare": False, "seed": seed}
    designs = {
        "budgeted": BudgetedDeferral(members=MEMBERS, weights="equal", **settings),
        "uniform": BudgetedDeferral(method="uniform", **settings),
    }
    for name, design in designs.items():
        begun = time.perf_counter()
        design.fit(few, 1 - learn.quality)
        seconds = max(seconds, time.perf_counter() - begun)
        shares[name], queries[name] = design.share_, design.queries_
        for kind, propensity in (("", None), (", weighted", design.probability_)):
            bought = replace(learn, quality=np.where(design.asked_, learn.quality, np.nan), propensity=propensity)
            here = PromptRouter(features=router.features).fit_features(x, bought)
            values[name + kind] = here.values(rest.prompts)
    best = max(rest.mean_quality)
    rows = np.arange(len(rest))
    top = {name: float(rest.quality[rows, v.argmax(1)].mean()) for name, v in values.items()}
    found = evaluate(rest, values, repeats=0, seed=seed)["routers"]
    return {
        "quality": {name: round(q, 5) for name, q in top.items()},
        "aiq": {name: round(found[name]["aiq"], 5) for name in values},
        "share": {name: round(s, 4) for name, s in shares.items()},
        "queries": queries,
        "best_single_quality": round(float(best), 5),
        "seconds_to_choose": round(seconds, 1),
        "prompts": len(rest),
    }


def table(records):
    """Markdown: mean and spread over splits, and how far below all answers."""
    import numpy as np

    found = [r["result"] for r in records if r["cell"]["data"] == "budgeted"]
    if not found:
        return []
    lines = [
        f"nine models, {SHARE:.0%} of the queries, {len(found)} splits "
        f"(best single model {np.mean([f['best_single_quality'] for f in found]):.4f})",
        "",
        "| answers | quality | below all answers, points (worst split) | AIQ |",
        "|---" * 4 + "|",
    ]
    for name in found[0]["quality"]:
        q = np.array([f["quality"][name] for f in found])
        gap = 100 * (np.array([f["quality"]["all answers"] for f in found]) - q)
        aiq = np.array([f["aiq"][name] for f in found])
        below = f"{gap.mean():+.2f} ({gap.max():+.2f})"
        lines.append(f"| {name} | {q.mean():.4f} ± {q.std():.4f} | {below} | {aiq.mean():.4f} |")
    return [*lines, ""]
