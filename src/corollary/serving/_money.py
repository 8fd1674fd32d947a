"""What a request may cost at most, what it did cost, and whose budgets it counts against; whole billionths of the unit.

A prompt has at most as many tokens as its request has bytes: a token of a byte-level vocabulary stands for at least one
byte, and the JSON around a message is longer than what a chat template adds to it. `max_tokens` bounds the answer, so

    maximum = input_price (bytes + ENVELOPE + image_tokens images) + output_price n max_tokens + request_price.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from corollary.deferral._ledger_schema import to_nano
from corollary.serving._config import Budget, UpstreamTable, seconds

MILLION = 10**6
ENVELOPE = 64  # tokens that a template may add to a whole conversation, with room


class Prices(NamedTuple):
    """Money for a million tokens in and out, and for a request, in billionths.

    Example:
        >>> Prices(100_000_000, 400_000_000, 0).of(1000, 500)
        300000
    """

    into: int
    out: int
    request: int

    def of(self, tokens_in: int, tokens_out: int) -> int:
        """The cost of a call, rounded up."""
        return -(-(self.into * tokens_in + self.out * tokens_out) // MILLION) + self.request


def prices_of(table: UpstreamTable) -> Prices:
    """The prices of an upstream.

    Example:
        >>> prices_of(UpstreamTable(url="http://127.0.0.1:9/v1", model="m", input_price=0.1))
        Prices(into=100000000, out=0, request=0)
    """
    return Prices(*(to_nano(p, "price") for p in (table.input_price, table.output_price, table.request_price)))


@dataclass(frozen=True)
class Limit:
    """A budget as the ledger keeps it: the account's name, its window, what may be charged, and what then happens.

    Example:
        >>> limit = Limit("total/3600", 3600, 10**9, None)
        >>> limit.start(7300.0), limit.wait(7300.0)
        (7200, 3500.0)
    """

    name: str
    window: int | None
    money: int | None
    tokens: int | None
    over: str = "refuse"

    def start(self, now: float) -> int:
        """When the window that holds `now` began."""
        return 0 if self.window is None else int(now // self.window) * self.window

    def wait(self, now: float) -> float | None:
        """Seconds until the next window; None: it never comes."""
        return None if self.window is None else self.start(now) + self.window - now


def limits_of(budgets: Sequence[Budget], key: str, own: Mapping[str, Any] | None = None) -> tuple[Limit, ...]:
    """Every limit that a request of this key counts against.

    Args:
        budgets: of the configuration.
        key: name of the key.
        own: the key's own `money` (billionths), `tokens`, `window` (text), `over`.

    Example:
        >>> [limit.name for limit in limits_of([Budget(money=1.0), Budget(who="key", tokens=9, window="1h")], "ann")]
        ['total/1d', 'key:ann/1h']
    """
    found = []
    for b in budgets:
        name = "total" if b.who == "total" else f"key:{key}"
        money = None if b.money is None else to_nano(b.money, "budget", up=False)
        found.append(Limit(f"{name}/{b.window}", b.seconds, money, b.tokens, b.over))
    if own and (own.get("money") is not None or own.get("tokens") is not None):
        window = own["window"]
        found.append(Limit(f"own:{key}/{window}", seconds(window), own["money"], own["tokens"], own["over"]))
    return tuple(found)


def retry_after(limits: Sequence[Limit], now: float | None = None) -> int | None:
    """Whole seconds until the last of these windows ends; None where one has no end."""
    waits = [limit.wait(time.time() if now is None else now) for limit in limits]
    return None if not waits or any(w is None for w in waits) else max(1, int(max(w for w in waits if w) + 1))
