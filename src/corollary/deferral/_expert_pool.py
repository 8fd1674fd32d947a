r"""`ExpertPool`: experts behind sync or async callables, asked at once under their limits, every call through a ledger.

What may happen to a call, and what the ledger then says:

- it returns: answered, charged at its cost;
- it raises `Refused`: the expert certainly did nothing; refused, charged at nothing, tried again after a pause;
- anything else (an error after sending, no answer in time): unknown, charged at its maximum; tried again only with an
  expert that honours idempotency keys, under the same key.

Imports neither torch nor numpy.
"""

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

from corollary.deferral._ledger import ANSWERED, UNKNOWN, Ledger, Query
from corollary.deferral._ledger_schema import to_nano
from corollary.endpoints import Refused
from corollary.errors import BudgetError, InvalidInputError

LONGEST_PAUSE = 30.0


class Reply(NamedTuple):
    """What an expert's callable may return instead of a bare answer: the answer, and what it cost.

    Guarantee: none; it is a record.

    Example:
        >>> Reply("four", 0.002).cost
        0.002
    """

    answer: Any
    cost: float | None = None


@dataclass(frozen=True)
class Expert:
    """Someone who answers for money.

    Args:
        name: unique in its pool.
        call: sync or async `call(prompt)`, or `call(prompt, key=...)` where keys are honoured; gives a JSON value or a
            `Reply`.
        price: most that a call can cost, and its cost where the reply does not say; or a function of the prompt.
        timeout: seconds after which a call counts as lost; None: never.
        retries: further tries, where another try is allowed at all.
        concurrency: calls at the same time.
        idempotent: whether a second call under the same key is free and gives the same answer. Say so only where it is
            documented: the account rests on it.

    Raises:
        InvalidInputError: for an empty name, a negative price, or limits that allow no call.

    Guarantee: none.

    Example:
        >>> Expert("echo", lambda prompt: prompt, price=0.01).most("hello")
        0.01
    """

    name: str
    call: Callable[..., Any]
    price: float | Callable[[str], float] = 0.0
    timeout: float | None = 60.0
    retries: int = 2
    concurrency: int = 4
    idempotent: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise InvalidInputError("an expert needs a name")
        if not callable(self.price):
            to_nano(self.price, f"price of {self.name}")
        if self.concurrency < 1 or self.retries < 0 or (self.timeout is not None and not self.timeout > 0):
            raise InvalidInputError(f"{self.name}: concurrency >= 1, retries >= 0 and timeout > 0 are needed")

    def most(self, prompt: str) -> float:
        """The most that a call with this prompt can cost."""
        return float(self.price(prompt) if callable(self.price) else self.price)


class Question(NamedTuple):
    """A prompt for an expert; `item` names it in the ledger (the prompt itself by default).

    Guarantee: none; it is a record.

    Example:
        >>> Question("What is 2 + 2?", "large").probability
        1.0
    """

    prompt: str
    expert: str
    item: str | None = None
    probability: float = 1.0

    @property
    def name(self) -> str:
        """The question's name in the ledger."""
        return self.prompt if self.item is None else self.item


