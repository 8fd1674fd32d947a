"""What an orthogonal head has learned: eigen-angles, as fractions of a turn."""

from fractions import Fraction
from typing import Any

import torch


def eigen_angles(head: Any, q_max: int = 60) -> list[dict[str, Any]]:
    r"""What an orthogonal head has learned, symbol by symbol: its angles, and the nearest fractions of a turn.

    Args:
        head: with `matrices()`.
        q_max: largest denominator.

    Returns:
        For each symbol `turns` (angles / 2 pi in [0, 1/2], rising), `fractions` (nearest j/q as text), `errors` (in
        turns), and `lengths`: up to which length \(T |error| < 1 / (2 q)\) keeps the phase in its class.

    Guarantee: none; it describes. Matrices that are not normal have eigenvalues off the unit circle.

    Example:
        >>> import torch
        >>> from corollary.automata import eigen_angles, fixed_head, rotations
        >>> head = fixed_head(rotations(torch.tensor([[2 * torch.pi / 5 + 1e-3]])), torch.tensor([1.0, 0.0]))
        >>> eigen_angles(head, q_max=8)[0]["fractions"]
        ['1/5']
    """
    found = []
    for M in head.matrices().detach().double():
        values = torch.linalg.eigvals(M)
        turns = sorted((torch.angle(values)[values.imag >= -1e-9].abs() / (2 * torch.pi)).tolist())
        nearest = [Fraction(t).limit_denominator(q_max) for t in turns]
        errors = [abs(t - float(f)) for t, f in zip(turns, nearest, strict=True)]
        lengths = [1 / (2 * f.denominator * e) if e else float("inf") for f, e in zip(nearest, errors, strict=True)]
        found.append({"turns": turns, "fractions": [str(f) for f in nearest], "errors": errors, "lengths": lengths})
    return found
