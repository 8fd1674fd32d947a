"""The suites that the project runs on itself, for users' own methods too."""

from corollary._lazy import lazily

_HOME = {
    "LossCheckError": "_loss_checks",
    "OptimizerCheckError": "_optimizer_checks",
    "check_certificate": "_certificate_checks",
    "check_language_model": "_model_checks",
    "check_loss": "_loss_checks",
    "check_optimizer": "_optimizer_checks",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
