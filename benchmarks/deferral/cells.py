"""Benchmark of `corollary.deferral`: routing on real logs against its peers, and the speed of fitting and deciding.

MMLU, two models, RouteLLM's decontamination and metrics: five folds, scores out of fold, in-domain (random folds) or on
unseen subjects (whole subjects held out); the peer is a ridge regression of the quality gap on TF-IDF of words and
pairs (alpha 30, sublinear tf), differences with intervals from a bootstrap over subjects. All learned routers use
in-domain labels, which the published RouteLLM numbers (1,500 MMLU validation labels at most) did not.

Nine models, costs proportional to size: AIQ on five random splits against the families of LLMRouter, rebuilt here.
The data lie in the folder named by COROLLARY_DATA.
"""

import os
import time
from pathlib import Path

from . import averaged, budgeted, images, rejection

PARTS = (rejection, images, averaged, budgeted)  # CELLS, MORE, run(cell), table(records)
SEEDS = (0, 1, 2)
MMLU = [{"data": "mmlu", "protocol": p, "seed": s} for s in SEEDS for p in ("in-domain", "unseen")]
SPEED = [{"data": "speed", "seed": s} for s in range(2)]
NINE = [{"data": "nine", "seed": s} for s in range(5)]
QUICK = [{"data": "nine", "seed": 0}, {"data": "speed", "seed": 0}]
DEFAULT = [*MMLU[:2], *NINE, *SPEED, *MMLU[2:], *(c for part in PARTS for c in part.CELLS)]
FULL = [
    *(c for part in PARTS for c in (*part.CELLS, *part.MORE)),
    *({"data": "mmlu", "protocol": p, "seed": s} for s in range(10) for p in ("in-domain", "unseen")),
    *({"data": "nine", "seed": s} for s in range(20)),
    *({"data": "speed", "seed": s} for s in range(3)),
]
PUBLISHED = {  # RouteLLM, arXiv 2406.18665, table of MMLU: CPT50, CPT80, APGR
    "random": (50.07, 79.93, 0.500),
    "matrix factorisation + gold": (35.46, 71.40, 0.597),
    "similarity-weighted + gold": (35.40, 71.55, 0.603),
    "causal LLM + gold": (35.49, 70.31, 0.600),
    "BERT + gold": (41.30, 72.20, 0.572),
}


def run_cell(cell):
    """One cell of the grid, as plain values."""
    for part in PARTS:
        if cell in (*part.CELLS, *part.MORE):
            return part.run(cell)
    return {"mmlu": mmlu_cell, "nine": nine_cell, "speed": speed_cell}[cell["data"]](cell)


def folder():
    path = os.environ.get("COROLLARY_DATA")
    if not path:
        raise SystemExit("set COROLLARY_DATA to the folder of the benchmark data (see docs/embedded-data.md)")
    return Path(path) / "routing"


def mmlu_log():
    from corollary.deferral.routing import read_log

    return read_log(
        folder() / "mmlu_two_llms.parquet", group="subject", exclude=folder() / "mmlu_contaminated_prompts.jsonl"
    )


