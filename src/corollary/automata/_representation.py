r"""From a snapped head back to d x d matrices: the representation nearest to what was learned, all symbols at once.

A finite head has n states with vectors v_q in R^d. Matrices with \(M_\sigma v_q = v_{\delta(q, \sigma)}\) for ALL q and
\(\sigma\) exist only where the vectors obey the automaton's relations; learned ones do so nearly. Three cases:

- vectors near different vertices of the simplex: they are taken to be these; matrices are 0/1;
- every symbol permutes the states: the Gram matrix \(K_{qr} = \langle v_q, v_r \rangle\) is averaged over the orbits of
  the group on pairs of states (Weyl's unitary trick on n points instead of on the group). The average commutes with
  all permutations \(P_\sigma\); its leading eigenvectors U, r of them, hence span an invariant space, on which
  \(Q_\sigma = U^\top P_\sigma U\) is an exact orthogonal representation, turned to lie as the learned one does;
- vectors that already obey the relations, independent ones above all: \(M_\sigma = V P_\sigma V^+\).

Derived here. Angles become fractions of a turn, and inverses, orders and all other relations hold between the symbols.
"""

import numpy as np
import torch
from jaxtyping import Float, Int

from corollary.automata._certificate import half_distance
from corollary.automata._finite_head import FiniteHead
from corollary.automata._heads import RationalHead, fixed_head
from corollary.automata._transducer import Transducer
from corollary.errors import InvalidInputError

MAX_STATES = 2048  # pairs of states are held
CONDITION, EXACT = 1e-6, 1e-9  # singular values that count, and what may be missed, relative to the largest

Found = tuple[np.ndarray, np.ndarray]  # (V, d, d) matrices, (d, n) states


def represent(head: FiniteHead) -> RationalHead:
    r"""The finite head as one of d x d matrices that are exact: \(h_t = M_{x_t} h_{t-1}\), d the length of its vectors.

    Args:
        head: a finite head, e.g. `RationalHead(...).snap()`; its vectors say where in R^d the states lie.

    Returns:
        A `RationalHead` in float64, not to be trained. Its states are vectors near those of `head`, the same at the
        same state, so that the nearest one names the state; `certify_float` bounds how far rounding leads.

    Raises:
        InvalidInputError: where no such matrices are near: the vectors depend on one another in a way that the
            automaton does not (`head.matrices()`, n x n, always are exact), or there are more than 2,048 states.

    Guarantee: \(M_\sigma v_q = v_{\delta(q, \sigma)}\) for every state that is reached and every symbol, within
        rounding in float64, hence every relation between words holds: equal maps of states are equal products on the
        span of the vectors. Where every symbol permutes, the matrices are orthogonal, words that act alike have equal
        products on all of R^d, and eigenvalues are roots of unity of an order that a cycle's length is a multiple of.
        Where the vectors lie near vertices of the simplex, they are 0/1 and exact at every length also in floating
        point; otherwise rounding adds up, slowly: exactness at ALL lengths is what the finite head is for.

    Example:
        >>> import torch
        >>> from corollary.automata import fixed_head, represent, rotations
        >>> turn = 2 * torch.pi / 5 + 1e-3  # a fifth of a turn, badly learned, and its inverse
        >>> learned = fixed_head(rotations(torch.tensor([[turn], [-turn + 3e-3]])), torch.tensor([1.0, 0.0]))
        >>> M = represent(learned.snap(q_max=8)).matrices()
        >>> torch.allclose(M[0] @ M[1], torch.eye(2).double(), atol=1e-12)
        True
        >>> torch.allclose(torch.linalg.matrix_power(M[0], 5), torch.eye(2).double(), atol=1e-12)
        True

    Reference: derived here (averaging over a group is Weyl's, textbook).
    """
    table = head.transitions.cpu().numpy()
    order, _ = Transducer(table, np.zeros_like(table), head.start).reached()
    if len(order) > MAX_STATES:
        raise InvalidInputError(
            f"{len(order)} states are too many to represent; at most {MAX_STATES}, use `matrices()`"
        )
    number = np.full(len(table), -1)
    number[order] = np.arange(len(order))
    table = number[table[order]]
    V = head.vectors.detach().double().cpu().numpy()[order].T
    for make in (_switching, _orthogonal, _fitted):
        found = make(table, V)
        if found is not None and np.linalg.norm(found[1] - V, axis=0).max() < half_distance(found[1].T):
            return fixed_head(torch.from_numpy(found[0]), torch.from_numpy(found[1][:, 0].copy()))
    raise InvalidInputError(
        f"no {len(V)} x {len(V)} matrices lead near to where the {V.shape[1]} states lie, whose vectors depend on one "
        "another otherwise than the automaton does; use the finite head as it is, or its `matrices()`"
    )


