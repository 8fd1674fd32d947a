"""Log-space, simplex and information-theoretic numerics."""

from corollary.numerics._concave import maximise_on_simplex
from corollary.numerics._information import entropy, jensen_shannon, kl, log_sum_exp
from corollary.numerics._simplex import exponentiated_gradient, polytope_vertices, project_to_simplex

__all__ = [
    "entropy",
    "exponentiated_gradient",
    "jensen_shannon",
    "kl",
    "log_sum_exp",
    "maximise_on_simplex",
    "polytope_vertices",
    "project_to_simplex",
]
