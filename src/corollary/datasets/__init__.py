"""Embedded text domains, mixed documents, and worlds with known answers; no download."""

from corollary.datasets._domain import Domain
from corollary.datasets._text_domains import text_domains

__all__ = ["Domain", "text_domains"]
