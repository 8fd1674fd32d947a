"""The error tree: one root, and children that also are the builtin a caller already catches.

Every message is one sentence that says what was wrong, what arrived, and what to do.
"""

from pathlib import Path
from typing import Any


class CorollaryError(Exception):
    """Root of every error raised on purpose by Corollary.

    Guarantee: none; it is a type to catch.

    Example:
        >>> from corollary.errors import CorollaryError, InvalidInputError
        >>> issubclass(InvalidInputError, CorollaryError) and issubclass(InvalidInputError, ValueError)
        True
    """


class InvalidInputError(CorollaryError, ValueError):
    """An argument has a wrong value, shape or content.

    Guarantee: none; it is a type to catch, also as `ValueError`.

    Example:
        >>> str(InvalidInputError("`eps` must lie in [0, 1), got 2"))
        '`eps` must lie in [0, 1), got 2'
    """


class InvalidFileError(CorollaryError, ValueError):
    """A file is not what it should be: foreign, truncated, of another version, or larger than allowed.

    Guarantee: none; it is a type to catch, also as `ValueError`.

    Example:
        >>> str(InvalidFileError("run/metrics.json", "not JSON", "write it again"))
        'run/metrics.json: not JSON; write it again'
    """

    def __init__(self, path: str | Path, problem: str, remedy: str) -> None:
        self.path = Path(path)
        super().__init__(f"{path}: {problem}; {remedy}")


class MissingExtraError(CorollaryError, ImportError):
    """An optional dependency is absent; the message gives the line that installs it.

    Guarantee: none; it is a type to catch, also as `ImportError`.

    Example:
        >>> str(MissingExtraError("matplotlib", "report", "writing a report")).partition("; ")[2]
        "run: pip install 'corollary[report]'"
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.extra = extra
        super().__init__(f"{purpose} needs `{package}`, which is not installed; run: pip install 'corollary[{extra}]'")


class NotFittedError(CorollaryError, ValueError, AttributeError):
    """A method was called before `fit`.

    Guarantee: none; it is a type to catch, also as `ValueError` and `AttributeError`.

    Example:
        >>> str(NotFittedError(object(), "predict"))
        '`object.predict` was called before `object.fit`; fit it, or load a fitted one'
    """

    def __init__(self, owner: Any, method: str) -> None:
        name = type(owner).__name__
        super().__init__(f"`{name}.{method}` was called before `{name}.fit`; fit it, or load a fitted one")


class ReusedRowsError(CorollaryError, ValueError):
    """Rows meant to certify had already been used to train or to choose.

    Guarantee: none; it is a type to catch, also as `ValueError`.

    Example:
        >>> error = ReusedRowsError(2, 10, "training")
        >>> error.count, error.used_for
        (2, 'training')
    """

    def __init__(self, count: int, total: int, used_for: str) -> None:
        self.count, self.total, self.used_for = count, total, used_for
        super().__init__(
            f"{count} of the {total} rows meant to certify were already used for {used_for}; "
            "a confidence can be spent once: certify on rows that nothing has seen"
        )


class BudgetError(CorollaryError, RuntimeError):
    """A call would spend more than its budget allows.

    Guarantee: none; it is a type to catch, also as `RuntimeError`.

    Example:
        >>> isinstance(BudgetError("1.20 of 1.00 spent"), RuntimeError)
        True
    """


class LedgerError(CorollaryError, RuntimeError):
    """The ledger of paid queries cannot be written, or is asked for a step that its record forbids.

    Guarantee: none; it is a type to catch, also as `RuntimeError`.

    Example:
        >>> isinstance(LedgerError("the disk is full"), RuntimeError)
        True
    """
