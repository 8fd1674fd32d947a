"""TOFU, the benchmark of fictitious authors: logs and metrics, files, a generator of sets like it, evaluation."""

from corollary._lazy import lazily

_HOME = {
    "ForgetQuality": "_metrics",
    "Interval": "_metrics",
    "Logs": "_logs",
    "Part": "_logs",
    "Questions": "_questions",
    "bootstrap": "_metrics",
    "borrow_answers": "_questions",
    "evaluate": "_evaluate",
    "evaluate_all": "_evaluate",
    "forget_quality": "_metrics",
    "forget_truth_ratio": "_metrics",
    "intervals": "_metrics",
    "kolmogorov_smirnov": "_metrics",
    "load_logs": "_logs",
    "load_questions": "_questions",
    "make_questions": "_questions",
    "membership_auc": "_metrics",
    "model_utility": "_metrics",
    "privacy_leakage": "_metrics",
    "rouge_l_recall": "_rouge",
    "save_logs": "_logs",
    "utility_parts": "_metrics",
    "with_refusals": "_refusals",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
