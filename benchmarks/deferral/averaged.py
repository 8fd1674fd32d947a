"""Cells of `AveragedRouter`: against the TF-IDF ridge on MMLU (paired, subjects resampled whole), and on nine models.

Its two members were chosen on inner folds of one training part of MMLU; nothing was chosen on a test row. Protocols,
folds and seeds are those of `cells.py`.
"""

import time

import numpy as np

CELLS = [
    *({"data": "averaged", "on": "mmlu", "protocol": "in-domain", "seed": s} for s in range(3)),
    *({"data": "averaged", "on": "nine", "seed": s} for s in range(5)),
    *({"data": "averaged", "on": "mmlu", "protocol": "unseen", "seed": s} for s in range(3)),
]
MORE = [{"data": "averaged", "on": "nine", "seed": s} for s in range(5, 10)]


def run(cell):
    from corollary.deferral.routing import evaluate

    values, log, seconds, against = (mmlu if cell["on"] == "mmlu" else nine)(cell)
    found = evaluate(log, values, repeats=200, seed=cell["seed"], against=against)
    from . import slim as shown

    return {
        "routers": {name: shown(found["routers"][name]) for name in values},
        "against": against,
        "seconds_a_fit": round(seconds, 2),
        "prompts": len(log),
    }


def mmlu(cell):
    """Scores out of fold of the mean of routers, the default router, and the ridge."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold, KFold

    from corollary.deferral.routing import AveragedRouter, PromptRouter

    from . import mmlu_log

    log = mmlu_log()
    n, seconds = len(log), 0.0
    values = {name: np.zeros((n, 2)) for name in ("averaged", "value", "ridge")}
    if cell["protocol"] == "in-domain":
        folds = KFold(5, shuffle=True, random_state=cell["seed"]).split(np.zeros(n))
    else:
        folds = GroupKFold(5, shuffle=True, random_state=cell["seed"]).split(np.zeros(n), groups=log.group)
    for train, test in folds:
        learn, rest = log.select(train), log.select(test)
        begun = time.perf_counter()
        router = AveragedRouter().fit(learn)
        seconds += time.perf_counter() - begun
        values["averaged"][test] = router.values(rest.prompts)
        values["value"][test] = PromptRouter().fit(learn).values(rest.prompts)
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        ridge = Ridge(alpha=30).fit(words.fit_transform(learn.prompts), learn.quality[:, 1] - learn.quality[:, 0])
        values["ridge"][test, 1] = ridge.predict(words.transform(rest.prompts))
    return values, log, seconds / 5, "ridge"


def nine(cell):
    """A random fifth of the nine models' prompts, beside the strongest peer and every single model."""
    from corollary.deferral.routing import AveragedRouter, NeighbourRouter, PromptRouter, read_log

    from . import folder

    log = read_log(folder() / "nine_llms_train.parquet")
    order = np.random.default_rng(cell["seed"]).permutation(len(log))
    cut = len(log) // 5
    learn, rest = log.select(order[cut:]), log.select(order[:cut])
    begun = time.perf_counter()
    mean = AveragedRouter().fit(learn)
    seconds = time.perf_counter() - begun
    router = PromptRouter()
    x = router.features.fit_transform(learn.prompts)
    router.fit_features(x, learn)
    near = NeighbourRouter().fit(x, learn.quality).values(router.features.transform(rest.prompts))
    values = {"averaged": mean.values(rest.prompts), "value": router.values(rest.prompts), "nearest neighbours": near}
    one = np.eye(len(log.models))  # a single model is a router of one mind; mixed with the cheapest like all others
    values |= {f"always {m}": np.tile(one[k], (len(rest), 1)) for k, m in enumerate(log.models)}
    return values, rest, seconds, "averaged"


def table(records):
    """Markdown of these cells."""
    lines = []
    mine = [r for r in records if r["cell"]["data"] == "averaged"]
    for on, protocol, metric in (("mmlu", "in-domain", "apgr"), ("mmlu", "unseen", "apgr"), ("nine", None, "aiq")):
        here = [r["result"] for r in mine if r["cell"]["on"] == on and r["cell"].get("protocol") == protocol]
        if not here:
            continue
        against = here[0]["against"]
        title = "MMLU, " + protocol if protocol else "nine models"
        lines += [f"{title}, {len(here)} seeds: mean of two routers", ""]
        lines += [f"| router | {metric.upper()} | over {against} | 95 %, seed by seed | clear |", "|---" * 5 + "|"]
        for name in here[0]["routers"]:
            level = np.mean([h["routers"][name][metric] for h in here])
            gap = [h["routers"][name].get(f"{metric}|over {against}") for h in here]
            ends = [h["routers"][name]["interval"].get(f"{metric}|over {against}") for h in here]
            told = "; ".join(f"{e[0]:+.3f} to {e[1]:+.3f}" for e in ends if e)
            clear = f"{sum(e[0] > 0 or e[1] < 0 for e in ends if e)} of {len(ends)}" if any(ends) else ""
            shown = "" if gap[0] is None else f"{np.mean(gap):+.4f}"
            lines.append(f"| {name} | {level:.4f} | {shown} | {told} | {clear} |")
        lines.append("")
    return lines
