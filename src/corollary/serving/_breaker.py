"""A circuit breaker: after failures in a row an upstream is left alone for a while, then tried by one request."""

import time


class Breaker:
    """Closed, open, or half open.

    Args:
        failures: in a row that open it.
        seconds: that it stays open; then one request may try.

    Example:
        >>> breaker = Breaker(failures=2, seconds=10.0)
        >>> breaker.fail(now=0.0); breaker.fail(now=0.0)
        >>> breaker.allows(now=1.0), breaker.allows(now=11.0), breaker.allows(now=11.0)
        (False, True, False)
    """

    def __init__(self, *, failures: int, seconds: float) -> None:
        self.failures, self.seconds = failures, seconds
        self.count, self.until = 0, 0.0

    @property
    def open(self) -> bool:
        """Whether failures have opened it (a trial may be under way)."""
        return self.count >= self.failures

    def allows(self, *, now: float | None = None) -> bool:
        """Whether a request may be sent now; with a half-open one, the first that asks."""
        if not self.open:
            return True
        at = time.monotonic() if now is None else now
        if at < self.until:
            return False
        self.until = at + self.seconds  # one trial; if it never reports, another follows after as long
        return True

    def succeed(self) -> None:
        """An answer came."""
        self.count = 0

    def fail(self, *, now: float | None = None) -> None:
        """None came, or an error of the server's."""
        self.count += 1
        if self.open:
            self.until = (time.monotonic() if now is None else now) + self.seconds
