"""A model server behind an OpenAI-compatible URL, asked with the standard library alone.

What a failure says about money: where no connection could be made nothing was sent; status 429 and the other 4xx mean
that the request was turned away (`Refused`); everything else (a broken connection, 5xx, an unreadable body) may have
been paid for. The key goes to the named host only: redirects are not followed. It is in no message and in no file.
"""

import json
import os
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from corollary.errors import CorollaryError, InvalidInputError

MAX_BODY = 8 << 20


class Refused(CorollaryError, RuntimeError):
    """Raised where nothing was done and nothing is owed.

    Args:
        reason: for the reader.
        again: whether another try may help (too many requests), or not (the request is invalid).
        pause: seconds to wait before it; None: doubling from half a second.

    Guarantee: none; who raises it after paid work was done breaks the account.

    Example:
        >>> Refused("too many requests", pause=2.0).again
        True
    """

    def __init__(self, reason: str, *, again: bool = True, pause: float | None = None) -> None:
        super().__init__(reason)
        self.again, self.pause = again, pause


class Endpoint:
    """One server: where it is, and which environment variable holds its key.

    Args:
        url: base of the API, e.g. `http://127.0.0.1:8000/v1`.
        key_env: environment variable that holds the key; None: no key is sent.
        name: what messages call it; the URL by default.

    Raises:
        InvalidInputError: for a URL that is not http(s) or holds a password, or a variable that is not set.

    Guarantee: the key is sent to the host of `url` only, and is in no message.

    Example:
        >>> Endpoint("http://127.0.0.1:8000/v1").url("chat/completions")
        'http://127.0.0.1:8000/v1/chat/completions'
    """

    def __init__(self, url: str, *, key_env: str | None = None, name: str | None = None) -> None:
        self.base, self.key_env, self.name = url.rstrip("/"), key_env, name or url
        parts = urlsplit(self.base)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise InvalidInputError(f"{self.name}: `url` must be http(s)://host/..., without a password, got {url!r}")
        if key_env is not None and not os.environ.get(key_env):
            raise InvalidInputError(f"{self.name}: the environment variable {key_env} is not set; put the key there")

    def url(self, path: str) -> str:
        """The whole address of a path below the base."""
        return f"{self.base}/{path}"

    def post(self, path: str, body: Any, *, timeout: float, headers: dict[str, str] | None = None) -> Any:
        """Send JSON, read JSON; `Refused` where the request was turned away, other errors where it may have cost."""
        sent = {"Content-Type": "application/json", **(headers or {})}
        if self.key_env:
            sent["Authorization"] = f"Bearer {os.environ[self.key_env]}"
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url(path), data, sent)  # noqa: S310 - the scheme was checked
        try:
            with _OPENER.open(request, timeout=timeout) as reply:
                return json.loads(reply.read(MAX_BODY))
        except urllib.error.HTTPError as problem:
            with problem:
                wait = problem.headers.get("Retry-After", "")
            said = f"the server answered {problem.code} ({problem.reason})"
            if 300 <= problem.code < 500 and problem.code != 408:
                pause = float(wait) if wait.isdigit() else None
                raise Refused(said, again=problem.code in (409, 425, 429), pause=pause) from None
            raise RuntimeError(said) from None
        except urllib.error.URLError as problem:
            import socket

            if isinstance(problem.reason, ConnectionRefusedError | socket.gaierror):
                raise Refused(f"no connection ({problem.reason})") from None
            raise


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any, **more: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)
