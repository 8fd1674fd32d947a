"""Load on loopback: latency that the gateway adds, throughput beside a peer's, memory over many requests.

Cells: `open` (added latency over a bare ASGI pass-through at 100 requests a second), `closed` (throughput beside the
bare pass-through and LiteLLM's proxy, which runs in an environment of its own: the path of its command in
COROLLARY_LITELLM), `memory` (resident memory over 50,000 requests). Targets take turns in slices of some seconds
within one run.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from . import load

HERE = Path(__file__).parent

DELAY = 0.05  # seconds of the mock upstream
CONNECTIONS = 100
OPEN = {"kind": "open", "rate": 100, "connections": CONNECTIONS, "slices": 5, "seconds": 5}
CLOSED = {"kind": "closed", "connections": CONNECTIONS, "slices": 3, "seconds": 4}
MEMORY = {"kind": "memory", "requests": 50_000, "connections": 50}
QUICK = [
    {**OPEN, "slices": 2, "seconds": 3, "seed": 0},
    {**CLOSED, "slices": 1, "seconds": 4, "seed": 0},
    {**MEMORY, "requests": 5_000, "seed": 0},
]
DEFAULT = [{**CLOSED, "seed": 0}, {**MEMORY, "seed": 0}, *({**CLOSED, "seed": s} for s in (1, 2)),
           *({**OPEN, "seed": s} for s in range(3))]  # fmt: skip
FULL = [*DEFAULT, *({**c, "seed": s} for s in range(3, 6) for c in (OPEN, CLOSED))]


@contextmanager
def process(*words, command=None, port=None):
    """(port, process) of a child that prints its port, or answers on a given one."""
    line = [sys.executable, str(HERE / "processes.py"), *map(str, words)] if command is None else command
    quiet = subprocess.DEVNULL if command is not None else None
    child = subprocess.Popen(line, stdout=quiet or subprocess.PIPE, stderr=quiet, text=True)
    try:
        if port is None:
            port = int(child.stdout.readline())
        else:
            _wait(port, child)
        yield port, child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait(port, child, patience=120):
    until = time.monotonic() + patience
    while time.monotonic() < until:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/liveliness", timeout=2)
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if child.poll() is not None:
                raise RuntimeError("the peer ended before it listened") from None
            time.sleep(0.5)
    raise RuntimeError("the peer never listened")


@contextmanager
def targets(folder, *, peer, delay=DELAY):
    """Name -> (URL, model name, process id) of what is measured."""
    with process("upstream", delay) as (up, _):
        url = f"http://127.0.0.1:{up}/v1"
        with process("bare", url) as (bare, b), process("gateway", url, folder) as (ours, g):
            found = {
                "bare": (f"http://127.0.0.1:{bare}", "mock", b.pid),
                "corollary": (f"http://127.0.0.1:{ours}", "corollary/auto", g.pid),
            }
            command = os.environ.get("COROLLARY_LITELLM")
            if not peer or not command:
                yield found
                return
            config = Path(folder) / "litellm.yaml"
            config.write_text(json.dumps({
                "model_list": [{"model_name": "mock", "litellm_params": {
                    "model": "openai/mock", "api_base": url, "api_key": "none"}}],
                "litellm_settings": {"telemetry": False},
            }))  # JSON is YAML  # fmt: skip
            port = 41_000 + os.getpid() % 10_000
            line = [command, "--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
            with process(command=line, port=port) as (_, p):
                yield {**found, "litellm": (f"http://127.0.0.1:{port}", "mock", p.pid)}


def run_cell(cell):
    with tempfile.TemporaryDirectory() as folder:
        others = round(os.getloadavg()[0], 1)  # what else the machine was doing: latencies are read with it
        return {
            **{"open": _open, "closed": _closed, "memory": _memory}[cell["kind"]](cell, folder),
            "load_before": others,
        }


def _open(cell, folder):
    times, failed = {}, 0
    with targets(folder, peer=False) as found:
        for turn in range(-1, cell["slices"]):  # the first turn warms up and is not counted
            for name, (url, model, _) in found.items():
                seed = 1000 * cell["seed"] + turn + 1
                some, bad = asyncio.run(load.open_loop(
                    url, model, rate=cell["rate"], seconds=cell["seconds"], connections=cell["connections"], seed=seed,
                ))  # fmt: skip
                failed += bad
                if turn >= 0:
                    times.setdefault(name, []).append(some)
    out = {"failed": failed}
    for name, slices in times.items():
        x = np.concatenate(slices)
        out[name] = {f"p{q}": round(float(np.percentile(x, q)), 3) for q in (50, 90, 99)} | {"requests": len(x)}
    out["added"] = {q: round(out["corollary"][q] - out["bare"][q], 3) for q in ("p50", "p90", "p99")}
    return out


def _closed(cell, folder):
    rates, failed = {}, {}
    with targets(folder, peer=True) as found:
        for turn in range(-1, cell["slices"]):
            for name, (url, model, _) in found.items():
                rate, bad = asyncio.run(load.closed_loop(
                    url, model, seconds=cell["seconds"] if turn >= 0 else 2, connections=cell["connections"],
                    seed=1000 * cell["seed"] + turn + 1,
                ))  # fmt: skip
                failed[name] = failed.get(name, 0) + bad
                if turn >= 0:
                    rates.setdefault(name, []).append(rate)
    out = {name: {"per_second": round(float(np.mean(r)), 1), "failed": failed[name]} for name, r in rates.items()}
    if "litellm" in out:
        out["over_litellm"] = round(out["corollary"]["per_second"] / out["litellm"]["per_second"], 2)
        out["peer"] = _version()
    return out


def _version():
    python = Path(os.environ["COROLLARY_LITELLM"]).parent / "python"
    code = "import importlib.metadata as m; print(m.version('litellm'))"
    return "litellm " + subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _memory(cell, folder):
    sizes, failed, step = [], 0, cell["requests"] // 10
    with targets(folder, peer=False, delay=0) as found:
        url, model, pid = found["corollary"]
        asyncio.run(load.closed_loop(url, model, seconds=0, count=step // 5, connections=cell["connections"], seed=99))
        sizes.append(resident(pid))
        for turn in range(10):
            _, bad = asyncio.run(load.closed_loop(
                url, model, seconds=0, count=step, connections=cell["connections"], seed=turn,
            ))  # fmt: skip
            failed += bad
            sizes.append(resident(pid))
        size = (Path(folder) / "gateway.sqlite").stat().st_size
    return {
        "megabytes": sizes,
        "growth": round(sizes[-1] / sizes[1] - 1, 4),
        "failed": failed,
        "ledger_megabytes": round(size / 2**20, 1),
    }


def resident(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return round(next(int(x.split()[1]) for x in lines if x.startswith("VmRSS")) / 1024, 1)


def _others(records):
    """What else the machine was doing: the load average before each run."""
    return "load average before each run: " + ", ".join(f"{r['result'].get('load_before', '?')}" for r in records)


def table(records, kind=None):
    parts = []
    for name, write in (("open", _open_table), ("closed", _closed_table), ("memory", _memory_table)):
        chosen = [r for r in records if r["cell"]["kind"] == name]
        if chosen and kind in (None, name):
            parts.append(write(chosen))
    return "\n\n".join(parts)


def _open_table(records):
    lines = ["| ms | p50 | p90 | p99 |", "|---|---|---|---|"]
    for name in ("bare", "corollary", "added"):
        cells = []
        for q in ("p50", "p90", "p99"):
            x = [r["result"][name][q] for r in records]
            cells.append(f"{np.mean(x):.1f} ({min(x):.1f} to {max(x):.1f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    first = records[0]["cell"]
    load_ = f"{first['rate']} requests a second, {first['connections']} connections"
    head = f"{load_}, upstream of 50 ms, {len(records)} runs: mean (range)"
    return "\n".join([head, "", *lines, "", _others(records)])


def _closed_table(records):
    names = [n for n in ("bare", "corollary", "litellm") if n in records[0]["result"]]
    lines = ["| requests a second | mean | runs |", "|---|---|---|"]
    for name in names:
        x = [r["result"][name]["per_second"] for r in records if name in r["result"]]
        shown = records[0]["result"].get("peer", name) if name == "litellm" else name
        lines.append(f"| {shown} | {np.mean(x):.0f} | {', '.join(f'{v:.0f}' for v in x)} |")
    head = f"closed loop, {records[0]['cell']['connections']} connections, one process each"
    return "\n".join([head, "", *lines, "", _others(records)])


def _memory_table(records):
    r = records[0]["result"]
    n = records[0]["cell"]["requests"]
    return f"memory over {n} requests, MB at every tenth: {', '.join(f'{v:.0f}' for v in r['megabytes'][1:])}"
