"""Every method with three settings of its own, chosen on one slice of the forget authors and reported on the other."""

import time
from itertools import product

from . import _tofu_models as world
from ._trial import ROOM, best, encoded, kept_rouge, on_validation, reported, trial

# Epochs over the forget set: it has 13 batches in forget10 and 2 in forget01.
HEAD_EPOCHS = {"forget10": (30, 100), "forget01": (100, 300)}
FINE_EPOCHS = {"forget10": 2, "forget01": 10}
RATES = (1e-4, 3e-4, 1e-3)
FIRST = ("GradDiff", "NPO", "SimNPO", "RMU", "ULD")
REST = ("GradAscent", "KL", "IdkDPO", "UNDIAL", "WGA", "SatImp", "CE-U", "PDU", "IDK")
OURS = ("T3", "tilt only", "temper only")


def settings(method, split):
    """The grid of a method: three settings each."""
    short, long = HEAD_EPOCHS[split]
    if method == "T3":
        return [dict(zip(("epochs", "temperature"), s, strict=True)) for s in ((short, 1.5), (short, 2.0), (long, 1.5))]
    if method == "tilt only":
        return [{"epochs": e, "learning_rate": r} for e, r in ((short, 1e-2), (long, 1e-2), (long, 3e-2))]
    if method == "temper only":
        return [{"temperature": t} for t in (1.5, 2.0, 2.5)]
    return [{"learning_rate": r} for r in RATES]


def compare(split, method, seed, *, epochs=None):
    """One method on one base: the setting chosen, and what it gives on the slice reported on."""
    base, _ = world.model("full", seed)
    if method in ("base", "retrain"):
        model, training = (base, {}) if method == "base" else world.model(trial(split).reference, seed)
        return {**reported(model, split, seed), **{f"training {k}": v for k, v in training.items()}}
    found = []
    for setting in settings(method, split):
        model, took = made(method, base, split, seed, setting, epochs=epochs or FINE_EPOCHS[split])
        found.append((setting, on_validation(model, split, seed), model, took))
    floor = kept_rouge(base, trial(split).choose[1])[0] - ROOM
    setting, validation, model, took = best(found, floor)
    return {
        "setting": ", ".join(f"{k} {v:g}" for k, v in setting.items()),
        **{f"validation {k}": v for k, v in validation.items()},
        **reported(model, split, seed),
        **took,
        "seconds of all settings": sum(f[3]["seconds"] for f in found),
    }


def made(method, base, split, seed, setting, *, epochs):
    """(model, what it took)."""
    from corollary.unlearning import baselines, fit_temper_tilt

    found = trial(split)
    forget, retain = encoded(found.forget), encoded(found.retain)
    if method == "temper only":
        done = baselines.temper_only(base, **setting)
        return done.model, {"seconds": done.seconds, "trained": done.trained}
    if method in ("T3", "tilt only"):
        options = {"rank": 20, "weight_decay": 1e-2, "learning_rate": 1e-2, "seed": seed, **setting}
        if method == "T3":
            model = fit_temper_tilt(base, forget, retain, **options)
        else:
            model = baselines.tilt_only(base, forget, retain, **options).model
        fit = model.fits["forgotten"]
        trained = sum(p.numel() for p in fit.head.parameters())
        return model, {"seconds": fit.seconds, "caching seconds": fit.caching, "trained": trained}
    options = {"epochs": epochs, "seed": seed, **setting}
    begun = time.perf_counter()
    if method == "ULD":
        done = baselines.fit_uld(base, forget, retain, **options)
    else:
        refusals = None
        if method in ("IDK", "IdkDPO"):
            refusals = encoded([{**row, "answer": "I do not know ."} for row in found.forget])
        done = baselines.unlearn(base, forget, retain, method=method, alternatives=refusals, **options)
    return done.model, {"seconds": time.perf_counter() - begun, "trained": done.trained}


def cells(methods, seeds, splits=("forget10", "forget01"), **more):
    """Cells of the splits."""
    return [{"data": s, "method": m, "seed": k, **more} for k, s, m in product(seeds, splits, methods)]