def _switching(table: Int[np.ndarray, "n v"], V: Float[np.ndarray, "d n"]) -> Found | None:
    """0/1 columns, where all vectors lie near different vertices; coordinates that are no state stay what they are."""
    near, eye = V.argmax(0), np.eye(len(V))
    inside = V.min() > -1e-6 and np.abs(V.sum(0) - 1).max() < 1e-4  # distributions, in float32
    if not inside or V.max(0).min() <= 0.5 or len(set(near.tolist())) < V.shape[1]:
        return None
    M = np.tile(eye, (table.shape[1], 1, 1))
    for m, after in zip(M, table.T, strict=True):
        m[:, near] = eye[:, near[after]]
    return M, eye[:, near]


def _orthogonal(table: Int[np.ndarray, "n v"], V: Float[np.ndarray, "d n"]) -> Found | None:
    """Where all symbols permute: the leading invariant space of the averaged Gram matrix, turned to lie as the vectors.

    Off the span of the states the matrices are the identity.
    """
    if (np.sort(table, axis=0) != np.arange(len(table))[:, None]).any():
        return None
    if not V.any():
        return None
    values, U = np.linalg.eigh(_averaged(V.T @ V, table))
    values, U = values[::-1].clip(1e-14 * values[-1]), U[:, ::-1]
    most = min(V.shape)
    ratios = values[:most] / np.append(values, values[-1] * 1e-2)[1 : most + 1]
    r = int(ratios.argmax()) + 1  # behind the widest gap, so that no eigenspace is cut
    U, W = U[:, :r], np.sqrt(values[:r, None]) * U[:, :r].T
    left, _, right = np.linalg.svd(V @ W.T, full_matrices=False)
    R = left @ right  # (d, r), the turn that brings W nearest to V
    rest = np.eye(len(V)) - R @ R.T
    M = np.stack([R @ (U[after].T @ U) @ R.T + rest for after in table.T])
    return M, R @ W


def _averaged(K: Float[np.ndarray, "n n"], table: Int[np.ndarray, "n v"]) -> Float[np.ndarray, "n n"]:
    """Means over the orbits on pairs of states: what connects (q, r) with (q', r') when a symbol moves both."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n, S = table.shape
    after = np.concatenate([(t[:, None] * n + t[None]).reshape(-1) for t in table.T])
    before = np.tile(np.arange(n * n), S)
    links = coo_array((np.ones(len(after), dtype=np.int8), (before, after)), shape=(n * n, n * n))
    orbit = connected_components(links, directed=False)[1]
    means = np.bincount(orbit, K.reshape(-1)) / np.bincount(orbit)
    mean = means[orbit].reshape(n, n)
    return (mean + mean.T) / 2


def _fitted(table: Int[np.ndarray, "n v"], V: Float[np.ndarray, "d n"]) -> Found | None:
    """Least squares; None where they do not lead exactly from state to state."""
    inverse = np.linalg.pinv(V, rcond=CONDITION)
    M = np.stack([V[:, after] @ inverse for after in table.T])
    missed = max(np.abs(m @ V - V[:, after]).max() for m, after in zip(M, table.T, strict=True))
    return (M, V) if missed <= EXACT * np.abs(V).max() else None
