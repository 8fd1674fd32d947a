"""Models in this process, with the face of an upstream: the library's own, Hugging Face's, and unlearned ones.

Anything with `generate(prompt_ids, *, max_tokens, seed, temperature, top_p)` that yields token ids can be served
(`TokenModel`); where it takes `heads=` too, each request names the heads to switch on. One thread runs a model, one
request at a time, and tokens reach the event loop as they are drawn.
"""

import asyncio
import codecs
import inspect
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from corollary.errors import CorollaryError
from corollary.serving import _sse
from corollary.serving._breaker import Breaker
from corollary.serving._config import UpstreamTable
from corollary.serving._money import prices_of
from corollary.serving._upstream import Lost, Rejected, Reply

END = object()
log = logging.getLogger("corollary.serving")


@runtime_checkable
class LocalModel(Protocol):
    """A model that can be served from within the process.

    Guarantee: none; each model states its own.

    Example:
        >>> class Echo:
        ...     def prompt(self, messages):
        ...         return list(messages[-1]["content"].encode())
        ...     def stream(self, prompt, *, max_tokens, temperature, top_p, seed, heads):
        ...         yield from (bytes([token]).decode() for token in prompt[:max_tokens])
        >>> isinstance(Echo(), LocalModel)
        True
    """

    def prompt(self, messages: Sequence[dict[str, Any]] | str) -> Sequence[int]:
        """The tokens of a conversation or of a plain prompt."""
        ...

    def stream(
        self, prompt: Sequence[int], *, max_tokens: int, temperature: float, top_p: float, seed: int,
        heads: tuple[str, ...] | None,
    ) -> Iterable[str]:  # fmt: skip
        """Pieces of text, one for each token."""
        ...


class TokenModel:
    """A `LocalModel` of anything that yields token ids.

    Args:
        generate: `generate(prompt_ids, *, max_tokens, seed, temperature, top_p)`, and `heads=` where it knows heads.
        encode: text to token ids; None: its UTF-8 bytes.
        decode: token ids to text; None: as UTF-8 bytes.
        template: a conversation to text; None: the contents, one a line.

    Guarantee: none; what is drawn is what `generate` draws.

    Example:
        >>> model = TokenModel(lambda ids, *, max_tokens, seed, temperature, top_p: iter(list(ids)[:max_tokens]))
        >>> "".join(model.stream(model.prompt("echo"), max_tokens=3, temperature=1.0, top_p=1.0, seed=0, heads=None))
        'ech'
    """

    def __init__(
        self,
        generate: Callable[..., Iterable[int]],
        *,
        encode: Callable[[str], Sequence[int]] | None = None,
        decode: Callable[[Sequence[int]], str] | None = None,
        template: Callable[[Sequence[dict[str, Any]]], str] | None = None,
    ) -> None:
        self.generate, self.encode, self.decode, self.template = generate, encode, decode, template
        try:
            known = inspect.signature(generate).parameters
            self.knows_heads = "heads" in known
        except (TypeError, ValueError):
            self.knows_heads = False

    def prompt(self, messages: Sequence[dict[str, Any]] | str) -> Sequence[int]:
        """The tokens of a conversation or of a plain prompt."""
        if isinstance(messages, str):
            text = messages
        elif self.template is not None:
            text = self.template(messages)
        else:
            text = "".join(content_of(m) + "\n" for m in messages)
        clean = text.encode("utf-8", "replace")
        return list(clean) if self.encode is None else self.encode(clean.decode())

    def stream(
        self, prompt: Sequence[int], *, max_tokens: int, temperature: float, top_p: float, seed: int,
        heads: tuple[str, ...] | None,
    ) -> Iterator[str]:  # fmt: skip
        """Pieces of text, one for each token."""
        options = {} if heads is None else {"heads": heads}
        ids = self.generate(
            prompt, max_tokens=max_tokens, temperature=temperature, top_p=max(top_p, 1e-6), seed=seed, **options
        )
        if self.decode is None:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")
            for token in ids:
                yield decoder.decode(bytes([int(token)]))
            return
        yield from spoken(ids, self.decode)


def spoken(ids: Iterable[int], decode: Callable[[Sequence[int]], str]) -> Iterator[str]:
    """A piece of text for each token; half a character waits for its other half, or for the end."""
    seen: list[int] = []
    text, said, held = "", "", None
    for token in ids:
        if held is not None:
            yield held
        seen.append(int(token))
        text = decode(seen)
        whole = text[:-1] if text.endswith("\ufffd") else text
        piece, said = whole[len(said) :], whole if len(whole) >= len(said) else said
        held = None if whole == text else piece
        if held is None:
            yield piece
    if held is not None:
        yield held + text[len(said) :]


