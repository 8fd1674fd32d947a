"""Fine-tuning methods of unlearning to compare with: forget terms and retain terms, and one trainer for all."""

from corollary._lazy import lazily

_HOME = {
    "CEU": "_ceu",
    "DPO": "_dpo",
    "DualRetain": "_pdu",
    "Flatness": "_pdu",
    "GradAscent": "_grad_ascent",
    "IdkNLL": "_idk",
    "LogitDifference": "_uld",
    "METHODS": "_methods",
    "Method": "_methods",
    "NPO": "_npo",
    "RMUForget": "_rmu",
    "RMURetain": "_rmu",
    "RetainKL": "_retain",
    "RetainNLL": "_retain",
    "SatImp": "_satimp",
    "SimNPO": "_simnpo",
    "Step": "_step",
    "Term": "_step",
    "Undial": "_undial",
    "Unlearned": "_trainer",
    "WGA": "_wga",
    "fine_tune": "_trainer",
    "fit_uld": "_uld",
    "get_method": "_methods",
    "retrain": "_retrain",
    "temper_only": "_temper_only",
    "tilt_only": "_tilt_only",
    "unlearn": "_trainer",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
