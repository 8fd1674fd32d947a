"""Other people's libraries: their models as experts, ours as their models, and our optimizers in their trainers."""

from corollary._lazy import lazily

_HOME = {
    "CorollaryConfig": "_hf_causal_lm",
    "CorollaryForCausalLM": "_hf_causal_lm",
    "HFExpert": "_hf_expert",
    "HuggingFaceOptimizer": "_hugging_face",
    "configure_optimizers": "_lightning",
    "prepare": "_accelerate",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
