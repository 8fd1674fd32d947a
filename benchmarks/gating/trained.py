"""Training of small transformers on mixtures of domains, all alike: what the cells on text share.

Optimiser: AdamW, or Leon of `corollary.optim` where a cell asks for it; the same for every model of a cell.
"""

import copy
import math

import numpy as np
import torch
from torch.nn import functional

from corollary.models import TransformerConfig, TransformerLM

BATCH = 4  # pieces of 256 bytes a step
RATE = 2e-3


def model(*, width, layers=2, seed=0):
    return TransformerLM(TransformerConfig(width=width, layers=layers, heads=4, context=256), seed=seed)


def optimiser(network, name):
    """AdamW, or Leon for matrices and AdamW for the rest."""
    if name == "leon":
        from corollary.optim import Leon

        return Leon(network.parameters(), adamw_lr=RATE)
    return torch.optim.AdamW(network.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)


def draw(data, weights, rng, batch=BATCH):
    """(B, 256) pieces, each of a domain drawn by `weights`, and their domains."""
    which = rng.choice(len(data), size=batch, p=np.asarray(weights) / np.sum(weights))
    return np.stack([data[k][rng.integers(len(data[k]))] for k in which]), which


def losses(network, pieces):
    """(B,) mean log-loss a byte of each piece; matrices in bfloat16."""
    target = torch.from_numpy(pieces.astype(np.int64))
    inputs = functional.pad(target[:, :-1], (1, 0))
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(inputs)
    return functional.cross_entropy(logits.float().transpose(1, 2), target, reduction="none").mean(1)


def train(network, data, weights, steps, *, seed, rule=None, watch=None, by="adamw"):
    """A trained copy: warm-up and cosine; with a `rule` of domain weights, one batch of each domain and its update."""
    network = copy.deepcopy(network)
    steepest = optimiser(network, by)
    peaks = [group["lr"] for group in steepest.param_groups]
    rng, p = np.random.default_rng([seed, 5]), len(data)
    for step in range(steps):
        factor = min(1.0, (step + 1) / max(1, steps // 20)) * (1 + math.cos(math.pi * step / steps)) / 2
        for group, peak in zip(steepest.param_groups, peaks, strict=True):
            group["lr"] = peak * factor
        if rule is None:
            pieces, _ = draw(data, weights, rng)
            loss = losses(network, pieces).mean()
        else:
            pieces = np.stack([d[rng.integers(len(d))] for d in data for _ in range(max(1, BATCH // p))])
            each = losses(network, pieces).reshape(p, -1).mean(1)
            loss = torch.from_numpy(rule.weights).float() @ each
            rule.update(each.detach().numpy())
        if watch is not None:
            watch(step, network)
        steepest.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        steepest.step()
    return network.eval()


def conflict(network, data, rng, batch=4):
    """Share of the pairs of domains whose gradients point apart, and the mean cosine."""
    grads = []
    for d in data:
        loss = losses(network, d[rng.integers(len(d), size=batch)]).mean()
        parts = torch.autograd.grad(loss, list(network.parameters()))
        grads.append(torch.cat([g.reshape(-1) for g in parts]))
    unit = functional.normalize(torch.stack(grads), dim=1)
    cosines = (unit @ unit.T)[np.triu_indices(len(data), 1)]
    return float((cosines < 0).float().mean()), float(cosines.mean())


def bits(network, documents):
    """Mean bits per byte."""
    return float(-network.log_probs(documents).mean(dtype=np.float64) / math.log(2))
