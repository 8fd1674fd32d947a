"""Leon trains an expert and the gate over it: one word in each call, at the rates that AdamW had."""

import numpy as np

from corollary.documents import Documents
from corollary.gating import CausalGate, score_experts
from corollary.models import NgramModel, TransformerConfig, TransformerLM

prose = Documents.from_texts(["the cat sat on the mat and slept", "the dog ran in the park all day"] * 8)
sums = Documents.from_texts(["12 + 30 = 42; 7 + 5 = 12", "9 - 4 = 5; 81 - 1 = 80; 3 + 3 = 6"] * 8)
config = TransformerConfig(width=32, layers=1, heads=2, context=32)

for optimizer in ("leon", "adamw"):
    expert = TransformerLM.fit(prose, config=config, steps=60, lr=1e-2, optimizer=optimizer)
    experts = [expert, NgramModel.fit(sums)]
    scores = [score_experts(experts, documents) for documents in (prose, sums)]
    gate = CausalGate(steps=100, batch=256, optimizer=optimizer).fit(scores)
    nats = -np.mean([gate.token_log_probs(s).mean() for s in scores])
    print(f"{optimizer:6} expert {-expert.log_probs(prose).mean():.3f} nats a byte, gated {nats:.3f}")
