"""Which column of a log means what: one stated rule, so that it can be echoed before anything is fitted.

1. Prompt: the column that was named; else the first of `PROMPTS`; else the text column with the longest mean text.
2. Long form, if there are a column `model` and one of `QUALITIES`: one row an answer. `cost`, `propensity` if present.
3. Wide form otherwise. Cost of model m: `cost:m`, `m:cost`, `m_cost`, `cost_m`, `m|total_cost`. Numbers beside the
   prompt: `feature:NAME`; a column `embedding` of lists of numbers.
4. Models, wide: the columns that were named; else every column of numbers in [0, 1] (or true/false) that is no cost, no
   feature, no `propensity`, and whose name does not end in `id` or `index`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corollary.deferral.routing._readers import as_numbers
from corollary.errors import InvalidInputError

PROMPTS = ("prompt", "question", "input", "query", "instruction", "text")
QUALITIES = ("quality", "score", "correct")
_NOT_A_MODEL = re.compile(r"(^|[_\s-])(id|idx|index)$", re.IGNORECASE)


def find_prompt(columns: Mapping[str, Sequence[Any]], wanted: str | None) -> str:
    """Name of the prompt column.

    Raises:
        InvalidInputError: where the named column is absent, or no column holds text.

    Example:
        >>> find_prompt({"question": ["What?"], "a": [1]}, None)
        'question'
    """
    text = {n: v for n, v in columns.items() if any(isinstance(x, str) for x in v)}
    if wanted is not None:
        if wanted not in columns:
            raise InvalidInputError(f"there is no column {wanted!r} for the prompt; the log has {', '.join(columns)}")
        return wanted
    for name in PROMPTS:
        if name in text:
            return name
    free = {n: v for n, v in text.items() if as_numbers(v) is None and n != "model"}
    if not free:
        raise InvalidInputError(
            f"no column holds text for a prompt, only {', '.join(columns)}; give a log whose prompts are strings"
        )
    return max(free, key=lambda n: float(np.mean([len(str(x)) for x in free[n] if x is not None])))


def find_quality(columns: Mapping[str, Sequence[Any]]) -> str | None:
    """The quality column of a log in long form; None for the wide form.

    Example:
        >>> find_quality({"prompt": ["a"], "model": ["m"], "score": [1.0]})
        'score'
    """
    if "model" not in columns:
        return None
    return next((q for q in QUALITIES if q in columns), None)


def cost_column(columns: Mapping[str, Sequence[Any]], model: str) -> str | None:
    """The column with the cost of a model.

    Example:
        >>> cost_column({"a": [1], "a_cost": [0.1]}, "a")
        'a_cost'
    """
    candidates = (f"cost:{model}", f"{model}:cost", f"{model}_cost", f"cost_{model}", f"{model}|total_cost")
    return next((c for c in candidates if c in columns), None)


def find_models(columns: Mapping[str, Sequence[Any]], *, prompt: str, named: Sequence[str] | None) -> list[str]:
    """Names of the columns that hold the quality of a model, in the wide form.

    Raises:
        InvalidInputError: where fewer than two are found, or a named one is absent or no number in [0, 1].

    Example:
        >>> find_models({"prompt": ["a"], "cheap": [0], "dear": [1], "row_id": [7], "dear_cost": [0.2]},
        ...             prompt="prompt", named=None)
        ['cheap', 'dear']
    """
    if named is not None:
        for name in named:
            if name not in columns:
                raise InvalidInputError(f"there is no column {name!r} for that model; the log has {', '.join(columns)}")
            values = as_numbers(columns[name])
            if values is None:
                raise InvalidInputError(f"column {name!r} holds text, a model's quality is a number in [0, 1]")
            seen = values[~np.isnan(values)]
            if ((seen < 0) | (seen > 1)).any():
                raise InvalidInputError(f"column {name!r} holds qualities outside [0, 1]; rescale them first")
        found = list(dict.fromkeys(named))
    else:
        costs = {cost_column(columns, n) for n in columns}
        found = [
            n
            for n, v in columns.items()
            if n not in (prompt, "propensity", *costs)
            and not n.startswith(("feature:", "cost:"))
            and not _NOT_A_MODEL.search(n)
            and _is_share(v)
        ]
    if len(found) < 2:
        raise InvalidInputError(
            f"at least two models are needed, found {', '.join(found) or 'none'}; name the columns with `models`"
        )
    return found


def _is_share(values: Sequence[Any]) -> bool:
    numbers = as_numbers(values)
    if numbers is None:
        return False
    seen = numbers[~np.isnan(numbers)]
    return len(seen) > 0 and bool(((seen >= 0) & (seen <= 1)).all())