def content_of(message: dict[str, Any]) -> str:
    """The text of a message."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(p.get("text") or "") for p in content)
    return str(content or "")


class LocalUpstream:
    """A local model with the face of an upstream.

    Args:
        name, table: as for any upstream.
        model: what draws.
    """

    def __init__(self, name: str, table: UpstreamTable, model: LocalModel) -> None:
        self.name, self.table, self.model, self.prices = name, table, model, prices_of(table)
        self.breaker = Breaker(failures=table.breaker_failures, seconds=table.breaker_seconds)
        self.places = asyncio.Semaphore(table.concurrency)
        self._turn = asyncio.Lock()

    async def ask(self, kind: str, body: dict[str, Any], *, key: str, heads: tuple[str, ...] | None = None) -> Reply:
        """Draw an answer."""
        self._check(kind, body, heads)
        given = body["messages"] if kind == "chat" else body["prompt"]
        given = given[0] if kind == "completions" and isinstance(given, list) else given
        try:
            prompt = await asyncio.to_thread(self.model.prompt, given)
        except CorollaryError as problem:
            raise Rejected(400, str(problem)[:300]) from None
        most = int(body.get("max_completion_tokens") or body.get("max_tokens") or self.table.max_tokens)
        seed = body.get("seed")
        options = {
            "max_tokens": most,
            "temperature": float(body.get("temperature", 1.0) if body.get("temperature") is not None else 1.0),
            "top_p": float(body["top_p"]) if body.get("top_p") is not None else 1.0,
            "seed": seed if isinstance(seed, int) and seed >= 0 else secrets.randbits(31),
            "heads": heads,
        }
        pieces = self._pieces(prompt, options)
        usage = {"prompt_tokens": len(prompt), "completion_tokens": 0, "total_tokens": len(prompt)}
        shown = _Shown(kind, self.name, usage, most)
        if body.get("stream"):
            return _LocalReply(None, shown.events(pieces))
        said = [piece async for piece in pieces]
        return Reply(shown.document(said))

    def _check(self, kind: str, body: dict[str, Any], heads: tuple[str, ...] | None) -> None:
        for field in ("tools", "functions", "logprobs", "top_logprobs", "response_format", "logit_bias", "stop"):
            if body.get(field):
                raise Rejected(400, f"{self.name} is a local model and does not know `{field}`.")
        if (body.get("n") or 1) != 1 or (body.get("best_of") or 1) != 1:
            raise Rejected(400, f"{self.name} is a local model and gives one answer; `n` must be 1.")
        if kind == "completions" and isinstance(body["prompt"], list) and len(body["prompt"]) != 1:
            raise Rejected(400, f"{self.name} is a local model and takes one prompt.")
        if lost := [h for h in heads or () if h not in self.table.heads]:
            known = ", ".join(self.table.heads) or "none"
            raise Rejected(400, f"{self.name} has no head {lost[0]!r}; there are: {known}.")

    async def _pieces(self, prompt: Sequence[int], options: dict[str, Any]) -> AsyncIterator[str]:
        """Text as it is drawn by a thread; whoever stops listening stops the drawing."""
        async with self._turn:
            loop, queue, stop = asyncio.get_running_loop(), asyncio.Queue[Any](), threading.Event()

            def put(item: Any) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(queue.put_nowait, item)

            def draw() -> None:
                try:
                    for piece in self.model.stream(prompt, **options):
                        put(piece)
                        if stop.is_set():
                            return
                    put(END)
                except Exception as problem:
                    log.exception("%s failed", self.name)
                    put(problem)

            threading.Thread(target=draw, name=f"corollary-{self.name}", daemon=True).start()
            try:
                while True:
                    async with asyncio.timeout(self.table.idle_timeout):
                        item = await queue.get()
                    if item is END:
                        return
                    if isinstance(item, Exception):
                        raise Lost(f"the model failed ({type(item).__name__})")
                    yield item
            except TimeoutError:
                raise Lost(f"no token within {self.table.idle_timeout:g} s") from None
            finally:
                stop.set()

    async def close(self) -> None:
        """Nothing is held."""


class _LocalReply(Reply):
    async def close(self) -> None:
        if self.events is not None:
            await self.events.aclose()  # type: ignore[attr-defined]


class _Shown:
    """Drawn text in OpenAI's clothes."""

    def __init__(self, kind: str, model: str, usage: dict[str, int], most: int) -> None:
        self.kind, self.usage, self.most = kind, usage, most
        chat = kind == "chat"
        self.head = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def _count(self) -> None:
        self.usage["completion_tokens"] += 1
        self.usage["total_tokens"] += 1

    @property
    def _reason(self) -> str:
        return "length" if self.usage["completion_tokens"] >= self.most else "stop"

    def document(self, said: Sequence[str]) -> dict[str, Any]:
        for _ in said:
            self._count()
        text = "".join(said)
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self._reason}
        choice |= {"message": {"role": "assistant", "content": text}} if self.kind == "chat" else {"text": text}
        object_ = "chat.completion" if self.kind == "chat" else "text_completion"
        return {**self.head, "object": object_, "choices": [choice], "usage": self.usage}

    async def events(self, pieces: AsyncIterator[str]) -> AsyncIterator[bytes]:
        chat = self.kind == "chat"
        head = {**self.head, "object": "chat.completion.chunk" if chat else "text_completion"}

        def piece(delta: dict[str, Any], text: str, reason: str | None = None) -> bytes:
            body = {"delta": delta} if chat else {"text": text, "logprobs": None}
            return _sse.event_of({**head, "choices": [{"index": 0, **body, "finish_reason": reason}]})

        try:
            if chat:
                yield piece({"role": "assistant", "content": ""}, "")
            async for text in pieces:
                self._count()
                yield piece({"content": text}, text)
            yield piece({}, "", self._reason)
            yield _sse.event_of({**head, "choices": [], "usage": self.usage})
            yield _sse.DONE
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
