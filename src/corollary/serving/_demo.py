"""`corollary serve --demo`: a router, two toy models, a budget and a certificate, in this process and without a key.

The small model knows sums and greetings; the large one knows everything, for twenty times the price. Sixteen hundred
judged requests are made by a rule, a router learns from them, and the gateway sends each request where it is worth it.
"""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corollary.deferral.routing import RoutingLog
from corollary.deferral.routing._fit import fit_run
from corollary.runs import RunFolder
from corollary.serving._config import Budget, GatewayConfig, LedgerTable, RoutingTable, Server, UpstreamTable
from corollary.serving._gateway import Gateway
from corollary.serving._local import LocalUpstream, content_of
from corollary.serving._upstream import Upstream

EASY = ("say hello to", "what is the sum of", "translate one word:", "spell the word", "count up to")
HARD = (
    "prove the theorem about",
    "design an algorithm for",
    "explain the paradox of",
    "derive the formula for",
    "debug",
)
THINGS = ("seven", "green", "the moon", "prime numbers", "a queue", "paris", "the heap", "light", "music", "trees")
BUDGET = 0.55  # of the dear model's requests: mean cost of the policy, a share


def demo_log(n: int = 1600, *, seed: int = 0) -> RoutingLog:
    """Requests of two kinds, with what each toy model got right."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.4
    prompts = tuple(
        f"{rng.choice(HARD if h else EASY)} {rng.choice(THINGS)} and {rng.choice(THINGS)} ({i})"
        for i, h in enumerate(hard)
    )
    quality = np.stack([rng.random(n) < np.where(hard, 0.25, 0.97), rng.random(n) < 0.95], 1).astype(np.float64)
    return RoutingLog(prompts, ("small", "large"), quality)


class Toy:
    """A model that says what it was asked, at a pace.

    Args:
        name: in its answers.
        pause: seconds between two words.
    """

    def __init__(self, name: str, pause: float) -> None:
        self.name, self.pause = name, pause

    def prompt(self, messages: Sequence[dict[str, Any]] | str) -> Sequence[int]:
        """Bytes of the last message."""
        text = messages if isinstance(messages, str) else content_of(messages[-1])
        return list(text.encode("utf-8", "replace"))

    def stream(self, prompt: Sequence[int], *, max_tokens: int, **options: Any) -> Iterator[str]:
        """Word by word."""
        asked = bytes(prompt).decode("utf-8", "replace")[:200]
        for i, word in enumerate(f"This is the {self.name} model. You asked: {asked}".split()[:max_tokens]):
            time.sleep(self.pause)
            yield word if i == 0 else f" {word}"


def demo_gateway(folder: Path, *, host: str = "127.0.0.1", port: int = 8080) -> Gateway:
    """The gateway of the demo; its router, certificate and ledger lie in `folder`."""
    run = folder / "router"
    with RunFolder(run, {"verb": "route", "log": "demo", "budget": BUDGET, "seed": 0}) as opened:
        if not (run / "certificate.json").exists():
            fit_run(opened, demo_log(), budget=BUDGET, repeats=0, seed=0)
    tables = {
        "small": UpstreamTable(function="demo:small", input_price=0.1, output_price=0.4, concurrency=8),
        "large": UpstreamTable(function="demo:large", input_price=2.0, output_price=8.0, concurrency=8),
    }
    config = GatewayConfig(
        upstreams=tables,
        server=Server(host=host, port=port),
        routing=RoutingTable(exploration=0.05),
        budgets=(Budget(money=0.5, window="1h", over="cheaper"), Budget(money=1.0, window="1d")),
        ledger=LedgerTable(url=f"sqlite:///{(folder / 'gateway.sqlite').resolve()}", prompts="text", unit="dollars"),
    )
    toys: dict[str, Upstream] = {
        "small": LocalUpstream("small", tables["small"], Toy("small", 0.01)),
        "large": LocalUpstream("large", tables["large"], Toy("large", 0.03)),
    }
    return Gateway(config, run, upstreams=toys)


def demo_text(port: int, host: str = "127.0.0.1") -> str:
    """What to type next."""
    base = f"http://{host}:{port}"
    ask = f"curl -si {base}/v1/chat/completions -H 'content-type: application/json' -d"
    return f"""A gateway listens on {base} with two toy models, small and large. In another terminal:

  {ask} '{{"model": "corollary/auto", "messages": [{{"role": "user", "content": "say hello to paris"}}]}}'
  {ask} '{{"model": "corollary/auto", "messages": [{{"role": "user", "content": "prove the theorem about trees"}}]}}'

The headers x-corollary-* say who was chosen and what it may cost. The live page: {base}/
In Python: openai.OpenAI(base_url="{base}/v1", api_key="none")
Ctrl-C ends it."""
