"""One gate over three frozen experts that is as good as can be on the worst mixture of their domains."""

import numpy as np

from corollary.datasets import dirichlet_world
from corollary.gating import robust_gate


def main() -> None:
    world = dirichlet_world(p=3, n=50, seed=0)  # three domains on 50 points, and an imperfect expert for each
    solution = robust_gate(world.domains, world.experts)

    print("least favourable mixture:", solution.mixture.round(3))
    print("worst mixture, robust gate:", round(solution.upper, 4), "nats")
    even = world.experts.mean(0)
    worst = max(float(p[p > 0] @ np.log(p[p > 0] / even[p > 0])) for p in world.domains)
    print("worst mixture, experts mixed evenly:", round(worst, 4), "nats")
    print()
    print(solution.certificate)
    print(solution.certificate.check(**solution.evidence))


if __name__ == "__main__":
    main()
