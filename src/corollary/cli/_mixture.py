"""What users know of the mixture of domains: `code>=0.2`, `math<=0.5`, `json=0.1`."""

import re

import numpy as np
import typer

_CONSTRAINT = re.compile(r"\s*(?P<name>.+?)\s*(?P<relation>>=|<=|=)\s*(?P<value>[0-9.eE+-]+)\s*")


def parse_constraints(texts: list[str], names: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """(A, b) with A lambda <= b; None where nothing is known."""
    rows, limits = [], []
    for text in texts:
        match = _CONSTRAINT.fullmatch(text)
        try:
            value = float(match["value"]) if match else float("nan")
        except ValueError:
            value = float("nan")
        if match is None or not 0 <= value <= 1:
            raise typer.BadParameter(f"--mixture takes NAME>=SHARE, NAME<=SHARE or NAME=SHARE, got {text!r}")
        if match["name"] not in names:
            raise typer.BadParameter(f"--mixture names {match['name']!r}, the domains are {', '.join(names)}")
        unit = np.eye(len(names))[names.index(match["name"])]
        if match["relation"] in (">=", "="):
            rows.append(-unit)
            limits.append(-value)
        if match["relation"] in ("<=", "="):
            rows.append(unit)
            limits.append(value)
    return (np.stack(rows), np.array(limits)) if rows else None
