import numpy as np
import pytest
import torch
from unlearning_models import WORDS, sequences, tiny

from corollary.models import TransformerConfig, TransformerLM


@pytest.fixture
def rng():
    return np.random.default_rng(20260217)


@pytest.fixture
def examples(rng):
    return sequences(rng, 24)


@pytest.fixture
def own():
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=WORDS, width=16, layers=2, heads=2, context=64)
    model = TransformerLM(config, seed=1)
    with torch.no_grad():  # sharper than at the start, so that greedy answers differ
        model.embedding.weight.mul_(20)
    return model


@pytest.fixture(params=["own", "llama", "gpt2"])
def base(request):
    return request.getfixturevalue("own") if request.param == "own" else tiny(request.param)
