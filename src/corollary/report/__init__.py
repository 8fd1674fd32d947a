"""The page of a run: one self-contained HTML file with tables, plots and the certificate as checked now."""

from corollary.report._page import write_report
from corollary.report._run import Run
from corollary.report._sections import Section, register_section

__all__ = ["Run", "Section", "register_section", "write_report"]
