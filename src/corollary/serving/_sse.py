"""Server-sent events: cut from pieces as they arrive, so that each whole event can leave at once."""

import json
from collections.abc import AsyncIterator
from typing import Any

DONE = b"data: [DONE]\n\n"
LARGEST = 4 << 20  # bytes of one event


class Broken(Exception):
    """A stream that is no stream of events."""


async def events(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Whole events with their blank line; what is left at the end counts as an event too.

    Raises:
        Broken: for an event beyond all measure.
    """
    rest = b""
    async for piece in pieces:
        rest += piece
        if b"\r" in rest:
            rest = rest.replace(b"\r\n", b"\n")
        while (end := rest.find(b"\n\n")) >= 0:
            event, rest = rest[: end + 2], rest[end + 2 :].lstrip(b"\n")
            if event.strip():
                yield event
        if len(rest) > LARGEST:
            raise Broken("an event of more than 4 MB")
    if rest.strip():
        yield rest.rstrip(b"\n") + b"\n\n"


def document(event: bytes) -> Any:
    r"""The JSON of an event; None where it has none (a comment, `[DONE]`).

    Raises:
        Broken: for data that are no JSON object.

    Example:
        >>> document(b'data: {"a": 1}\n\n'), document(DONE), document(b": alive\n\n")
        ({'a': 1}, None, None)
    """
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    text = b"\n".join(lines)
    if not lines or text == b"[DONE]":
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise Broken("an event that is not JSON") from None
    if not isinstance(found, dict):
        raise Broken("an event that is no JSON object")
    return found


def may_hold_usage(event: bytes) -> bool:
    r"""Whether it is worth parsing for its usage: most events are not.

    Example:
        >>> may_hold_usage(b'data: {"choices": [], "usage": {"prompt_tokens": 1}}\n\n')
        True
    """
    return b'"usage"' in event and b'"usage":null' not in event and b'"usage": null' not in event


def event_of(found: Any) -> bytes:
    """An event with this JSON."""
    return b"data: " + json.dumps(found, separators=(",", ":")).encode() + b"\n\n"
