"""Ready transformations that often keep a task: images, texts, tables, sequences.

Whether they keep YOURS is an assumption; `contrast` tests it. Each maker returns a list of named functions from a batch
to a batch; the identity comes first.
"""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from corollary.errors import InvalidInputError

Transform = Callable[[Any], Any]


def named(name: str, function: Transform) -> Transform:
    """The function with a name for tables and reports."""
    function.__name__ = name
    return function


def identity(X: Any) -> Any:
    """The batch as it is."""
    return X


def image_shifts(pixels: int = 1, *, wrap: bool = False) -> list[Transform]:
    """All shifts by up to `pixels` in both directions, of images (N, H, W) or (N, H, W, C).

    Args:
        pixels: farthest shift.
        wrap: what leaves at one side enters at the other; else borders are repeated.

    Raises:
        InvalidInputError: for less than one pixel.

    Guarantee: with `wrap` they form a group, so a uniform traffic stays uniform; else they do not.

    Example:
        >>> len(image_shifts(1)), image_shifts(1)[0].__name__
        (9, 'identity')
    """
    if pixels < 1:
        raise InvalidInputError(f"`pixels` must be one or more, got {pixels}")
    steps = sorted(itertools.product(range(-pixels, pixels + 1), repeat=2), key=lambda s: (abs(s[0]) + abs(s[1]), s))

    def shift(down: int, right: int) -> Transform:
        def apply(X: np.ndarray) -> np.ndarray:
            if wrap:
                return np.roll(X, (down, right), axis=(1, 2))
            rows = np.clip(np.arange(X.shape[1]) - down, 0, X.shape[1] - 1)
            columns = np.clip(np.arange(X.shape[2]) - right, 0, X.shape[2] - 1)
            return X[:, rows][:, :, columns]

        return named(f"shift {down:+d} {right:+d}", apply)

    return [identity if s == (0, 0) else shift(*s) for s in steps]


def image_flips(*, horizontal: bool = True, vertical: bool = False) -> list[Transform]:
    """Mirror images of (N, H, W, ...) arrays.

    Guarantee: a group.

    Example:
        >>> [t.__name__ for t in image_flips(vertical=True)]
        ['identity', 'flip left-right', 'flip top-bottom', 'flip both']
    """
    found: list[Transform] = [identity]
    if horizontal:
        found.append(named("flip left-right", lambda X: X[:, :, ::-1]))
    if vertical:
        found.append(named("flip top-bottom", lambda X: X[:, ::-1]))
    if horizontal and vertical:
        found.append(named("flip both", lambda X: X[:, ::-1, ::-1]))
    return found


def image_rotations() -> list[Transform]:
    """Quarter turns of square images (N, H, H, ...).

    Guarantee: a group.

    Example:
        >>> image_rotations()[2](np.array([[[1, 2], [3, 4]]])).tolist()
        [[[4, 3], [2, 1]]]
    """

    def turn(k: int) -> Transform:
        return named(f"turn {90 * k}", lambda X: np.rot90(X, k, axes=(1, 2)))

    return [identity, *(turn(k) for k in (1, 2, 3))]


def image_crops(size: int, *, count: int = 5) -> list[Transform]:
    """Crops of (N, H, W, ...) enlarged again by repeating pixels: the four corners and the centre.

    Args:
        size: rows and columns kept.
        count: how many of the five.

    Raises:
        InvalidInputError: for a size below one or a count outside 1 to 5.

    Guarantee: none; not a group.

    Example:
        >>> image_crops(1, count=1)[1](np.array([[[1, 2], [3, 4]]])).tolist()
        [[[1, 1], [1, 1]]]
    """
    if size < 1 or not 1 <= count <= 5:
        raise InvalidInputError(f"`size` must be positive and `count` 1 to 5, got {size} and {count}")

    def crop(down: float, right: float) -> Transform:
        def apply(X: np.ndarray) -> np.ndarray:
            h, w = X.shape[1:3]
            if size > min(h, w):
                raise InvalidInputError(f"crops of {size} do not fit images of {h} by {w}")
            top, left = round(down * (h - size)), round(right * (w - size))
            rows, columns = top + np.arange(h) * size // h, left + np.arange(w) * size // w
            return X[:, rows][:, :, columns]

        return named(f"crop at {down:g} {right:g}", apply)

    places = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5))
    return [identity, *(crop(*place) for place in places[:count])]


