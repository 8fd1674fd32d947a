"""Embedded text domains, mixed documents, and worlds with known answers; no download."""

from corollary.datasets._domain import Domain
from corollary.datasets._mixed import MixedDocuments, mixed_documents
from corollary.datasets._overlap import overlapping_domains
from corollary.datasets._text_domains import text_domains

__all__ = ["Domain", "MixedDocuments", "mixed_documents", "overlapping_domains", "text_domains"]
