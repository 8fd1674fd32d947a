"""What every certificate must do; run it on the certificates of your own rules."""

import dataclasses
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import Certificate, Claim, Status, load_certificate, save_certificate
from corollary.certificates._digest import as_array


def check_certificate(certificate: Certificate, evidence: Mapping[str, Any]) -> None:
    """Check that a certificate holds on its evidence, and on nothing else.

    Args:
        certificate: one that makes at least one claim, or one that is undecided with a reason.
        evidence: the arrays it was issued on.

    Raises:
        AssertionError: naming the first thing that is wrong.

    Guarantee: none; passing means that the certificate HOLDS on its evidence, is UNDECIDED without it and on any other,
        is VIOLATED as soon as a claim is tightened, renamed or NaN, and survives storage unchanged.

    Example:
        >>> from corollary.datasets import dirichlet_world
        >>> from corollary.gating import robust_gate
        >>> world = dirichlet_world(p=2, n=8, seed=0)
        >>> solution = robust_gate(world.domains, world.experts)
        >>> check_certificate(solution.certificate, solution.evidence)
    """
    arrays = {name: as_array(value) for name, value in evidence.items()}
    _expect(certificate.check().status is Status.UNDECIDED, "without evidence it must be UNDECIDED")
    for name, array in arrays.items():
        changed = arrays | {name: _nudged(array)}
        if certificate.check(**changed).status is not Status.UNDECIDED:
            used = any(name in p._pick_names() for p in certificate.parts or (certificate,))
            _expect(not used, f"with another `{name}` it must be UNDECIDED")
    if certificate.claims and not any(p.undecided for p in certificate.parts or (certificate,)):
        report = certificate.check(**arrays)
        _expect(report.status is Status.HOLDS, f"on its evidence it must hold, but: {report}")
        for part in certificate.parts or (certificate,):
            for claim in part.claims:
                _check_tightened(part, claim, arrays)
    else:
        _expect(certificate.check(**arrays).status is Status.UNDECIDED, "without a claim it must be UNDECIDED")
    with tempfile.TemporaryDirectory() as folder:
        save_certificate(Path(folder), certificate, arrays)
        again, stored = load_certificate(Path(folder))
    _expect(str(again) == str(certificate), "storage must not change it")
    _expect(again.check(**stored).status is certificate.check(**arrays).status, "storage must not change its outcome")


def _check_tightened(part: Certificate, claim: Claim, arrays: Mapping[str, np.ndarray]) -> None:
    step = 1.0 + abs(claim.rhs) if math.isfinite(claim.rhs) else 1.0
    tighter = {"<=": claim.rhs - step, ">=": claim.rhs + step, "==": claim.rhs + step}[claim.relation]
    for change in ({"rhs": tighter}, {"lhs": math.nan}, {"name": claim.name + "?"}):
        claims = tuple(dataclasses.replace(claim, **change) if c == claim else c for c in part.claims)
        forged = dataclasses.replace(part, claims=claims)
        _expect(forged.check(**arrays).status is Status.VIOLATED, f"`{claim.name}` with {change} must be VIOLATED")


def _nudged(array: np.ndarray) -> np.ndarray:
    """The same array with one value changed by as little as its type allows."""
    if array.size == 0:
        return np.ones(1, dtype=array.dtype)
    out = array.copy().reshape(-1)
    out[0] = ~out[0] if array.dtype == bool else np.nextafter(out[0], np.inf) if array.dtype.kind == "f" else out[0] ^ 1
    return out.reshape(array.shape)


def _expect(condition: bool, sentence: str) -> None:
    if not condition:
        raise AssertionError(sentence)
