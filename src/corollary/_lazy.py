"""Names of a package that are imported when they are first used, so that `import corollary` costs nothing."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Args:
        package: its name.
        home: name -> the module of the package that holds it; a name with a module of the same name is that module.

    Example:
        >>> get, names = lazily("corollary", {"Claim": "certificates", "runs": "runs"})
        >>> get("Claim").__name__, get("runs").__name__, names()
        ('Claim', 'corollary.runs', ['Claim', 'runs'])
        >>> get("nothing")
        Traceback (most recent call last):
        ...
        AttributeError: module 'corollary' has no attribute 'nothing'
    """

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{home[name]}")
        return module if home[name] == name else getattr(module, name)

    return get, lambda: sorted(home)
