"""Labels as columns of truth: binary, multiclass (one against the rest), multilabel indicators."""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from corollary.errors import InvalidInputError
from corollary.metrics._average import one_against_rest

Kind = Literal["binary", "multiclass", "multilabel"]


class Targets(NamedTuple):
    """Y (n, L) truth by column, the classes (of a multilabel problem: the label numbers), and the kind."""

    Y: Bool[np.ndarray, "n l"]
    classes: np.ndarray
    kind: str


def encode_targets(y: Any) -> Targets:
    """Columns of truth for labels of any type.

    Args:
        y: (n,) labels of any type, or (n, L) indicators of 0 and 1.

    Returns:
        one column for two classes (the larger is positive), K for K classes, L for L labels.

    Raises:
        InvalidInputError: for one class only, a label that is always or never set, or targets that are no classes.

    Example:
        >>> encode_targets(np.array(["no", "yes", "no"])).Y.tolist()
        [[False], [True], [False]]
    """
    try:
        check_classification_targets(y)
    except ValueError as problem:
        raise InvalidInputError(f"{problem}; METRO classifies: give labels, not numbers to regress on") from None
    kind = type_of_target(y)
    array = np.asarray(y)
    if kind == "multilabel-indicator":
        Y = array > 0
        constant = np.flatnonzero(Y.all(0) | ~Y.any(0))
        if len(constant):
            raise InvalidInputError(
                f"label {constant[0]} is always or never set ({len(constant)} such of {Y.shape[1]}); drop these columns"
            )
        return Targets(Y, np.arange(Y.shape[1]), "multilabel")
    array = column_or_1d(array, warn=True)
    classes = np.unique(array)
    if len(classes) < 2:
        raise InvalidInputError(f"`y` holds one class only ({classes[0]!r}); a classifier needs rows of two classes")
    if len(classes) == 2:
        return Targets((array == classes[1])[:, None], classes, "binary")
    return Targets(one_against_rest(array, classes), classes, "multiclass")
