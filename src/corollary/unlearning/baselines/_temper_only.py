r"""Temper only, s = 0: \(\log p / T\), which forgets nothing in particular; an ablation for every table."""

from typing import Any

from corollary.unlearning._backbone import backbone_of
from corollary.unlearning._head import TemperTiltHead
from corollary.unlearning._model import TemperTiltModel
from corollary.unlearning.baselines._trainer import Unlearned


def temper_only(model: Any, *, temperature: float = 2.5) -> Unlearned:
    r"""The base with all its distributions flattened: \(\propto p^{1/T}\); nothing is trained.

    Args:
        model: any base of `TemperTiltModel`.
        temperature: T.

    Returns:
        Its `model` is a `TemperTiltModel` whose one head says nothing.

    Raises:
        InvalidInputError: for a temperature that is not positive.

    Guarantee: greedy answers are those of the base; \(\log p_T(v) = \frac1T \log p(v) - (1 - \frac1T) H_{1/T}(p)\).

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> base = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> temper_only(base, temperature=2.0).trained
        0

    Reference: arXiv:2602.10217 (abstract read), its limit s = 0.
    """
    backbone = backbone_of(model)
    silent = TemperTiltHead(backbone.width, backbone.vocab_size, rank=1)
    tempered = TemperTiltModel(model, {"temper": silent}, temperature=temperature, guidance=0.0)
    return Unlearned(tempered, 0.0, 0)
