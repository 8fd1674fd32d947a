r"""Directions of one step: pure functions of the statistics of a matrix, exact or by matrix products only.

Symbols: momentum \(S\) (m, n) with \(m \le n\) (else all is done on the transpose), second moment \(M\) (m, m),
\(A = S S^T + M / \eta^2\). Leon's direction is \(A^{-1/2} S\), the first n columns of polar([S, L / eta]) for any L
with \(L L^T = M\); Muon's is polar(S).

Products only: with \(B_0 = A / f^2\), \(f^2 \ge \|A\|\), every odd polynomial \(x\, p(x^2)\) that takes (0, 1] to 1
gives \(Q \leftarrow p(B) Q,\; B \leftarrow p(B) B p(B)\), and \(Q S / f\) goes to the direction. All factors are m x
m; the wide matrix takes part in one product to form A and in one at the end.

Paper: R. Jiang, Z. Mhammedi, M. Mohri, A. Mokhtari, "Adaptive Matrix Online Learning through Smoothing with Guarantees
for Nonsmooth Nonconvex Optimization", COLT 2026 (PMLR 336), algorithms 1 to 3 and appendix F.3; read in full. The m x m
accumulation, the damping and the choice of polynomials are ours.
"""

import math
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.optim._polynomials import SAFETY, schedule

METHODS = ("eigh", "polar_express", "newton_schulz", "coupled", "augmented")
STEPS = {"polar_express": 8, "newton_schulz": 24, "coupled": 24, "augmented": 12}
SMALL = 128  # up to this side, products in float32 on a Gram matrix are faster on a CPU than all of them in bfloat16
ROUNDING = 1.2e-7  # of float32: A is damped by this multiple of its norm, lest rounding make eigenvalues negative


