"""Learning to defer, to reject, and to route between experts, with certificates of cost and quality."""

import importlib
from typing import Any

_HOME = {
    "BudgetedDeferral": "_budgeted_deferral",
    "CertifiedThreshold": "_certified_rejection",
    "CoverageCurve": "_coverage",
    "CoverageInterval": "_coverage",
    "DeferralClassifier": "_deferral_classifier",
    "Expert": "_expert_pool",
    "ExpertPool": "_expert_pool",
    "Ledger": "_ledger",
    "MarginFit": "_margin_ranges",
    "Market": "_budgeted_deferral",
    "PoolFile": "_pool_file",
    "Properties": "_two_stage",
    "Query": "_ledger",
    "Question": "_expert_pool",
    "Refused": "_expert_pool",
    "RejectionLoss": "_rejection",
    "Rejector": "_rejector",
    "Reply": "_expert_pool",
    "SingleStageLoss": "_single_stage",
    "TwoStageLoss": "_two_stage",
    "TwoStageRouter": "_two_stage_router",
    "VersionSpace": "_version_space",
    "bernstein_deviation": "_version_space",
    "bounded_losses": "_version_space",
    "calibrated_beta": "_rejection",
    "certify_accepted_error": "_certified_rejection",
    "certify_ledger": "_ledger_certificate",
    "chat_expert": "_chat_expert",
    "chow_scores": "_rejection_peers",
    "committee_spread": "_committee",
    "confidence_deferral": "_rejection_peers",
    "convex_margin_range": "_margin_ranges",
    "coverage_at": "_coverage",
    "coverage_intervals": "_coverage",
    "coverage_limit": "_coverage",
    "deferral_costs": "_single_stage",
    "deviation_radius": "_version_space",
    "disagreement_coefficient": "_version_space",
    "ellipsoid_margin_range": "_margin_ranges",
    "fit_margin": "_margin_ranges",
    "fit_softmax": "_margin_ranges",
    "ledger_evidence": "_ledger_certificate",
    "load_rejector": "_rejector_storage",
    "loss_spread": "_margin_ranges",
    "max_probability": "_rejection_peers",
    "one_versus_all_deferral_loss": "_single_stage",
    "precision_coverage": "_coverage",
    "properties": "_two_stage",
    "query_bound": "_version_space",
    "read_pool": "_pool_file",
    "rejection_bound": "_rejection",
    "rejection_cost": "_rejection",
    "rejection_loss": "_rejection",
    "risk_coverage_area": "_coverage",
    "save_rejector": "_rejector_storage",
    "scale_to_budget": "_committee",
    "selective_loss": "_rejection_peers",
    "single_stage_cost": "_single_stage",
    "single_stage_loss": "_single_stage",
    "softmax_deferral_loss": "_single_stage",
    "two_expert_loss": "_two_stage",
    "two_stage_cost": "_two_stage",
    "two_stage_loss": "_two_stage",
}

__all__ = sorted([*_HOME, "routing"])


def __getattr__(name: str) -> Any:
    """Import a leaf when one of its names is first used: the losses bring torch, the rules do not."""
    if name in _HOME:
        return getattr(importlib.import_module(f"corollary.deferral.{_HOME[name]}"), name)
    if name == "routing":
        return importlib.import_module("corollary.deferral.routing")
    raise AttributeError(f"module 'corollary.deferral' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
