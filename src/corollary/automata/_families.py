r"""Transition families: maps from parameters, one set a symbol, to matrices \(M_\sigma\) (section 3.1 of the notes).

Each family is two functions. `start(V, d, draw)` gives the first parameters, entries of shape (V, ...) for each symbol
and `shared_...` ones for all; `build(p)` gives (V, d, d) matrices. What a family promises holds for every parameter:
Cayley, exponential and Householder matrices are orthogonal, so \\(\|h_t\| = \|\alpha\|\\) and no gradient vanishes or
explodes; stochastic ones keep the simplex; spectral control keeps \\(\|M_\sigma\|_2 \le \gamma\\).

Reference: Mohri, arXiv:2602.07599 (abstract read; families named in public notes, formulas derived here).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError

Draw = Callable[..., Tensor]  # standard normal numbers of a shape
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Family:
    """A transition family: first parameters, and matrices from parameters.

    Args:
        start: `(V, d, draw) -> parameters`; names that begin with `shared_` do not depend on the symbol.
        build: `parameters -> (V, d, d)`; must work for any leading number of symbols.
        simplex: whether states are distributions: the initial state is then a softmax.
        fixed: names of parameters that are never trained.
        recipe: makes the same family again when it is copied or unpickled; None where its functions have names.

    Guarantee: none of its own; `families` lists what each of ours promises.

    Example:
        >>> import torch
        >>> from corollary.automata import family
        >>> made = family("cayley")
        >>> p = made.start(2, 4, lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(0)))
        >>> made.build(p).shape
        torch.Size([2, 4, 4])
    """

    start: Callable[[int, int, Draw], Parameters]
    build: Callable[[Parameters], Tensor]
    simplex: bool = False
    fixed: tuple[str, ...] = ()
    recipe: Callable[[], "Family"] | None = None  # makes it again: functions inside of functions have no pickle

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self.recipe is None else (self.recipe, ())


def wide(value: Tensor) -> Tensor:
    """In float32 where it has 16 bits: eight bits of mantissa forget what they counted, and LAPACK has none."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


def cayley(
    weights: Tensor, *, signs: Tensor | None = None, squared: bool = False, skew: bool = True
) -> Float[Tensor, "v d d"]:
    r"""Orthogonal matrices from free ones.

    .. math:: A = W - W^\top, \qquad Q = (I + A)^{-1} (I - A); \quad Q D \text{ with signs}; \quad Q^2 \text{ squared}

    Args:
        weights: (V, d, d), any numbers.
        signs: (V, d) or (d,) of +-1: multiplies the columns, and reaches reflections (parity, transpositions).
        squared: Q^2, which reaches a pair of eigenvalues -1 at finite A.
        skew: make W skew first; without, `weights` is A itself, and I + A may be singular.

    Returns:
        (V, d, d).

    Raises:
        InvalidInputError: where I + A is singular: A is not skew, or holds NaN.

    Guarantee: orthogonal for every W; Q is in SO(d) and never has the eigenvalue -1, hence plain Cayley cannot flip:
        parity, even cycles and transpositions need signs, the square, or Householder products.

    Example:
        >>> import torch
        >>> from corollary.automata import cayley
        >>> Q = cayley(torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]))[0]
        >>> torch.allclose(Q @ Q.T, torch.eye(2), atol=1e-6)
        True

    Reference: Cayley (1846); scaled by signs: Helfrich, Willmott and Ye (2018), textbook.
    """
    A = weights - weights.mT if skew else weights
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    Q, info = torch.linalg.solve_ex(eye + A, eye - A)
    bad = (info != 0) | ~torch.isfinite(Q.detach()).all(-1).all(-1)
    if bool(bad.any()):
        first = int(bad.reshape(-1).nonzero()[0])
        raise InvalidInputError(
            f"I + A of symbol {first} is singular, so its Cayley transform does not exist; give a skew A, or finite W"
        )
    Q = Q @ Q if squared else Q
    return Q if signs is None else Q * signs.unsqueeze(-2)


