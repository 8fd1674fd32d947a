"""The page itself: openings, the certificate, the theme's sections or plain figures, settings."""

from pathlib import Path
from typing import Any

from corollary.errors import CorollaryError, InvalidFileError
from corollary.report._render import PALETTE_CSS, render, require_extra
from corollary.report._run import Run
from corollary.report._sections import Section, sections_of
from corollary.runs import write_atomically

FILE = "report.html"


def write_report(run: str | Path, out: Path | None = None) -> Path:
    """Write the page of a finished run: one HTML file without scripts or external resources.

    Reads only files of the run folder; the certificate is checked again while the page is written. Parts whose files
    are absent are left out; a folder of a verb without sections of its own gets its figures as plain tables.

    Args:
        run: the run folder (any verb's).
        out: where to write; `report.html` in the run folder by default.

    Returns:
        The path written.

    Raises:
        InvalidFileError: where the folder is not that of a run, or one of its files is broken.
        MissingExtraError: without matplotlib or jinja2, which the extra `report` brings.

    Guarantee: none; the same run gives the same bytes under the same versions.

    Example:
        >>> import tempfile
        >>> from corollary.runs import RunFolder, write_json
        >>> with RunFolder(Path(tempfile.mkdtemp()) / "run", {"verb": "fit", "seed": 0}) as folder:
        ...     write_json(folder.inside("metrics.json"), {"accuracy": 0.75})
        >>> page = write_report(folder.path)
        >>> page.name, "0.75" in page.read_text()
        ('report.html', True)
    """
    require_extra()
    found = Run(run)
    target = Path(out) if out is not None else found.path / FILE
    page = page_of(found)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, page)
    return target


def page_of(run: Run) -> str:
    """The page as text."""
    from corollary.report import (  # noqa: F401  (all but _generic register sections)
        _calibrate,
        _coherence,
        _composition,
        _fit,
        _generic,
        _routing,
        _unlearning,
    )
    from corollary.report._certificate_card import certificate_section

    own = sections_of(run.verb)
    opening = [_body(s, run) for s in own if s.opening]
    theme = [_body(s, run) for s in own if not s.opening]
    if not any(b["html"] for b in theme):
        theme = [_body(Section("Figures", _generic.figures, verbs=()), run)]
    closing = _body(Section("Settings and provenance", _generic.settings, verbs=()), run)
    certificate = _body(Section("Certificate", certificate_section, verbs=()), run)
    sections = [s for s in (*opening, certificate, *theme, closing) if s["html"]]
    return render("page.html", run=run, sections=sections, palette=PALETTE_CSS)


def _body(section: Section, run: Run) -> dict[str, Any]:
    """A section's title, anchor and HTML; files that do not fit together end with one sentence."""
    from markupsafe import Markup

    try:
        html = section.render(run)
    except CorollaryError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as problem:
        raise InvalidFileError(
            run.path,
            f"its files do not fit together ({section.title}: {type(problem).__name__} {problem})",
            "run again",
        ) from problem
    anchor = "".join(c if c.isascii() and c.isalnum() else "-" for c in section.title.lower())
    return {"title": section.title, "anchor": anchor, "html": Markup(html) if html else None}  # noqa: S704  (sections escape)
