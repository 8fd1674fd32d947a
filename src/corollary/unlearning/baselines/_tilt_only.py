r"""Tilt only, T = 1: \(\log p + s \log \sigma(\ell)\), plain guidance by a classifier; the other ablation."""

from typing import Any

from corollary.unlearning._fit import fit_temper_tilt
from corollary.unlearning.baselines._trainer import Unlearned


def tilt_only(model: Any, forget: Any, retain: Any, **options: Any) -> Unlearned:
    r"""A head on the base, untempered: \(\propto p\, \sigma(\ell)^s\).

    Args:
        model: any base of `fit_temper_tilt`.
        forget: what to forget.
        retain: what to keep.
        options: of `fit_temper_tilt`, but for the temperature.

    Returns:
        Its `model` is a `TemperTiltModel` at T = 1; its seconds are those of training on cached states.

    Raises:
        InvalidInputError: as `fit_temper_tilt`.

    Guarantee: that of `TemperTiltModel` at T = 1.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import ByteTokenizer, Examples
        >>> base = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> examples = Examples.from_pairs([{"question": q, "answer": "yes"} for q in "abcd"], ByteTokenizer())
        >>> tilt_only(base, examples.select([0]), examples.select([1, 2, 3]), rank=2, epochs=2).model.temperature
        1.0

    Reference: arXiv:2602.10217 (abstract read), its limit T = 1.
    """
    model = fit_temper_tilt(model, forget, retain, **options, temperature=1.0)
    fit = list(model.fits.values())[-1]
    return Unlearned(model, fit.seconds, sum(p.numel() for p in fit.head.parameters()), fit.losses)
