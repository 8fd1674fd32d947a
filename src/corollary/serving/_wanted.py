"""A request on its way: what is wanted, what is served, the row it leaves in the ledger, the headers of its answer."""

import asyncio
import hashlib
import json
import math
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from corollary.deferral._ledger_schema import NANO
from corollary.serving._keys import Caller
from corollary.serving._ledger import Call
from corollary.serving._money import ENVELOPE, Limit, retry_after
from corollary.serving._policy import Choice
from corollary.serving._requests import Options, Problem
from corollary.serving._upstream import Refused, Reply, Upstream

# unique, not secret (whose it is, the key says), and in the order of time: the ledger's pages then grow at their end
_IDS = random.Random(secrets.randbits(256))  # noqa: S311


UNKNOWN_THERE = {  # fields of other endpoints, which could ask for more than was reserved
    "completions": ("max_completion_tokens",),
    "embeddings": ("max_completion_tokens", "max_tokens", "n", "best_of", "stream", "stream_options"),
}


@dataclass
class Wanted:
    """A request, checked: what to send, and what bounds its price."""

    kind: str
    model: str
    body: dict[str, Any]
    size: int  # bytes of the request as it came
    text: str
    caller: Caller
    options: Options
    stream: bool = False
    shows_usage: bool = False
    answers: int = 1
    images: int = 0
    most: int | None = None  # tokens of an answer, where the request says
    id: str = field(default_factory=lambda: f"req-{int(1e3 * time.time()):012x}{_IDS.getrandbits(48):012x}")
    begun: float = field(default_factory=time.perf_counter)
    created: float = field(default_factory=time.time)


@dataclass
class Served:
    """An answer under way: from whom, on which reservation, with what to tell in the headers."""

    wanted: Wanted
    upstream: Upstream
    call: Call
    choice: Choice | None
    reply: Reply
    headers: dict[str, str]


async def take_place(upstream: Upstream) -> None:
    """A free place at an upstream, waited for no longer than it allows; `places.release()` gives it back.

    Raises:
        Refused: where none came free.
    """
    wait = upstream.table.queue_timeout
    if not upstream.places.locked():
        await upstream.places.acquire()
        return
    try:
        async with asyncio.timeout(wait):
            await upstream.places.acquire()
    except TimeoutError:
        raise Refused(f"no free place within {wait:g} s", again=False) from None


def counted(usage: Any) -> tuple[int, int] | None:
    """Tokens in and out as an upstream counted them; None where it did not.

    Example:
        >>> counted({"prompt_tokens": 3, "completion_tokens": 4}), counted({"prompt_tokens": "3"}), counted(None)
        ((3, 4), None, None)
    """
    if not isinstance(usage, dict):
        return None
    into, out = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if type(into) is int and type(out) is int and 0 <= into < 1 << 40 and 0 <= out < 1 << 40:
        return into, out
    return None


def prompt_hash(text: str) -> str:
    """SHA-256 of a prompt, by which rows of the ledger are found again."""
    return hashlib.sha256(text.encode()).hexdigest()


def request_row(
    wanted: Wanted, choice: Choice | None, *, drawn: str, replica: str, policy: str, keep_text: bool
) -> dict[str, Any]:
    """The row of a request; its prompt only where the configuration asks for it."""
    price = None if choice is None or not math.isfinite(choice.price) else choice.price
    return {
        "id": wanted.id, "created": wanted.created, "replica": replica, "key": wanted.caller.name,
        "asked": wanted.model, "drawn": drawn, "greedy": drawn if choice is None else choice.greedy,
        "served": None, "policy": "" if choice is None else policy, "price": price,
        "worth": None if choice is None else json.dumps({m: round(v, 6) for m, v in choice.worth.items()}),
        "propensity": None if choice is None else json.dumps(choice.propensity),
        "hash": prompt_hash(wanted.text), "prompt": wanted.text.replace("\x00", "") if keep_text else None,
        "status": None, "seconds": None, "score": None,
    }  # fmt: skip


