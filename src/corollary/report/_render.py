"""Templates, numbers as text, colours: what all sections use. jinja2 and matplotlib are imported when needed."""

import importlib.util
import math
from functools import cache
from typing import TYPE_CHECKING, Any

from corollary.errors import MissingExtraError

if TYPE_CHECKING:
    from jinja2 import Environment

# Hues that differ in light and in dark schemes, as "red green blue".
LIGHT = (
    "0 95 163",
    "193 84 0",
    "0 121 83",
    "138 63 160",
    "190 40 55",
    "0 116 130",
    "116 105 0",
    "180 45 120",
    "120 75 45",
    "85 95 110",
)
DARK = (
    "92 173 255", "255 158 74", "66 201 146", "204 143 230", "255 122 122",
    "60 205 215", "205 195 60", "250 130 190", "205 155 115", "160 172 190",
)  # fmt: skip
COLOURS = len(LIGHT)


def _variables(colours: tuple[str, ...]) -> str:
    return " ".join(f"--c{i}: {c};" for i, c in enumerate(colours))


PALETTE_CSS = (
    f":root {{ {_variables(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n"
    + "\n".join(f".c{i} {{ --c: var(--c{i}); }} .u{i} {{ --u: var(--c{i}); }}" for i in range(COLOURS))
)


def require_extra() -> None:
    """Raise `MissingExtraError` unless matplotlib and jinja2 are there."""
    for package in ("jinja2", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "report", "writing a report")


def number(value: Any, digits: int = 4) -> str:
    """A number as a reader wants it; other values as text.

    Example:
        >>> number(0.123456), number(6.9068), number(12345), number(float("inf")), number(None)
        ('0.1235', '6.907', '12345', '∞', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, bool | str | int):
        return {"inf": "∞", "-inf": "−∞", "nan": "not a number", "True": "yes", "False": "no"}.get(
            str(value), str(value)
        )
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return number(repr(value))
    return f"{value:.{digits}g}".replace("-", "−")


def fixed(value: float | None, places: int = 3) -> str:
    """A number with `places` decimals, `–` where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.{places}f}".replace("-", "−")


def percent(value: float) -> str:
    """A share as a percentage."""
    return f"{100 * value:.1f} %"


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("corollary.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "fixed": fixed, "percent": percent}
    environment.globals["colours"] = COLOURS
    return environment


def render(template: str, **values: Any) -> str:
    """The template filled in, as markup: everything that is not markup is escaped."""
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(**values))  # noqa: S704  (autoescaped)
