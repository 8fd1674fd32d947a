"""A response of server-sent events: each leaves as it comes, and the source is closed whatever happens."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class EventStream(Response):
    """Pass on events until they end or the client leaves.

    Args:
        events: an asynchronous generator of whole events.
        headers: of the response.
        landed: awaited once when all is over, also where no event was ever asked for.
    """

    def __init__(
        self, events: AsyncIterator[bytes], headers: dict[str, str], landed: Callable[[], Awaitable[None]]
    ) -> None:
        super().__init__(None, 200, {**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.headers["content-type"] = "text/event-stream; charset=utf-8"
        self.events, self.landed = events, landed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send; where the client leaves, stop at once, also between two events."""
        me = asyncio.current_task()
        assert me is not None
        leaving = asyncio.ensure_future(_left(receive))
        gone = False

        def leave(task: "asyncio.Task[None]") -> None:
            nonlocal gone
            if not task.cancelled():
                gone = True
                me.cancel()

        leaving.add_done_callback(leave)
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self.events:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            leaving.remove_done_callback(leave)  # a client that leaves after the last word has left nothing undone
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except asyncio.CancelledError:
            if not gone:
                raise
            me.uncancel()
        except OSError:  # the connection broke while sending
            gone = True
        finally:
            leaving.remove_done_callback(leave)
            leaving.cancel()
            if isinstance(self.events, AsyncGenerator):
                await self.events.aclose()
            await self.landed()


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
