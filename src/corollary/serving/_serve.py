"""Running a gateway: uvicorn around the application, with what a busy process needs."""

import gc
import logging
import sys
from typing import Any

from corollary.errors import InvalidInputError, MissingExtraError
from corollary.serving._gateway import Gateway

SWITCH = 0.0001  # seconds: the ledger's thread must not keep the event loop waiting for the default 5 ms


def run_gateway(gateway: Gateway, *, ready: Any = None) -> None:
    """Listen until interrupted.

    Args:
        gateway: closed at the end.
        ready: called with the bound port once it listens.

    Raises:
        InvalidInputError: where the address is taken.

    Guarantee: none; the ledger's holds whatever ends the process.

    Example:
        >>> from corollary.serving import run_gateway
        >>> run_gateway.__kwdefaults__
        {'ready': None}
    """
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("uvicorn", "serve", "serving") from None
    from corollary.serving._app import create_app

    server = gateway.config.server
    config = uvicorn.Config(
        create_app(gateway), host=server.host, port=server.port, log_level="warning", access_log=False,
        server_header=False, date_header=True, timeout_keep_alive=75, timeout_graceful_shutdown=20, lifespan="on",
        h11_max_incomplete_event_size=32768, backlog=2048, ws="none", proxy_headers=False,
    )  # fmt: skip
    sys.setswitchinterval(SWITCH)
    gc.collect()
    gc.freeze()  # what was loaded stays: the collector need not walk through it while requests wait
    logging.getLogger("corollary.serving").setLevel(logging.INFO)
    running = _server()(config)
    running.tell = ready
    try:
        running.run()
    except SystemExit:
        raise InvalidInputError(f"{server.host}:{server.port} cannot be listened on; is it taken?") from None


def _server() -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        tell: Any = None

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.tell is not None and self.started:
                self.tell(self.servers[0].sockets[0].getsockname()[1])

    return Server