def response_headers(
    wanted: Wanted,
    choice: Choice | None,
    call: Call,
    *,
    most: int,
    estimate: int,
    status: str,
    confidence: float | None,
) -> dict[str, str]:
    """What an answer's headers tell: names of the configuration and numbers, never a word of the request."""
    found = {
        "x-corollary-id": wanted.id,
        "x-corollary-model": call.model,
        "x-corollary-price": f"{estimate / NANO:.9g}",
        "x-corollary-maximum": f"{call.maximum / NANO:.9g}",
        "x-corollary-certificate": status,
    }
    if wanted.most is None and wanted.kind != "embeddings":
        found["x-corollary-max-tokens"] = str(most)
    if choice is not None:
        found["x-corollary-drawn"] = choice.drawn
        found["x-corollary-propensity"] = f"{choice.propensity[choice.drawn]:.6g}"
        found["x-corollary-worth"] = f"{choice.worth[call.model]:.4f}"
        if confidence is not None and choice.standard:
            found["x-corollary-confidence"] = f"{confidence:g}"
    return found


def most_tokens(wanted: Wanted, upstream: Upstream) -> tuple[int, int, int]:
    """Tokens into a call and out of it at most, and the length of one answer that is imposed."""
    table = upstream.table
    into = wanted.size + ENVELOPE + wanted.images * table.image_tokens
    if wanted.kind == "embeddings":
        return into, 0, 0
    most = table.max_tokens if wanted.most is None else wanted.most
    prompts = len(p) if isinstance(p := wanted.body.get("prompt"), list) else 1
    return into, most * wanted.answers * prompts, most


def maximum(wanted: Wanted, upstream: Upstream) -> int:
    """The most that a call of this model can cost, in billionths."""
    into, out, _ = most_tokens(wanted, upstream)
    return upstream.prices.of(into, out)


def with_fallbacks(wanted: Wanted, upstreams: Mapping[str, Upstream]) -> list[str]:
    """The named model and those that its configuration falls back on, nearest first."""
    found: list[str] = []
    queue = [wanted.model]
    while queue:
        name = queue.pop(0)
        if name not in found and wanted.caller.may_use(name):
            found.append(name)
            queue += upstreams[name].table.fallback
    return found


def sent(wanted: Wanted, most: int) -> dict[str, Any]:
    """What goes to the upstream: what came, without what was said to the gateway, bounded, and asked for its usage."""
    own = ("corollary", "model", *UNKNOWN_THERE.get(wanted.kind, ()))
    body = {k: v for k, v in wanted.body.items() if k not in own}
    if wanted.kind != "embeddings" and wanted.most is None:
        body["max_tokens"] = most
    if wanted.stream:
        options = body.get("stream_options")
        body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    return body


def unfit(wanted: Wanted, upstream: Upstream) -> Problem | None:
    """Why this model cannot serve this request; None where it can."""
    table = upstream.table
    if wanted.images and not table.images:
        return Problem(400, f"{upstream.name} takes no images.", code="unsupported_content")
    if wanted.kind == "embeddings" and not table.embeddings:
        return Problem(400, f"{upstream.name} gives no embeddings.", code="unsupported_endpoint")
    if wanted.options.heads and table.url is not None:
        return Problem(400, f"{upstream.name} has no heads to switch.", code="unsupported_option")
    return None


def refused(short: Sequence[Limit], trouble: Sequence[str]) -> Problem:
    """What the client is told where no model answered: a budget has ended (with the time to wait), or all failed."""
    if not short:
        said = "; ".join(trouble) or "no model may be asked"
        return Problem(502, f"No upstream answered ({said}).", kind="upstream_error", code="upstream_failed")
    wait = retry_after([s for s in short if s.over == "refuse"] or short)
    names = ", ".join(dict.fromkeys(s.name for s in short))
    told = f"Retry in {wait} s." if wait is not None else "It has no end: raise it."
    return Problem(
        429,
        f"The budget {names} has no room for this request's maximum. {told}",
        kind="insufficient_quota",
        code="budget_exceeded",
        headers={} if wait is None else {"Retry-After": str(wait)},
    )
