"""Generated text: JSON records, service logs and arithmetic, the phrases taken from training prose only."""

import json
import random
import re
from collections.abc import Callable

from corollary.documents import Documents

_SERVICES = [
    "auth",
    "billing",
    "catalog",
    "gateway",
    "indexer",
    "mailer",
    "payments",
    "scheduler",
    "search",
    "session",
    "storage",
    "worker",
]
_LEVELS = ["DEBUG"] * 3 + ["INFO"] * 8 + ["WARN"] * 2 + ["ERROR"]
_VERBS = ["GET"] * 6 + ["POST"] * 3 + ["PUT", "PATCH", "DELETE"]
_PLACES = ["items", "users", "orders", "carts", "reports", "files", "tokens", "labels", "events", "quotas"]
_CITIES = [
    "Lyon",
    "Oslo",
    "Quito",
    "Perth",
    "Kyoto",
    "Accra",
    "Turin",
    "Cusco",
    "Hanoi",
    "Leeds",
    "Tunis",
    "Vilnius",
]
_KINDS = ["created", "updated", "removed", "viewed", "archived", "restored", "shared", "locked"]
_UNITS = ["ms", "kb", "rpm", "celsius", "percent", "bytes"]
_WORD = re.compile(rb"[A-Za-z][A-Za-z']*[,.;:]?|\n\s*\n")


class Phrases:
    """Short runs of words, from anywhere in the given documents; a run never crosses a paragraph."""

    def __init__(self, documents: Documents) -> None:
        self._runs: list[list[str]] = []
        for text in documents:
            run: list[str] = []
            for match in _WORD.findall(text):
                if match.isspace():
                    self._keep(run)
                    run = []
                else:
                    run.append(match.decode())
            self._keep(run)
        if not self._runs:
            self._runs = [_SERVICES, _PLACES, _KINDS]

    def _keep(self, run: list[str]) -> None:
        if len(run) >= 4:
            self._runs.append(run)

    def draw(self, rng: random.Random, low: int = 3, high: int = 8) -> str:
        """A run of `low` to `high` words."""
        words = self._runs[rng.randrange(len(self._runs))]
        length = min(rng.randint(low, high), len(words))
        start = rng.randrange(len(words) - length + 1)
        return " ".join(words[start : start + length]).rstrip(",;:")

    def word(self, rng: random.Random) -> str:
        """One word in lower case, without its punctuation."""
        return self.draw(rng, 1, 1).rstrip(".'").lower()


def _hex(rng: random.Random, digits: int) -> str:
    return f"{rng.getrandbits(4 * digits):0{digits}x}"


def _moment(rng: random.Random) -> str:
    month, day = rng.randint(1, 12), rng.randint(1, 28)
    return f"2024-{month:02d}-{day:02d}T{rng.randrange(24):02d}:{rng.randrange(60):02d}"


def _event(rng: random.Random, phrases: Phrases) -> dict[str, object]:
    return {
        "event": f"{rng.choice(_PLACES)}.{rng.choice(_KINDS)}",
        "id": _hex(rng, 12),
        "at": f"{_moment(rng)}:{rng.randrange(60):02d}Z",
        "actor": {"user": f"{phrases.word(rng)}{rng.randrange(100)}", "admin": rng.random() < 0.1},
        "note": phrases.draw(rng),
    }


def _order(rng: random.Random, phrases: Phrases) -> dict[str, object]:
    lines = [
        {"sku": _hex(rng, 6).upper(), "title": phrases.draw(rng, 2, 4), "quantity": rng.randint(1, 9),
         "price": rng.randrange(100, 20000) / 100}
        for _ in range(rng.randint(1, 4))
    ]  # fmt: skip
    return {
        "order": rng.randrange(10**6),
        "lines": lines,
        "total": round(sum(line["quantity"] * line["price"] for line in lines), 2),  # type: ignore[operator]
        "ship_to": {"city": rng.choice(_CITIES), "zip": f"{rng.randrange(10**5):05d}"},
        "paid": rng.random() < 0.7,
    }


def _profile(rng: random.Random, phrases: Phrases) -> dict[str, object]:
    name = phrases.word(rng)
    return {
        "name": name,
        "email": f"{name}@{phrases.word(rng)}.example",
        "bio": phrases.draw(rng, 6, 14),
        "tags": [phrases.word(rng) for _ in range(rng.randint(0, 4))],
        "city": rng.choice([*_CITIES, None]),
        "followers": int(rng.expovariate(0.01)),
    }


def _metric(rng: random.Random, phrases: Phrases) -> dict[str, object]:
    level = rng.uniform(1, 500)
    return {
        "metric": f"{rng.choice(_SERVICES)}.{phrases.word(rng)}",
        "unit": rng.choice(_UNITS),
        "labels": {"host": f"node-{rng.randrange(40)}", "zone": rng.choice(_CITIES).lower()},
        "values": [round(rng.gauss(level, level / 9), 1) for _ in range(rng.randint(3, 9))],
        "description": phrases.draw(rng),
    }


