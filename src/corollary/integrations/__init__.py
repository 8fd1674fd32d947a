"""Other people's libraries: what they load, train and serve, in the forms of this one."""

from corollary._lazy import lazily

_HOME = {
    "CorollaryConfig": "_hf_causal_lm",
    "CorollaryForCausalLM": "_hf_causal_lm",
    "HFExpert": "_hf_expert",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