def inverse_cayley(matrices: Tensor) -> Float[Tensor, "v d d"]:
    r"""The skew \(A = (I - Q)(I + Q)^{-1}\) whose Cayley transform is Q.

    Args:
        matrices: (V, d, d) orthogonal, without the eigenvalue -1.

    Returns:
        (V, d, d) skew matrices.

    Raises:
        InvalidInputError: where I + Q is singular: Q has the eigenvalue -1 (a flip, a transposition, an even cycle).

    Guarantee: `cayley(A / 2)` gives Q back (W = A / 2 has W - W^T = A), within rounding times the condition of I + Q.

    Example:
        >>> import torch
        >>> from corollary.automata import cayley, inverse_cayley
        >>> Q = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
        >>> torch.allclose(cayley(inverse_cayley(Q) / 2), Q, atol=1e-6)
        True
    """
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    smallest = torch.linalg.svdvals((eye + matrices).detach())[..., -1]
    if bool((smallest < 1e-6).any()):
        raise InvalidInputError(
            f"I + Q of symbol {int(smallest.argmin())} is singular: Q has the eigenvalue -1, which no Cayley transform "
            "has; use the signed or squared Cayley family, or Householder products"
        )
    return (eye - matrices) @ torch.linalg.inv(eye + matrices)


def spectral_control(matrices: Tensor, gamma: float | Tensor = 1.0) -> Float[Tensor, "v d d"]:
    r"""\(\gamma M / \max(\gamma, \|M\|_2)\): matrices of norm at most gamma.

    Guarantee: the largest singular value is at most gamma, within rounding.

    Example:
        >>> import torch
        >>> from corollary.automata import spectral_control
        >>> torch.linalg.matrix_norm(spectral_control(3 * torch.eye(2)[None], 0.5), 2).tolist()
        [0.5]
    """
    norm = torch.linalg.matrix_norm(matrices, 2)[..., None, None]
    return matrices * (gamma / torch.clamp(norm, min=gamma))


