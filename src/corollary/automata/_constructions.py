r"""Heads that are exact by construction (section 3.6 of the notes): no training, any length.

Mohri, arXiv:2602.07599, Theorems 5 to 7 and Lemma 4 by their names in public notes; matrices are standard and verified
here.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from corollary.automata._dfa import DFA
from corollary.automata._families import rotations
from corollary.automata._finite_head import FiniteHead
from corollary.automata._heads import RationalHead, fixed_head
from corollary.automata._tasks import permutation_group, task
from corollary.automata._transducer import Transducer
from corollary.errors import InvalidInputError


def parity_head() -> FiniteHead:
    """Parity of the ones among symbols 0 and 1: one-hot, even first (Theorem 5).

    Guarantee: exact at every length.

    Example:
        >>> import torch
        >>> from corollary.automata import parity_head
        >>> parity_head()(torch.tensor([[1, 1, 1]]))[0, :, 1].tolist()
        [1.0, 0.0, 1.0]
    """
    return FiniteHead([[0, 1], [1, 0]])


def counter_head(k: int, *, steps: Sequence[int] | None = None, rotation: bool = False) -> Any:
    r"""Counts mod k: symbol i adds `steps[i]` (Theorem 6).

    Args:
        k: the modulus.
        steps: what each symbol adds; None for 0 and 1.
        rotation: d = 2, turns by \(2 \pi / k\) in floating point, instead of k one-hot states.

    Raises:
        InvalidInputError: for k below 1.

    Guarantee: one-hot: exact at every length. Rotations: the phase errs by at most T times the rounding of one
        product, see `certify_float`.

    Example:
        >>> import torch
        >>> from corollary.automata import counter_head
        >>> counter_head(3)(torch.ones(1, 4, dtype=torch.int64))[0].argmax(-1).tolist()
        [1, 2, 0, 1]
    """
    if k < 1:
        raise InvalidInputError(f"`k` must be at least 1, got {k}")
    added = (0, 1) if steps is None else tuple(steps)
    if rotation:
        angle = torch.tensor([[2 * math.pi * s / k] for s in added], dtype=torch.float64)
        return fixed_head(rotations(angle), torch.tensor([1.0, 0.0], dtype=torch.float64))
    return FiniteHead([[(q + s) % k for s in added] for q in range(k)])


def base_head(base: int, *, order: str = "exact") -> RationalHead:
    r"""The value of digits in base b (Theorem 7), d = 2, in float64.

    Args:
        base: b, at least 2; symbols are its digits.
        order: `exact`: \(h_T = (value, 1)\), most significant first, exact up to 2^53; `low`: least significant first,
            \(value / b^T\) in [0, 1); `high`: most significant first, the same, bounded.

    Raises:
        InvalidInputError: for a base below 2 or an unknown order.

    Guarantee: `exact` in integers below 2^53; `low` and `high` within rounding, and always in [0, 1).

    Example:
        >>> import torch
        >>> from corollary.automata import base_head
        >>> base_head(2)(torch.tensor([[1, 0, 1]]))[0, -1].tolist()
        [5.0, 1.0]
    """
    if base < 2:
        raise InvalidInputError(f"`base` must be at least 2, got {base}")
    digits = range(base)
    makers = {
        "exact": ([[[base, c], [0, 1]] for c in digits], [0, 1]),
        "low": ([[[1 / base, c / base], [0, 1]] for c in digits], [0, 1]),
        "high": ([[[1, c / base], [0, 1 / base]] for c in digits], [0, 1]),
    }
    if order not in makers:
        raise InvalidInputError(f"`order` is one of {', '.join(makers)}, got {order!r}")
    M, h0 = makers[order]
    return fixed_head(torch.tensor(M, dtype=torch.float64), torch.tensor(h0, dtype=torch.float64))


def adder_head(base: int = 10) -> FiniteHead:
    """The carry of an addition, digit pairs (a, b) as symbols a * base + b, low digits first: one-hot.

    The digit is (a + b + carry before) mod base: read the EXCLUSIVE state.

    Guarantee: exact at every length.

    Example:
        >>> import torch
        >>> from corollary.automata import adder_head
        >>> adder_head()(torch.tensor([[57, 39, 1]]))[0, :, 1].tolist()  # 5+7, 3+9+1, 0+1+1
        [1.0, 1.0, 0.0]
    """
    automaton = task("addition", base=base).automaton
    return FiniteHead(automaton.transitions, start=automaton.start)


def automaton_head(automaton: DFA | Transducer) -> FiniteHead:
    r"""Any deterministic automaton as a head: \(M_\sigma e_q = e_{\delta(q, \sigma)}\), d = n, one-hot states.

    Guarantee: exact at every length.

    Example:
        >>> from corollary.automata import DFA, automaton_head
        >>> automaton_head(DFA.from_regex("(ab)*", "ab")).dim
        3
    """
    if (automaton.transitions < 0).any():
        table = np.where(
            automaton.transitions < 0, np.arange(len(automaton.transitions))[:, None], automaton.transitions
        )
        return FiniteHead(table, start=automaton.start)
    return FiniteHead(automaton.transitions, start=automaton.start)


def permutation_head(generators: Sequence[Sequence[int]] = ((1, 0, 2, 3, 4), (1, 2, 3, 4, 0))) -> RationalHead:
    """Words over a permutation group by permutation matrices, d = n, first state (1, 2, ..., n): states name elements.

    Args:
        generators: a permutation (tuple of images) for each symbol; the default generates S5, whose word problem is
            NC1-complete (Barrington).

    Raises:
        InvalidInputError: for what are no permutations of one degree.

    Guarantee: exact at every length: entries are small integers that only move.

    Example:
        >>> import torch
        >>> from corollary.automata import permutation_head
        >>> permutation_head()(torch.tensor([[0, 1]]))[0].tolist()
        [[2.0, 1.0, 3.0, 4.0, 5.0], [5.0, 2.0, 1.0, 3.0, 4.0]]
    """
    permutation_group(generators, limit=1 << 20)
    n = len(generators[0])
    M = torch.zeros(len(generators), n, n)
    for v, images in enumerate(generators):
        M[v, list(images), range(n)] = 1
    return fixed_head(M, torch.arange(1.0, n + 1))


def sinusoidal_head(vocab_size: int, dim: int, *, base: float = 10_000.0) -> RationalHead:
    r"""The sinusoidal positional code as a head (Lemma 4): every symbol turns plane i by \(base^{-2i / d}\).

    Args:
        vocab_size: number of symbols; all have the same matrix.
        dim: d, even.
        base: of the frequencies.

    Raises:
        InvalidInputError: for an odd dimension.

    Guarantee: \(h_t = (\cos t \theta_i, \sin t \theta_i)_i\) within rounding: positional codes are rational heads.

    Example:
        >>> import torch
        >>> from corollary.automata import sinusoidal_head
        >>> h = sinusoidal_head(3, 4)(torch.tensor([[0, 2]]))[0, -1]
        >>> torch.allclose(h[:2], torch.tensor([2.0]).double().cos().new_tensor([-0.41614684, 0.90929743]))
        True
    """
    if dim < 2 or dim % 2:
        raise InvalidInputError(f"`dim` must be even and positive, got {dim}")
    angle = base ** (-torch.arange(dim // 2, dtype=torch.float64) * 2 / dim)
    start = torch.tensor([1.0, 0.0], dtype=torch.float64).repeat(dim // 2)
    return fixed_head(rotations(angle[None]).expand(vocab_size, -1, -1), start)
