"""An unlearned model behind the gateway: heads are on unless a request may switch them; experts of Hugging Face."""

import openai
import pytest
import tiny_hf
import torch
from running_gateway import CHAT, post, running

from corollary.errors import InvalidInputError
from corollary.gating import BayesGate, ComposedLM
from corollary.integrations import HFExpert
from corollary.models import TransformerConfig, TransformerLM, generate, load
from corollary.serving._loaders import library_model
from corollary.unlearning import ByteTokenizer, TemperTiltHead, TemperTiltModel


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A random base with two heads that each change what it says."""
    base = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=64), seed=1)
    generator = torch.Generator().manual_seed(0)
    heads = {name: TemperTiltHead(16, 256, rank=4) for name in ("smith", "jones")}
    for head in heads.values():
        for p in head.parameters():
            torch.nn.init.normal_(p, std=3.0, generator=generator)
    folder = tmp_path_factory.mktemp("unlearned") / "model"
    TemperTiltModel(base, heads, temperature=1.0).save(folder)
    return folder


def drawn(folder, question, heads):
    """What the model itself says, greedily, with these heads on."""
    model, tokenizer = load(folder), ByteTokenizer()
    start = [] if tokenizer.start is None else [tokenizer.start]
    tokens = model.generate([[*start, *tokenizer.prompt(question)]], max_new_tokens=12, heads=heads)[0]
    return tokenizer.decode(tokens)


def asked(base, **more):
    status, _, reply = post(base, {"model": "mine", "temperature": 0, "max_tokens": 12, **CHAT, **more})
    return reply["choices"][0]["message"]["content"] if status == 200 else (status, reply["error"]["message"])


def test_heads_are_on_unless_a_request_may_switch_them(saved, tmp_path):
    question = CHAT["messages"][-1]["content"]
    said = {names: drawn(saved, question, list(names)) for names in ((), ("smith",), ("jones",), ("smith", "jones"))}
    assert len(set(said.values())) == 4
    config = {"upstreams": {"mine": {"folder": str(saved), "max_tokens": 12, "heads": ["jones"]}}}
    with running(config, path=tmp_path) as (base, _):
        assert asked(base) == said["smith", "jones"]
        assert asked(base, corollary={"heads": ["jones"]}) == said["smith", "jones"]
        assert asked(base, corollary={"heads": []}) == said["smith",]  # the other head is not theirs to switch
        assert asked(base, corollary={"heads": ["smith"]})[0] == 400
        with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client:
            stream = client.chat.completions.create(model="mine", temperature=0, max_tokens=12, stream=True, **CHAT)
            pieces = [c.choices[0].delta.content or "" for c in stream if c.choices]
        assert "".join(pieces) == said["smith", "jones"]
        assert len([p for p in pieces if p]) > 3


def test_heads_that_are_not_there(saved, tmp_path):
    with pytest.raises(InvalidInputError, match="no head 'brown'"):
        library_model(saved, switchable=["brown"])
    TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16)).save(tmp_path / "plain")
    with pytest.raises(InvalidInputError, match="no heads to switch"):
        library_model(tmp_path / "plain", switchable=["smith"])


def test_a_composed_model_of_hugging_face_experts_is_served(tmp_path):
    shared = tiny_hf.tokenizer()
    experts = {
        n: HFExpert(tiny_hf.model(n, seed=i, positions=128), tokenizer=shared) for i, n in enumerate(("llama", "gpt2"))
    }
    composed = ComposedLM(experts, BayesGate(2))
    composed.save(tmp_path / "c")
    config = {"upstreams": {"mine": {"folder": str(tmp_path / "c"), "max_tokens": 8}}}
    with running(config, path=tmp_path) as (base, _):
        status, _, reply = post(
            base, {"model": "mine", "prompt": "the sea", "temperature": 0, "max_tokens": 8}, path="/v1/completions"
        )
    assert status == 200
    own = generate(composed, experts["llama"].encode("the sea"), max_tokens=8, seed=0, temperature=0)
    assert reply["choices"][0]["text"] == experts["llama"].decode(list(own))


def test_a_head_on_a_composed_model_of_hugging_face_experts_is_served(tmp_path):
    shared = tiny_hf.tokenizer()
    experts = {n: HFExpert(tiny_hf.model(n, seed=i), tokenizer=shared) for i, n in enumerate(("llama", "gpt2"))}
    head = TemperTiltHead(64, 280, rank=4)
    torch.nn.init.normal_(head.out, std=30.0, generator=torch.Generator().manual_seed(0))
    TemperTiltModel(ComposedLM(experts, BayesGate(2)), {"sea": head}).save(tmp_path / "m")
    served, model = library_model(tmp_path / "m", switchable=["sea"]), load(tmp_path / "m")
    prompt = served.prompt("is the sea blue?")
    said = {}
    for names in ((), ("sea",)):
        options = {"max_tokens": 6, "temperature": 0.0, "top_p": 1.0, "seed": 0, "heads": names}
        said[names] = "".join(served.stream(prompt, **options))
        tokens = model.generate([prompt], max_new_tokens=6, heads=list(names))[0]
        assert said[names].strip() == experts["llama"].decode(tokens).strip()
    assert said[()] != said["sea",]