def leon_direction(
    momentum: Tensor,
    second_moment: Tensor,
    *,
    eta: float = 1.0,
    method: str = "eigh",
    steps: int | None = None,
    damping: float | None = None,
    precision: str = "float32",
) -> Float[Tensor, "*b m n"]:
    r"""Leon's direction, Muon's with noisy directions shrunk.

    .. math:: P = (S S^T + \eta^{-2} M)^{-1/2} S \quad (m \le n), \qquad
        P = S (S^T S + \eta^{-2} M)^{-1/2} \quad (m > n)

    Args:
        momentum: (..., m, n) discounted sum S of gradients; leading axes are a batch.
        second_moment: (..., s, s), s = min(m, n): discounted sum of G G^T if m <= n, else of G^T G.
        eta: smoothing; large values give Muon, small ones the one-sided Shampoo direction times eta.
        method: "eigh" (exact, no damping), "polar_express" or "newton_schulz" (polynomials of the m x m Gram matrix),
            "coupled" (Newton-Schulz for the inverse root), "augmented" (polynomials on [S, L / eta] itself, where
            float32 must reach small singular values).
        steps: of the polynomial iterations; None for 8 (Polar Express), 24 (cubic), 12 (augmented), 6 (bfloat16).
        damping: added to A as this multiple of tr(A) / s; None for none under "eigh" and in float64, and for what the
            rounding of float32 asks for else: 1e-6 tr(A) / s + 1.2e-7 ||A||.
        precision: "float32" iterates in float32 or wider ("eigh" always in float64); "bfloat16" multiplies in bfloat16,
            on [S, L / eta] itself, since a Gram matrix of that precision has lost the small directions. On a CPU it
            takes as many steps in float32 where s <= 128 (64 in a batch): faster there, and ten times closer.

    Returns:
        (..., m, n) in the dtype of `momentum`; zeros where the momentum is zero.

    Raises:
        InvalidInputError: for shapes that do not fit, an unknown method, or eta that is not positive.

    Guarantee: all singular values are below 1 in exact arithmetic (theorem 8's feasibility); under "eigh" exact within
    rounding. Polynomials leave singular values of [S, L / eta] that are far below the largest (1e-4 with 8 steps) too
    small; Polar Express can overshoot by 1 % before it has converged.

    Example:
        >>> g = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
        >>> leon_direction(g, g @ g.T)
        tensor([[0.7071, 0.0000, 0.0000],
                [0.0000, 0.7071, 0.0000]])

    Reference: Jiang et al., COLT 2026, algorithm 3; paper read in full. No authors' code is public.
    """
    _check(momentum, second_moment, eta, method)
    options = {"eta": eta, "method": method, "steps": steps, "damping": damping, "precision": precision}
    if momentum.ndim == 3 and len(momentum) == 1:  # products of batches of one are slower
        return leon_direction(momentum[0], second_moment[0], **options)[None]  # type: ignore[arg-type]
    if momentum.shape[-2] > momentum.shape[-1]:
        flipped = momentum.transpose(-2, -1)
        return leon_direction(flipped, second_moment, **options).transpose(-2, -1)  # type: ignore[arg-type]
    wide = _working(momentum.dtype, precision)
    if method == "eigh":
        S, M = momentum.double(), second_moment.double()
        return (inverse_root(S @ S.mT + M / eta**2) @ S).to(momentum.dtype)
    S, M = scaled(momentum.to(wide), second_moment.to(wide))
    low = precision == "bfloat16"
    count = (6 if low else STEPS[method]) if steps is None else steps
    name = "polar_express" if method == "augmented" or (low and method == "coupled") else method
    small = low and S.device.type == "cpu" and S.shape[-2] <= (SMALL if S.ndim == 2 else SMALL // 2)
    if method == "augmented" or (low and not small):
        dtype = torch.bfloat16 if low else wide
        X = torch.cat([S.to(dtype), (cholesky(M, exact=not low) / eta).to(dtype)], dim=-1)
        return iterate(X, schedule(name, count), columns=S.shape[-1]).to(momentum.dtype)
    A = damped(S @ S.mT + M / eta**2, damping)
    if name == "coupled":
        return (_coupled(A, count) @ S).to(momentum.dtype)
    return root_times(A, S, schedule(name, count), exact=not low).to(momentum.dtype)


def muon_direction(
    momentum: Tensor, *, method: str = "eigh", steps: int | None = None, precision: str = "float32"
) -> Float[Tensor, "*b m n"]:
    r"""The orthogonal factor \(U V^T\) of the momentum, Muon's direction.

    Args:
        momentum: (..., m, n).
        method: "eigh" (exact, by a singular value decomposition), or a polynomial iteration on the matrix itself:
            "polar_express", "newton_schulz", "muon" (five steps of Muon's own quintic, which does not converge to 1).
        steps: None for 8, 24 or 5.
        precision: as in `leon_direction`.

    Returns:
        (..., m, n); zeros where the momentum is zero.

    Raises:
        InvalidInputError: for an unknown method.

    Guarantee: operator norm at most 1 under "eigh" and "newton_schulz"; regret of this choice can be linear.

    Example:
        >>> muon_direction(torch.diag(torch.tensor([2.0, -0.1])))
        tensor([[ 1.,  0.],
                [ 0., -1.]])

    Reference: K. Jordan's public Muon code for "muon"; Amsel et al., arXiv:2505.16932 for "polar_express".
    """
    wide = _working(momentum.dtype, precision)
    if method == "eigh":
        return polar(momentum.to(wide)).to(momentum.dtype)
    if method not in ("polar_express", "newton_schulz", "muon"):
        raise InvalidInputError(
            f"`method` must be eigh, polar_express, newton_schulz or muon, got {method!r}; eigh is exact"
        )
    count = {"polar_express": 8, "newton_schulz": 24, "muon": 5}[method] if steps is None else steps
    if momentum.ndim == 3 and len(momentum) == 1:
        return muon_direction(momentum[0], method=method, steps=steps, precision=precision)[None]
    tall = momentum.shape[-2] > momentum.shape[-1]
    low = torch.bfloat16 if precision == "bfloat16" else wide
    X = _unit(momentum.to(wide)).to(low)
    X = iterate(X.mT if tall else X, schedule(method, count))
    return (X.mT if tall else X).to(momentum.dtype)


def pion_direction(
    momentum: Tensor,
    second_moment: Tensor,
    *,
    eta: float = 1.0,
    samples: int = 8,
    generator: torch.Generator | None = None,
    noise: Tensor | None = None,
    method: str = "eigh",
    steps: int | None = None,
    precision: str = "float32",
) -> Float[Tensor, "*b m n"]:
    r"""Pion's direction: the mean orthogonal factor of the momentum, perturbed by its own second moment.

    .. math:: P = \frac1k \sum_{i=1}^k \mathrm{polar}(S + \eta^{-1} L Z_i), \qquad L L^T = M,\; Z_i \sim N(0, I)

    Args:
        momentum: (..., m, n); second_moment: (..., s, s) as in `leon_direction`.
        eta: smoothing; the theory's value is sqrt((sqrt m + sqrt n) sqrt(n - m - 1)), the practical one 1.
        samples: k; one has the right mean and much noise.
        generator: of the noise; with None a fresh one of seed 0.
        noise: (k, ..., s, l) in the place of the draw, l = max(m, n).
        method: as in `muon_direction`.
        steps, precision: as in `muon_direction`.

    Returns:
        (..., m, n).

    Raises:
        InvalidInputError: for shapes that do not fit, eta that is not positive, fewer than one sample.

    Guarantee: operator norm at most 1 (a mean of such); in expectation the gradient of the Gaussian smoothing, whose
    regret theorem 6 bounds for n >= m + 2.

    Example:
        >>> g = torch.tensor([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])
        >>> P = pion_direction(g, g @ g.T, samples=64)
        >>> bool(torch.linalg.matrix_norm(P, 2) < 1)
        True

    Reference: Jiang et al., COLT 2026, algorithm 2; paper read in full. Not the spectrum-preserving "Pion" of
    arXiv:2605.12492, an unrelated method of that name.
    """
    _check(momentum, second_moment, eta, "eigh")
    if samples < 1:
        raise InvalidInputError(f"`samples` must be at least 1, got {samples}; 8 is a good number")
    if momentum.shape[-2] > momentum.shape[-1]:
        flipped = momentum.transpose(-2, -1)
        options: dict[str, Any] = {"samples": samples, "generator": generator, "noise": noise, "method": method}
        options |= {"eta": eta, "steps": steps, "precision": precision}
        return pion_direction(flipped, second_moment, **options).transpose(-2, -1)
    wide = _working(momentum.dtype, precision)
    S, L = momentum.to(wide), cholesky(second_moment.to(wide))
    if noise is None:
        noise = draw((samples, *S.shape), generator, S)
    perturbed = S + (L @ noise.to(S)) / eta
    return muon_direction(perturbed, method=method, steps=steps, precision=precision).mean(0).to(momentum.dtype)


def draw(shape: tuple[int, ...], generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Standard normal numbers, drawn where the generator lives and then moved."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def scaled(S: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
    """The pair k S, k^2 M with the power of two k that brings the larger of |S| and sqrt(M) near one.

    No direction depends on it, and norms of Gram matrices, fourth powers of the entries, stay in the range of float32.
    M of subnormal numbers is rounded to few bits, by which it may be indefinite; as much is added to its diagonal.
    """
    if (
        S.ndim == 2 and S.device.type == "cpu" and not torch.compiler.is_compiling()
    ):  # a look is cheaper than the products
        low, high = torch.aminmax(S)
        largest = max(-float(low), float(high), math.sqrt(max(0.0, float(M.diagonal().amax()))))
        if 2.0**-20 < largest < 2.0**20:
            return S, M
    peak = S.abs().amax((-2, -1), keepdim=True)
    root = M.diagonal(dim1=-2, dim2=-1).amax(-1)[..., None, None].clamp_min(0).sqrt()
    exponent = torch.frexp(torch.maximum(peak, root)).exponent.clamp(-120, 120)
    k = torch.ldexp(torch.ones_like(peak), -exponent)
    M = M * k * k
    info = torch.finfo(M.dtype)
    lost = (k * math.sqrt(32 * info.smallest_normal * info.eps)).square() * M.shape[-1]
    M.diagonal(dim1=-2, dim2=-1).add_((lost * (root > 0))[..., 0])
    return S * k, M


def inverse_root(A: Tensor, *, power: float = -0.5) -> Tensor:
    """A^power on the range of a positive semidefinite A; eigenvalues that are rounding count as zero."""
    w, V = torch.linalg.eigh(A)
    cut = A.shape[-1] * torch.finfo(A.dtype).eps * w[..., -1:].clamp_min(0)
    safe = torch.where(w > cut, w, torch.ones_like(w))
    return (V * torch.where(w > cut, safe**power, torch.zeros_like(w))[..., None, :]) @ V.mT


def polar(X: Tensor) -> Tensor:
    """U V^T of the thin SVD on the range of X (zero stays zero)."""
    U, s, Vh = torch.linalg.svd(X, full_matrices=False)
    cut = max(X.shape[-2:]) * torch.finfo(X.dtype).eps * s[..., :1]
    return (U * (s > cut)[..., None, :].to(X.dtype)) @ Vh


def cholesky(M: Tensor, *, exact: bool = True) -> Tensor:
    """A lower L with L L^T = M, in float64 if exact, with a relative jitter where M is singular; zero for zero."""
    dtype = M.dtype
    M = M.double() if exact else M
    U, failed = torch.linalg.cholesky_ex(M, upper=True)  # as LAPACK stores it: a third faster than the lower one
    L = U.mT
    if bool(failed.any()):
        trace = M.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        unit = M / _positive(trace)
        eye, jitter = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device), 8 * torch.finfo(M.dtype).eps
        while bool(failed.any()) and jitter < 1:
            again, failed_again = torch.linalg.cholesky_ex(unit + jitter * eye)
            L = torch.where((failed > 0)[..., None, None], again * trace.clamp_min(0).sqrt(), L)
            failed, jitter = torch.where(failed > 0, failed_again, failed), 10 * jitter
    return L.to(dtype)


def damped(A: Tensor, relative: float | None) -> Tensor:
    """A + relative tr(A) / s I, in place; None for what float32 needs."""
    diagonal = A.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    if relative is not None:
        diagonal.add_(relative * mean)
    elif A.dtype != torch.float64:
        diagonal.add_(1e-6 * mean + ROUNDING * torch.linalg.matrix_norm(A)[..., None])
    return A


def root_times(
    A: Tensor, S: Tensor, polynomials: tuple[tuple[float, float, float], ...], *, exact: bool = True
) -> Tensor:
    """A^(-1/2) S by polynomials of A / f^2, f^2 = SAFETY^2 ||A||_F, accumulated in s x s matrices.

    If exact, these are kept symmetric, which takes a tenth of the time and a fourth of the rounding.
    """
    square = _positive(torch.linalg.matrix_norm(A, keepdim=True) * SAFETY**2)
    B = A / square
    Q = B
    for i, (a, b, c) in enumerate(polynomials):
        T = _polynomial(B, a, b, c)
        Q = T if i == 0 else T @ Q
        if i + 1 < len(polynomials):
            B = (T @ B) @ T
            B = (B + B.mT) / 2 if exact else B
    return (Q / square.sqrt()) @ S


def iterate(X: Tensor, polynomials: tuple[tuple[float, float, float], ...], *, columns: int | None = None) -> Tensor:
    """X <- p(X X^T) X for each polynomial, X (..., m, n), m <= n; two steps a time on the Gram matrix.

    Two, since each step on the Gram matrix alone multiplies the rounding of small directions, and a new one forgets it.
    The first `columns` of the result are given.
    """
    pairs = list(zip_longest(polynomials[::2], polynomials[1::2]))
    for i, (first, second) in enumerate(pairs):
        B = X @ X.mT
        if i == 0:  # a tighter bound on the norm than ||X||_F: sqrt(||X X^T||_F)
            square = torch.linalg.matrix_norm(B, keepdim=True).mul_(SAFETY**2).clamp_min_(torch.finfo(B.dtype).tiny)
            B = B / square
        T = _polynomial(B, *first)
        if second is not None:
            T = _polynomial((T @ B) @ T, *second) @ T
        if i == 0:
            T = T / square.sqrt()
        X = T @ (X if i + 1 < len(pairs) else X[..., :columns])
    return X


def _polynomial(B: Tensor, a: float, b: float, c: float) -> Tensor:
    """A I + b B + c B^2."""
    if c == 0:
        T = b * B
    elif B.ndim == 2:
        T = torch.addmm(B, B, B, beta=b, alpha=c)
    else:
        T = torch.baddbmm(B.flatten(0, -3), B.flatten(0, -3), B.flatten(0, -3), beta=b, alpha=c).view_as(B)
    T.diagonal(dim1=-2, dim2=-1).add_(a)
    return T


def _coupled(A: Tensor, steps: int) -> Tensor:
    """A^(-1/2) by the coupled Newton-Schulz iteration (appendix F.3)."""
    norm = _positive(torch.linalg.matrix_norm(A, keepdim=True))
    Y, Z = A / norm.sqrt(), torch.eye(A.shape[-1], dtype=A.dtype, device=A.device) / norm.sqrt()
    for _ in range(steps):
        T = -(Z @ Y) / 2
        T.diagonal(dim1=-2, dim2=-1).add_(1.5)
        Y, Z = Y @ T, T @ Z
    return Z


def _positive(x: Tensor) -> Tensor:
    """x, or one where it is zero."""
    return torch.where(x > 0, x, torch.ones_like(x))


def _unit(X: Tensor) -> Tensor:
    """X over its Frobenius norm (and a safety factor); zero stays zero, and no constant is added to small norms."""
    peak = X.abs().amax((-2, -1), keepdim=True)
    X = X / torch.where(peak > 0, peak, torch.ones_like(peak))
    norm = torch.linalg.matrix_norm(X, keepdim=True)
    return X / torch.where(norm > 0, norm * SAFETY, torch.ones_like(norm))


def _working(dtype: torch.dtype, precision: str) -> torch.dtype:
    if precision not in ("float32", "bfloat16"):
        raise InvalidInputError(f"`precision` must be 'float32' or 'bfloat16', got {precision!r}")
    return torch.float64 if dtype == torch.float64 else torch.float32


def _check(momentum: Tensor, second_moment: Tensor, eta: float, method: str) -> None:
    if momentum.ndim < 2 or not momentum.is_floating_point():
        raise InvalidInputError(
            f"`momentum` must be a real matrix or a batch of such, got {momentum.dtype} of shape "
            f"{tuple(momentum.shape)}; reshape it to (m, n)"
        )
    s = min(momentum.shape[-2:])
    if second_moment.shape != (*momentum.shape[:-2], s, s):
        raise InvalidInputError(
            f"`second_moment` must be {(*momentum.shape[:-2], s, s)} for a momentum of {tuple(momentum.shape)}, got "
            f"{tuple(second_moment.shape)}; it is the sum of G G^T on the smaller side"
        )
    if not eta > 0:
        raise InvalidInputError(f"`eta` must be positive, got {eta}; 1 is the theory's choice")
    if method not in METHODS:
        raise InvalidInputError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}; eigh is exact")
