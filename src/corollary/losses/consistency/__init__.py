"""What a small surrogate excess implies for the error, in numbers: transforms, bounds, finite worlds, gaps."""

from corollary.losses.consistency._binary import (
    binary_transform,
    linear_reach,
    network_reach,
    numeric_binary_transform,
    softmax_range,
)
from corollary.losses.consistency._bounds import (
    ConsistencyBound,
    adversarial_bound,
    comp_sum_bound,
    gca_bound,
    general_bound,
    gla_bound,
    margin_bound,
    massart_target,
    phi_at_one,
    weighted_target,
)
from corollary.losses.consistency._negative import (
    Counterexample,
    max_hinge_counterexample,
    sum_hinge_counterexample,
)
from corollary.losses.consistency._numeric import numeric_bound, numeric_transform, plot_transforms
from corollary.losses.consistency._transforms import (
    bisect_inverse,
    comp_sum_inverse,
    comp_sum_transform,
    convex_minorant,
    general_transform,
    simple_inverse,
    tabulate,
    tabulated_inverse,
)
from corollary.losses.consistency._worlds import (
    FiniteWorld,
    balanced_regret,
    comp_sum_regret,
    deterministic_gap,
    zero_one_regret,
)

__all__ = [
    "ConsistencyBound",
    "Counterexample",
    "FiniteWorld",
    "adversarial_bound",
    "balanced_regret",
    "binary_transform",
    "bisect_inverse",
    "comp_sum_bound",
    "comp_sum_inverse",
    "comp_sum_regret",
    "comp_sum_transform",
    "convex_minorant",
    "deterministic_gap",
    "gca_bound",
    "general_bound",
    "general_transform",
    "gla_bound",
    "linear_reach",
    "margin_bound",
    "massart_target",
    "max_hinge_counterexample",
    "network_reach",
    "numeric_binary_transform",
    "numeric_bound",
    "numeric_transform",
    "phi_at_one",
    "plot_transforms",
    "simple_inverse",
    "softmax_range",
    "sum_hinge_counterexample",
    "tabulate",
    "tabulated_inverse",
    "weighted_target",
    "zero_one_regret",
]
