"""A model behind an OpenAI-compatible URL, and what its failures say about money.

- `Refused`: certainly nothing was done (no connection, 429, a breaker that is open): free, may be tried again.
- `Rejected`: the request itself was turned away (400, 404, 413, 422): free; the client is told.
- `Lost`: it may have been done and billed (no answer in time, a broken connection, 5xx, an unreadable body).

Redirects are not followed, and only configured URLs are called, so the key goes nowhere else.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Protocol, runtime_checkable

import aiohttp

from corollary.errors import InvalidInputError
from corollary.serving import _sse
from corollary.serving._breaker import Breaker
from corollary.serving._config import UpstreamTable
from corollary.serving._money import Prices, prices_of

LARGEST_ANSWER = 64 << 20
KEPT = 4.0  # seconds of an idle connection: less than servers keep it, so that a request never meets its end
PATHS = {"chat": "chat/completions", "completions": "completions", "embeddings": "embeddings"}
PASSED_ON = (400, 404, 413, 422)


class Refused(Exception):
    """Nothing was done and nothing is owed."""

    def __init__(self, reason: str, *, again: bool = True, pause: float | None = None) -> None:
        super().__init__(reason)
        self.again, self.pause = again, pause


class Rejected(Exception):
    """The upstream finds fault with the request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Lost(Exception):
    """Nobody knows whether it was done."""


class Reply:
    """An answer: a document, or a stream of whole events whose first has come."""

    def __init__(self, document: dict[str, Any] | None, events: AsyncIterator[bytes] | None = None) -> None:
        self.document, self.events = document, events

    async def close(self) -> None:
        """Leave the upstream alone."""


@runtime_checkable
class Upstream(Protocol):
    """What the gateway asks of a model, local or remote."""

    name: str
    table: UpstreamTable
    prices: Prices
    breaker: Breaker
    places: asyncio.Semaphore

    async def ask(self, kind: str, body: dict[str, Any], *, key: str, heads: tuple[str, ...] | None) -> Reply:
        """Send a request of a kind (chat, completions, embeddings)."""

    async def close(self) -> None:
        """Let go of connections and threads."""


class _HttpReply(Reply):
    def __init__(
        self, response: aiohttp.ClientResponse, document: dict[str, Any] | None, events: AsyncIterator[bytes] | None
    ) -> None:
        super().__init__(document, events)
        self._response = response

    async def close(self) -> None:
        self._response.close()  # not release: what is left of a stream is not wanted


class HttpUpstream:
    """An OpenAI-compatible server.

    Args:
        name: in the configuration.
        table: its settings.
        secret: its key; None: none is sent.
    """

    def __init__(self, name: str, table: UpstreamTable, secret: str | None) -> None:
        self.name, self.table, self.prices = name, table, prices_of(table)
        self.breaker = Breaker(failures=table.breaker_failures, seconds=table.breaker_seconds)
        self.places = asyncio.Semaphore(table.concurrency)
        self._secret = secret
        self._headers = {"Content-Type": "application/json", "User-Agent": "corollary"}
        if secret is not None:
            self._headers["Authorization"] = f"Bearer {secret}"
        self._base = (table.url or "").rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    async def ask(self, kind: str, body: dict[str, Any], *, key: str, heads: tuple[str, ...] | None = None) -> Reply:
        """Send it; returns with the document, or with the first event of a stream at hand."""
        if heads:
            raise InvalidInputError(f"{self.name} has no heads to switch")
        body["model"] = self.table.model
        headers = self._headers | ({"Idempotency-Key": key} if self.table.idempotent else {})
        try:
            async with asyncio.timeout(self.table.timeout):
                return await self._ask(f"{self._base}/{PATHS[kind]}", body, headers)
        except (Refused, Rejected, Lost):
            raise
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as problem:
            raise Refused(f"no connection ({type(problem).__name__})") from None
        except TimeoutError:
            raise Lost(f"no answer within {self.table.timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError, _sse.Broken) as problem:
            raise Lost(f"a broken answer ({type(problem).__name__})") from None

    async def _ask(self, url: str, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        response = await self._open().post(url, data=json.dumps(body).encode(), headers=headers, allow_redirects=False)
        try:
            if response.status != 200:
                await self._fail(response)
            if body.get("stream"):
                if response.content_type != "text/event-stream":
                    raise Lost(f"an answer of type {response.content_type}, not a stream of events")
                return await self._stream(response)
            raw = bytearray()
            async for piece in response.content.iter_any():
                raw += piece
                if len(raw) > LARGEST_ANSWER:
                    raise Lost("an answer beyond all measure")
            document = json.loads(raw)
            if not isinstance(document, dict) or not isinstance(document.get("choices", document.get("data")), list):
                raise Lost("an answer that is no completion")
            response.release()
            return Reply(document)
        except BaseException:
            response.close()
            raise

    async def _stream(self, response: aiohttp.ClientResponse) -> Reply:
        events = _sse.events(response.content.iter_any())
        first = await anext(events, None)
        if first is None:
            raise Lost("an empty stream")
        if "error" in (_sse.document(first) or {}):  # garbage is better known before the client has seen a byte
            raise Lost("an error in place of a stream")

        async def rest() -> AsyncIterator[bytes]:
            yield first
            while True:
                try:
                    async with asyncio.timeout(self.table.idle_timeout):
                        event = await anext(events, None)
                except TimeoutError:
                    raise Lost(f"no further piece within {self.table.idle_timeout:g} s") from None
                except (aiohttp.ClientError, OSError, ValueError, _sse.Broken) as problem:
                    raise Lost(f"a broken stream ({type(problem).__name__})") from None
                if event is None:
                    return
                yield event

        return _HttpReply(response, None, rest())

    async def _fail(self, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status == 429:
            wait = response.headers.get("Retry-After", "")
            raise Refused("it answered 429", pause=float(wait) if wait.isdigit() else None)
        if status in PASSED_ON:
            raise Rejected(status, self._message(await response.content.read(65536)))
        if status in (409, 425):
            raise Refused(f"it answered {status}")
        if 300 <= status < 500 and status != 408:
            raise Refused(f"it answered {status}", again=False)
        if self.table.unbilled_errors and status >= 500:
            raise Refused(f"it answered {status}")
        raise Lost(f"it answered {status}")

    def _message(self, raw: bytes) -> str:
        """The upstream's own words about a bad request, without the key should it repeat it."""
        try:
            said = json.loads(raw)["error"]["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            said = None
        text = said if isinstance(said, str) else "The upstream rejects this request."
        text = text.replace(self._secret, "[key]") if self._secret else text
        return text.encode("utf-8", "replace").decode()[:500]

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            t = self.table
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=t.connect_timeout)
            connector = aiohttp.TCPConnector(limit=t.concurrency, keepalive_timeout=KEPT)
            self._session = aiohttp.ClientSession(
                connector=connector, timeout=timeout, auto_decompress=True, cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False, read_bufsize=1 << 18,
            )  # fmt: skip
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None
