"""Steps of Leon beside torch's Muon, interleaved minima; batches beside a loop; memory."""

import time
from unittest import mock

CLOCK = time.process_time  # of all threads: what others run on the machine does not count
SHAPES = ((128, 512), (256, 1024), (512, 2048), (1024, 4096))
CELLS = [
    *({"data": "speed", "m": m, "n": n, "seed": 0} for m, n in SHAPES),
    {"data": "batches", "seed": 0},
    {"data": "memory", "seed": 0},
]
MORE = []
QUICK = [{"data": "speed", "m": 128, "n": 512, "seed": 0}]


def run(cell):
    return {"speed": speed, "batches": batches, "memory": memory}[cell["data"]](cell)


def interleaved(optimizers, weights, repeats):
    """Least milliseconds of processor time of a step of each, in turns, with a new gradient each time."""
    import torch

    best = dict.fromkeys(optimizers, float("inf"))
    for i in range(repeats):
        for name, (optimizer, patched) in optimizers.items():
            for p in weights[name]:
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
            # torch's Muon always iterates in bfloat16; in float32 once its cast does nothing
            with mock.patch.object(torch.Tensor, "bfloat16", lambda x: x) if patched else mock.MagicMock():
                begun = CLOCK()
                optimizer.step()
                best[name] = min(best[name], CLOCK() - begun)
    return {name: round(1e3 * v, 3) for name, v in best.items()}


def speed(cell):
    """One matrix: torch's Muon in bfloat16 and in float32, Leon in both, and Leon's error."""
    import torch

    from corollary.optim import Leon, leon_direction

    m, n = cell["m"], cell["n"]
    names = ("torch.optim.Muon", "torch.optim.Muon, float32", "Leon", "Leon, bfloat16")
    weights = {name: [torch.nn.Parameter(torch.zeros(m, n))] for name in names}
    optimizers = {
        names[0]: (torch.optim.Muon(weights[names[0]], lr=1e-3), False),
        names[1]: (torch.optim.Muon(weights[names[1]], lr=1e-3), True),
        names[2]: (Leon(weights[names[2]]), False),
        names[3]: (Leon(weights[names[3]], precision="bfloat16"), False),
    }
    found = interleaved(optimizers, weights, 300 if m == 128 else 40 if m == 256 else 12 if m == 512 else 4)
    state = optimizers["Leon"][0].state[weights["Leon"][0]]
    S, M = state["momentum"], state["second_moment.0"][0]
    exact = leon_direction(S.double(), M.double())
    for name, options in {"Leon": {}, "Leon, bfloat16": {"precision": "bfloat16"}}.items():
        P = leon_direction(S, M, method="polar_express", **options).double()
        found[f"error of {name}"] = float(f"{float((P - exact).norm() / exact.norm()):.2g}")
    found["equal dtype ratio"] = round(found["Leon"] / found["torch.optim.Muon, float32"], 3)
    found["bfloat16 ratio"] = round(found["Leon, bfloat16"] / found["torch.optim.Muon"], 3)
    return found


def batches(cell):
    """Sixteen matrices of one shape: together, and one by one."""
    import torch

    from corollary.optim import Leon, _frame

    found = {}
    for m, n in ((32, 32), (32, 128), (64, 64), (64, 256), (96, 96)):
        names = ("together", "one by one", "torch.optim.Muon")
        weights = {k: [torch.nn.Parameter(torch.zeros(m, n)) for _ in range(16)] for k in names}
        optimizers = {k: Leon(weights[k]) for k in names[:2]}
        optimizers[names[2]] = torch.optim.Muon(weights[names[2]], lr=1e-3)
        best = dict.fromkeys(names, float("inf"))
        for i in range(25):
            for name, optimizer in optimizers.items():
                for j, p in enumerate(weights[name]):
                    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(16 * i + j))
                with mock.patch.object(_frame, "BATCHED", 0 if name == "one by one" else _frame.BATCHED):
                    begun = CLOCK()
                    optimizer.step()
                    best[name] = min(best[name], CLOCK() - begun)
        found |= {f"{m} x {n} {name}": round(1e3 * v, 3) for name, v in best.items()}
    return found


def memory(cell):
    """Numbers of state for each weight."""
    import torch

    from corollary.optim import SOAP, Leon, Muon, OneSidedShampoo, Pion

    found = {}
    for m, n in ((512, 512), (512, 2048)):
        for make in (Leon, Pion, Muon, OneSidedShampoo, SOAP, torch.optim.AdamW):
            p = torch.nn.Parameter(torch.zeros(m, n))
            optimizer = make([p])
            for _ in range(2):
                p.grad = torch.ones(m, n)
                optimizer.step()
            held = sum(v.numel() for v in optimizer.state[p].values() if isinstance(v, torch.Tensor))
            found[f"{m} x {n} {make.__name__}"] = round(held / (m * n), 3)
    return found


def table(records):
    by = {}
    for r in records:
        by.setdefault(r["cell"]["data"], []).append(
            r["result"] | {"shape": f"{r['cell'].get('m')} x {r['cell'].get('n')}"}
        )
    lines = []
    if "speed" in by:
        lines += ["Milliseconds of one step on one matrix, processor time over all threads, interleaved, minima:", ""]
        columns = ("torch.optim.Muon", "Leon, bfloat16", "bfloat16 ratio", "error of Leon, bfloat16",
                   "torch.optim.Muon, float32", "Leon", "equal dtype ratio", "error of Leon")  # fmt: skip
        lines += ["| shape | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
        lines += [f"| {r['shape']} | " + " | ".join(f"{r[c]:.3g}" for c in columns) + " |" for r in by["speed"]]
        lines.append("")
    if "batches" in by:
        r = by["batches"][0]
        shapes = list(dict.fromkeys(" ".join(k.split()[:3]) for k in r if k != "shape"))
        lines += ["Sixteen matrices of one shape, milliseconds of a step (float32; torch's Muon in bfloat16):", ""]
        lines += ["| shape | Leon, together | Leon, one by one | torch.optim.Muon |", "|---|---|---|---|"]
        for s in shapes:
            values = [r[f"{s} {name}"] for name in ("together", "one by one", "torch.optim.Muon")]
            lines.append(f"| {s} | " + " | ".join(f"{v:.3g}" for v in values) + " |")
        lines.append("")
    if "memory" in by:
        r = by["memory"][0]
        names = list(dict.fromkeys(k.split()[-1] for k in r if k != "shape"))
        lines += ["State, numbers for each weight:", "", "| shape | " + " | ".join(names) + " |"]
        lines += ["|---|" + "---|" * len(names)]
        for s in ("512 x 512", "512 x 2048"):
            lines.append(f"| {s} | " + " | ".join(f"{r[f'{s} {n}']:g}" for n in names) + " |")
        lines.append("")
    return "\n".join(lines)
