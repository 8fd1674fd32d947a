"""`corollary serve`: a router in front of real model servers, behind OpenAI's interface, within a budget."""

import importlib.util
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.errors import MissingExtraError


def run(
    router: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="Run folder of `corollary route fit`; without it, models are named."),
    ] = None,
    config: Annotated[Path, typer.Option(help="Upstreams, prices, budgets (TOML).")] = Path("gateway.toml"),
    demo: Annotated[
        bool, typer.Option("--demo", help="Two toy models in this process; no key, no file needed.")
    ] = False,
    host: Annotated[str | None, typer.Option(help="Address to listen on; this machine alone by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; 8080 by default, 0: a free one.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --demo: where its files go; a temporary folder by default.")
    ] = None,
    quiet: ui.Quiet = False,
) -> None:
    """Serve models behind one OpenAI-compatible address: routed, budgeted, recorded, with a certificate.

    `corollary serve --demo` shows all of it within half a minute. With upstreams of your own: `corollary route fit`
    learns a router, `gateway.toml` says where the models are and what they cost, `corollary keys add` makes keys.
    """
    for package in ("aiohttp", "prometheus_client", "sqlalchemy", "starlette", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "serve", "serving")
    from corollary.serving._config import read_gateway
    from corollary.serving._gateway import Gateway
    from corollary.serving._serve import run_gateway

    if demo:
        from corollary.serving._demo import demo_gateway, demo_text

        if router is not None:
            raise typer.BadParameter("--demo brings its own router; leave RUN out")
        place = Path(tempfile.mkdtemp(prefix="corollary-demo-")) if out is None else out
        place.mkdir(parents=True, exist_ok=True)
        with ui.progress(quiet=quiet) as tell:
            tell("learning a router", 0.3)
            gateway = demo_gateway(place, host=host or "127.0.0.1", port=8080 if port is None else port)
        run_gateway(gateway, ready=lambda bound: _say(demo_text(bound, gateway.config.server.host), quiet=quiet))
        return
    settings = read_gateway(config)
    changes = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    if changes:
        settings = settings.model_copy(update={"server": settings.server.model_copy(update=changes)})
    gateway = Gateway(settings, router)
    if not settings.server.loopback and not gateway.keys.any:
        ui.fail(f"other machines can reach {settings.server.host} and there is no key; run `corollary keys add NAME`")
    run_gateway(gateway, ready=lambda bound: _say(_greeting(gateway, bound), quiet=quiet))


def _greeting(gateway: Any, port: int) -> str:
    server = gateway.config.server
    return "\n".join([
        f"listening on http://{server.host}:{port} (live page at /), models: {', '.join(gateway.upstreams)}",
        f"keys: {'needed' if gateway.locked else 'none needed on this machine, until one is made'}",
        f"certificate: {gateway.watch.status}{'; ' + gateway.warning if gateway.warning else ''}",
    ])  # fmt: skip


def _say(text: str, *, quiet: bool) -> None:
    """At once, also into a pipe: whoever waits for the gateway waits for this."""
    if not quiet:
        ui.say(text)
        sys.stdout.flush()
