"""Corollary: machine learning with guarantees, and certificates that anyone can check again."""

from corollary._lazy import lazily

__version__ = "0.1.0"

_PACKAGES = (
    *("calibration", "certificates", "coherence", "datasets", "deferral", "gating", "losses"),
    *("metrics", "models", "numerics", "report", "testing", "unlearning"),
)
_HOME = {
    "Certificate": "certificates",
    "CertificateError": "certificates",
    "Claim": "certificates",
    "Report": "certificates",
    "Status": "certificates",
    "CorollaryError": "errors",
    **{name: name for name in (*_PACKAGES, "errors", "runs")},
}

__all__ = [*sorted(_HOME), "__version__"]
__getattr__, __dir__ = lazily(__name__, _HOME)
