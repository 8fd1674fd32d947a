"""An OpenAI-compatible upstream in a thread of its own, well or badly behaved as told, that keeps its bill."""

import asyncio
import json
import threading

from aiohttp import web

TOKENS_IN, TOKENS_OUT = 7, 5
SAID = "one two three four five".split()


class MockUpstream:
    """`mode` says how the next requests are treated; `billed` counts those that the upstream would charge for."""

    def __init__(self, *, delay=0.0):
        self.mode, self.delay, self.billed, self.seen, self.headers = "good", delay, 0, [], []
        self.left = 0  # streams that the client broke off
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._started.wait(10)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/v1"

    def _run(self):
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._started.set()
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _start(self):
        app = web.Application(client_max_size=1 << 28)
        for path in ("chat/completions", "completions", "embeddings"):
            app.router.add_post(f"/v1/{path}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]

    def stop(self):
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _answer(self, request):
        body = await request.json()
        self.seen.append(body)
        self.headers.append(dict(request.headers))
        mode = self.mode.pop(0) if isinstance(self.mode, list) else self.mode
        if mode == "429":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "0"})
        if mode == "400":
            key = request.headers.get("Authorization", "")
            return web.json_response({"error": {"message": f"too long, {key}"}}, status=400)
        if mode == "401":
            return web.json_response({"error": {"message": "bad key sk-up-secret"}}, status=401)
        if mode == "redirect":
            return web.Response(status=302, headers={"Location": "http://127.0.0.1:9/steal"})
        self.billed += 1
        if self.delay:
            await asyncio.sleep(self.delay)
        if mode == "500":
            return web.json_response({"error": {"message": "it broke"}}, status=500)
        if mode == "hang":
            await asyncio.sleep(60)
        if mode == "reset":
            request.transport.abort()
            return web.Response()
        if mode == "garbage":
            return web.Response(body=b"\x00\xffnot json at all", content_type="application/json")
        if mode == "wrong":
            return web.json_response(["no", "completion"])
        if request.path.endswith("embeddings"):
            usage = {"prompt_tokens": TOKENS_IN, "total_tokens": TOKENS_IN}
            data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
            return web.json_response({"object": "list", "data": data, "model": body["model"], "usage": usage})
        if body.get("stream"):
            return await self._stream(request, body, mode)
        return web.json_response(self._document(body, request.path, mode))

    def _document(self, body, path, mode):
        text = " ".join(SAID)
        chat = path.endswith("chat/completions")
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
        if chat and body.get("tools"):
            call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
            choice["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
        elif chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        choices = [choice | {"index": i} for i in range(body.get("n") or 1)]
        found = {
            "id": "up-1",
            "object": "chat.completion" if chat else "text_completion",
            "created": 1,
            "choices": choices,
        }
        found["model"] = body["model"]
        if mode != "no usage":
            found["usage"] = {
                "prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT, "total_tokens": TOKENS_IN + TOKENS_OUT,
            }  # fmt: skip
        return found

    async def _stream(self, request, body, mode):
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        head = {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"]}

        async def put(found):
            await reply.write(b"data: " + json.dumps(head | found).encode() + b"\n\n")

        try:
            if mode == "garbage stream":
                await reply.write(b"data: {not json\n\n")
                return reply
            for i, word in enumerate(SAID):
                delta = {"content": word if i == 0 else " " + word}
                await put({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
                if mode == "slow stream":
                    await asyncio.sleep(0.15)
                if mode == "reset stream" and i == 2:
                    request.transport.abort()
                    return reply
                if mode == "hang stream" and i == 2:
                    await asyncio.sleep(60)
                if mode == "endless":
                    while True:
                        await put({"choices": [{"index": 0, "delta": {"content": " more"}, "finish_reason": None}]})
                        await asyncio.sleep(0.01)
            await put({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            if (body.get("stream_options") or {}).get("include_usage"):
                usage = {"prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT}
                await put({"choices": [], "usage": usage | {"total_tokens": TOKENS_IN + TOKENS_OUT}})
            await reply.write(b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            self.left += 1
            raise
        return reply
