"""The gateway's face: an ASGI application with OpenAI's endpoints and a few of its own."""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from corollary.errors import CorollaryError, LedgerError
from corollary.serving import _requests as r
from corollary.serving._answers import HostCheck, answer, refusal
from corollary.serving._config import AUTO, LOOPBACK
from corollary.serving._gateway import Gateway
from corollary.serving._keys import LOCAL, Caller
from corollary.serving._ledger import ANSWERED, UNKNOWN
from corollary.serving._openapi import openapi
from corollary.serving._page import POLICY, page
from corollary.serving._requests import Problem
from corollary.serving._stream import EventStream
from corollary.serving._wanted import Served, Wanted, maximum, request_row

log = logging.getLogger("corollary.serving")
NUMBER = re.compile(r"(0|[1-9]\d{0,15})(\.\d{1,30})?([eE][+-]?\d{1,3})?")
READ_OUT = (
    4  # a body up to so many times the limit is read before it is refused: whoever still sends does not hear a refusal
)
B = TypeVar("B", bound=BaseModel)


class Doors:
    """The endpoints.

    Args:
        gateway: behind them.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    # who and what

    def caller(self, request: Request, scope: str) -> Caller:
        """Who asks, if they may do this.

        Raises:
            Problem: 401 or 403.
        """
        if not self.gateway.locked:
            return LOCAL
        found = self.gateway.keys.caller(request.headers.get("authorization"))
        if found is None:
            headers = {"WWW-Authenticate": "Bearer"}
            raise Problem(
                401, "A valid key is needed.", kind="authentication_error", code="invalid_api_key", headers=headers
            )
        if scope not in found.scopes:
            raise Problem(403, f"This key may not {scope}.", kind="permission_error")
        return found

    async def body(self, request: Request, model: type[B]) -> tuple[B, dict[str, Any], int]:
        """The checked body, as it came, and its bytes."""
        raw = await self.raw(request)
        found, plain = r.parse(model, raw)
        return found, plain, len(raw)

    async def raw(self, request: Request) -> bytes:
        """The body of a request, bounded in size and time."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # also keeps pages of other sites from asking a gateway on this machine
            raise Problem(415, "The body must be of the type application/json.")
        most = self.gateway.config.server.max_body
        large = Problem(413, f"The body is larger than {most} bytes.", code="body_too_large")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > READ_OUT * most:
            raise large
        raw, came = bytearray(), 0
        try:
            async with asyncio.timeout(self.gateway.config.server.body_timeout):
                async for piece in request.stream():
                    came += len(piece)
                    if came > READ_OUT * most:
                        raise large
                    raw += piece[: max(0, most + 1 - len(raw))]
        except TimeoutError:
            raise Problem(408, "The body did not come in time.") from None
        if came > most:
            raise large
        return bytes(raw)

    def options(self, request: Request, given: r.Options | None) -> r.Options:
        """What headers and the field `corollary` say together; the field wins."""
        found: dict[str, Any] = {}
        for name in ("price", "quality"):
            if (text := request.headers.get(f"x-corollary-{name}")) is not None:
                if not NUMBER.fullmatch(text):
                    raise Problem(400, f"x-corollary-{name} must be a number.", code="invalid_value")
                found[name] = float(text)
        if (text := request.headers.get("x-corollary-heads")) is not None:
            found["heads"] = [h.strip() for h in text.split(",") if h.strip()]
        if not found and given is None:
            return NO_OPTIONS
        try:
            return r.Options.model_validate(found | (given.model_dump(exclude_none=True) if given else {}))
        except ValidationError:
            raise Problem(400, "An x-corollary header is out of its range.", code="invalid_value") from None

    # OpenAI's endpoints

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        return await self.complete(request, "chat", r.ChatRequest)

    async def completions(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        return await self.complete(request, "completions", r.CompletionRequest)

    async def embeddings(self, request: Request) -> Response:
        """`POST /v1/embeddings`."""
        return await self.complete(request, "embeddings", r.EmbeddingRequest)

    async def complete(self, request: Request, kind: str, model: type[Any]) -> Response:
        """Route, reserve, call, pass on."""
        gateway = self.gateway
        caller = self.caller(request, "chat")
        if gateway.flying >= gateway.config.server.max_requests:
            raise Problem(429, "Too many requests at once.", kind="rate_limit_error", headers={"Retry-After": "1"})
        gateway.flying += 1
        streaming = False
        try:
            body, plain, size = await self.body(request, model)
            served = await gateway.serve(self.wanted(request, kind, body, plain, size, caller))
            if served.reply.events is not None:
                streaming = True
                return EventStream(gateway.events(served), served.headers, partial(self.streamed, served))
            document = gateway.priced(served.reply.document or {}, served)
            money = gateway.finish(served, ANSWERED, usage=document.get("usage"))
            return answer(document, headers=served.headers | {"x-corollary-cost": f"{money / 1e9:.9g}"})
        finally:
            if not streaming:
                self.landed()

    async def streamed(self, served: Served) -> None:
        """A stream is over; where it never began, its call is settled here."""
        if not served.call.settled:
            self.gateway.finish(served, UNKNOWN, status=499)
            await served.reply.close()
        self.landed()

    def landed(self) -> None:
        """A request less in flight."""
        self.gateway.flying -= 1

    def wanted(
        self, request: Request, kind: str, body: Any, plain: dict[str, Any], size: int, caller: Caller
    ) -> Wanted:
        """The request as the gateway takes it.

        Raises:
            Problem: for a model that is unknown or not allowed.
        """
        gateway = self.gateway
        if body.model != AUTO and body.model not in gateway.upstreams:
            raise Problem(404, "There is no such model; GET /v1/models lists them.", code="model_not_found")
        if body.model != AUTO and not caller.may_use(body.model):
            raise Problem(403, "This key may not use this model.", kind="permission_error")
        if body.model == AUTO and kind == "embeddings":
            raise Problem(404, "Embeddings differ between models: name one.", code="model_not_found")
        bounds = [declared(body, name) for name in ("max_completion_tokens", "max_tokens")]
        shows = declared(body, "stream_options")
        return Wanted(
            kind=kind, model=body.model, body=plain, size=size, caller=caller, stream=bool(declared(body, "stream")),
            text=r.texts(body, which=gateway.config.routing.prompt), options=self.options(request, body.corollary),
            shows_usage=bool(shows is not None and shows.include_usage),
            answers=max(declared(body, "n") or 1, declared(body, "best_of") or 1),
            images=r.images(body),
            most=max((b for b in bounds if b is not None), default=None),  # a server may obey either
        )  # fmt: skip

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        caller = self.caller(request, "chat")
        return answer({"object": "list", "data": [_model(n) for n in self._models(caller)]})

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{id}`."""
        caller = self.caller(request, "chat")
        name = request.path_params["model"]
        if name not in self._models(caller):
            raise Problem(404, "There is no such model; GET /v1/models lists them.", code="model_not_found")
        return answer(_model(name))

    def _models(self, caller: Caller) -> list[str]:
        named = [n for n in self.gateway.upstreams if caller.may_use(n)]
        return ([AUTO] if self.gateway.policy is not None else []) + named

    # the gateway's own

    async def route(self, request: Request) -> Response:
        """`POST /v1/route`: the decision alone, recorded so that feedback can be given on it."""
        caller = self.caller(request, "chat")
        body, plain, size = await self.body(request, r.RouteRequest)
        gateway, options = self.gateway, self.options(request, body.corollary)
        text = r.texts(body, which=gateway.config.routing.prompt)
        wanted = Wanted("route", AUTO, plain, size, text, caller, options)
        choice = await gateway.decide(text, caller, options)
        assert gateway.policy is not None
        keep = gateway.config.ledger.prompts == "text"
        row = request_row(
            wanted, choice, drawn=choice.drawn, replica=gateway.replica, policy=gateway.policy.name, keep_text=keep
        )
        gateway.ledger.note(row | {"served": choice.drawn, "status": 200, "seconds": 0.0})
        if choice.standard:
            gateway.watch.saw(choice.gap)
            gateway.say_revoked()
        maxima = {name: maximum(wanted, gateway.upstreams[name]) / 1e9 for name in choice.order}
        return answer({
            "id": wanted.id, "model": choice.drawn, "router": choice.greedy, "order": list(choice.order),
            "worth": choice.worth, "propensity": choice.propensity, "maximum": maxima,
            "certificate": gateway.watch.status,
            "confidence": gateway.watch.confidence if choice.standard else None,
        })  # fmt: skip

    async def feedback(self, request: Request) -> Response:
        """`POST /v1/feedback`: what an answer was worth."""
        caller = self.caller(request, "feedback")
        body, _, _ = await self.body(request, r.FeedbackRequest)
        gateway = self.gateway
        if (
            not body.id.isascii()
            or not body.id.isprintable()
            or not await gateway.ledger.score(body.id, None if caller is LOCAL else caller.name, float(body.score))
        ):
            raise Problem(404, "There is no such request of this key.", code="request_not_found")
        gateway.metrics.feedback.inc()
        if body.id in gateway.standard:
            del gateway.standard[body.id]
            gateway.watch.judged(float(body.score))
            gateway.say_revoked()
        return answer({"id": body.id, "score": body.score})

    async def certificate(self, request: Request) -> Response:
        """`GET /v1/certificate`."""
        self.caller(request, "chat")
        return answer(self.gateway.watch.document())

    async def status(self, request: Request) -> Response:
        """`GET /v1/status`: what the page shows."""
        self.caller(request, "read")
        from corollary.serving._status import status

        return answer(await asyncio.to_thread(status, self.gateway))

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`."""
        self.caller(request, "read")
        from corollary.serving._status import gauges

        await asyncio.to_thread(gauges, self.gateway)
        text = self.gateway.metrics.text(self.gateway.watch)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def health(self, request: Request) -> Response:
        """`GET /health`: the process lives."""
        return answer({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """`GET /ready`: the ledger can be written and an upstream may be asked."""
        good = self.gateway.ready
        return answer({"status": "ready" if good else "not ready"}, 200 if good else 503)

    async def document(self, request: Request) -> Response:
        """`GET /openapi.json`."""
        tables = [u.table for u in self.gateway.upstreams.values()]
        return answer(openapi(
            locked=self.gateway.locked, models=self._models(LOCAL),
            heads=sorted({head for table in tables for head in table.heads}),
            images=any(table.images for table in tables), embeddings=any(table.embeddings for table in tables),
        ))  # fmt: skip

    async def page(self, request: Request) -> Response:
        """`GET /`: the live page; it holds no figure by itself."""
        headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
        text = page(locked=self.gateway.locked)
        return Response(text, headers=headers, media_type="text/html; charset=utf-8")


NO_OPTIONS = r.Options()


def declared(body: BaseModel, name: str) -> Any:
    """A field of the checked body; None where its model does not know it, whatever the client sent by that name."""
    return getattr(body, name) if name in type(body).model_fields else None


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "corollary"}


async def _problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, Problem)
    return refusal(problem)


async def _http(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    told = {404: "There is no such endpoint; GET /openapi.json lists them.", 405: "This endpoint takes other methods."}
    found = Problem(problem.status_code, told.get(problem.status_code, "The request cannot be served."))
    found.headers = dict(problem.headers or {})
    return refusal(found)


async def _ledger(request: Request, problem: Exception) -> Response:
    log.error("%s", problem)
    return refusal(
        Problem(503, "The ledger cannot be written; nothing was sent.", kind="server_error", code="ledger_failed")
    )


async def _other(request: Request, problem: Exception) -> Response:
    return refusal(Problem(500, "The gateway failed; its log says why.", kind="server_error"))


def create_app(gateway: Gateway) -> ASGIApp:
    """The ASGI application of a gateway.

    Args:
        gateway: closed when the application ends.

    Guarantee: none; the ledger states its own.

    Example:
        >>> import tempfile
        >>> from corollary.serving import GatewayConfig, GatewayLedger
        >>> config = GatewayConfig(upstreams={"small": {"url": "http://127.0.0.1:9/v1", "model": "m"}})
        >>> gateway = Gateway(config, ledger=GatewayLedger(f"{tempfile.mkdtemp()}/gateway.sqlite"))
        >>> app = create_app(gateway)
        >>> gateway.ledger.close()
    """
    doors = Doors(gateway)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        fresh = asyncio.create_task(gateway.keep_fresh())
        try:
            yield
        finally:
            fresh.cancel()
            await gateway.close()

    def post(path: str, endpoint: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(path, endpoint, methods=["POST"])

    routes = [
        post("/v1/chat/completions", doors.chat),
        post("/v1/completions", doors.completions),
        post("/v1/embeddings", doors.embeddings),
        post("/v1/route", doors.route),
        post("/v1/feedback", doors.feedback),
        Route("/v1/models", doors.models),
        Route("/v1/models/{model:path}", doors.model),
        Route("/v1/certificate", doors.certificate),
        Route("/v1/status", doors.status),
        Route("/health", doors.health),
        Route("/ready", doors.ready),
        Route("/metrics", doors.metrics),
        Route("/openapi.json", doors.document),
        Route("/", doors.page),
    ]
    handlers: Any = {
        Problem: _problem,
        HTTPException: _http,
        LedgerError: _ledger,
        CorollaryError: _other,
        Exception: _other,
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)
    server = gateway.config.server
    hosts = (*LOOPBACK, server.host, *server.hosts) if server.loopback or server.hosts else ()
    return HostCheck(app, hosts)
