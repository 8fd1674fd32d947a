"""The registry of sections: what a page shows, and for the runs of which verbs."""

from collections.abc import Callable
from dataclasses import dataclass

from corollary.errors import InvalidInputError
from corollary.report._run import Run


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Args:
        title: its heading.
        render: run -> HTML of its body, everything from outside escaped; None where the run has nothing for it.
        verbs: the verbs whose runs it belongs to.
        opening: whether it stands before the certificate (what a reader must know first).

    Guarantee: none.

    Example:
        >>> Section("Queue", lambda run: "<p>empty</p>", verbs=("serve",)).opening
        False
    """

    title: str
    render: Callable[[Run], str | None]
    verbs: tuple[str, ...]
    opening: bool = False


_SECTIONS: list[Section] = []


def register_section(section: Section) -> Section:
    """Show `section` on the pages of its verbs, after those registered before it.

    Raises:
        InvalidInputError: where one of its verbs has a section of that title already.

    Guarantee: none.

    Example:
        >>> section = register_section(Section("Example of a section", lambda run: None, verbs=("example",)))
        >>> section in sections_of("example")
        True
    """
    taken = [s for s in _SECTIONS if s.title == section.title and set(s.verbs) & set(section.verbs)]
    if taken and taken != [section]:
        raise InvalidInputError(f"a section named {section.title!r} exists for {taken[0].verbs}; choose another title")
    if not taken:
        _SECTIONS.append(section)
    return section


def sections_of(verb: str) -> list[Section]:
    """The sections for runs of `verb`, in order."""
    return [s for s in _SECTIONS if verb in s.verbs]
