"""Finite worlds: the worst-domain divergence of every gate, beside the bounds of the paper.

The paper's own figures were not reachable for us (see the page on methods); this redoes its setting on random worlds,
where every number can be checked: domains ~ Dirichlet(0.3) on n points, experts 80 % right.
"""

import numpy as np

from corollary.datasets import dirichlet_world
from corollary.gating import best_static_gate, expert_errors, robust_gate, sigma_bound, sigma_gate, theorem3_bound
from corollary.numerics import kl

SEEDS = 5
COLUMNS = ("even", "sigma", "best static", "robust", "Theorem 3", "log sum e^eps", "gap")


def row(p: int, n: int, seed: int) -> list[float]:
    world = dirichlet_world(p=p, n=n, seed=seed)
    domains, experts = world.domains, world.experts
    robust = robust_gate(domains, experts)
    worst = [
        float(kl(domains, w @ experts).max())
        for w in (np.full(p, 1 / p), sigma_gate(domains, experts).weights, best_static_gate(domains, experts).weights)
    ]
    bound = theorem3_bound(domains, experts, np.eye(p), least_favourable=robust.mixture)
    sigma = sigma_bound(expert_errors(domains, experts))
    return [*worst, robust.upper, float(np.max(bound.value)), sigma, robust.gap]


def main() -> None:
    print(f"worst-domain KL in nats, means of {SEEDS} worlds")
    print(f"{'':<16}" + "".join(f"{name:>15}" for name in COLUMNS))
    for p, n in ((3, 30), (4, 100), (10, 500)):
        means = np.mean([row(p, n, seed) for seed in range(SEEDS)], axis=0)
        cells = [f"{m:15.4f}" for m in means[:-1]] + [f"{means[-1]:15.1e}"]
        print(f"{f'p = {p}, n = {n}':<16}" + "".join(cells))


if __name__ == "__main__":
    main()
