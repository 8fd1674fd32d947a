"""`Gateway`: what happens to a request between the door and the upstream.

decide -> reserve the maximum, on disk -> call -> settle. A call that certainly did nothing is tried again after a
pause, on the same reservation; one that may have been billed keeps its maximum, and the next model in order is asked on
a reservation of its own.
"""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from corollary.deferral._ledger_schema import NANO
from corollary.deferral.routing import load as load_router
from corollary.errors import InvalidInputError, LedgerError
from corollary.serving import _sse
from corollary.serving import _tables as t
from corollary.serving._config import AUTO, GatewayConfig
from corollary.serving._keys import Caller, KeyRing, read_keys
from corollary.serving._ledger import (
    ANSWERED,
    REFUSED,
    UNKNOWN,
    Call,
    GatewayLedger,
    OverBudget,
    Reservation,
    Settlement,
)  # fmt: skip
from corollary.serving._loaders import make_upstream
from corollary.serving._metrics import Metrics
from corollary.serving._money import Limit, limits_of
from corollary.serving._policy import LONG, Choice, Policy
from corollary.serving._requests import Options, Problem
from corollary.serving._upstream import Lost, Refused, Rejected, Reply, Upstream
from corollary.serving._wanted import (
    Served,
    Wanted,
    counted,
    maximum,
    most_tokens,
    refused,
    request_row,
    response_headers,
    sent,
    take_place,
    unfit,
    with_fallbacks,
)  # fmt: skip
from corollary.serving._watch import try_watch

LONGEST_PAUSE = 5.0
FIRST_PAUSE = 0.2
REFRESH = 2.0  # seconds between looks at keys and revocations


