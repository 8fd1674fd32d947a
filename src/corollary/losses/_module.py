"""The base of every loss module: what a loss declares of itself, its decoding, its bound and its certificate."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.losses._interface import IGNORE, surrogate


class SurrogateLoss(nn.Module):
    r"""A loss as a module, with what is known about it as attributes.

    A loss of one's own needs `at(z, y)`, the loss of labels `(m,)` at scores `(m, n)`; everything else follows: hard
    and soft targets, weights, ignored labels, reductions, trailing axes, and `corollary.testing.check_loss`.

    Args:
        weight: (n,) weights of the labels, as in torch.
        ignore_index: label whose rows count zero.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Attributes:
        convex: convex in the logits for every label.
        nonnegative: never below zero.
        bounded: bounded above.
        proper: `predict_proba` of the minimiser is the distribution of the label.
        symmetric: the losses of all labels at one score vector add up to a constant.
        consistent_for: the error that minimising it minimises: `"zero-one"`, `"balanced"`, or None.
        calibrated: classification-calibrated for the zero-one error: the predicted class of the conditional minimiser
            is a likeliest one.
        shift_invariant: adding one number to all scores changes nothing.
        equivariant: permuting scores and label together changes nothing (no class is special).
        rowwise: a mean of losses of rows (False: a quantity of the batch).
        reduces_to: settings under which it is a known loss, in words.
        limits: the same for `check_loss`: `"cross-entropy"` or `"mean absolute error"` -> attributes to set, or a name
            of your own -> (attributes, function of logits and labels).
        guarantee: theorem, constants and assumptions in words, or "none".

    Guarantee: none of its own.

    Example:
        >>> import torch
        >>> class Brier(SurrogateLoss):
        ...     proper = bounded = True
        ...     def at(self, z, y):
        ...         s = torch.softmax(z, -1)
        ...         return 1 + (s * s).sum(-1) - 2 * s.gather(1, y[:, None])[:, 0]
        >>> Brier()(torch.zeros(3, 2), torch.tensor([0, 1, -100]))
        tensor(0.5000)
    """

    convex: bool = False
    nonnegative: bool = True
    bounded: bool = False
    proper: bool = False
    symmetric: bool = False
    consistent_for: str | None = None
    calibrated: bool = False
    shift_invariant: bool = True
    equivariant: bool = True
    rowwise: bool = True
    reduces_to: str = ""
    limits: Mapping[str, Any] = MappingProxyType({})
    guarantee: str = "none"

    def __init__(self, *, weight: Tensor | None = None, ignore_index: int = IGNORE, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise InvalidInputError(f"`reduction` must be 'mean', 'sum' or 'none', got {reduction!r}")
        self.register_buffer("weight", weight)
        self.weight: Tensor | None
        self.ignore_index, self.reduction = ignore_index, reduction

    @property
    def common(self) -> dict[str, Any]:
        """The options that every loss has."""
        return {"weight": self.weight, "ignore_index": self.ignore_index, "reduction": self.reduction}

    def at(self, z: Tensor, y: Tensor) -> Float[Tensor, " m"]:
        """Losses (m,) of labels (m,) at scores (m, n); what a loss of one's own defines."""
        raise NotImplementedError

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return surrogate(self.at, logits, target, **self.common)

    def predict(self, logits: Tensor) -> Int[Tensor, "..."]:
        """The class to predict: the largest score (the first of equal ones) along axis 1, or 0 of a vector."""
        return logits.argmax(0 if logits.ndim == 1 else 1)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """Probabilities of the classes, where the loss is proper."""
        raise InvalidInputError(
            f"`{type(self).__name__}` is not proper: its scores rank classes and give no probabilities"
        )

    def consistency_bound(self, *, classes: int) -> Any:
        """What a small surrogate excess implies for the target, where that is known."""
        raise InvalidInputError(
            f"no consistency bound is known for `{type(self).__name__}` with these options; its `guarantee` says: "
            f"{self.guarantee}"
        )

    def extra_repr(self) -> str:
        shown = {k: v for k, v in vars(self).items() if isinstance(v, int | float | str) and not k.startswith("_")}
        shown.pop("training", None)
        return ", ".join(f"{k}={v}" for k, v in shown.items() if (k, v) != ("ignore_index", IGNORE))


def checked_number(
    name: str, value: float, low: float, high: float = float("inf"), *, open_high: bool = False
) -> float:
    """`value` as a float, refused outside [low, high] (or [low, high))."""
    number = float(value)
    if not (low <= number < high if open_high else low <= number <= high) or number == float("inf"):
        bracket = ")" if open_high or high == float("inf") else "]"
        raise InvalidInputError(f"`{name}` must be a number in [{low:g}, {high:g}{bracket}, got {value}")
    return number
