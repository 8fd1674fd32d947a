"""The job of `corollary route collect`: choose whom to ask about what, ask through the ledger, fit a router.

Prompts are taken in a random order, a first part is asked of everyone, then a committee's disagreement says what is
worth asking, scaled to the money that is left. Every round of draws is written into the ledger, probabilities included,
before its first query is sent: a run that was killed goes on with the very draws it had made. A prompt is taken into a
round only if asking *everyone* about it still fits into the budget: its own draws have no say in that, so the
propensities stay true until the end of the money.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.certificates import Certificate, save_certificate
from corollary.deferral._budgeted_deferral import BudgetedDeferral
from corollary.deferral._expert_pool import ExpertPool, Question
from corollary.deferral._ledger import ANSWERED, Ledger, Query
from corollary.deferral._ledger_certificate import FILE, certify_ledger
from corollary.deferral._ledger_schema import NANO
from corollary.deferral._pool_file import Judge, PoolFile
from corollary.deferral.routing._features import PRESETS, Features
from corollary.deferral.routing._fit import fit_run
from corollary.deferral.routing._log import read_log
from corollary.deferral.routing._readers import read_columns
from corollary.deferral.routing._roles import find_prompt
from corollary.errors import InvalidInputError
from corollary.runs import RunFolder, write_atomically, write_json

LOG = "log.jsonl"
DIRECTIONS = 32  # of the prompts' features that the committee sees
LEAST = 10  # prompts that everyone must be asked about
SILENT = 8  # queries to an expert after which its silence ends the run
Tell = Callable[[str, float], Any]


def collect_run(
    run: RunFolder,
    rows: Sequence[Mapping[str, Any]],
    pool_file: PoolFile,
    *,
    prompt: str,
    budget: float,
    unit: str = "money",
    method: str = "committee",
    floor: float = 0.05,
    features: str = "hash",
    loss: str = "value",
    weights: str = "equal",
    l2: float = 2.0,
    seed: int = 0,
    tell: Tell = lambda what, share: None,
) -> tuple[dict[str, Any], Certificate]:
    """Ask within the budget, then fit; a run that was interrupted goes on, one that is complete asks nothing more."""
    order = np.random.default_rng([seed, 0]).permutation(len(rows))
    shuffled = [rows[i] for i in order]
    x = committee_features([str(r[prompt]) for r in shuffled], features, seed=seed)
    with Ledger(run.inside(FILE), budget=budget, unit=unit) as ledger:
        pool = ExpertPool(pool_file.experts, ledger)
        market = LedgerMarket(pool, shuffled, prompt, pool_file.judge, tell=tell)
        whole = float(market.most.sum())
        least = float(market.most[:LEAST].sum())
        if budget < least:
            raise InvalidInputError(
                f"{budget:g} does not even cover asking everyone about {LEAST} prompts ({least:g}); give a larger one"
            )
        share = min(1.0, budget / whole) if whole else 1.0
        # a quarter of the money for rows that everyone is asked about, as far as that makes sense
        warm = int(np.clip(0.25 * share * len(rows), LEAST, 250))
        design = BudgetedDeferral(
            method=method if share < 1 else "full",
            budget=share, prices=np.maximum(market.most.mean(0), 1e-9), floor=floor, warm=warm,
            every=int(np.clip(len(rows) // 8, 10, 250)), loss=loss, weights=weights, l2=l2, compare=False, seed=seed,
        )  # fmt: skip
        design.fit(x, market)
        metrics = {"collection": _account(ledger, design, market)}
        _write_log(run.inside(LOG), ledger, {market.items[i]: r for i, r in enumerate(shuffled)}, prompt)
        certificate, evidence = certify_ledger(
            ledger,
            everything=whole or None,
            provenance={"prompts": len(rows), "experts": list(pool.experts), "seed": seed},
        )
    tell("fitting", 0.95)
    log = read_log(run.inside(LOG), prompt="prompt")
    if weights == "equal":  # the stored log keeps its propensities: calibration needs them
        log = replace(log, propensity=None)
    fitted, _ = fit_run(run, log, features=features, loss=loss, l2=l2, repeats=0, seed=seed)
    metrics = metrics | fitted
    write_json(run.inside("metrics.json"), metrics)
    save_certificate(run.path, certificate, evidence)
    return metrics, certificate


class LedgerMarket:
    """Costs bought from a pool, one minus the quality of the answers; every plan lies in the ledger first.

    Example:
        >>> import tempfile
        >>> from corollary.deferral import Expert
        >>> with Ledger(Path(tempfile.mkdtemp()) / "ledger.sqlite", budget=1.0) as ledger:
        ...     pool = ExpertPool([Expert("a", str.upper, price=0.1), Expert("b", str.lower, price=0.2)], ledger)
        ...     market = LedgerMarket(pool, [{"q": "hello"}], "q", lambda row, answer: float(answer == "hello"))
        ...     _ = market.plan(0, np.array([0]), np.array([[0.5, 1.0]]), np.array([[True, True]]))
        ...     market.ask(np.array([0, 0]), np.array([0, 1])).tolist()
        [1.0, 0.0]
    """

    def __init__(
        self,
        pool: ExpertPool,
        rows: Sequence[Mapping[str, Any]],
        prompt: str,
        judge: Judge,
        *,
        tell: Tell = lambda what, share: None,
    ) -> None:
        self.pool, self.rows, self.judge, self.tell = pool, rows, judge, tell
        self.items = [str(r[prompt]) for r in rows]
        self.names = list(pool.experts)
        self.most: Float[np.ndarray, "n k"] = np.array(
            [[e.most(p) for e in pool.experts.values()] for p in self.items], dtype=np.float64
        )

    def left(self, done: int) -> float:
        """Share of what asking everyone about the rows from `done` on would cost that the budget still covers."""
        ahead = self.most[done:].sum(0) * self._paid()
        return float(min(1.0, self.pool.ledger.remaining / ahead.sum())) if ahead.sum() else 1.0

    def plan(self, number: int, rows: np.ndarray, p: np.ndarray, drawn: np.ndarray) -> tuple[Any, Any, Any]:
        """The round as the ledger has it, or these draws written into it, as far as the money surely reaches."""
        ledger = self.pool.ledger
        stored = ledger.rounds()
        if number < len(stored):
            body = stored[number]
            if body["experts"] != self.names or body["items"] != [self.items[i] for i in body["rows"]]:
                raise InvalidInputError(f"{ledger.path}: collected from other experts or prompts; give another --out")
            return np.array(body["rows"]), np.array(body["p"]), np.array(body["drawn"], dtype=bool)
        money, count = ledger.remaining, 0
        for row, own in zip(rows, drawn, strict=True):
            if self.most[row].sum() > money + 0.5 / NANO:
                break
            money -= float(self.most[row][own].sum())
            count += 1
        rows, p, drawn = rows[:count], p[:count], drawn[:count]
        if count:
            experts = list(self.pool.experts.values())
            body = {"rows": rows.tolist(), "p": p.tolist(), "drawn": drawn.tolist(), "experts": self.names}
            body["items"] = [self.items[i] for i in rows]
            i, j = np.nonzero(drawn)
            pairs = zip(rows[i].tolist(), i.tolist(), j.tolist(), strict=True)
            draws = [
                (self.items[r], self.names[k], float(p[at, k]), float(self.most[r, k]), experts[k].idempotent)
                for r, at, k in pairs
            ]
            ledger.plan(number, body, draws)
        return rows, p, drawn

    def ask(self, rows: np.ndarray, experts: np.ndarray) -> Float[np.ndarray, " m"]:
        """(m,) one minus the quality of each answer; NaN where none came."""
        ledger, base = self.pool.ledger, float(rows.min()) / len(self.items)
        step = (float(rows.max()) + 1) / len(self.items) - base
        done = 0

        def told(query: Query) -> None:
            nonlocal done
            done += 1
            spent = f"{ledger.charged:.4g} of {ledger.budget:g} {ledger.unit}"
            self.tell(f"asking: {spent}", 0.9 * (base + step * done / len(rows)))

        pairs = list(zip(rows.tolist(), experts.tolist(), strict=True))
        found = self.pool.ask([Question(self.items[r], self.names[k]) for r, k in pairs], tell=told)
        costs, scores = np.full(len(pairs), np.nan), {}
        for at, ((row, _), query) in enumerate(zip(pairs, found, strict=True)):
            if query is not None and query.state == ANSWERED:
                score = query.score
                if score is None:
                    score = scores[query.id] = self._judged(self.rows[row], query)
                costs[at] = 1 - score
        ledger.judge(scores)
        self._refuse_silence()
        return costs

    def _judged(self, row: Mapping[str, Any], query: Query) -> float:
        try:
            score = float(self.judge(row, query.answer))
        except Exception as problem:
            said = f"the quality function failed on an answer of {query.expert} ({type(problem).__name__}: {problem})"
            raise InvalidInputError(f"{said}; repair it and run again, answers are kept") from problem
        if not 0 <= score <= 1:
            raise InvalidInputError(f"the quality function must give numbers in [0, 1], got {score}; answers are kept")
        return score

    def _paid(self) -> Float[np.ndarray, " k"]:
        """(K,) what answers have cost so far, as a share of their maxima; 1 where nothing is known."""
        paid, most = np.zeros(len(self.names)), np.zeros(len(self.names))
        for query in self.pool.ledger.queries(state=ANSWERED):
            k = self.names.index(query.expert)
            paid[k] += query.charge
            most[k] += query.maximum
        return np.where(most > 0, paid / np.where(most > 0, most, 1), 1.0)

    def _refuse_silence(self) -> None:
        asked: dict[str, list[int]] = {name: [0, 0] for name in self.names}
        for query in self.pool.ledger.queries():
            asked[query.expert][0] += query.sends > 0
            asked[query.expert][1] += query.state == ANSWERED
        for name, (sent, answered) in asked.items():
            if sent >= SILENT and answered == 0:
                why = self.pool.problems.get(name, "no reason is known")
                raise InvalidInputError(
                    f"{name} answered none of {sent} queries ({why}); repair it and run again, answers are kept"
                )


def read_prompts(path: str | Path, *, prompt: str | None, reference: str | None) -> tuple[list[dict[str, Any]], str]:
    r"""The rows of a file of prompts, each prompt once, and the name of their column.

    Raises:
        InvalidInputError: for an absent column, an empty prompt, or fewer than 20 prompts.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "prompts.jsonl"
        >>> lines = [json.dumps({"question": f"What is {i}?", "answer": i}) for i in range(20)]
        >>> _ = file.write_text("\n".join(lines))
        >>> rows, name = read_prompts(file, prompt=None, reference="answer")
        >>> len(rows), name
        (20, 'question')
    """
    columns = read_columns(path)
    name = find_prompt({k: v for k, v in columns.items() if k != reference}, prompt)
    if reference is not None and reference not in columns:
        raise InvalidInputError(f"there is no column {reference!r} with the references; there are {', '.join(columns)}")
    count = len(columns[name])
    rows = {str(columns[name][i]): {k: v[i] for k, v in columns.items()} for i in reversed(range(count))}
    if any(columns[name][i] is None or not str(columns[name][i]).strip() for i in range(count)):
        raise InvalidInputError(f"a prompt in column {name!r} is empty; remove or fill it")
    if len(rows) < 20:
        raise InvalidInputError(f"{len(rows)} different prompts are too few to learn from; give at least 20")
    return list(reversed(rows.values())), name


def committee_features(prompts: list[str], features: str, *, seed: int) -> Float[np.ndarray, "n d"]:
    """A few directions of the prompts' features, of spread one: enough to tell where routers disagree."""
    from sklearn.decomposition import TruncatedSVD

    x = Features(features if features in PRESETS else "hash").fit_transform(prompts)
    few = min(DIRECTIONS, len(prompts) // 10, x.shape[1] - 1)
    if few < 2:
        return np.asarray(Features("statistics").fit_transform(prompts).todense())
    found = TruncatedSVD(few, random_state=seed).fit_transform(x)
    return found / (found.std(0) + 1e-9)


def _write_log(path: Path, ledger: Ledger, rows: Mapping[str, Mapping[str, Any]], prompt: str) -> None:
    """The answers in the long form of logs: prompt, model, quality, cost, propensity."""
    lines = [
        json.dumps(
            {
                "prompt": rows[q.item][prompt],
                "model": q.expert,
                "quality": q.score,
                "cost": q.charge / NANO,
                "propensity": q.probability,
            },
            ensure_ascii=False,
        )
        for q in ledger.queries(state=ANSWERED)
        if q.item in rows and q.score is not None
    ]
    write_atomically(path, "\n".join(lines) + "\n")


def _account(ledger: Ledger, design: BudgetedDeferral, market: LedgerMarket) -> dict[str, Any]:
    """What was asked, what it cost, and how many answers of equal weight it is worth, uniform sampling beside it."""
    known = design.asked_ & ~np.isnan(design.costs_)
    weight = np.where(known, 1 / np.where(known, design.probability_, 1.0), 0.0)
    effective = weight.sum(0) ** 2 / np.maximum((weight**2).sum(0), 1e-300)
    reached = max(1, int((design.probability_ > 0).any(1).sum()))
    price = market.most.mean(0) * market._paid()
    alike = min(float(len(market.items)), ledger.charged / price.sum()) if price.sum() else float(len(market.items))
    quality = [float((weight[:, k] * np.nan_to_num(1 - design.costs_[:, k])).sum() / weight[:, k].sum()) for k in
               range(len(market.names))]  # fmt: skip
    return {
        "budget": ledger.budget,
        "unit": ledger.unit,
        "charged": ledger.charged,
        "in_flight": ledger.in_flight,
        "queries": ledger.counts(),
        "share_of_all_queries": float(design.asked_.mean()),
        "prompts_reached": reached,
        "experts": {
            name: {
                "answered": int(known[:, k].sum()),
                "mean_quality": quality[k],
                "effective_answers": float(effective[k]),
            }
            for k, name in enumerate(market.names)
        },
        "uniform_at_equal_spend": {
            "answers_of_each_expert": alike,
            "note": "what each expert would have answered had all been asked alike; an expert's effective answers "
            "below this are the price of asking others more",
        },
        "problems": dict(market.pool.problems),
    }
