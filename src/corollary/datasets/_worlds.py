"""Finite worlds with known answers for the game of the robust gate.

The game (Cortes, Mohri, Zhong, arXiv:2602.17554, read in extracts; the values below are derived):
V = min over gates g with sum_x pi_g(x) = 1 of max_k KL(p_k || pi_g), where pi_g(x) = sum_k g(x, k) q_k(x).
p_k are the domains, q_k the experts, eps_k = KL(p_k || q_k); values are in nats.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from corollary.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class FiniteWorld:
    """p domains and p experts on n points, and the value of the game where it is known.

    Args:
        domains: (p, n) rows p_k, distributions.
        experts: (p, n) rows q_k, distributions, positive where p_k is.
        name: a name for reports.
        value: V in nats, or None where no closed form is known.
        note: why the value is what it is.

    Raises:
        InvalidInputError: where a row is no distribution, or a domain has points its own expert excludes.

    Guarantee: none; it is a container.

    Example:
        >>> world = FiniteWorld(np.eye(2), np.eye(2), "two points", float(np.log(2)))
        >>> world.epsilon.tolist()
        [0.0, 0.0]
    """

    domains: Float[np.ndarray, "..."]
    experts: Float[np.ndarray, "..."]
    name: str
    value: float | None = None
    note: str = ""

    def __post_init__(self) -> None:
        # Shapes are checked here, so that a wrong one gets a sentence instead of a type error.
        for label, rows in (("domains", self.domains), ("experts", self.experts)):
            if rows.ndim != 2 or not (rows >= 0).all() or np.abs(rows.sum(1) - 1).max(initial=0) > 1e-9:
                raise InvalidInputError(
                    f"the rows of `{label}` must be distributions (p, n); divide them by their sums"
                )
        if self.domains.shape != self.experts.shape or (self.experts[self.domains > 0] == 0).any():
            raise InvalidInputError(
                f"each domain needs an expert that excludes none of its points, got {self.domains.shape} and "
                f"{self.experts.shape}; smooth the experts"
            )

    @property
    def epsilon(self) -> Float[np.ndarray, " p"]:
        """eps_k = KL(p_k || q_k), nats."""
        return divergence(self.domains, self.experts)


def divergence(p: Float[np.ndarray, "k n"], q: Float[np.ndarray, "k n"]) -> Float[np.ndarray, " k"]:
    """KL of each row of `p` to the same row of `q`, nats."""
    inside = p > 0
    ratio = np.divide(p, q, out=np.ones_like(p), where=inside)
    return np.sum(p * np.log(ratio, where=inside, out=np.zeros_like(p)), axis=1)


def dirichlet_world(
    *, p: int = 3, n: int = 30, concentration: float | int = 0.3, noise: float = 0.2, seed: int = 0
) -> FiniteWorld:
    """Random domains p_k ~ Dirichlet(concentration), experts q_k = (1 - noise) p_k + noise r_k.

    r_k ~ Dirichlet(1), drawn for each expert.

    Args:
        p: number of domains.
        n: number of points.
        concentration: small values make the domains sparse and far apart.
        noise: part of each expert that is random; eps_k <= -log(1 - noise).
        seed: seed.

    Returns:
        A world whose value is not known in closed form.

    Guarantee: eps_k <= -log(1 - noise), and max_lam JSD_lam <= V <= max_lam JSD_lam + max_k eps_k.

    Example:
        >>> dirichlet_world(p=2, n=5).domains.shape
        (2, 5)
    """
    _positive(p=p, n=n, concentration=concentration)
    _noise(noise)
    rng = np.random.default_rng(seed)
    domains = _simplex(rng, p, n, concentration)
    experts = (1 - noise) * domains + noise * _simplex(rng, p, n, 1.0)
    return FiniteWorld(
        domains, experts, f"dirichlet p={p} n={n}", None, "no closed form; V lies between the bounds of T4"
    )


def disjoint_world(*, p: int = 3, block: int = 8, noise: float | int = 0.2, seed: int = 0) -> FiniteWorld:
    """Domains on blocks of their own with imperfect experts: V = log p, although every eps_k > 0.

    The gate may take pi(x) anywhere between 0 and q_k(x) on block k, so (1/p) sum_k p_k is within reach as
    soon as p_k <= p q_k; its KL to every p_k is log p, and no model does
    better than the capacity of disjoint domains, log p.

    Args:
        p: number of domains, at least two.
        block: points of each domain, at least two.
        noise: part of each expert that is random, inside of (0, 1 - 1/p].
        seed: seed.

    Returns:
        The world, with value log p. Static mixtures pay log sum_k e^{eps_k} > log p.

    Raises:
        InvalidInputError: where `noise` is too large for p_k <= p q_k to be sure.

    Guarantee: V = log p exactly.

    Example:
        >>> world = disjoint_world(p=4)
        >>> bool(np.isclose(world.value, np.log(4))), bool((world.epsilon > 0).all())
        (True, True)
    """
    if p < 2 or block < 2 or not 0 < noise <= 1 - 1 / p:
        raise InvalidInputError(
            f"got p={p}, block={block}, noise={noise}; take p and block at least 2 and noise in (0, 1 - 1/p]"
        )
    rng = np.random.default_rng(seed)
    own = np.kron(np.eye(p), np.ones(block))
    inner = _simplex(rng, p, block, 1.0)
    noisy = (1 - noise) * inner + noise * _simplex(rng, p, block, 1.0)
    return FiniteWorld(
        own * np.tile(inner, p),
        own * np.tile(noisy, p),
        f"disjoint p={p}",
        float(np.log(p)),
        "uniform mixture within reach",
    )


def identical_experts_world(*, p: int = 3, n: int = 12, seed: int = 0) -> FiniteWorld:
    """All experts are one q: every gate gives q, so V = max_k KL(p_k || q).

    Args:
        p: number of domains.
        n: number of points.
        seed: seed.

    Returns:
        The world with its value.

    Guarantee: V exactly.

    Example:
        >>> world = identical_experts_world()
        >>> world.value == float(world.epsilon.max())
        True
    """
    _positive(p=p, n=n)
    rng = np.random.default_rng(seed)
    domains, expert = _simplex(rng, p, n, 0.5), _simplex(rng, 1, n, 2.0)
    experts = np.repeat(expert, p, axis=0)
    value = float(divergence(domains, experts).max())
    return FiniteWorld(domains, experts, f"identical experts p={p}", value, "pi_g = q for every gate")


def single_domain_world(*, n: int = 10, seed: int = 0) -> FiniteWorld:
    """One domain and one expert: g = 1, so V = KL(p_1 || q_1).

    Args:
        n: number of points.
        seed: seed.

    Returns:
        The world with its value.

    Guarantee: V exactly.

    Example:
        >>> single_domain_world().domains.shape
        (1, 10)
    """
    world = identical_experts_world(p=1, n=n, seed=seed)
    return FiniteWorld(world.domains, world.experts, "single domain", world.value, "g = 1 is the only gate")


def unnormalisable_world() -> FiniteWorld:
    """The counter-example to normalising on the support of the data: p_1 = delta_a, q_1(a) = .9, q_1(b) = .1.

    On X0 = {a} the only gate has Z = .9, so no gate is normalised there; on {a, b} it is, and V = -log .9.

    Returns:
        The world on both points; its first point alone is X0.

    Guarantee: V = -log .9 when the sum runs over all points; no feasible gate when it runs over the first.

    Example:
        >>> float(unnormalisable_world().experts[:, :1].sum())
        0.9
    """
    note = "no gate sums to one on the support of the data; over the whole space V = -log .9"
    return FiniteWorld(np.array([[1.0, 0.0]]), np.array([[0.9, 0.1]]), "unnormalisable", float(-np.log(0.9)), note)


@dataclass(frozen=True, eq=False)
class MarkovWorld:
    """p Markov sources over V symbols and their experts, for sequences of one length.

    Args:
        start: (2, p, V^order) law of the first `order` symbols; index 0 the domains, 1 the experts.
        step: (2, p, V^order, V) law of the next symbol after the last `order` ones.
        order: how many symbols the next one depends on.
        length: length of a sequence.

    Guarantee: none; it is a container.

    Example:
        >>> world = markov_world(p=2, symbols=2, length=3)
        >>> sequences, domain = world.sample(4, seed=0)
        >>> sequences.shape, world.log_probability(sequences).shape, world.enumerate().domains.shape
        ((8, 3), (8, 2), (2, 8))
    """

    start: Float[np.ndarray, "2 p states"]
    step: Float[np.ndarray, "2 p states symbols"]
    order: int
    length: int

    @property
    def symbols(self) -> int:
        """Size of the alphabet."""
        return self.step.shape[-1]

    def log_probability(
        self, sequences: Int[np.ndarray, "n length"], *, of: str = "experts"
    ) -> Float[np.ndarray, "n p"]:
        """The table (N, p): log-probability of each sequence under each expert, or under each domain."""
        which = {"domains": 0, "experts": 1}[of]
        powers = self.symbols ** np.arange(self.order - 1, -1, -1)
        total = np.log(self.start[which][:, sequences[:, : self.order] @ powers]).T
        for t in range(self.order, self.length):
            state = sequences[:, t - self.order : t] @ powers
            total = total + np.log(self.step[which][:, state, sequences[:, t]]).T
        return total

    def sample(self, count: int, *, seed: int = 0) -> tuple[Int[np.ndarray, "n length"], Int[np.ndarray, " n"]]:
        """`count` sequences of every domain, and the domain of each; all advance together."""
        rng = np.random.default_rng(seed)
        domain = np.repeat(np.arange(self.start.shape[1]), count)
        state = _draw(self.start[0][domain], rng)
        columns = [state // self.symbols**i % self.symbols for i in range(self.order - 1, -1, -1)]
        for _ in range(self.order, self.length):
            symbol = _draw(self.step[0][domain, state], rng)
            columns.append(symbol)
            state = (state * self.symbols + symbol) % self.start.shape[2]
        return np.stack(columns, axis=1), domain

    def enumerate(self) -> FiniteWorld:
        """The finite world of all V^length sequences, in lexicographic order, at most 2^18 of them."""
        n = self.symbols**self.length
        if n > 2**18:
            raise InvalidInputError(f"{n} sequences are too many to list; take symbols ** length at most {2**18}")
        digits = self.symbols ** np.arange(self.length - 1, -1, -1)
        sequences = np.arange(n)[:, None] // digits % self.symbols
        domains, experts = (np.exp(self.log_probability(sequences, of=of)).T for of in ("domains", "experts"))
        return FiniteWorld(domains, experts, f"markov order {self.order}, length {self.length}")


def markov_world(
    *,
    p: int = 3,
    symbols: int = 3,
    order: int = 1,
    length: int = 5,
    concentration: float | int = 0.5,
    noise: float | int = 0.2,
    seed: int = 0,
) -> MarkovWorld:  # fmt: skip
    """Random Markov sources of order 1 or 2, and experts that mix every law of theirs with a random one.

    Args:
        p: number of sources.
        symbols: size of the alphabet.
        order: 1 or 2.
        length: length of a sequence, at least `order`.
        concentration: of the Dirichlet laws; small values make the sources far apart.
        noise: part of each law of an expert that is random.
        seed: seed.

    Returns:
        The world; `enumerate()` lists it as a `FiniteWorld` for short lengths.

    Guarantee: eps_k <= -(length - order + 1) log(1 - noise).

    Example:
        >>> markov_world(order=2, symbols=2).step.shape
        (2, 3, 4, 2)
    """
    _positive(p=p, symbols=symbols, concentration=concentration)
    _noise(noise)
    if order not in (1, 2) or length < order:
        raise InvalidInputError(f"got order={order}, length={length}; take order 1 or 2 and at least as many symbols")
    rng = np.random.default_rng(seed)
    states = symbols**order
    start = _simplex(rng, 2 * p, states, concentration).reshape(2, p, states)
    step = _simplex(rng, 2 * p * states, symbols, concentration).reshape(2, p, states, symbols)
    for law in (start, step):
        law[1] = (1 - noise) * law[0] + noise * law[1]
    return MarkovWorld(start, step, order, length)


def _simplex(rng: np.random.Generator, rows: int, n: int, concentration: float) -> Float[np.ndarray, "rows n"]:
    """Dirichlet rows, kept off the boundary so that every logarithm is finite."""
    drawn = rng.dirichlet(np.full(n, concentration), size=rows) + 1e-12
    return drawn / drawn.sum(axis=1, keepdims=True)


def _draw(laws: Float[np.ndarray, "m v"], rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    """One symbol from each row."""
    return (laws.cumsum(axis=1)[:, :-1] <= rng.random((len(laws), 1))).sum(axis=1)


def _positive(**values: float | int) -> None:
    wrong = {name: value for name, value in values.items() if not value > 0}
    if wrong:
        raise InvalidInputError(f"got {wrong}; these must be positive")


def _noise(noise: float | int) -> None:
    if not 0 <= noise < 1:
        raise InvalidInputError(f"`noise` must lie in [0, 1), got {noise}; it is the random part of each expert")
