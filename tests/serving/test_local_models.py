"""Models in the gateway's own process: a composed one, a Hugging Face one, and any whose heads a request switches."""

import numpy as np
import openai
import pytest
from running_gateway import CHAT, ask, check_statement, post, running, settled, tables

from corollary.errors import InvalidFileError, InvalidInputError
from corollary.serving import LocalModel, TokenModel, as_local
from corollary.serving._config import UpstreamTable
from corollary.serving._loaders import library_model, make_upstream
from corollary.serving._local import LocalUpstream


class Switched:
    """What an unlearned model looks like from here: heads by name, each of which changes what is drawn."""

    def __init__(self):
        self.asked = []

    def generate(self, prompt_ids, *, max_tokens, seed, temperature, top_p, heads=()):
        self.asked.append(tuple(heads))
        said = b"forgotten" if "forget-a" in heads else b"remembered"
        yield from said[:max_tokens]


def local(name, model, **more):
    table = UpstreamTable(function="tests:model", max_tokens=20, **more)
    return table, LocalUpstream(name, table, as_local(model))


def with_local(tmp_path, **models):
    made = {name: local(name, *given) if not isinstance(given, tuple) else local(name, given[0], **given[1])
            for name, given in ((n, g if isinstance(g, tuple) else (g, {})) for n, g in models.items())}  # fmt: skip
    config = {"upstreams": {n: t.model_dump() for n, (t, _) in made.items()}}
    return running(config, upstreams={n: u for n, (_, u) in made.items()}, path=tmp_path)


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """The folder of a small composed model of bytes."""
    from corollary.documents import Documents
    from corollary.gating import BayesGate, ComposedLM
    from corollary.models import NgramModel

    experts = {
        "ticks": NgramModel.fit(Documents.from_texts(["tick tock " * 20])),
        "words": NgramModel.fit(Documents.from_texts(["to be or not to be, that is the question. " * 9])),
    }
    folder = tmp_path_factory.mktemp("composed") / "model"
    ComposedLM(experts, BayesGate(len(experts))).save(folder)
    return folder


def test_a_composed_model_is_served_as_it_draws(composed, tmp_path):
    from corollary.models import generate, load

    config = {"upstreams": {"mine": {"folder": str(composed.parent), "max_tokens": 30, "output_price": 1.0}}}
    with running(config, path=tmp_path) as (base, gateway):
        with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as c:
            whole = c.completions.create(model="mine", prompt="tick ", seed=7, max_tokens=12)
            wanted = bytes(generate(load(composed), b"tick ", max_tokens=12, seed=7)).decode()
            assert whole.choices[0].text == wanted
            assert whole.usage.completion_tokens == len(wanted)
            assert whole.usage.cost == pytest.approx(len(wanted) / 1e6)
            pieces = list(c.completions.create(model="mine", prompt="tick ", seed=7, max_tokens=12, stream=True))
            assert "".join(p.choices[0].text for p in pieces) == wanted
            chat = c.chat.completions.create(
                model="mine", messages=[{"role": "user", "content": "tick"}], temperature=0, max_tokens=5
            )
            assert len(chat.choices[0].message.content) <= 5
        settled(gateway, 3)
    check_statement(f"sqlite:///{tmp_path}/gateway.sqlite", (2 * len(wanted) + chat.usage.completion_tokens) / 1e6)


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory):
    """A tiny untrained network and a tokenizer of words, saved as Hugging Face saves them."""
    transformers = pytest.importorskip("transformers")
    import tokenizers
    import torch

    folder = tmp_path_factory.mktemp("hf")
    words = ["<unk>", "<end>", *"the a one two three four tick tock be or not".split()]
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="<end>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_plain_hugging_face_model_is_served(huggingface, tmp_path):
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(str(huggingface)).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(huggingface))
    ids = torch.tensor([tokenizer("tick tock")["input_ids"]])
    greedy = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, pad_token_id=1)
    wanted = tokenizer.decode(greedy[0, 2:], skip_special_tokens=True)
    config = {"upstreams": {"tiny": {"huggingface": str(huggingface), "max_tokens": 8}}}
    with running(config, path=tmp_path) as (base, gateway):
        body = {"model": "tiny", "prompt": "tick tock", "temperature": 0}
        status, _, found = post(base, body, "/v1/completions")
        assert status == 200
        assert found["choices"][0]["text"] == wanted  # token by token with a cache, as its own `generate`
        assert found["usage"]["prompt_tokens"] == 2
        sampled = [
            post(base, {**body, "temperature": 1, "seed": s, "top_p": 0.9}, "/v1/completions")[2] for s in (1, 1, 2)
        ]
        assert sampled[0]["choices"] == sampled[1]["choices"] != sampled[2]["choices"]
        status, _, chat = post(base, {"model": "tiny", **CHAT})
        assert status == 200
        assert chat["choices"][0]["message"]["role"] == "assistant"
        settled(gateway, 5)


