"""The suites that the project runs on itself, for users' own methods too."""

import importlib
from typing import Any

_HOME = {
    "check_certificate": "_certificate_checks",
    "check_language_model": "_model_checks",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"corollary.testing.{_HOME[name]}"), name)
    raise AttributeError(f"module 'corollary.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
