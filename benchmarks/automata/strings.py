"""Beyond the regular tasks: string tasks of the Chomsky hierarchy, token by token; no automaton answers them."""

import time

LENGTHS = (40, 41, 64, 96, 128)  # of the input; trained on 1 to 40
METHODS = ("transductor", "lstm", "transformer", "transformer-rotary", "transformer-alibi")
TASKS = (
    *("reverse", "stack-manipulation", "arithmetic-brackets", "solve-equation"),
    *("duplicate", "missing-duplicate", "odds-first", "bucket-sort"),
    *("binary-addition", "binary-multiplication", "square-root"),
)


def strings(task, method, seed):
    """Share of right tokens in the output, mean over lengths 41 to 128 and at 40, percent, and chance."""
    from corollary.automata import (
        RationalTransductor,
        TransductorConfig,
        baseline,
        learn,
        length_accuracy,
        string_task,
        universal,
    )

    problem = string_task(task)
    sizes = {"vocab_size": problem.vocab_size, "classes": problem.classes}
    if method == "transductor":
        model = RationalTransductor(TransductorConfig(**sizes), universal(problem.vocab_size, seed=seed), seed=seed)
    else:
        model = baseline(method, **sizes, seed=seed)
    begun = time.perf_counter()
    learn(model, problem, steps=800, lr=3e-3, curriculum=True, seed=seed)
    seconds = time.perf_counter() - begun
    found = [length_accuracy(model, problem, (n,), count=64)[n]["all"] for n in LENGTHS]
    return {
        "40": round(100 * found[0], 2),
        "41-128": round(100 * sum(found[1:]) / len(found[1:]), 2),
        "chance": round(100 * problem.chance, 2),
        "training seconds": round(seconds, 1),
    }
