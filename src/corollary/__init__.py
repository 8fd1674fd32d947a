"""Corollary: machine learning with guarantees, and certificates that anyone can check again."""

import importlib
from typing import Any

__version__ = "0.1.0"

_PACKAGES = (
    *("certificates", "datasets", "deferral", "gating", "losses"),
    *("metrics", "models", "numerics", "report", "testing"),
)
_NAMES = {
    "Certificate": "certificates",
    "CertificateError": "certificates",
    "Claim": "certificates",
    "Report": "certificates",
    "Status": "certificates",
    "CorollaryError": "errors",
}

__all__ = [*_PACKAGES, *_NAMES, "__version__", "errors", "runs"]


def __getattr__(name: str) -> Any:
    """Import packages when they are first used, so that `import corollary` costs nothing."""
    if name in _PACKAGES or name in ("errors", "runs"):
        return importlib.import_module(f"corollary.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"corollary.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'corollary' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
