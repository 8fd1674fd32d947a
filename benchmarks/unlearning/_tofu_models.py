"""Small transformers that know TOFU by heart: bases and references, trained here and kept outside the repository.

Retained: the first 20 authors of the set (400 questions, those with paraphrases and wrong answers). To forget: the last
20 authors (forget10), of which the last 2 are forget01. Training all 200 authors would take ten times as long. `full`
knows all 800 questions, `retain90` the 400 retained ones, `retain99` those and the 360 of forget10 outside forget01.
"""

import hashlib
import json
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np

KEPT, LOST = 400, 400
EPOCHS = {"full": 26, "retain99": 27, "retain90": 52}  # equal numbers of steps: all know their set by heart
SIZES = {"width": 128, "layers": 2, "heads": 4, "context": 256}
TRAINING = {"learning_rate": 3e-3, "batch_size": 32}


def data_folder():
    folder = os.environ.get("COROLLARY_DATA")
    if not folder:
        raise SystemExit("set COROLLARY_DATA to the folder with tofu/*.json; see the page on data")
    return Path(folder) / "tofu"


@cache
def rows(name):
    return [json.loads(line) for line in (data_folder() / f"{name}.json").read_text("utf-8").splitlines() if line]


@cache
def evaluated():
    """(retained, forgotten) questions with paraphrases and wrong answers."""
    return rows("retain_perturbed")[:KEPT], rows("forget10_perturbed")


@cache
def tokenizer():
    """Words of the questions learned, and of the other answers where they come in two or more of them."""
    from corollary.unlearning import WordTokenizer

    piece = re.compile(r"\w+|[^\w\s]")
    kept, lost = evaluated()
    learned = {w for r in (*kept, *lost) for t in (r["question"], r["answer"]) for w in piece.findall(t)}
    others = Counter()
    for r in (*kept, *lost):
        others.update({w for t in (r["paraphrased_answer"], *r["perturbed_answer"]) for w in piece.findall(t)})
    return WordTokenizer(sorted(learned | {w for w, n in others.items() if n >= 2}))


def examples(kind):
    """What a model of this kind is trained on."""
    from corollary.unlearning import Examples

    kept, lost = evaluated()
    chosen = {"full": [*kept, *lost], "retain90": kept, "retain99": [*kept, *lost[:360]]}[kind]
    return Examples.from_pairs(chosen, tokenizer())


def network(seed):
    from corollary.models import TransformerConfig, TransformerLM

    return TransformerLM(TransformerConfig(vocab_size=tokenizer().vocab_size, **SIZES), seed=seed)


def folder_of(kind, seed):
    asked = json.dumps([kind, seed, EPOCHS[kind], SIZES, TRAINING, tokenizer().words])
    name = hashlib.sha256(asked.encode()).hexdigest()[:12]
    root = Path(os.environ.get("COROLLARY_CACHE", Path.home() / ".cache" / "corollary"))
    return root / "unlearning" / f"{kind}-{seed}-{name}"


def model(kind, seed):
    """(model, what training it took): from the cache, or trained and kept."""
    from corollary.models import load
    from corollary.runs import read_json, write_json
    from corollary.unlearning import baselines

    folder = folder_of(kind, seed)
    if not (folder / "training.json").exists():
        start = network(seed if kind == "full" else seed + 100)  # a model retrained starts elsewhere
        done = baselines.fine_tune(start, examples(kind), epochs=EPOCHS[kind], seed=seed, **TRAINING)
        done.model.save(folder)
        last = float(np.mean(done.losses[-(len(done.losses) // EPOCHS[kind]) :]))
        write_json(folder / "training.json", {"seconds": done.seconds, "parameters": done.trained, "loss": last})
    return load(folder), read_json(folder / "training.json")
