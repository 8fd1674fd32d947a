"""What `/metrics` shows, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from corollary.deferral._ledger_schema import NANO
from corollary.serving._watch import Watch, status_names

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """Counters of one gateway."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"corollary_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"corollary_{name}", text, labels, registry=registry)

        self.requests = counter(
            "requests", "Requests by the model that served them and their status", "model", "status"
        )
        self.calls = counter("calls", "Calls to upstreams by outcome", "model", "outcome")
        self.money = counter("money", "Charged for answered and unknown calls, in the unit", "model")
        self.tokens = counter("tokens", "Tokens by direction", "model", "direction")
        self.explored = counter("explored", "Requests whose model was drawn uniformly")
        self.diverted = counter("diverted", "Requests served by another model than the one drawn", "why")
        self.feedback = counter("feedback", "Judgements received")
        self.time = Histogram(
            "corollary_request_seconds",
            "From the request to the last byte",
            ["model"],
            buckets=BUCKETS,
            registry=registry,
        )
        self.first = Histogram(
            "corollary_first_byte_seconds", "From the request to the first byte", ["model"], buckets=BUCKETS,
            registry=registry,
        )  # fmt: skip
        self.flying = gauge("requests_in_flight", "Requests being served")
        self.breaker = gauge("breaker_open", "1 while the circuit breaker of an upstream is open", "model")
        self.waiting = gauge("ledger_waiting", "Operations that the ledger has not committed")
        self.trouble = gauge("ledger_failing", "1 while the ledger cannot be written")
        self.certificate = gauge("certificate", "1 for the status that the certificate has", "status")
        self.capital = gauge("monitor_log_capital", "Log capital of a monitor against the certificate", "monitor")
        self.level = gauge("monitor_revokes_at", "Log capital at which a monitor revokes", "monitor")
        self.left = gauge("budget_left", "What a budget of all requests still allows, in the unit", "budget")

    def count(self, model: str, outcome: str, money: int, tokens_in: int | None, tokens_out: int | None) -> None:
        """A call that ended."""
        self.calls.labels(model, outcome).inc()
        if money:
            self.money.labels(model).inc(money / NANO)
        if tokens_in:
            self.tokens.labels(model, "in").inc(tokens_in)
        if tokens_out:
            self.tokens.labels(model, "out").inc(tokens_out)

    def text(self, watch: Watch) -> bytes:
        """The exposition, with the monitors as they stand."""
        import math

        for status in status_names():
            self.certificate.labels(status).set(watch.status == status)
        for name, monitor in (("drift", watch.drift), ("cost", watch.cost), ("quality", watch.quality)):
            if monitor is not None:
                self.capital.labels(name).set(monitor.log_capital)
                self.level.labels(name).set(math.log(1 / monitor.alpha))
        return generate_latest(self.registry)
