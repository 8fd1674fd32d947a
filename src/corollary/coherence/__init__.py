"""Coherence: answers that agree on inputs that mean the same, and what agreeing is worth without any label."""

from corollary._lazy import lazily

_HOME = {
    "Answered": "_answers",
    "Audit": "_audit",
    "Bregman": "_divergences",
    "CoherentAnswers": "_answers",
    "CoherentClassifier": "_classifier",
    "Columns": "_stream",
    "Contrast": "_contrast",
    "ModuleClassifier": "_torch",
    "Projection": "_projection",
    "Relaxed": "_relaxed",
    "audit": "_audit",
    "cohere_table": "_table",
    "column_symmetries": "_transforms",
    "connected_orbits": "_orbits",
    "contrast": "_contrast",
    "endpoint_answers": "_speakers",
    "get_divergence": "_divergences",
    "image_crops": "_transforms",
    "image_flips": "_transforms",
    "image_rotations": "_transforms",
    "image_shifts": "_transforms",
    "issue_orbit_gain": "_issue",
    "make_views": "_orbits",
    "option_orders": "_transforms",
    "project": "_projection",
    "project_orbits": "_projection",
    "project_values": "_projection",
    "relax": "_relaxed",
    "sampled_answers": "_speakers",
    "scored_answers": "_speakers",
    "sequence_variants": "_transforms",
    "text_variants": "_transforms",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
