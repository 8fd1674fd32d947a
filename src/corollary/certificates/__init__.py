"""Claims, certificates, the rules that derive them, confidence bounds, and their storage. Imports no torch."""

from corollary.certificates._betting import betting, log_capital
from corollary.certificates._certificate import Certificate, CertificateError, Report, Status
from corollary.certificates._claim import Assumption, Claim, Reference
from corollary.certificates._concentration import Interval, clopper_pearson, empirical_bernstein, hoeffding
from corollary.certificates._digest import digest, order_from_digest, refuse_reuse
from corollary.certificates._rows import hash_rows, refuse_seen
from corollary.certificates._rules import MIN_UNITS, Rule, Undecided, find_rule, register_rule, require_units
from corollary.certificates._storage import load_certificate, save_certificate

__all__ = [
    "MIN_UNITS",
    "Assumption",
    "Certificate",
    "CertificateError",
    "Claim",
    "Interval",
    "Reference",
    "Report",
    "Rule",
    "Status",
    "Undecided",
    "betting",
    "clopper_pearson",
    "digest",
    "empirical_bernstein",
    "find_rule",
    "hash_rows",
    "hoeffding",
    "load_certificate",
    "log_capital",
    "order_from_digest",
    "refuse_reuse",
    "refuse_seen",
    "register_rule",
    "require_units",
    "save_certificate",
]
