"""Speed of the scan against loops under autograd, and of training with a head against without, interleaved."""

import time


def speed(seed):
    """Forward and backward in milliseconds: ours (`auto`), the einsum loop, the best `unbind` loop; and training."""
    found = {}
    for T in (128, 512, 1024, 4096, 16384):
        for d, B in ((16, 4), (8, 32)):
            ours, einsum, unbind = scans(T, d, B, seed)
            found[f"T {T} d {d} B {B}"] = {
                "ours ms": round(ours * 1e3, 2),
                "einsum loop ms": round(einsum * 1e3, 2),
                "best unbind loop ms": round(unbind * 1e3, 2),
                "times einsum": round(einsum / ours, 2),
                "times unbind": round(unbind / ours, 2),
            }
    return {"scan": found, "training": training(seed)}


def scans(T, d, B, seed, V=5):
    """Seconds of ours, the einsum loop and the best unbind loop, each the best of interleaved rounds."""
    import torch

    from corollary.automata import scan

    generator = torch.Generator().manual_seed(seed)
    M = torch.linalg.qr(torch.randn(V, d, d, generator=generator))[0]
    x = torch.randint(V, (B, T), generator=generator)
    h0 = torch.randn(d, generator=generator)

    def run(states):
        matrices = M.clone().requires_grad_()
        begun = time.perf_counter()
        states(matrices).sum().backward()
        return time.perf_counter() - begun

    def einsum(m):
        h, out = h0.expand(B, d), []
        for t in range(T):
            h = torch.einsum("bij,bj->bi", m[x[:, t]], h)
            out.append(h)
        return torch.stack(out, 1)

    def unbind(first, product):
        def states(m):
            h, out = h0.expand(B, d)[..., None], []
            for M_t in m[x.T].unbind(0) if first else m[x].unbind(1):
                h = product(M_t, h)
                out.append(h)
            return torch.stack(out, 1)

        return states

    loops = [unbind(first, p) for first in (True, False) for p in (torch.bmm, torch.matmul)]
    best = [float("inf")] * (2 + len(loops))
    for _ in range(2 if T > 2000 else 4):
        for i, method in enumerate([lambda m: scan(m, x, h0), einsum, *loops]):
            best[i] = min(best[i], run(method))
    return best[0], best[1], min(best[2:])


def training(seed):
    """Seconds a step of a 4-layer transductor and of the same transformer, width 128, T 256, batch 32, state 16."""
    import torch

    from corollary.automata import RationalHead, RationalTransductor, TransductorConfig

    config = TransductorConfig(vocab_size=256, width=128, layers=4)
    models = [RationalTransductor(config, head, seed=seed) for head in (RationalHead(256, 16, seed=seed), None)]
    steps = [torch.optim.AdamW(m.parameters(), lr=1e-3) for m in models]
    generator = torch.Generator().manual_seed(seed)
    best = [float("inf")] * 2
    for _ in range(4):
        x = torch.randint(256, (32, 257), generator=generator)
        for i, (model, optimizer) in enumerate(zip(models, steps, strict=True)):
            begun = time.perf_counter()
            loss = torch.nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            best[i] = min(best[i], time.perf_counter() - begun)
    return {
        "seconds a step with head": round(best[0], 3),
        "seconds a step without": round(best[1], 3),
        "share of the speed": round(best[1] / best[0], 3),
    }
