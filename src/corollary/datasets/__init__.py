"""Embedded text domains, mixed documents, users' own files, and worlds with known answers; no download."""

from corollary.datasets._domain import Domain
from corollary.datasets._mixed import MixedDocuments, mixed_documents
from corollary.datasets._overlap import overlapping_domains
from corollary.datasets._records import BoundedMean, GainWorld, bounded_means_world, gain_world
from corollary.datasets._text_domains import text_domains
from corollary.datasets._user_files import read_documents, real_data, split_documents
from corollary.datasets._worlds import (
    FiniteWorld,
    MarkovWorld,
    dirichlet_world,
    disjoint_world,
    identical_experts_world,
    markov_world,
    single_domain_world,
    unnormalisable_world,
)

__all__ = [
    "BoundedMean",
    "Domain",
    "FiniteWorld",
    "GainWorld",
    "MarkovWorld",
    "MixedDocuments",
    "bounded_means_world",
    "dirichlet_world",
    "disjoint_world",
    "gain_world",
    "identical_experts_world",
    "markov_world",
    "mixed_documents",
    "overlapping_domains",
    "read_documents",
    "real_data",
    "single_domain_world",
    "split_documents",
    "text_domains",
    "unnormalisable_world",
]
