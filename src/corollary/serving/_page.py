"""The live page: one document without a resource of another place; its policy allows its own script and style alone."""

import base64
import hashlib
from importlib.resources import files

_HERE = files("corollary.serving")
SCRIPT = (_HERE / "page.js").read_text("utf-8")
STYLE = (_HERE / "page.css").read_text("utf-8")
_BODY = (_HERE / "page.html").read_text("utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


POLICY = (
    f"default-src 'none'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = _BODY.replace("{{script}}", SCRIPT).replace("{{style}}", STYLE)


def page(*, locked: bool) -> str:
    """The document; where a key is needed it asks for one before it asks the gateway.

    Example:
        >>> 'data-locked="yes"' in page(locked=True)
        True
    """
    return _PAGE.replace("{{locked}}", "yes" if locked else "no")