def _setting(rng: random.Random, phrases: Phrases) -> dict[str, object]:
    options = {
        phrases.word(rng): rng.choice([True, False, None, rng.randrange(512), phrases.word(rng)]) for _ in range(4)
    }
    return {
        "service": rng.choice(_SERVICES),
        "version": f"{rng.randrange(6)}.{rng.randrange(20)}.{rng.randrange(30)}",
        "summary": phrases.draw(rng, 4, 10),
        "options": options,
    }


def json_document(rng: random.Random, phrases: Phrases) -> bytes:
    """One to four records of one kind, compact or indented."""
    make = rng.choice([_event, _order, _profile, _metric, _setting])
    indent = rng.choice([None, None, 2])
    records = []
    for _ in range(rng.randint(1, 4)):
        fields = list(make(rng, phrases).items())
        if rng.random() < 0.3:
            rng.shuffle(fields)
        records.append(dict(fields))
    text = json.dumps(records if rng.random() < 0.3 else {"data": records, "next": _hex(rng, 8)}, indent=indent)
    return text.encode()


def log_document(rng: random.Random, phrases: Phrases) -> bytes:
    """Some consecutive lines of one service's log."""
    service, host, moment = rng.choice(_SERVICES), f"node-{rng.randrange(40)}", _moment(rng)
    style, trace, milliseconds = rng.randrange(3), _hex(rng, 8), rng.randrange(1000)
    lines = []
    for _ in range(rng.randint(3, 14)):
        milliseconds += int(rng.expovariate(0.004))
        stamp = f"{moment}:{milliseconds // 1000 % 60:02d}.{milliseconds % 1000:03d}"
        level, words = rng.choice(_LEVELS), _message(rng, phrases)
        if style == 0:
            lines.append(f"{stamp} {level:<5} {service}[{host}] {words} trace={trace}")
        elif style == 1:
            lines.append(f"[{stamp}Z] {host} {service}: {level.lower()}: {words}")
        else:
            lines.append(f'time="{stamp}Z" level={level.lower()} svc={service} trace={trace} msg="{words}"')
        if rng.random() < 0.25:
            trace = _hex(rng, 8)
    return "\n".join(lines).encode()


def _message(rng: random.Random, phrases: Phrases) -> str:
    kind = rng.random()
    if kind < 0.35:
        status = rng.choice([200, 200, 200, 201, 204, 304, 400, 404, 500, 503])
        path = f"/v{rng.randint(1, 2)}/{rng.choice(_PLACES)}/{rng.randrange(10**5)}"
        return f"{rng.choice(_VERBS)} {path} {status} {rng.randrange(1, 900)}ms"
    if kind < 0.5:
        return f"retry {rng.randint(1, 5)} of 5 after {rng.randrange(50, 5000)}ms: {phrases.draw(rng)}"
    if kind < 0.65:
        address = f"10.{rng.randrange(8)}.{rng.randrange(256)}.{rng.randrange(256)}"
        return f"user={phrases.word(rng)}{rng.randrange(100)} ip={address} {rng.choice(_KINDS)}"
    return phrases.draw(rng, 3, 9)


def arithmetic_document(rng: random.Random, phrases: Phrases) -> bytes:
    """Lines of sums, differences and products with their results; `phrases` is not used."""
    lines = []
    for _ in range(rng.randint(8, 40)):
        a, b, sign = rng.randrange(1000), rng.randrange(1000), rng.choice("+-*")
        lines.append(f"{a} {sign} {b} = {a + b if sign == '+' else a - b if sign == '-' else a * b}")
    return "\n".join(lines).encode()


GENERATORS: dict[str, Callable[[random.Random, Phrases], bytes]] = {
    "json": json_document,
    "logs": log_document,
    "arithmetic": arithmetic_document,
}


def generate(
    name: str,
    phrases: Phrases,
    *,
    stream: str,
    accept: Callable[[bytes], bool],
    documents: int | None = None,
    size: int | None = None,
    low: int,
    high: int,
) -> list[bytes]:
    """Draw accepted documents until there are `documents` of them, or `size` bytes; `stream` seeds them."""
    rng = random.Random(f"{name}|{stream}")  # noqa: S311 (reproducible text, not a secret)
    kept: list[bytes] = []
    held = 0
    while (documents is not None and len(kept) < documents) or (size is not None and held < size):
        text = GENERATORS[name](rng, phrases)[:high].rstrip()
        if len(text) >= low and accept(text):
            kept.append(text)
            held += len(text)
    return kept