class Gateway:
    """Router, upstreams, ledger and monitors of one process.

    Args:
        config: of `gateway.toml`.
        folder: the router's run; None: only models that are named.
        ledger: instead of the configured one.
        upstreams: instead of those that the configuration describes, by name.

    Raises:
        InvalidInputError: where the router names a model that is not configured, or a secret is missing.

    Guarantee: the ledger's; a request is sent only once its reservation is on disk.

    Example:
        >>> import tempfile
        >>> config = GatewayConfig(upstreams={"small": {"url": "http://127.0.0.1:9/v1", "model": "m"}})
        >>> gateway = Gateway(config, ledger=GatewayLedger(f"{tempfile.mkdtemp()}/gateway.sqlite"))
        >>> gateway.ready, gateway.locked, gateway.watch.status
        (True, False, 'none')
        >>> gateway.ledger.close()
    """

    def __init__(
        self, config: GatewayConfig, folder: str | Path | None = None, *, ledger: GatewayLedger | None = None,
        upstreams: dict[str, Upstream] | None = None,
    ) -> None:  # fmt: skip
        self.config, self.folder = config, None if folder is None else Path(folder)
        self.policy: Policy | None = None
        router = None
        if self.folder is not None:
            router = load_router(self.folder)
            self.policy = Policy(router, config.routing)
            if lost := [m for m in router.models if m not in config.upstreams]:
                raise InvalidInputError(f"the router sends requests to {lost[0]!r}; add [upstreams.{lost[0]}]")
        self.upstreams = upstreams or {n: make_upstream(n, table) for n, table in config.upstreams.items()}
        served = [Path(u.folder) for u in config.upstreams.values() if u.folder]
        own = self.policy is None or self.policy.own_price
        self.watch, self.warning = try_watch(
            self.folder if own else None, router, exploration=config.routing.exploration, alpha=config.routing.alpha,
            served=served, unit=config.ledger.unit,
        )  # fmt: skip
        self.ledger = GatewayLedger(config.ledger.url) if ledger is None else ledger
        self.keys = KeyRing(read_keys(self.ledger.engine))
        self.metrics = Metrics()
        self.replica = secrets.token_hex(4)
        self.flying = 0
        self.standard: dict[str, None] = {}  # requests whose feedback the monitor takes, the latest
        self._said = False
        longest = max(u.timeout + u.idle_timeout for u in config.upstreams.values())
        self.ledger.give_up(older=600 + 10 * longest)
        self._refresh()

    async def close(self) -> None:
        """Let go of upstreams; write what is left."""
        for upstream in self.upstreams.values():
            await upstream.close()
        await asyncio.to_thread(self.ledger.close)

    @property
    def ready(self) -> bool:
        """Whether the ledger can be written and some upstream may be asked."""
        assert self.ledger.writer is not None
        writable = not self.ledger.writer.problem
        return writable and any(not u.breaker.open for u in self.upstreams.values())

    @property
    def locked(self) -> bool:
        """Whether a key is needed: as soon as one was made, and wherever other machines can reach the gateway."""
        return self.keys.any or not self.config.server.loopback

    async def keep_fresh(self) -> None:
        """Look at keys and revocations every few seconds, for as long as it runs."""
        while True:
            await asyncio.sleep(REFRESH)
            try:
                await asyncio.to_thread(self._refresh)
            except (sa.exc.SQLAlchemyError, LedgerError):  # the next look may succeed; until then what was known stands
                continue

    def _refresh(self) -> None:
        self.keys.replace(read_keys(self.ledger.engine))
        t.fold(self.ledger.engine)
        if self.policy is not None:
            query = sa.select(t.event.c.why).where(t.event.c.policy == self.policy.name, t.event.c.what == "revoked")
            found = self.ledger.read(query)
            if found and not self.watch.revoked:
                self.watch.revoked, self._said = found[0]["why"], True

    # decide

    async def decide(self, text: str, caller: Caller, options: Options) -> Choice:
        """The router's choice for a text."""
        if self.policy is None:
            raise Problem(
                404, f"{AUTO} needs a router; name one of the models of GET /v1/models.", code="model_not_found"
            )
        policy = self.policy
        allowed = [m for m in policy.router.models if caller.may_use(m)]
        if not allowed:
            raise Problem(403, "This key may use none of the router's models.", kind="permission_error")
        given: dict[str, Any] = {"allowed": allowed, "price": options.price, "quality": options.quality}
        if len(text) > LONG:
            return await asyncio.to_thread(policy.choose, text, **given)
        return policy.choose(text, **given)

    # serve

    async def serve(self, wanted: Wanted) -> Served:
        """Reserve and call until a model answers.

        Raises:
            Problem: with the status that the client gets.
        """
        choice = await self.decide(wanted.text, wanted.caller, wanted.options) if wanted.model == AUTO else None
        names = list(choice.order) if choice is not None else with_fallbacks(wanted, self.upstreams)
        row: dict[str, Any] | None = self._row(wanted, choice, names[0])
        limits = limits_of(self.config.budgets, wanted.caller.name, wanted.caller.budget)
        number, rejected = 0, None
        short: list[Limit] = []
        trouble: list[str] = []
        below = float("inf")
        queue, tried = list(names), set()
        while queue:
            name = queue.pop(0)
            upstream = self.upstreams[name]
            most_money = maximum(wanted, upstream)
            if name in tried or most_money >= below:
                continue
            tried.add(name)
            if (problem := unfit(wanted, upstream)) is not None:
                rejected = rejected or problem
                continue
            if not upstream.breaker.allows():
                trouble.append(f"{name}: left alone after failures")
                continue
            into, out, most = most_tokens(wanted, upstream)
            call = Call(f"{wanted.id}.{number}", wanted.id, name, (), most_money, into + out, wanted.created)
            try:
                reply = await self._reserved(wanted, upstream, Reservation(call, limits, row), most)
            except OverBudget as full:
                short += full.limits
                if any(limit.over == "refuse" for limit in full.limits):
                    break
                below = min(below, most_money)
                queue += self._cheaper(wanted, choice, below)
                continue
            except (Refused, Lost) as why:
                trouble.append(f"{name}: {why}")
            except Rejected as why:
                rejected = Problem(why.status, why.message, code="upstream_rejected")
            else:
                if name != names[0]:
                    self.metrics.diverted.labels("budget" if short else "fault").inc()
                return Served(wanted, upstream, call, choice, reply, self._headers(wanted, choice, call, most))
            if call.settled:  # it was reserved, and with it the request's row was written
                row, number = None, number + 1
            if rejected is not None:
                break
        raise self._refusal(wanted, row, short, trouble, rejected)

    async def _reserved(self, wanted: Wanted, upstream: Upstream, wish: Reservation, most: int) -> Reply:
        """Wait for a place, reserve, call. The place is given back here unless an answer comes."""
        await take_place(upstream)
        try:
            call = await self.ledger.reserve(wish)
            return await self._attempt(wanted, upstream, call, most)
        except BaseException:
            upstream.places.release()
            raise

    def _cheaper(self, wanted: Wanted, choice: Choice | None, below: float) -> list[str]:
        """Models that may take the place of one for which a budget has no room, the dearest first."""
        models = choice.order if choice is not None else [n for n in self.upstreams if wanted.caller.may_use(n)]
        found = {n: maximum(wanted, self.upstreams[n]) for n in models}
        return sorted((n for n, most in found.items() if most < below), key=lambda n: -found[n])

    async def _attempt(self, wanted: Wanted, upstream: Upstream, call: Call, most: int) -> Reply:
        """Call under one reservation until it answers, or nothing more may be tried; the call is then settled."""
        table, heads = upstream.table, None if wanted.options.heads is None else tuple(wanted.options.heads)
        for attempt in range(table.retries + 1):
            try:
                reply = await upstream.ask(wanted.kind, sent(wanted, most), key=call.id, heads=heads)
            except Refused as problem:
                upstream.breaker.fail()
                if not problem.again or attempt == table.retries or not upstream.breaker.allows():
                    self.end(call, REFUSED)
                    raise
                pause = FIRST_PAUSE * 2**attempt * (0.5 + random.random()) if problem.pause is None else problem.pause  # noqa: S311
                if pause > LONGEST_PAUSE:
                    self.end(call, REFUSED)
                    raise
                await asyncio.sleep(pause)
            except Rejected:
                upstream.breaker.succeed()
                self.end(call, REFUSED)
                raise
            except Lost:
                upstream.breaker.fail()
                if not table.idempotent or attempt == table.retries:
                    self.end(call, UNKNOWN)
                    raise
                await asyncio.sleep(FIRST_PAUSE * 2**attempt)
            except BaseException:  # the client left, or the process ends: it may have been sent
                self.end(call, UNKNOWN)
                raise
            else:
                upstream.breaker.succeed()
                return reply
        raise AssertionError

    # settle

    def end(
        self, call: Call, state: str, *, usage: Any = None, upstream: Upstream | None = None,
        finish: dict[str, Any] | None = None,
    ) -> int:  # fmt: skip
        """Settle a call; what it is charged at, in billionths."""
        if call.settled:
            return 0
        into = out = None
        money = 0 if state == REFUSED else call.maximum
        tokens = 0 if state == REFUSED else call.maximum_tokens
        if state == ANSWERED and upstream is not None and (found := counted(usage)) is not None:
            into, out = found
            money, tokens = upstream.prices.of(into, out), into + out
        self.ledger.settle(Settlement(call, state, money, into, out, tokens, finish or {}))
        self.metrics.count(call.model, state, money, into, out)
        return money

    def finish(self, served: Served, state: str, *, usage: Any = None, status: int = 200) -> int:
        """Settle a request that reached a model; what it is charged at."""
        wanted, name = served.wanted, served.upstream.name
        seconds = time.perf_counter() - wanted.begun
        end = {"served": name, "status": status, "seconds": round(seconds, 6)}
        money = self.end(served.call, state, usage=usage, upstream=served.upstream, finish=end)
        self.metrics.requests.labels(name, str(status)).inc()
        self.metrics.time.labels(name).observe(seconds)
        served.upstream.places.release()
        self._watched(served, money)
        return money

    def _watched(self, served: Served, money: int) -> None:
        choice = served.choice
        if choice is None or not choice.standard or self.policy is None:
            return
        if choice.drawn != choice.greedy:
            self.metrics.explored.inc()
        self.watch.saw(choice.gap)
        if served.upstream.name == choice.drawn:
            router = self.policy.router
            at = router.models.index(choice.drawn)
            self.watch.paid(money / NANO if self.watch.true_costs else float(router.costs[at]))
            self.standard[served.wanted.id] = None
            if len(self.standard) > 10_000:
                del self.standard[next(iter(self.standard))]
        self.say_revoked()

    def say_revoked(self) -> None:
        """Write a revocation down, once."""
        if self.watch.revoked and not self._said and self.policy is not None and self.ledger.writer is not None:
            self._said = True
            row = {"policy": self.policy.name, "what": "revoked", "why": self.watch.revoked, "created": time.time()}
            self.ledger.writer.leave("work", lambda link: link.execute(t.event.insert().values(row)))

    async def events(self, served: Served) -> AsyncIterator[bytes]:
        """A stream as it comes; its last chunk with usage gets the final price."""
        usage: Any = None
        state, status = UNKNOWN, 499  # what it stays where the client leaves
        assert served.reply.events is not None
        try:
            async for event in served.reply.events:
                if _sse.may_hold_usage(event) and (found := _sse.document(event)) is not None:
                    usage = found.get("usage") or usage
                    if not found.get("choices"):
                        state, status = ANSWERED, 200
                        if not served.wanted.shows_usage:
                            continue
                        event = _sse.event_of(self.priced(found, served))
                elif event == _sse.DONE:
                    state, status = ANSWERED, 200
                yield event
            state, status = ANSWERED, 200
        except (Lost, _sse.Broken) as problem:
            status = 502
            served.upstream.breaker.fail()
            error = Problem(502, f"The stream of {served.upstream.name} broke: {problem}.", kind="upstream_error")
            yield _sse.event_of(error.document())
        finally:
            self.finish(served, state, usage=usage, status=status)
            await served.reply.close()

    def priced(self, document: dict[str, Any], served: Served) -> dict[str, Any]:
        """A document whose usage also says what it cost."""
        usage = document.get("usage")
        found = counted(usage)
        money = served.call.maximum if found is None else served.upstream.prices.of(*found)
        if isinstance(usage, dict):
            document["usage"] = usage | {"cost": money / NANO, "cost_unit": self.config.ledger.unit}
        return document

    # what is written and told

    def _row(self, wanted: Wanted, choice: Choice | None, drawn: str) -> dict[str, Any]:
        policy = "" if self.policy is None else self.policy.name
        keep = self.config.ledger.prompts == "text"
        return request_row(wanted, choice, drawn=drawn, replica=self.replica, policy=policy, keep_text=keep)

    def _headers(self, wanted: Wanted, choice: Choice | None, call: Call, most: int) -> dict[str, str]:
        """The price is an estimate: a quarter of the bytes as tokens in, half of the longest answer out."""
        prices = self.upstreams[call.model].prices
        _, out, _ = most_tokens(wanted, self.upstreams[call.model])
        estimate = min(prices.of(wanted.size // 4, out // 2), call.maximum)
        return response_headers(
            wanted,
            choice,
            call,
            most=most,
            estimate=estimate,
            status=self.watch.status,
            confidence=self.watch.confidence,
        )

    def _refusal(
        self, wanted: Wanted, row: dict[str, Any] | None, short: Sequence[Any], trouble: Sequence[str],
        rejected: Problem | None,
    ) -> Problem:  # fmt: skip
        problem = rejected or refused(short, trouble)
        seconds = round(time.perf_counter() - wanted.begun, 6)
        if row is not None:
            self.ledger.note(row | {"status": problem.status, "seconds": seconds})
        else:
            self.ledger.finish_request(wanted.id, problem.status, seconds)
        self.metrics.requests.labels("", str(problem.status)).inc()
        return problem
