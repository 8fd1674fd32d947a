"""Collect a routing log within a budget: experts as Python functions, every call through a ledger, then a router."""

import json
import tempfile
from pathlib import Path

import numpy as np

from corollary.cli import app
from corollary.deferral import Ledger, routing

EXPERTS = '''
from corollary.deferral import Reply


def adds(prompt):
    """Cheap: adds two numbers, whatever was asked."""
    a, b = (int(w) for w in prompt.split() if w.isdigit())
    return Reply(str(a + b), 0.01)


def computes(prompt):
    """Dear: does what was asked, for a price that depends on the length of the answer."""
    a, b = (int(w) for w in prompt.split() if w.isdigit())
    answer = str(a * b if "product" in prompt else a + b)
    return Reply(answer, 0.05 + 0.01 * len(answer))
'''
POOL = """
[quality]
kind = "exact"
reference = "answer"

[experts.adds]
function = "experts_of_the_example:adds"
price = 0.01

[experts.computes]
function = "experts_of_the_example:computes"
price = 0.12
concurrency = 8
"""


def write(folder):
    rng = np.random.default_rng(0)
    (folder / "experts_of_the_example.py").write_text(EXPERTS)
    (folder / "pool.toml").write_text(POOL)
    with (folder / "prompts.jsonl").open("w") as file:
        for _ in range(240):
            a, b = (int(v) for v in rng.integers(1000, size=2))
            hard = rng.random() < 0.3
            prompt = f"the product of {a} and {b}" if hard else f"{a} plus {b} in all"
            file.write(json.dumps({"prompt": prompt, "answer": a * b if hard else a + b}) + "\n")


def collect(folder):
    words = ["route", "collect", folder / "prompts.jsonl", "--pool", folder / "pool.toml", "--budget", 10]
    app(
        [*map(str, words), "--out", str(folder / "run"), "--unit", "dollars", "--threads", "1", "--quiet"],
        standalone_mode=False,
    )


def main():
    folder = Path(tempfile.mkdtemp())
    write(folder)
    collect(folder)
    found = json.loads((folder / "run" / "metrics.json").read_text())["collection"]
    print(
        f"charged {found['charged']:.2f} of {found['budget']:.2f} dollars; asking everyone everything could cost 31.20"
    )
    for name, expert in found["experts"].items():
        print(f"{name}: {expert['answered']} answers, mean quality {expert['mean_quality']:.2f}")
    alike = found["uniform_at_equal_spend"]["answers_of_each_expert"]
    print(f"uniform sampling at equal spend: {alike:.0f} answers of each")
    collect(folder)  # complete: the ledger answers, nobody is asked again
    with Ledger(folder / "run" / "ledger.sqlite", read_only=True) as ledger:
        print(f"after a second run: {sum(ledger.counts().values())} queries, {ledger.charged:.2f} dollars")
    router = routing.load(folder / "run")
    for prompt in ("the product of 12 and 34", "12 plus 34 in all"):
        print(f"{prompt!r} -> {router.decide(prompt, price=0.5).model}")
    app(["verify", str(folder / "run"), "--rescore"], standalone_mode=False)


if __name__ == "__main__":
    main()
