"""JSON answers, refusals, and the names under which a gateway may be called."""

import json
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from corollary.serving._requests import Problem


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    raw = json.dumps(value, separators=(",", ":")).encode()
    return Response(raw, status, headers, "application/json")


def refusal(problem: Problem) -> Response:
    """A problem as the client reads it."""
    return answer(problem.document(), problem.status, problem.headers)


class HostCheck:
    """Refuses names under which the gateway is not meant to be called, so that no site's name can be bent to it."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app, self.hosts = app, frozenset(h.lower() for h in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or 421."""
        if scope["type"] == "http" and self.hosts:
            found = next((v for k, v in scope["headers"] if k == b"host"), b"").decode("latin-1").lower()
            name = found[: found.find("]") + 1].strip("[]") if found.startswith("[") else found.partition(":")[0]
            if name not in self.hosts:
                await refusal(Problem(421, "The gateway is not called by this name."))(scope, receive, send)
                return
        await self.app(scope, receive, send)