def householder(vectors: Tensor) -> Float[Tensor, "v d d"]:
    r"""Products of reflections \(\prod_i (I - 2 v_i v_i^\top / \|v_i\|^2)\) of (V, n, d) vectors.

    Guarantee: orthogonal, with determinant (-1)^n.

    Example:
        >>> import torch
        >>> from corollary.automata import householder
        >>> householder(torch.tensor([[[1.0, -1.0]]]))[0].round(decimals=3).abs().tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    unit = vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    eye = torch.eye(vectors.shape[-1], dtype=vectors.dtype, device=vectors.device)
    product = eye.expand(*vectors.shape[:-2], *eye.shape)
    for i in range(vectors.shape[-2]):
        v = unit[..., i, :, None]
        product = product - 2 * (product @ v) @ v.mT
    return product


def _orthogonal(build: Callable[[Parameters], Tensor], scale: float, *, signed: bool = False) -> Family:
    def start(V: int, d: int, draw: Draw) -> Parameters:
        p = {"weight": scale * draw(V, d, d)}
        return {**p, "signs": torch.where(draw(V, d) < 0, -1.0, 1.0)} if signed else p

    return Family(start, build, fixed=("signs",) if signed else ())


def _dplr(scale: float, gamma: float = 1.0, rank: int = 2) -> Family:
    def start(V: int, d: int, draw: Draw) -> Parameters:
        return {
            "diagonal": 1 - 0.1 * draw(V, d).abs(),
            "left": scale * draw(V, d, min(rank, d)),
            "right": scale * draw(V, d, min(rank, d)),
        }

    def build(p: Parameters) -> Tensor:
        return spectral_control(torch.diag_embed(p["diagonal"]) + p["left"] @ p["right"].mT, gamma)

    return Family(start, build)


def _stochastic(scale: float) -> Family:
    def start(V: int, d: int, draw: Draw) -> Parameters:
        return {"weight": scale * draw(V, d, d) + 2 * torch.eye(d)}

    return Family(start, lambda p: p["weight"].softmax(dim=-2), simplex=True)


def _basis(scale: float, count: int = 4) -> Family:
    def start(V: int, d: int, draw: Draw) -> Parameters:
        near = torch.eye(d) + scale * draw(count, d, d)
        return {"mix": torch.full((V, count), 1 / count) + scale * draw(V, count), "shared_basis": near}

    return Family(start, lambda p: spectral_control(torch.einsum("vk,kij->vij", p["mix"], p["shared_basis"])))


def _affine(scale: float) -> Family:
    def start(V: int, d: int, draw: Draw) -> Parameters:
        return {"weight": 0.9 * torch.eye(d - 1) + scale * draw(V, d - 1, d - 1), "bias": scale * draw(V, d - 1)}

    def build(p: Parameters) -> Tensor:
        top = torch.cat([p["weight"], p["bias"][..., None]], dim=-1)
        last = torch.zeros_like(top[..., :1, :])
        last[..., -1] = 1
        return torch.cat([top, last], dim=-2)

    return Family(start, build)


def _diagonal(start_at: float, reach: Callable[[Tensor], Tensor]) -> Family:
    return Family(lambda V, d, draw: {"logit": start_at + draw(V, d)}, lambda p: torch.diag_embed(reach(p["logit"])))


def _rotation(scale: float) -> Family:
    return Family(lambda V, d, draw: {"angle": scale * draw(V, d // 2)}, lambda p: rotations(p["angle"]))


def rotations(angle: Tensor) -> Float[Tensor, "v d d"]:
    """Block-diagonal rotations of d / 2 planes by (V, d / 2) angles; planes are neighbouring coordinates.

    Guarantee: orthogonal; all commute.

    Example:
        >>> import torch
        >>> from corollary.automata import rotations
        >>> rotations(torch.tensor([[torch.pi / 2]]))[0].round().tolist()
        [[-0.0, -1.0], [1.0, -0.0]]
    """
    c, s = angle.cos(), angle.sin()
    blocks = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)
    out = angle.new_zeros(*angle.shape[:-1], 2 * angle.shape[-1], 2 * angle.shape[-1])
    for i in range(angle.shape[-1]):
        out[..., 2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = blocks[..., i, :, :]
    return out


def _free(scale: float) -> Family:
    return Family(lambda V, d, draw: {"weight": 0.9 * torch.eye(d) + scale * draw(V, d, d)}, lambda p: p["weight"])


def _random(scale: float) -> Family:
    def start(V: int, d: int, draw: Draw) -> Parameters:
        return {"weight": scale * draw(V, d, d) / math.sqrt(d)}

    return Family(start, lambda p: p["weight"], fixed=("weight",))


_MAKERS: dict[str, tuple[Callable[..., Family], float]] = {
    "cayley": (lambda s: _orthogonal(lambda p: cayley(p["weight"]), s), 0.1),
    "signed": (lambda s: _orthogonal(lambda p: cayley(p["weight"], signs=p["signs"]), s, signed=True), 0.1),
    "squared": (lambda s: _orthogonal(lambda p: cayley(p["weight"], squared=True), s), 0.1),
    "exponential": (
        lambda s: _orthogonal(lambda p: torch.linalg.matrix_exp(p["weight"] - p["weight"].mT), s),
        0.1,
    ),
    "householder": (
        lambda s, count=2: Family(
            lambda V, d, draw: {"vectors": s * draw(V, count, d)}, lambda p: householder(p["vectors"])
        ),
        1.0,
    ),
    "stochastic": (_stochastic, 1.0),
    "dplr": (_dplr, 0.1),
    "basis": (_basis, 0.1),
    "affine": (_affine, 0.1),
    "free": (_free, 0.1),
    "random": (_random, 1.0),
    "diagonal": (lambda s: _diagonal(2.0, torch.sigmoid), 1.0),
    "diagonal-signed": (lambda s: _diagonal(1.0, torch.tanh), 1.0),
    "rotation": (_rotation, 0.5),
}


def families() -> tuple[str, ...]:
    """Names of the transition families.

    Guarantee: `cayley`, `signed`, `squared`, `exponential`, `householder`, `rotation`: orthogonal; `stochastic`:
        columns are distributions; `dplr`, `basis`: norm at most one; `diagonal`: entries in (0, 1), `diagonal-signed`
        in (-1, 1); `affine`: last coordinate stays one; `random`: never trained; `free`: none.

    Example:
        >>> from corollary.automata import families
        >>> "stochastic" in families()
        True
    """
    return tuple(_MAKERS)


def family(name: str, *, scale: float | None = None, **options: Any) -> Family:
    """A transition family by name.

    Args:
        name: one of `families()`.
        scale: of the first parameters; None is what our runs found best. It decides whether training converges:
            Cayley heads want .1 for counting, .3 for words over S5.
        options: `rank`, `gamma` (dplr), `count` (basis, householder).

    Raises:
        InvalidInputError: for an unknown name or option, or one that is not positive.

    Guarantee: see `families`.

    Example:
        >>> from corollary.automata import family
        >>> family("stochastic").simplex
        True
    """
    if name not in _MAKERS:
        raise InvalidInputError(f"no family is called {name!r}; known: {', '.join(_MAKERS)}")
    make, usual = _MAKERS[name]
    for option, kind in (("gamma", Real), ("rank", Integral), ("count", Integral)):
        value: Any = options.get(option, 1)
        if not isinstance(value, kind) or not 0 < value < math.inf:  # type: ignore[operator]
            raise InvalidInputError(f"`{option}` must be a positive {kind.__name__.lower()} number, got {value!r}")
    try:
        made = make(usual if scale is None else float(scale), **options)
    except TypeError:
        raise InvalidInputError(f"family {name!r} does not take the options {sorted(options)}") from None
    return replace(made, recipe=partial(family, name, scale=scale, **options))
