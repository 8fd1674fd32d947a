"""The only experiment of Leon's and Pion's paper: robust matrix sensing with ripples, 200 steps at three rates."""

import torch

from corollary.optim import Leon, Muon, Pion

generator = torch.Generator().manual_seed(0)
A = torch.randn(100, 400, generator=generator, dtype=torch.float64)
start = torch.randn(20, 20, generator=generator, dtype=torch.float64)
METHODS = {
    "Muon": lambda p, lr: Muon([p], lr, momentum=0.9, nesterov=False, scale=None, method="eigh"),
    "Leon": lambda p, lr: Leon([p], lr, betas=(0.9, 0.9)),
    "Pion, 1 sample": lambda p, lr: Pion([p], lr, betas=(0.9, 0.9), samples=1),
    "Pion, 8 samples": lambda p, lr: Pion([p], lr, betas=(0.9, 0.9), samples=8),
}

print("mean loss of the last 50 of 200 steps")
for lr in (0.005, 0.01, 0.05):
    for name, make in METHODS.items():
        p = torch.nn.Parameter(start.clone())
        optimizer, losses = make(p, lr), []
        for _ in range(200):
            optimizer.zero_grad()
            u = A @ p.flatten()
            loss = (u.abs() * (1 - 0.9 * (3 * u).cos()) + 0.5).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(f"  rate {lr:<6} {name:16} {sum(losses[-50:]) / 50:6.2f}")
