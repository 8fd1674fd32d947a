"""Run by torchrun from `test_optim_distributed`: trains small networks under DDP or FSDP2 and writes their weights."""

import sys
from pathlib import Path

import torch
from torch import nn

from corollary.optim import Leon, Muon, Pion

NAMES = {
    "leon": lambda model: Leon.from_module(model, lr=0.02),
    "leon, shared out": lambda model: Leon.from_module(model, lr=0.02, distributed="round_robin", splits={"1": 3}),
    "leon, uneven": lambda model: Leon.from_module(model, lr=0.02, splits={"1": [3, 6]}, scale="original"),
    "pion": lambda model: Pion.from_module(model, lr=0.02, samples=2, distributed="round_robin"),
    "muon": lambda model: Muon.from_module(model, lr=0.02, method="polar_express"),
}


def network():
    generator = torch.Generator().manual_seed(0)
    # odd sizes, so that shards are uneven; a convolution, a tall and a wide matrix
    model = nn.Sequential(
        nn.Conv1d(3, 5, 2), nn.Linear(4, 9), nn.Flatten(), nn.Linear(45, 7), nn.Tanh(), nn.Linear(7, 9), nn.Linear(9, 8)
    )
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 3)
    return model


def train(name, mode, rank, world):
    """Weights after three steps, whole."""
    model = network()
    if mode == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (world,))
        fully_shard(model, mesh=mesh)
    wrapped = nn.parallel.DistributedDataParallel(model) if mode == "ddp" else model
    optimizer = NAMES[name](model)
    x = torch.randn(4, 64, 3, 5, generator=torch.Generator().manual_seed(1))
    y = torch.randn(4, 64, 8, generator=torch.Generator().manual_seed(2))
    for t in range(3):
        optimizer.zero_grad()
        own = slice(rank, None, world)
        (wrapped(x[t, own]) - y[t, own]).square().mean().backward()
        optimizer.step()
    state = {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in model.state_dict().items()}
    return {k: v.detach().clone() for k, v in state.items()}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
    from leaving import leave

    mode, folder = sys.argv[1], Path(sys.argv[2])
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.save({name: train(name, mode, rank, world) for name in NAMES}, folder / f"{mode}-{rank}.pt")
    leave()
