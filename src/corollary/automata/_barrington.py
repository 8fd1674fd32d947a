r"""Boolean formulas as words over S5 (Barrington 1989): depth D becomes a word of at most 4^D permutations.

A word computes f with the 5-cycle \(\sigma\) if its product is \(\sigma\) where f is true and the identity where it is
false. A variable is one symbol; `not` changes the last symbol; `and` is a commutator \(a\, b\, a^{-1} b^{-1}\), which
is the identity unless both are there; `or` by De Morgan. Products are read left to right, as heads read words. Hence a
rational head with d = 5 decides formula evaluation, which is NC1-complete, once the formula is written as a word.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from corollary.automata._constructions import permutation_head
from corollary.automata._heads import RationalHead
from corollary.automata._tasks import GROUPS, permutation_group
from corollary.errors import InvalidInputError

Permutation = tuple[int, ...]
TRUE: Permutation = (1, 2, 3, 4, 0)  # the product of the word of a true formula
IDENTITY: Permutation = (0, 1, 2, 3, 4)
MAX_DEPTH = 10


def _then(a: Permutation, b: Permutation) -> Permutation:
    """First a, then b."""
    return tuple(b[i] for i in a)


def _inverse(a: Permutation) -> Permutation:
    return tuple(a.index(i) for i in range(5))


@cache
def _commutators() -> dict[Permutation, tuple[Permutation, Permutation]]:
    """For each 5-cycle two 5-cycles a, b with a b a^-1 b^-1 equal to it."""
    cycles = []
    for rest in itertools.permutations(range(1, 5)):
        walk = (0, *rest)
        images = [0] * 5
        for i, j in zip(walk, (*rest, 0), strict=True):
            images[i] = j
        cycles.append(tuple(images))
    found: dict[Permutation, tuple[Permutation, Permutation]] = {}
    for a, b in itertools.product(cycles, repeat=2):
        product = _then(_then(a, b), _then(_inverse(a), _inverse(b)))
        if product in cycles:
            found.setdefault(product, (a, b))
    return found


@dataclass(frozen=True)
class Program:
    """A width-5 branching program: which permutation each step makes if its variable is false, and if it is true.

    Args:
        instructions: (variable, permutation if false, permutation if true).
        depth: of the formula, counting `and` and `or`.

    Guarantee: for every assignment the product is `TRUE`'s 5-cycle where the formula is true, else the identity; at
        most 4^depth instructions.

    Example:
        >>> from corollary.automata import branching_program
        >>> program = branching_program("x & !y")
        >>> len(program.instructions), program.value({"x": 1, "y": 0}), program.value({"x": 1, "y": 1})
        (4, True, False)
    """

    instructions: tuple[tuple[Any, Permutation, Permutation], ...]
    depth: int

    def permutations(self, assignment: Mapping[Any, Any]) -> tuple[Permutation, ...]:
        """The permutations that the assignment picks."""
        try:
            return tuple(yes if _truth(v, assignment) else no for v, no, yes in self.instructions)
        except KeyError as missing:
            raise InvalidInputError(f"the assignment has no value for {missing}; give one for every variable") from None

    def word(self, assignment: Mapping[Any, Any]) -> tuple[int, ...]:
        """The same as symbols of `s5_head()`."""
        number = _numbers()
        return tuple(number[p] for p in self.permutations(assignment))

    def value(self, assignment: Mapping[Any, Any]) -> bool:
        """The formula's value, by multiplying."""
        product = IDENTITY
        for p in self.permutations(assignment):
            product = _then(product, p)
        return product == TRUE


def _truth(variable: Any, assignment: Mapping[Any, Any]) -> bool:
    return variable if isinstance(variable, bool) else bool(assignment[variable])


@cache
def _numbers() -> dict[Permutation, int]:
    return {g: i for i, g in enumerate(permutation_group(GROUPS["s5"]))}


def s5_head() -> RationalHead:
    """The head that reads words over S5: 120 symbols, one a permutation, d = 5, initial state (1, ..., 5).

    Guarantee: exact at every length; the state is (1, ..., 5) iff the product is the identity.

    Example:
        >>> import torch
        >>> from corollary.automata import formula_to_word, s5_head
        >>> s5_head()(torch.tensor([formula_to_word("1 & (0 | 1)")]))[0, -1].tolist()
        [5.0, 1.0, 2.0, 3.0, 4.0]
    """
    return permutation_head(list(_numbers()))


