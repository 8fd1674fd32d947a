"""Which terms make which method; all of them go through one trainer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from corollary.errors import InvalidInputError
from corollary.unlearning.baselines._ceu import CEU
from corollary.unlearning.baselines._dpo import DPO
from corollary.unlearning.baselines._grad_ascent import GradAscent
from corollary.unlearning.baselines._idk import IdkNLL
from corollary.unlearning.baselines._npo import NPO
from corollary.unlearning.baselines._pdu import DualRetain, Flatness
from corollary.unlearning.baselines._retain import RetainKL, RetainNLL
from corollary.unlearning.baselines._rmu import RMUForget, RMURetain
from corollary.unlearning.baselines._satimp import SatImp
from corollary.unlearning.baselines._simnpo import SimNPO
from corollary.unlearning.baselines._step import Term
from corollary.unlearning.baselines._undial import Undial
from corollary.unlearning.baselines._wga import WGA


@dataclass(frozen=True)
class Method:
    r"""A forget term and a retain term: \(\gamma L_{forget} + \alpha L_{retain}\).

    Args:
        name: for messages and tables.
        forget: the term on the forget set; None trains on the retain set alone.
        retain: the term on the retain set, or None.
        gamma: weight of the first.
        alpha: weight of the second.

    Guarantee: none.

    Example:
        >>> from corollary.unlearning import baselines
        >>> baselines.Method("mine", baselines.NPO(beta=0.5), baselines.RetainKL(), alpha=2.0).gamma
        1.0
    """

    name: str
    forget: Term | None
    retain: Term | None
    gamma: float = 1.0
    alpha: float = 1.0


# A factory for each, since some terms have a state.
METHODS: dict[str, Callable[[], Method]] = {
    "GradAscent": lambda: Method("GradAscent", GradAscent(), None),
    "GradDiff": lambda: Method("GradDiff", GradAscent(), RetainNLL()),
    "KL": lambda: Method("KL", GradAscent(), RetainKL()),
    "IdkDPO": lambda: Method("IdkDPO", DPO(), RetainNLL()),
    "NPO": lambda: Method("NPO", NPO(), RetainNLL()),
    "SimNPO": lambda: Method("SimNPO", SimNPO(), RetainNLL(), gamma=0.125),
    "RMU": lambda: Method("RMU", RMUForget(), RMURetain()),
    "UNDIAL": lambda: Method("UNDIAL", Undial(), None),
    "WGA": lambda: Method("WGA", WGA(), RetainNLL()),
    "SatImp": lambda: Method("SatImp", SatImp(), RetainNLL(), gamma=0.1),
    "CE-U": lambda: Method("CE-U", CEU(), None),
    "PDU": lambda: Method("PDU", Flatness(), DualRetain()),
    "IDK": lambda: Method("IDK", IdkNLL(), RetainNLL()),
}


def get_method(method: Any, **weights: float) -> Method:
    """The method of that name with the weights of the literature, or the `Method` given.

    Args:
        method: a key of `METHODS`, or a `Method`.
        weights: other `gamma` or `alpha`.

    Raises:
        InvalidInputError: for an unknown name.

    Guarantee: none.

    Example:
        >>> get_method("GradDiff", alpha=2.0).alpha
        2.0
    """
    if isinstance(method, str) and method in METHODS:
        method = METHODS[method]()
    if not isinstance(method, Method):
        raise InvalidInputError(f"no method is called {method!r}; there are {', '.join(METHODS)}")
    return replace(method, **cast(Any, weights)) if weights else method
