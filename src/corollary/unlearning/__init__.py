"""Unlearning: a frozen model whose outputs forget, by tempering and a small head that tilts; what is certified."""

from corollary._lazy import lazily

_HOME = {
    "TemperTiltProcessor": "_processor",
    "load_base": "_base",
    "Bounds": "_density",
    "Closeness": "_closeness",
    "FiniteWorld": "_density",
    "Selection": "_select",
    "TemperTiltDensity": "_density",
    "bernoulli_kl": "_density",
    "spike_world": "_density",
    "closeness": "_closeness",
    "certify_forget_quality": "_issue",
    "certify_forgotten": "_issue",
    "certify_paraphrases": "_issue",
    "certify_retain_error": "_issue",
    "certify_retained": "_issue",
    "AnswerScores": "_model",
    "ByteTokenizer": "_tokens",
    "Examples": "_examples",
    "ExpertTokenizer": "_tokens",
    "HeadFit": "_train",
    "HeadTraining": "_train",
    "PooledStates": "_cache",
    "TemperTiltHead": "_head",
    "TemperTiltModel": "_model",
    "Tokenizer": "_tokens",
    "WordTokenizer": "_tokens",
    "WrappedTokenizer": "_tokens",
    "cache_states": "_cache",
    "causal_mean": "_head",
    "fit_temper_tilt": "_fit",
    "select_temper_tilt": "_select",
    "tilted_log_probs": "_head",
    "tokenizer_of": "_tokens",
    "train_head": "_train",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME | {"baselines": "baselines", "tofu": "tofu"})
