"""Leon on a small network: what goes where, a step, and a certificate of its direction."""

import torch
from torch import nn

from corollary.optim import Leon

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2))
optimizer = Leon.from_module(model, lr=0.02)
print(optimizer.split)

x = torch.randn(256, 8)
y = (x[:, 0] * x[:, 1] > 0).long()
for step in range(201):
    loss = nn.functional.cross_entropy(model(x), y)
    if step % 50 == 0:
        print(f"step {step:3}: loss {loss.item():.3f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

for found in optimizer.diagnose():
    print(f"{found.name}: operator norm {found.operator_norm:.3f}, shrinkage {found.shrinkage:.3f}")
print(found.certificate)
print(found.certificate.check(**found.evidence))
