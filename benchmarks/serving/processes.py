"""What the load benchmark runs beside itself, each in a process: `python processes.py KIND ARGUMENTS`; prints its port.

- upstream DELAY: answers every completion after so many seconds, from bytes made beforehand.
- bare URL: an ASGI application that passes requests on and does nothing else (raw ASGI, uvicorn, aiohttp).
- gateway URL FOLDER: ours, with a router, budgets, exploration and a ledger on disk.
"""

import json
import sys
from pathlib import Path

USAGE = {"prompt_tokens": 12, "completion_tokens": 16, "total_tokens": 28}
CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 16}}
ANSWER = {"id": "x", "object": "chat.completion", "created": 1, "model": "mock", "choices": [CHOICE], "usage": USAGE}


def upstream(delay):
    import asyncio

    from aiohttp import web

    raw, pause = json.dumps(ANSWER).encode(), float(delay)

    async def answer(request):
        await request.read()
        if pause:
            await asyncio.sleep(pause)
        return web.Response(body=raw, content_type="application/json")

    async def main():
        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=2048)
        await site.start()
        print(site._server.sockets[0].getsockname()[1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


def bare(url):
    import aiohttp
    import uvicorn

    held = {}

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            held["session"] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await held["session"].close()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        target = url.removesuffix("/v1") + scope["path"]
        async with held["session"].post(target, data=body, headers={"Content-Type": "application/json"}) as reply:
            raw = await reply.read()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": raw})

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            print(self.servers[0].sockets[0].getsockname()[1], flush=True)

    Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", access_log=False, backlog=2048)).run()


def gateway(url, folder):
    from corollary.deferral.routing import PromptRouter
    from corollary.serving import Gateway, GatewayConfig, run_gateway
    from corollary.serving._demo import demo_log

    place = Path(folder)
    if not (place / "router.json").exists():
        PromptRouter(price=0.3).fit(demo_log()).save(place)
    common = {"url": url, "model": "mock", "concurrency": 1000, "max_tokens": 64}
    config = GatewayConfig.model_validate({
        "upstreams": {"small": common | {"input_price": 0.1, "output_price": 0.4},
                      "large": common | {"input_price": 2.0, "output_price": 8.0}},
        "server": {"port": 0, "max_requests": 2000},
        "routing": {"exploration": 0.05},
        "budgets": [{"money": 1e6, "window": "1h"}, {"who": "key", "money": 1e6, "window": "1d"}],
        "ledger": {"url": f"sqlite:///{place.resolve()}/gateway.sqlite"},
    })  # fmt: skip
    run_gateway(Gateway(config, place), ready=lambda port: print(port, flush=True))


if __name__ == "__main__":
    {"upstream": upstream, "bare": bare, "gateway": gateway}[sys.argv[1]](*sys.argv[2:])
