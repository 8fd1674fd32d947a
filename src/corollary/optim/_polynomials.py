r"""Odd polynomials \(x (a + b x^2 + c x^4)\) whose composition takes (0, 1] to 1, as their authors give them.

Sources: Polar Express, Amsel et al., arXiv:2505.16932 (numbers as in the public code of ASGO); Muon's quintic, K.
Jordan's public code; the cubic is Newton-Schulz. Fidelity: coefficients read in the authors' public code.
"""

from functools import cache

SAFETY = 1.01  # the first matrix is divided by this, so that rounding cannot push a singular value over 1

CUBIC = (1.5, -0.5, 0.0)
MUON = (3.4445, -4.7750, 2.0315)
POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),  # repeated: the quintic that converges at 1 with order three
)


@cache
def schedule(method: str, steps: int) -> tuple[tuple[float, float, float], ...]:
    """(a, b, c) of each step; all Polar Express steps but the last are scaled against overshooting."""
    if method == "newton_schulz":
        return (CUBIC,) * steps
    if method == "muon":
        return (MUON,) * steps
    own = len(POLAR_EXPRESS)
    listed = [POLAR_EXPRESS[min(i, own - 1)] for i in range(steps)]
    return tuple(
        (a / SAFETY, b / SAFETY**3, c / SAFETY**5) if i < min(steps, own) - 1 else (a, b, c)
        for i, (a, b, c) in enumerate(listed)
    )