def mmlu_cell(cell):
    """Out-of-fold APGR and CPT of every router, and paired differences to the ridge."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold, KFold

    from corollary.deferral.routing import NeighbourRouter, PromptRouter, evaluate

    log = mmlu_log()
    n, names = len(log), ("value", "compsum-log", "ridge", "nearest neighbours", "length")
    values = {name: np.zeros((n, 2)) for name in names}
    lengths, seconds = np.array([len(p) for p in log.prompts]), 0.0
    if cell["protocol"] == "in-domain":
        folds = KFold(5, shuffle=True, random_state=cell["seed"]).split(np.zeros(n))
    else:
        folds = GroupKFold(5, shuffle=True, random_state=cell["seed"]).split(np.zeros(n), groups=log.group)
    for train, test in folds:
        learn, rest = log.select(train), log.select(test)
        begun = time.perf_counter()
        router = PromptRouter()
        x = router.features.fit_transform(learn.prompts)
        router.fit_features(x, learn)
        seconds += time.perf_counter() - begun
        z = router.features.transform(rest.prompts)
        values["value"][test] = router.values(rest.prompts)
        other = PromptRouter(features=router.features, loss="compsum-log").fit_features(x, learn)
        values["compsum-log"][test] = other.values(rest.prompts)
        values["nearest neighbours"][test] = NeighbourRouter().fit(x, learn.quality).values(z)
        values["length"][test, 1] = lengths[test]
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        ridge = Ridge(alpha=30).fit(words.fit_transform(learn.prompts), learn.quality[:, 1] - learn.quality[:, 0])
        values["ridge"][test, 1] = ridge.predict(words.transform(rest.prompts))
    found = evaluate(log, values, repeats=200, seed=cell["seed"], against="ridge")
    out = {name: slim(v) for name, v in found["routers"].items()}
    return {"routers": out, "seconds_a_fit": round(seconds / 5, 2), "prompts": n}


def slim(entry):
    """The numbers of a router, and the intervals that the tables show."""
    shown = {k: v for k, v in entry["interval"].items() if "|" in k or k in ("aiq", "apgr")}
    numbers = {k: v for k, v in entry.items() if k not in ("frontier", "interval")}
    return {**{k: None if v is None else round(v, 5) for k, v in numbers.items()}, "interval": shown}


def nine_cell(cell):
    """AIQ on a random fifth, and paired differences of every peer to the router."""
    import numpy as np
    from sklearn.decomposition import TruncatedSVD
    from sklearn.linear_model import Ridge
    from sklearn.neural_network import MLPRegressor
    from sklearn.svm import SVC

    from corollary.deferral.routing import LengthRouter, NeighbourRouter, PromptRouter, evaluate, read_log

    log = read_log(folder() / "nine_llms_train.parquet")
    rng = np.random.default_rng(cell["seed"])
    order = rng.permutation(len(log))
    cut = len(log) // 5
    learn, rest = log.select(order[cut:]), log.select(order[:cut])
    values, seconds = {}, {}
    router = PromptRouter()
    begun = time.perf_counter()
    x = router.features.fit_transform(learn.prompts)
    router.fit_features(x, learn)
    seconds["value"] = time.perf_counter() - begun
    z = router.features.transform(rest.prompts)
    values["value"] = router.values(rest.prompts)
    values["compsum-log"] = (
        PromptRouter(features=router.features, loss="compsum-log").fit_features(x, learn).values(rest.prompts)
    )
    lengths = [np.array([len(p) for p in part.prompts]) for part in (learn, rest)]
    values["length"] = LengthRouter().fit(lengths[0], learn.quality).values(lengths[1])
    values["nearest neighbours"] = NeighbourRouter().fit(x, learn.quality).values(z)
    values["ridge"] = Ridge(alpha=1.0).fit(x, learn.quality).predict(z)
    svd = TruncatedSVD(64, random_state=cell["seed"])
    u = svd.fit_transform(x)
    v, scale = svd.transform(z), u.std(0) + 1e-9
    u, v = u / scale, v / scale
    mlp = MLPRegressor(
        hidden_layer_sizes=(64,), alpha=1e-2, early_stopping=True, random_state=cell["seed"], max_iter=200
    )
    values["MLP"] = mlp.fit(u, learn.quality).predict(v)
    svm = SVC(C=1.0).fit(u, learn.quality.argmax(1))  # the family's label: the best model of each prompt
    label = np.zeros((len(rest), len(log.models)))
    label[:, svm.classes_] = svm.decision_function(v)
    values["SVM"] = label
    values["matrix factorisation"] = factorisation(u, learn.quality, v, seed=cell["seed"])
    found = evaluate(rest, values, repeats=200, seed=cell["seed"], against="value")
    best = max(found["models"].values(), key=lambda m: m["quality"])["quality"]
    out = {name: slim(entry) for name, entry in found["routers"].items()}
    top = max(p["quality"] for p in found["routers"]["value"]["frontier"])
    return {
        "routers": out,
        "best_single_quality": best,
        "router_top_quality": top,
        "seconds_a_fit": round(seconds["value"], 2),
        "prompts": len(rest),
    }


def factorisation(u, quality, v, *, seed, rank=32):
    """RouteLLM's and LLMRouter's form: a prompt's projection times a model's vector, by logistic loss."""
    import numpy as np
    import torch

    torch.manual_seed(seed)
    x, y = torch.from_numpy(u).float(), torch.from_numpy(quality).float()
    project = torch.nn.Linear(x.shape[1], rank)
    model = torch.nn.Parameter(0.1 * torch.randn(rank, y.shape[1]))
    bias = torch.nn.Parameter(torch.zeros(y.shape[1]))
    solver = torch.optim.AdamW([*project.parameters(), model, bias], lr=3e-3, weight_decay=1e-1)
    for _ in range(30):
        for rows in torch.randperm(len(x)).split(128):
            solver.zero_grad()
            torch.nn.functional.binary_cross_entropy_with_logits(project(x[rows]) @ model + bias, y[rows]).backward()
            solver.step()
    with torch.no_grad():
        return np.asarray(torch.sigmoid(project(torch.from_numpy(v).float()) @ model + bias).double())


def speed_cell(cell):
    """Seconds to fit MMLU; prompts a second in batch on two processes; milliseconds for one prompt."""
    import tempfile

    import numpy as np

    from corollary.deferral.routing import PromptRouter, load

    log = mmlu_log()
    out = {}
    for features in ("hash-words", "hash", "tfidf"):
        begun = time.perf_counter()
        router = PromptRouter(features=features).fit(log)
        fit = time.perf_counter() - begun
        with tempfile.TemporaryDirectory() as place:
            router.save(place)
            batch = two_processes(place, [log.prompts[::2], log.prompts[1::2]])
            single = load(place)
        times = []
        for prompt in log.prompts[:400]:
            begun = time.perf_counter()
            single.decide(prompt)
            times.append(time.perf_counter() - begun)
        out |= {
            f"{features}: fit, s": round(fit, 2),
            f"{features}: prompts a second, 2 processes": round(len(log) / batch),
            f"{features}: one prompt, ms (median)": round(1000 * float(np.median(times)), 3),
        }
    return out


def two_processes(place, halves):
    """Seconds from the moment both processes have loaded the router until both have routed their half."""
    from multiprocessing import get_context

    from corollary.deferral.routing import load

    context = get_context("fork")
    gate = context.Barrier(3)

    def work(half):
        router = load(place)
        router.route(half[:64])
        gate.wait()
        router.route(half)
        gate.wait()

    workers = [context.Process(target=work, args=(half,)) for half in halves]
    for worker in workers:
        worker.start()
    gate.wait()
    begun = time.perf_counter()
    gate.wait()
    seconds = time.perf_counter() - begun
    for worker in workers:
        worker.join()
    return seconds


def table(records):
    """Markdown: MMLU beside the published table, nine models, speed."""
    import numpy as np

    lines = []
    for protocol in ("in-domain", "unseen"):
        here = [r["result"]["routers"] for r in records if r["cell"].get("protocol") == protocol]
        if not here:
            continue
        lines += [
            f"MMLU, {protocol}, {len(here)} seeds",
            "",
            "| router | CPT50 | CPT80 | APGR | over ridge, 95 % |",
            "|---" * 5 + "|",
        ]
        for name in here[0]:
            m = {k: np.mean([h[name][k] for h in here if h[name][k] is not None]) for k in ("cpt50", "cpt80", "apgr")}
            ends = here[0][name]["interval"].get("apgr|over ridge")
            mean = np.mean([h[name].get("apgr|over ridge", 0.0) for h in here])
            gap = "" if ends is None else f"{mean:+.4f} (first seed: {ends[0]:+.4f} to {ends[1]:+.4f})"
            lines.append(f"| {name} | {m['cpt50']:.2f} | {m['cpt80']:.2f} | {m['apgr']:.4f} | {gap} |")
        lines += [f"| published: {k} | {a:.2f} | {b:.2f} | {c:.3f} | |" for k, (a, b, c) in PUBLISHED.items()] + [""]
    nine = [r["result"]["routers"] for r in records if r["cell"]["data"] == "nine"]
    if nine:
        lines += [
            f"nine models, {len(nine)} splits",
            "",
            "| router | AIQ | minus ours | splits where the interval excludes 0 |",
            "|---" * 4 + "|",
        ]
        for name in nine[0]:
            gap = [h[name].get("aiq|over value") for h in nine]
            ends = [h[name]["interval"].get("aiq|over value", [0, 0]) for h in nine]
            clear = sum(high < 0 or low > 0 for low, high in ends)
            shown = "" if gap[0] is None else f"{np.mean(gap):+.4f}"
            lines.append(f"| {name} | {np.mean([h[name]['aiq'] for h in nine]):.4f} | {shown} | {clear} |")
        lines.append("")
    for r in records:
        if r["cell"]["data"] == "speed":
            lines += [f"{k}: {v}" for k, v in r["result"].items()] + [""]
    for part in PARTS:
        lines += part.table(records)
    return "\n".join(lines)
