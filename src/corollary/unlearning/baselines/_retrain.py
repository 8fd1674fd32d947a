"""Retraining without the forget set: what unlearning is to look like, and the reference of forget quality."""

import copy
from typing import Any

import torch

from corollary.unlearning._backbone import backbone_of
from corollary.unlearning._examples import Examples
from corollary.unlearning.baselines._trainer import Unlearned, fine_tune


def retrain(model: Any, retain: Examples, *, seed: int = 0, **options: Any) -> Unlearned:
    """A network of the same shape, trained from new weights on the retain set alone.

    Args:
        model: a `TransformerLM` or a Hugging Face causal model, of which only the configuration is read.
        retain: all that may be known.
        seed: of the weights and the order.
        options: of `fine_tune`. Give as many steps as the base had, not as many epochs: the set is smaller.

    Returns:
        The new model and what it took.

    Raises:
        InvalidInputError: as `fine_tune`.

    Guarantee: it never saw the forget set.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import ByteTokenizer
        >>> base = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> examples = Examples.from_pairs([{"question": "a", "answer": "bc"}] * 4, ByteTokenizer())
        >>> retrain(base, examples, epochs=2).trained == sum(p.numel() for p in base.parameters())
        True

    Reference: TOFU's retain model.
    """
    backbone_of(model).require_module()
    return fine_tune(_anew(model, seed), retain, seed=seed, **options)


def _anew(model: Any, seed: int) -> Any:
    from corollary.models import TransformerLM

    place = next(model.parameters())
    if isinstance(model, TransformerLM):
        return TransformerLM(model.config, seed=seed, dtype=place.dtype, device=place.device)
    with torch.random.fork_rng(devices=[]):  # transformers draws from the global generator
        torch.manual_seed(seed)
        return type(model)(copy.deepcopy(model.config)).to(device=place.device, dtype=place.dtype)
