"""Three confidence bounds on one mean, all from independence and the range alone: betting is the tightest here."""

import numpy as np

from corollary.certificates import betting, empirical_bernstein, hoeffding


def main() -> None:
    rng = np.random.default_rng(0)
    print("lower bounds at 95 % on a mean of 0.2 (Beta(2, 8) values in [0, 1])")
    print(f"{'n':>6}{'Hoeffding':>12}{'Bernstein':>12}{'betting':>12}")
    for n in (100, 1000, 10000):
        values = rng.beta(2, 8, n)
        bounds = [f(values, delta=0.05, side="lower").lower for f in (hoeffding, empirical_bernstein, betting)]
        print(f"{n:>6}" + "".join(f"{float(b):12.4f}" for b in bounds))


if __name__ == "__main__":
    main()
