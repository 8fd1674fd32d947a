"""How far a tilted model is from its base, prompt by prompt: total variation and KL of the next token."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from corollary.unlearning._examples import Examples
from corollary.unlearning._head import causal_mean
from corollary.unlearning._model import LOGITS, TemperTiltModel


class Closeness(NamedTuple):
    """Means over the answer positions of each of n prompts.

    Guarantee: none; both are zero exactly where the distributions agree.

    Example:
        >>> Closeness(np.array([0.1]), np.array([0.02])).variation.item()
        0.1
    """

    variation: Float[np.ndarray, " n"]
    kl: Float[np.ndarray, " n"]


@torch.no_grad()
def closeness(model: TemperTiltModel, examples: Examples, *, heads: Any = None) -> Closeness:
    r"""Total variation \(\frac12 \sum_v |p - q|\) and \(\mathrm{KL}(p \| q)\), p the base and q the tilted model.

    Args:
        model: a base with heads.
        examples: prompts with answers; the next token is predicted at each answer position.
        heads: names of the heads that are on; all by default.

    Returns:
        One number a prompt, the mean over its answer positions.

    Guarantee: variation lies in [0, 1]; without heads both are zero.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import ByteTokenizer, Examples, TemperTiltModel
        >>> model = TemperTiltModel(TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16)))
        >>> examples = Examples.from_pairs([{"question": "a", "answer": "b"}], ByteTokenizer())
        >>> closeness(model, examples).kl.tolist()
        [0.0]
    """
    variation, kl = np.zeros(len(examples)), np.zeros(len(examples))
    device = model.backbone.device
    for index in examples.batches(max(256, LOGITS // model.vocab_size)):
        batch = examples.batch(index).to(device)
        hidden, logits = model.backbone.outputs(batch.inputs, batch.mask, batch.scored)
        row = batch.scored.nonzero()[:, 0]
        pooled = causal_mean(hidden, batch.mask)[batch.scored]
        switched = model.switches(heads, len(index)).to(device)
        tilted = model.next_token(logits, pooled, switched[row])
        base = model.next_token(logits, pooled, torch.zeros_like(switched)[row])
        p = base.exp()
        both = torch.stack([(p - tilted.exp()).abs().sum(-1) / 2, (p * (base - tilted)).sum(-1)])
        means = torch.zeros(2, len(index), dtype=both.dtype, device=device).index_add(1, row, both)
        found = (means / torch.bincount(row, minlength=len(index))).double().cpu().numpy()
        variation[index], kl[index] = found[0].clip(0, 1), found[1].clip(0)
    return Closeness(variation, kl)