class ExpertPool:
    """Experts that are asked at once, each under its own limits, every call through one ledger.

    Args:
        experts: the experts, of different names.
        ledger: where every call is written before it is made.

    Raises:
        InvalidInputError: for no experts, or a name used twice.

    Guarantee: the ledger's; what was answered in an earlier run is read from it and not asked again.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with Ledger(Path(tempfile.mkdtemp()) / "ledger.sqlite", budget=0.25) as ledger:
        ...     pool = ExpertPool([Expert("upper", str.upper, price=0.1)], ledger)
        ...     rows = pool.ask([Question(p, "upper") for p in ("a", "b", "c")])
        ...     [None if r is None else r.answer for r in rows], ledger.charged  # the third did not fit
        (['A', 'B', None], 0.2)

    Reference: ours.
    """

    def __init__(self, experts: Sequence[Expert], ledger: Ledger) -> None:
        self.experts = {e.name: e for e in experts}
        if not experts or len(self.experts) != len(experts):
            raise InvalidInputError("a pool needs experts, each with a name of its own")
        self.ledger = ledger
        self.problems: dict[str, str] = {}  # expert -> the last thing that went wrong

    def ask(self, questions: Iterable[Question], *, tell: Callable[[Query], Any] | None = None) -> list[Query | None]:
        """Ask, and wait for all.

        Args:
            questions: whom to ask what.
            tell: called with each row whose outcome has just been recorded.

        Returns:
            The row of each question; None where its maximum did not fit into the budget.
        """
        asked = self.ask_async(questions, tell=tell)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(asked)
        done: Future[list[Query | None]] = Future()  # inside a running loop (a notebook): a thread with its own
        threading.Thread(target=lambda: _into(done, lambda: asyncio.run(asked)), daemon=True).start()
        return done.result()

    async def ask_async(
        self, questions: Iterable[Question], *, tell: Callable[[Query], Any] | None = None
    ) -> list[Query | None]:
        """As `ask`, for callers with a loop of their own."""
        wanted = list(questions)
        for question in wanted:
            if question.expert not in self.experts:
                raise InvalidInputError(f"no expert is named {question.expert!r}; there are {', '.join(self.experts)}")
        found: dict[tuple[str, str], Query | None] = {(q.name, q.expert): None for q in wanted}
        while True:  # maxima in flight may have kept a question out for which the real costs leave room
            open_ = [q for q in {(q.name, q.expert): q for q in wanted}.values() if found[q.name, q.expert] is None]
            rows = await self._pass(open_, tell)
            found |= {(q.name, q.expert): row for q, row in zip(open_, rows, strict=True)}
            if all(row is None for row in rows):
                return [found[q.name, q.expert] for q in wanted]

    async def _pass(self, questions: Sequence[Question], tell: Callable[[Query], Any] | None) -> list[Query | None]:
        gates = {name: asyncio.Semaphore(e.concurrency) for name, e in self.experts.items()}

        async def one(question: Question) -> Query | None:
            async with gates[question.expert]:
                row = await self._one(question)
            if row is not None and tell is not None:
                tell(row)
            return row

        tasks = [asyncio.create_task(one(q)) for q in questions]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:  # what was in flight stays pending in the ledger: charged at its maximum
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    async def _one(self, question: Question) -> Query | None:
        expert, found = self.experts[question.expert], self.ledger.find(question.name, question.expert)
        for attempt in range(expert.retries + 1):
            if found is not None and not (found.may_be_sent and (found.state != UNKNOWN or expert.idempotent)):
                return found  # also where keys were honoured when it was sent, and the expert now knows none
            try:
                intent = self.ledger.intend(
                    question.name, expert.name,
                    maximum=expert.most(question.prompt), probability=question.probability,
                    idempotent=expert.idempotent,
                )  # fmt: skip
            except BudgetError:
                return found if found is not None and found.state == UNKNOWN else None
            pause = await self._send(expert, question.prompt, intent)
            found = self.ledger.find(question.name, expert.name)
            if pause is None or found is None or found.state == ANSWERED:
                break
            if attempt < expert.retries and found.may_be_sent:
                await asyncio.sleep(min(pause * 2**attempt, LONGEST_PAUSE))
        return found

    async def _send(self, expert: Expert, prompt: str, intent: Query) -> float | None:
        """Call and record; the pause before another try, None where there is nothing to try."""
        options = {"key": self.ledger.key(intent)} if expert.idempotent else {}
        try:
            reply = await asyncio.wait_for(_called(expert.call, prompt, options), expert.timeout)
        except Refused as problem:
            self.ledger.refuse(intent)
            self.problems[expert.name] = str(problem)
            return (0.5 if problem.pause is None else problem.pause) if problem.again else None
        except Exception as problem:  # whatever it was, it may have been paid for
            self.ledger.lose(intent)
            late = isinstance(problem, TimeoutError)
            said = f"no answer within {expert.timeout:g} s" if late else f"{type(problem).__name__}: {problem}"
            self.problems[expert.name] = said[:300]
            return 0.5
        answer, cost = reply if isinstance(reply, Reply) else (reply, None)
        try:
            self.ledger.settle(intent, answer, cost=cost)
        except (TypeError, ValueError) as problem:  # no JSON value, or no amount of money
            self.ledger.lose(intent)
            self.problems[expert.name] = f"an answer that cannot be kept: {problem}"[:300]
        return None


async def _called(call: Callable[..., Any], prompt: str, options: dict[str, str]) -> Any:
    if inspect.iscoroutinefunction(call) or inspect.iscoroutinefunction(getattr(call, "__call__", None)):  # noqa: B004
        return await call(prompt, **options)
    done: Future[Any] = Future()
    # a daemon thread of its own: a call that hangs must not keep the process alive, as an executor's thread would
    threading.Thread(target=lambda: _into(done, lambda: call(prompt, **options)), daemon=True).start()
    found = await asyncio.wrap_future(done)
    return await found if inspect.isawaitable(found) else found


def _into(done: "Future[Any]", work: Callable[[], Any]) -> None:
    done.set_running_or_notify_cancel()  # from here on nobody can cancel it, so the result always has a place
    try:
        done.set_result(work())
    except BaseException as problem:
        done.set_exception(problem)
