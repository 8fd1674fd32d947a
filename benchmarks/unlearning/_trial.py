"""One split of TOFU: what is forgotten, what hyper-parameters are chosen on, what is reported, and the references."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from . import _tofu_models as world

AUTHOR = 20
ROOM = 0.05  # retain ROUGE may fall this far below the base's


@dataclass(frozen=True)
class Trial:
    """Rows: all that is forgotten and retained, and the slices (forget, retain) to choose on and to report on."""

    forget: list[Any]
    retain: list[Any]
    choose: tuple[list[Any], list[Any]]
    report: tuple[list[Any], list[Any]]
    reference: str


@cache
def trial(split):
    """forget10: choose on authors 1-5 of 20, report on 11-20; forget01: choose on one author, report on the other."""
    kept, lost = world.evaluated()
    if split == "forget10":
        return Trial(lost, kept, (lost[:100], kept[:40]), (lost[200:], kept[200:300]), "retain90")
    lost, rest = lost[360:], lost[:360]
    return Trial(lost, [*kept, *rest], (lost[:AUTHOR], kept[:40]), (lost[AUTHOR:], kept[200:300]), "retain99")


def encoded(rows, answer="answer"):
    from corollary.unlearning import Examples

    return Examples.from_pairs(rows, world.tokenizer(), answer=answer)


def measured(model, rows, **options):
    from corollary.unlearning import tofu

    return tofu.evaluate(model, rows, world.tokenizer(), max_new_tokens=90, **options)


@cache
def reference(split, seed, which):
    """The retrained model on the forget rows of a slice."""
    model = world.model(trial(split).reference, seed)[0]
    return measured(model, getattr(trial(split), which)[0], generate=which == "report")


def quality(part, split, seed, which):
    from corollary.unlearning import tofu

    return tofu.forget_quality(tofu.Logs({"forget": part}), tofu.Logs({"forget": reference(split, seed, which)}))


def kept_rouge(model, rows):
    """ROUGE and probability on retained rows; wrong answers are not asked."""
    bare = [{"question": r["question"], "answer": r["answer"], "perturbed_answer": [r["answer"]]} for r in rows]
    part = measured(model, bare)
    return float(part.rouge.mean()), float(part.probability.mean())


def on_validation(model, split, seed):
    """What a setting is chosen by: forget quality, and ROUGE on a few retained questions."""
    lost, kept = trial(split).choose
    part = measured(model, lost, generate=False)
    rouge, _ = kept_rouge(model, kept)
    return {"forget quality": quality(part, split, seed, "choose").pvalue, "retain ROUGE": rouge}


def best(found, floor):
    """Best forget quality among the settings whose retain ROUGE keeps the floor; without any, the highest ROUGE."""
    good = [f for f in found if f[1]["retain ROUGE"] >= floor]
    if good:
        return max(good, key=lambda f: f[1]["forget quality"])
    return max(found, key=lambda f: f[1]["retain ROUGE"])


def reported(model, split, seed):
    """All numbers on the slice that nothing was chosen on."""
    from corollary.unlearning import tofu

    lost, kept = trial(split).report
    part = measured(model, lost)
    found = quality(part, split, seed, "report")
    other = reference(split, seed, "report")
    unseen = measured(model, never_seen(), generate=False)
    rouge, probability = kept_rouge(model, kept)
    d = tofu.bootstrap(
        lambda a, b: tofu.kolmogorov_smirnov(a.truth_ratio, b.truth_ratio).statistic, part, other, draws=200
    )
    return {
        "forget quality": found.pvalue,
        "D": found.statistic,
        "D lower": d.lower,
        "D upper": d.upper,
        "forget truth ratio": tofu.forget_truth_ratio(part),
        "forget probability": float(part.probability.mean()),
        "forget ROUGE": float(part.rouge.mean()),
        "extraction": float(part.extra["extraction"].mean()),
        "membership AUC": tofu.membership_auc(part, unseen),
        "retain probability": probability,
        "retain ROUGE": rouge,
    }


@cache
def never_seen():
    """Questions about authors that no model here was trained on; only the right answers are asked for."""
    rows = world.rows("full")[400:500]
    return [{"question": r["question"], "answer": r["answer"], "perturbed_answer": [r["answer"]]} for r in rows]
