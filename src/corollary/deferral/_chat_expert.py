"""An expert behind an OpenAI-compatible URL, with the standard library alone; imports neither torch nor numpy.

What a failure says about money: where no connection could be made nothing was sent; status 429 and the other 4xx mean
that the request was turned away; everything else (a broken connection, 5xx, an unreadable body) may have been paid for.
The key goes to the named host only: redirects are not followed. It is in no message and in no file.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from corollary.deferral._expert_pool import Expert, Refused, Reply
from corollary.errors import InvalidInputError

MAX_BODY = 8 << 20
ENVELOPE = 64  # tokens that a chat template may add to a prompt, with room


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *given: Any, **more: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_Stay)


def chat_expert(
    name: str,
    *,
    url: str,
    model: str,
    key_env: str | None = None,
    price: float | None = None,
    input_price: float = 0.0,
    output_price: float = 0.0,
    max_tokens: int = 512,
    system: str | None = None,
    timeout: float = 60.0,
    retries: int = 2,
    concurrency: int = 4,
    idempotent: bool = False,
) -> Expert:
    """An `Expert` that asks an OpenAI-compatible server.

    Args:
        name: in the pool.
        url: base of the API, e.g. `http://127.0.0.1:8000/v1`.
        model: name of the model at that server.
        key_env: environment variable that holds the key; None: no key is sent.
        price: of a call, whatever its length; None: by tokens.
        input_price, output_price: for a million tokens. The most that a call can cost counts a token for every byte of
            the prompt; what it did cost is read from the reply's `usage`.
        max_tokens: of the answer.
        system: text put before every prompt.
        timeout, retries, concurrency, idempotent: as in `Expert`; keys go out as the header `Idempotency-Key`.

    Raises:
        InvalidInputError: for a URL that is not http(s), or an environment variable that is not set.

    Guarantee: none; that 4xx is never charged, and that `usage` is what is billed, are the server's word.

    Example:
        >>> expert = chat_expert("small", url="http://127.0.0.1:9/v1", model="m", output_price=2.0, max_tokens=500)
        >>> round(expert.most("hello"), 6)
        0.001

    Reference: the public interface of chat completions.
    """
    target = f"{url.rstrip('/')}/chat/completions"
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise InvalidInputError(f"{name}: `url` must be http(s)://host/..., without a password, got {url!r}")
    secret = _secret(name, key_env)

    def most(prompt: str) -> float:
        read = len(prompt.encode()) + len((system or "").encode()) + ENVELOPE
        return (input_price * read + output_price * max_tokens) / 1e6

    def call(prompt: str, *, key: str | None = None) -> Reply:
        messages = [{"role": "system", "content": system}] if system else []
        messages.append({"role": "user", "content": prompt})
        body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {secret()}"} if key_env else {}
        headers |= {"Idempotency-Key": key} if key else {}
        answer = _post(target, body, headers, timeout)
        text = answer["choices"][0]["message"]["content"]
        usage = answer.get("usage") or {}
        if price is not None or not {"prompt_tokens", "completion_tokens"} <= usage.keys():
            return Reply(text)
        paid = input_price * usage["prompt_tokens"] + output_price * usage["completion_tokens"]
        return Reply(text, paid / 1e6)

    return Expert(
        name, call,
        price=most if price is None else price,
        timeout=timeout, retries=retries, concurrency=concurrency, idempotent=idempotent,
    )  # fmt: skip


def _secret(name: str, variable: str | None) -> Callable[[], str]:
    if variable is not None and not os.environ.get(variable):
        raise InvalidInputError(f"{name}: the environment variable {variable} is not set; put the key there")
    return lambda: os.environ[variable] if variable else ""


def _post(url: str, body: dict[str, Any], headers: dict[str, str], timeout: float) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - the scheme was checked
    try:
        with _OPENER.open(request, timeout=timeout) as reply:
            return json.loads(reply.read(MAX_BODY))
    except urllib.error.HTTPError as problem:
        with problem:
            wait = problem.headers.get("Retry-After", "")
        if 300 <= problem.code < 500 and problem.code != 408:
            pause = float(wait) if wait.isdigit() else None
            said = f"the server answered {problem.code} ({problem.reason})"
            raise Refused(said, again=problem.code in (409, 425, 429), pause=pause) from None
        raise RuntimeError(f"the server answered {problem.code} ({problem.reason})") from None
    except urllib.error.URLError as problem:
        import socket

        if isinstance(problem.reason, ConnectionRefusedError | socket.gaierror):
            raise Refused(f"no connection ({problem.reason})") from None
        raise