def test_heads_are_switched_by_each_request(tmp_path):
    model = Switched()
    with with_local(tmp_path, unlearned=(model, {"heads": ("forget-a", "forget-b")}), plain=Switched()) as (
        base,
        gateway,
    ):

        def said(name="unlearned", headers=None, **more):
            status, _, body = post(base, {"model": name, **CHAT, **more}, headers=headers)
            return body["choices"][0]["message"]["content"] if status == 200 else (status, body["error"]["message"])

        assert said() == "remembered"
        assert said(corollary={"heads": ["forget-a"]}) == "forgotten"
        assert said(headers={"x-corollary-heads": "forget-b, forget-a"}) == "forgotten"
        assert said() == "remembered"
        assert model.asked == [(), ("forget-a",), ("forget-b", "forget-a"), ()]
        assert said(corollary={"heads": ["other"]})[0] == 400
        assert "there are: none" in said("plain", corollary={"heads": ["forget-a"]})[1]
        assert settled(gateway, 6)["states"]["refused"] == 2


def test_what_a_local_model_does_not_know_is_a_400(tmp_path):
    with with_local(tmp_path, one=Switched()) as (base, _):
        for more in (
            {"tools": [{}]},
            {"n": 2},
            {"logprobs": True},
            {"stop": ["x"]},
            {"response_format": {"type": "json"}},
        ):
            assert ask(base, "one", **more)[0] == 400
        assert post(base, {"model": "one", "prompt": ["a", "b"]}, "/v1/completions")[0] == 400


def test_a_model_that_fails_or_hangs_is_a_502_and_stays_charged(tmp_path):
    import threading

    class Broken:
        def generate(self, ids, **options):
            yield 65
            raise ValueError("inside")

    class Stuck:
        def generate(self, ids, **options):
            threading.Event().wait(3)
            yield 65

    models = {
        "broken": (Broken(), {"request_price": 1.0}),
        "stuck": (Stuck(), {"idle_timeout": 0.3, "request_price": 1.0}),
    }
    with with_local(tmp_path, **models) as (base, gateway):
        for name in models:
            status, _, body = ask(base, name)
            assert status == 502
            assert "inside" not in str(body)
        found = settled(gateway, 2)
        assert found["states"] == {"unknown": 2}
        assert found["charged"] == 2.0


def test_text_is_cut_between_characters():
    ids = list("naïve ☃ snow".encode())
    model = TokenModel(lambda prompt, **options: iter(ids))
    options = {"max_tokens": 99, "temperature": 1.0, "top_p": 1.0, "seed": 0, "heads": None}
    pieces = list(model.stream([], **options))
    assert "".join(pieces) == "naïve ☃ snow"
    assert len(pieces) == len(ids)
    spelled = TokenModel(
        lambda p, **o: iter(ids), encode=lambda t: [], decode=lambda i: bytes(i).decode("utf-8", "replace")
    )
    assert "".join(spelled.stream([], **options)) == "naïve ☃ snow"


def test_foreign_objects_and_folders_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot be served"):
        as_local(np.zeros(3))
    with pytest.raises(InvalidFileError):
        library_model(tmp_path)
    with pytest.raises(InvalidInputError, match="module:function"):
        make_upstream("x", UpstreamTable(function="nothing"))
    with pytest.raises(InvalidInputError, match="cannot be found"):
        make_upstream("x", UpstreamTable(function="no_such_module:f"))
    with pytest.raises(InvalidFileError, match="no Hugging Face model"):
        make_upstream("x", UpstreamTable(huggingface=str(tmp_path)))
    with pytest.raises(InvalidInputError, match="NO_SUCH_KEY"):
        make_upstream("x", UpstreamTable(url="http://127.0.0.1:9/v1", model="m", key_env="NO_SUCH_KEY"))
    assert isinstance(as_local(Switched()), LocalModel)
    assert tables("http://x/v1")
