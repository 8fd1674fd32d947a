"""The load: open loop (requests leave on a clock) and closed loop (each connection asks again when answered)."""

import asyncio
import time

import aiohttp
import numpy as np

WORDS = ("say hello to", "prove the theorem about", "count up to", "explain the paradox of")
THINGS = ("seven", "green", "the moon", "prime numbers", "a queue", "paris", "the heap", "light", "music", "trees")


def body(model, rng):
    first, second = rng.choice(THINGS, 2)
    text = f"{rng.choice(WORDS)} {first} and {second}, please, in at most {rng.integers(9, 99)} words"
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 64}


async def _ask(session, url, given):
    async with session.post(f"{url}/v1/chat/completions", json=given) as reply:
        raw = await reply.read()
        return reply.status == 200 and b"choices" in raw


async def open_loop(url, model, *, rate, seconds, connections, seed):
    """Latencies in ms from the moment each request was due, and how many failed."""
    rng = np.random.default_rng(seed)
    connector = aiohttp.TCPConnector(limit=connections, force_close=False)
    found, failed = [], 0
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(_ask(session, url, body(model, rng)) for _ in range(min(connections, 50))))  # connect

        async def one(due):
            nonlocal failed
            good = await _ask(session, url, body(model, rng))
            found.append(1e3 * (time.perf_counter() - due))
            failed += not good

        begin, tasks = time.perf_counter() + 0.05, []
        for i in range(int(rate * seconds)):
            due = begin + i / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(one(due)))
        await asyncio.gather(*tasks)
    return found, failed


async def closed_loop(url, model, *, seconds, connections, seed, count=None):
    """Requests answered in a second, and how many failed; `count` instead of seconds ends after so many."""
    rng = np.random.default_rng(seed)
    connector = aiohttp.TCPConnector(limit=connections)
    done = failed = 0
    async with aiohttp.ClientSession(connector=connector) as session:
        begin = time.perf_counter()

        async def loop():
            nonlocal done, failed
            while (time.perf_counter() - begin < seconds) if count is None else (done < count):
                good = await _ask(session, url, body(model, rng))
                done += good
                failed += not good

        await asyncio.gather(*(loop() for _ in range(connections)))
        spent = time.perf_counter() - begin
    return done / spent, failed