def text_variants(synonyms: Mapping[str, str] | None = None) -> list[Transform]:
    """Texts in lower case, with single blanks, and with words replaced by the user's synonyms.

    Args:
        synonyms: word -> word, replaced as whole words in both cases.

    Guarantee: none; the case of a name can matter.

    Example:
        >>> [t(["A  Fast car"])[0] for t in text_variants({"fast": "quick"})]
        ['A  Fast car', 'a  fast car', 'A Fast car', 'A  Quick car']
    """

    def spaced(texts: Sequence[str]) -> list[str]:
        return [" ".join(t.split()) for t in texts]

    found: list[Transform] = [
        identity,
        named("lower case", lambda ts: [t.lower() for t in ts]),
        named("single blanks", spaced),
    ]
    if synonyms:
        table = {k.lower(): v for k, v in synonyms.items()}
        pattern = re.compile(
            r"\b(" + "|".join(re.escape(k) for k in sorted(table, key=len, reverse=True)) + r")\b", re.I
        )

        def swap(match: re.Match[str]) -> str:
            word = table[match[0].lower()]
            return word.capitalize() if match[0][:1].isupper() else word

        found.append(named("synonyms", lambda ts: [pattern.sub(swap, t) for t in ts]))
    return found


def option_orders(options: int, *, count: int | None = None, seed: int = 0) -> list[tuple[int, ...]]:
    """Orders in which the options of a multiple choice can be shown; the given one first.

    Args:
        options: how many.
        count: orders drawn without replacement; None for the cyclic shifts, in which each option meets each place once.
        seed: of the draw.

    Raises:
        InvalidInputError: for fewer than two options, or more orders than there are.

    Guarantee: over the cyclic shifts a bias for a place cancels in the geometric mean.

    Example:
        >>> option_orders(3)
        [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    """
    if options < 2:
        raise InvalidInputError(f"`options` must be two or more, got {options}")
    first = tuple(range(options))
    if count is None:
        return [first[i:] + first[:i] for i in range(options)]
    total = 1
    for i in range(2, min(options, 12) + 1):
        total *= i
    if not 1 <= count <= total:
        raise InvalidInputError(f"{options} options have {total} orders, {count} were asked for")
    rng, found = np.random.default_rng(seed), {first: None}
    while len(found) < count:
        found[tuple(rng.permutation(options).tolist())] = None
    return list(found)


def column_symmetries(*, swaps: Sequence[tuple[int, int]] = (), signs: Sequence[Sequence[int]] = ()) -> list[Transform]:
    """Symmetries that the user declares of a table (N, d): columns that may be swapped, or change their signs.

    Args:
        swaps: pairs of columns.
        signs: groups of columns that change sign together.

    Guarantee: each is its own inverse; with the identity, a group only where there is one of them.

    Example:
        >>> [t(np.array([[1.0, 2.0]])).tolist() for t in column_symmetries(swaps=[(0, 1)], signs=[[0]])]
        [[[1.0, 2.0]], [[2.0, 1.0]], [[-1.0, 2.0]]]
    """

    def swap(a: int, b: int) -> Transform:
        def apply(X: np.ndarray) -> np.ndarray:
            out = np.array(X)
            out[:, [a, b]] = X[:, [b, a]]
            return out

        return named(f"swap {a} {b}", apply)

    def turn(columns: Sequence[int]) -> Transform:
        def apply(X: np.ndarray) -> np.ndarray:
            out = np.array(X)
            out[:, list(columns)] *= -1
            return out

        return named(f"sign of {', '.join(map(str, columns))}", apply)

    return [identity, *(swap(a, b) for a, b in swaps), *(turn(columns) for columns in signs)]


def sequence_variants(*, reverse: bool = True, relabellings: Sequence[Sequence[int]] = ()) -> list[Transform]:
    """Sequences (N, T) read backwards, and with their symbols renamed.

    Args:
        reverse: whether the order may be turned.
        relabellings: permutations of the symbols, each a list with the new name at the place of the old.

    Raises:
        InvalidInputError: for a relabelling that is no permutation.

    Guarantee: none beyond what is declared.

    Example:
        >>> [t(np.array([[0, 1, 1]])).tolist() for t in sequence_variants(relabellings=[[1, 0]])]
        [[[0, 1, 1]], [[1, 1, 0]], [[1, 0, 0]]]
    """
    found: list[Transform] = [identity]
    if reverse:
        found.append(named("backwards", lambda X: X[:, ::-1]))
    for table in relabellings:
        names = np.asarray(table)
        if sorted(names.tolist()) != list(range(len(names))):
            raise InvalidInputError(
                f"a relabelling must be a permutation of 0 to {len(names) - 1}, got {names.tolist()}"
            )
        found.append(named(f"relabel {names.tolist()}", lambda X, names=names: names[X]))
    return found
