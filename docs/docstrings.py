"""Our docstring sections in the form that the site's parser knows: examples as code, the rest as text."""

import re

import griffe

PARAGRAPH = re.compile(r"^(Guarantee|Reference):[ \n]+(.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
FORMULA = re.compile(r"^\.\. math::(.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)


def readable(docstring: str) -> str:
    r"""The docstring with each section as the parser wants it.

    Example:
        >>> readable("Guarantee: none,\n    at all.\n\nExample:\n    1 + 1")
        '**Guarantee.** none, at all.\n\nExamples:\n    1 + 1'
    """
    text = PARAGRAPH.sub(lambda m: f"**{m[1]}.** {' '.join(m[2].split())}", docstring)
    text = FORMULA.sub(lambda m: rf"\[{' '.join(m[1].split())}\]", text)
    return EXAMPLE.sub("Examples:", text)


class Sections(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Called for every object that is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
