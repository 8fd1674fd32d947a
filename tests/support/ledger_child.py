"""A process to be killed: asks two experts through a ledger; what they truly charge is noted in a till of their own.

Run: python ledger_child.py FOLDER SEED. The till is a file that every paid call appends a line to, in one write, before
it may fail; the expert `keys` writes nothing for a key it has seen, the expert `none` knows no keys.
"""

import os
import random
import sys
import time
from pathlib import Path

from corollary.deferral._expert_pool import Expert, ExpertPool, Question, Refused
from corollary.deferral._ledger import Ledger

BUDGET, MAXIMUM, ITEMS = 6.0, 0.5, 12
LINE = "{expert} {item} {cost}\n"


def cost_of(item):
    """What an item costs truly, up to MAXIMUM."""
    return round(random.Random(item).uniform(0.1, MAXIMUM), 3)


def till(folder, expert, item):
    """One line, one write: it is there or not, whenever the process dies."""
    handle = os.open(folder / "till", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, LINE.format(expert=expert, item=item, cost=cost_of(item)).encode())
    os.close(handle)


def expert(folder, name, rng):
    from corollary.deferral._expert_pool import Reply

    def call(prompt, key=None):
        if rng.random() < 0.1:
            raise Refused("busy", pause=0.0)
        time.sleep(rng.random() * 0.002)
        # the key and the payment are one step, as with an expert that keeps its books in a transaction
        paid = folder / "keys" / key if key else None
        if paid is None:
            till(folder, name, prompt)
        elif not paid.exists():
            draft = paid.with_name(f".{key}.{os.getpid()}")
            draft.write_text(LINE.format(expert=name, item=prompt, cost=cost_of(prompt)))
            draft.rename(paid)  # whole or not at all
        time.sleep(rng.random() * 0.002)
        if rng.random() < 0.15:
            raise RuntimeError("the connection broke after the work was done")
        return Reply(prompt.upper(), cost_of(prompt))

    return Expert(name, call, price=MAXIMUM, retries=2, concurrency=3, timeout=5.0, idempotent=name == "keys")


def main(folder, seed):
    rng = random.Random(seed)
    (folder / "keys").mkdir(exist_ok=True)
    experts = [expert(folder, name, rng) for name in ("keys", "none")]
    with Ledger(folder / "ledger.sqlite", budget=BUDGET) as ledger:
        pool = ExpertPool(experts, ledger)
        pool.ask([Question(f"item {i}", e.name) for i in range(ITEMS) for e in experts])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