def formula_to_word(formula: Any, assignment: Mapping[Any, Any] | None = None) -> tuple[int, ...]:
    """A Boolean formula with its values as a word over S5, in the symbols of `s5_head()`.

    Args:
        formula: text such as `x & (y | !z)` with variables and the constants 0 and 1, or nested tuples ("and", f, g),
            ("or", f, g), ("not", f) over variables and truth values.
        assignment: variable -> truth value.

    Returns:
        At most 4^D symbols, D the depth in `and` and `or`; their product is a 5-cycle if the formula is true, else the
        identity.

    Raises:
        InvalidInputError: for a formula that cannot be read or is deeper than 10, or a variable without a value.

    Guarantee: exact (Barrington's theorem).

    Example:
        >>> from corollary.automata import formula_to_word
        >>> len(formula_to_word("(a | b) & !c", {"a": True, "b": False, "c": False}))
        10

    Reference: Barrington (1989), textbook; named by arXiv:2602.07599 for NC1.
    """
    return branching_program(formula).word(assignment or {})


def branching_program(formula: Any) -> Program:
    """The width-5 branching program of a formula; see `formula_to_word`.

    Guarantee: see `Program`.

    Example:
        >>> from corollary.automata import branching_program
        >>> branching_program("!(a & b)").depth
        1
    """
    tree = _parsed(formula) if isinstance(formula, str) else _checked(formula)
    depth = _depth(tree)
    if depth > MAX_DEPTH:
        raise InvalidInputError(
            f"a formula of depth {depth} would need up to 4^{depth} symbols; at most {MAX_DEPTH} deep"
        )
    return Program(tuple(_compiled(tree, TRUE)), depth)


def _compiled(tree: Any, target: Permutation) -> list[tuple[Any, Permutation, Permutation]]:
    if not isinstance(tree, tuple):
        return [(tree, IDENTITY, target)]
    if tree[0] == "not":  # of the inverse target, then the target on top: true and false change places
        steps = _compiled(tree[1], _inverse(target))
        variable, no, yes = steps[-1]
        return [*steps[:-1], (variable, _then(no, target), _then(yes, target))]
    if tree[0] == "or":
        return _compiled(("not", ("and", ("not", tree[1]), ("not", tree[2]))), target)
    a, b = _commutators()[target]
    left, right = tree[1:]
    parts = ((left, a), (right, b), (left, _inverse(a)), (right, _inverse(b)))
    return [step for part, cycle in parts for step in _compiled(part, cycle)]


def _depth(tree: Any) -> int:
    if not isinstance(tree, tuple):
        return 0
    return max(_depth(part) for part in tree[1:]) + (tree[0] != "not")


def _checked(tree: Any, level: int = 0) -> Any:
    if level > 100:
        raise InvalidInputError("the formula is nested more than 100 deep")
    if isinstance(tree, tuple):
        arity = {"not": 1, "and": 2, "or": 2}.get(tree[0] if tree else "")
        if arity is None or len(tree) != arity + 1:
            raise InvalidInputError(f"('not', f), ('and', f, g) or ('or', f, g) is needed, got {tree!r:.60}")
        return (tree[0], *(_checked(part, level + 1) for part in tree[1:]))
    return bool(tree) if isinstance(tree, int) else tree


def _parsed(text: str) -> Any:
    """`|` binds weaker than `&`, both to the left; `!` strongest."""
    import re

    tokens = re.findall(r"\s*([A-Za-z_]\w*|[01]|[!&|()~])", text)
    if "".join(tokens) != re.sub(r"\s", "", text) or not tokens:
        raise InvalidInputError(f"formula {text!r:.80} cannot be read; use names, 0, 1, !, &, | and parentheses")
    at = 0

    def take() -> str:
        nonlocal at
        at += 1
        return tokens[at - 1] if at <= len(tokens) else ""

    def atom(level: int) -> Any:
        sign = take()
        if level > 100:
            raise InvalidInputError("the formula is nested more than 100 deep")
        if sign in ("!", "~"):
            return ("not", atom(level + 1))
        if sign == "(":
            inner = either(level + 1)
            if take() != ")":
                raise InvalidInputError(f"formula {text!r:.80}: a parenthesis is not closed")
            return inner
        if not sign or sign in "&|)":
            raise InvalidInputError(f"formula {text!r:.80}: a variable is missing")
        return sign == "1" if sign in "01" else sign

    def chain(level: int, sign: str, name: str, part: Any) -> Any:
        tree = part(level)
        while at < len(tokens) and tokens[at] == sign:
            take()
            tree = (name, tree, part(level))
        return tree

    def both(level: int) -> Any:
        return chain(level, "&", "and", atom)

    def either(level: int) -> Any:
        return chain(level, "|", "or", both)

    tree = either(0)
    if at < len(tokens):
        raise InvalidInputError(f"formula {text!r:.80}: {tokens[at]!r} is not expected")
    return tree
