"""Constructions of rational transductors at length 100,000, Barrington's words, and the compactness gap."""

import itertools

import numpy as np
import torch

from corollary.automata import (
    RationalHead,
    adder_head,
    base_head,
    branching_program,
    counter_head,
    formula_to_word,
    parity_head,
    permutation_head,
    readout_error,
    s5_head,
)


def main() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(2, (1, 100_000), generator=g)
    print("parity exact:", torch.equal(parity_head()(x)[0].argmax(-1), x[0].cumsum(0) % 2))
    print("mod 7 exact:", torch.equal(counter_head(7)(x)[0].argmax(-1), x[0].cumsum(0) % 7))
    print("value of 101101:", base_head(2)(torch.tensor([[1, 0, 1, 1, 0, 1]]))[0, -1, 0].item())
    pairs = torch.randint(100, (1, 100_000), generator=g)
    carry = adder_head()(pairs, state="exclusive")[0].argmax(-1)
    print("first digits of a sum:", ((pairs[0] // 10 + pairs[0] % 10 + carry) % 10)[:8].tolist())
    print("S5 after 100,000 generators:", permutation_head()(x)[0, -1].tolist())

    text = "(x & y) | !(y & z)"
    program = branching_program(text)
    print(f"{text}: depth {program.depth}, {len(program.instructions)} permutations of at most {4**program.depth}")
    for values in itertools.product((0, 1), repeat=3):
        given = dict(zip("xyz", values, strict=True))
        state = s5_head()(torch.tensor([formula_to_word(text, given)]))[0, -1].tolist()
        print(given, "true" if state != [1, 2, 3, 4, 5] else "false")

    words = np.array(list(itertools.product(range(2), repeat=6)))
    target = np.eye(3)[words.sum(1) % 3]
    for d in (3, 16, 63, 64):
        error = readout_error(RationalHead(2, d, family="random", seed=0), words, target)
        print(f"mod 3 on words of 6, random features, d = {d}: squared error {error:.1e}")
    print(f"the counter, d = 3: {readout_error(counter_head(3), words, target):.1e}")


if __name__ == "__main__":
    main()
