"""Fitting a head on a frozen model: states of both sets cached once, the head trained on them, the model switched."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from corollary.certificates import refuse_reuse
from corollary.errors import InvalidInputError
from corollary.models._speakers import speaker_of
from corollary.unlearning._backbone import backbone_of
from corollary.unlearning._cache import cache_states
from corollary.unlearning._examples import Examples, check_sets
from corollary.unlearning._model import TemperTiltModel
from corollary.unlearning._train import HeadFit, HeadTraining, pairing, train_head


def fit_temper_tilt(
    model: Any,
    forget: Any,
    retain: Any,
    *,
    tokenizer: Any = None,
    name: str = "forgotten",
    temperature: float = 1.0,
    guidance: float = 1.0,
    training: HeadTraining | None = None,
    held_out: Any = None,
    paraphrases: Any = None,
    retain_limit: int | None = None,
    folder: str | Path | None = None,
    progress: Callable[[str, float], object] | None = None,
    **options: Any,
) -> TemperTiltModel:
    r"""Fit a head that makes a frozen model forget; the model's weights are not touched.

    .. math:: out_t[v] = \log p(v \mid x_{\le t}) / T + s \log \sigma(\ell_t[v] + b)

    Args:
        model: a Hugging Face causal model, any `LanguageModel`, or a `TemperTiltModel`, which gets a further head.
        forget: what to forget: `Examples`, or a list of mappings with `question` and `answer`.
        retain: what to keep, likewise; at best what the base was trained on beside the forget set, in the same style.
        tokenizer: for questions given as texts; experts of Hugging Face, alone or composed, bring their own.
        name: of the head, by which it is switched on and off.
        temperature: T, of the outputs; 1 only tilts. Raise it for what is memorised hard: choose it by `forget_quality`
            on a slice of the forget set that is not reported.
        guidance: s.
        training: the hyper-parameters; or give them one by one, as in `HeadTraining`.
        held_out: sequences to retain that are in neither set; `certificate_` then speaks of them, too.
        paraphrases: other words for what is to be forgotten, not trained on; `certificate_` then speaks of them, too.
        retain_limit: cache at most so many sequences to retain (and never more than will be drawn).
        folder: cache (fp16) and checkpoints on disk; the same call goes on where it stopped.
        progress: called with what is being done and the share done.
        options: fields of `HeadTraining`.

    Returns:
        The model with its head; `model.fits[name]` says what it took, `model.certificate_` what it can vouch for.

    Raises:
        InvalidInputError: for an empty forget or retain set, sets that overlap, tokens of another tokenizer, a name
            taken.

    Guarantee: the base's weights stay as they are, bit for bit. What is forgotten is measured and certified
        afterwards, not promised here.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import ByteTokenizer, Examples
        >>> base = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> pairs = [{"question": q, "answer": "yes"} for q in "abcd"]
        >>> examples = Examples.from_pairs(pairs, ByteTokenizer())
        >>> model = fit_temper_tilt(base, examples.select([0]), examples.select([1, 2, 3]), rank=2, epochs=2)
        >>> list(model.heads), model.fits["forgotten"].head.rank
        (['forgotten'], 2)

    Reference: arXiv:2602.10217 (abstract read; the authors' code by the notes).
    """
    training = training or HeadTraining(**options)
    tell = progress or (lambda what, share: None)
    earlier = model if isinstance(model, TemperTiltModel) else None
    base = earlier.base if earlier is not None else model
    if earlier is not None and name in earlier.heads:
        raise InvalidInputError(f"the model has a head {name!r} already; give another `name`")
    backbone = earlier.backbone if earlier is not None else backbone_of(base)
    for role, rows in (("forget", forget), ("retain", retain)):
        if isinstance(rows, list | tuple) and not rows:
            raise InvalidInputError(f"the {role} set is empty; give at least one question with its answer")
    if retain_limit is not None and retain_limit < 1:
        raise InvalidInputError(f"`retain_limit` must be at least 1, got {retain_limit}; None takes all that is drawn")
    forget, retain, held_out, paraphrases = (
        _encoded(given, tokenizer, base) for given in (forget, retain, held_out, paraphrases)
    )
    check_sets(forget, retain, backbone.vocab_size)
    if held_out is not None:
        refuse_reuse(held_out.hashes(), training=retain.hashes(), forgetting=forget.hashes())
    if paraphrases is not None:
        refuse_reuse(paraphrases.hashes(), training=forget.hashes())
    before = backbone.fingerprint()
    _, partners = pairing(len(forget), len(retain), training)
    drawn, partners = _limited(partners, retain_limit, training.seed)
    place = Path(folder) if folder is not None else None
    states = []
    for part, examples in (("forget", forget), ("retain", retain.select(drawn))):
        where = place / part if place is not None else None
        states.append(
            cache_states(
                backbone, examples, folder=where, progress=lambda i, n, part=part: tell(f"states: {part}", i / n)
            )
        )
    fit = train_head(
        *states,
        vocab_size=backbone.vocab_size,
        training=training,
        folder=place / "head" if place is not None else None,
        partners=partners,
        device=backbone.device,
        progress=lambda i, n: tell("training the head", i / n),
    )
    heads = dict(earlier.heads) if earlier is not None else {}
    fitted = TemperTiltModel(base, heads | {name: fit.head}, temperature=temperature, guidance=guidance)
    fitted.fits = dict(earlier.fits) if earlier is not None else {}
    fitted.given = {"forget": forget, "retain": retain, "held_out": held_out, "paraphrases": paraphrases}
    fitted.given["base_before"] = before
    fitted.fits[name] = HeadFit(fit.head, fit.seconds, sum(s.seconds for s in states), fit.losses)
    return fitted


def _encoded(given: Any, tokenizer: Any, base: Any) -> Any:
    """Questions as tokens; anything else as it is."""
    if not isinstance(given, list | tuple) or not all(isinstance(row, Mapping) for row in given):
        return given
    if tokenizer is None and speaker_of(base) is None:
        raise InvalidInputError("questions as texts need the model's tokenizer; give `tokenizer`, or Examples")
    return Examples.from_pairs(given, base if tokenizer is None else tokenizer)


def _limited(
    partners: Int[np.ndarray, "e f"], limit: int | None, seed: int
) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, "e f"]]:
    """The sequences to retain that will be drawn, at most `limit`, and the pairs renumbered accordingly."""
    drawn = np.unique(partners)
    if limit is not None and len(drawn) > limit:
        rng = np.random.default_rng([seed, 8])
        drawn = np.sort(rng.choice(drawn, limit, replace=False))
        return drawn, rng.integers(0, len(drawn), partners.shape)
    return drawn, np.searchsorted(drawn, partners)
