"""The robust whole-sequence gate as a stage of `compose`: the least favourable mixture, and how training went."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from corollary.documents import Documents
from corollary.gating._scores import ExpertScores, score_experts

SAMPLES = 16  # documents drawn from each expert, for the normaliser
SAMPLE_TOKENS = 400
STATIC_ROWS = (
    10_000  # tokens of each domain that the robust static weights are fitted to: more change nothing in three digits
)


def robust_stage(
    groups: Sequence[ExpertScores], experts: Sequence[Any], settings: Any, tell: Callable[[str, float], None]
) -> dict[str, np.ndarray]:
    """Train the robust gate on the domains' gate documents; per-token objective, payoffs over each domain's own expert.

    Args:
        groups: scores of each domain's documents, in the order of the domains.
        experts: the experts, those of the domains first and in the same order.
        settings: `Settings` of the composition.
        tell: progress.

    Returns:
        Arrays `mixture` (the least favourable one), `static` (the best weights per token against the worst domain),
        `normaliser` (its value
        and standard error), and the path of the training as `history_...`.
    """
    from corollary.gating._robust_gate import RobustGate
    from corollary.gating._static import fit_static_gate
    from corollary.models import sample
    from corollary.numerics import polytope_vertices

    drawn = []
    for k, expert in enumerate(experts):
        tell("sampling the experts", k / len(experts))
        drawn.append(sample(expert, SAMPLES, max_tokens=SAMPLE_TOKENS, seed=settings.seed + k))
    own = np.array(
        [-g.totals()[:, k].mean() for k, g in enumerate(groups)]
    )  # cross-entropy of each domain's own expert
    steps = min(settings.robust_steps, settings.steps)
    samples = score_experts(experts, _filled(Documents.concatenate(drawn)))
    mixtures = None if settings.mixture is None else polytope_vertices(*settings.mixture)
    gate = RobustGate(objective="token", entropy=own, normalisation="dual", steps=steps, mixtures=mixtures)
    gate.fit(
        np.concatenate([g.totals() for g in groups]),
        np.repeat(np.arange(len(groups)), [len(g.offsets) - 1 for g in groups]),
        lengths=np.concatenate([np.diff(g.offsets) for g in groups]),
        samples_log_likelihoods=samples.totals(),
        seed=settings.seed,
        progress=lambda record: tell("robust gate", record["step"] / steps),
    )
    generator = np.random.default_rng(settings.seed)
    rows = [g.log_probs[generator.integers(len(g.log_probs), size=STATIC_ROWS)] for g in groups]
    static = fit_static_gate(np.concatenate(rows), np.repeat(np.arange(len(groups)), STATIC_ROWS), tol=1e-4)
    path = {name: np.asarray(values, dtype=np.float64) for name, values in gate.history_.items()}
    # A network has no exact dual: the averaged gate's payoff at the averaged mixture stands below its worst
    # payoff, and meets it at a saddle.
    path |= {"primal": path["worst"], "dual": path["at_mixture"]}
    history = {f"history_{name}": values for name, values in path.items()}
    return {
        "mixture": np.asarray(gate.mixture_, dtype=np.float64),
        "static": static.weights,
        "normaliser": np.array([gate.normaliser_.value, gate.normaliser_.standard_error]),
        **{name: values for name, values in history.items() if np.isfinite(values).all()},
    }


def _filled(documents: Documents) -> Documents:
    """Without the empty documents, which have likelihood one under every expert."""
    return documents.select(documents.lengths > 0)
