"""`corollary compose` and `generate` over experts with a tokenizer: texts are encoded, bits are those of a byte."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_hf
from typer.testing import CliRunner

from corollary.cli import app
from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.integrations import HFExpert
from corollary.models import NgramModel, TransformerConfig, TransformerLM
from corollary.models._speakers import text_bytes
from corollary.runs import read_tensors
from corollary.unlearning import WordTokenizer

WORDS = {"sea": ["the", "sea", "is", "blue", "deep", "é"], "sums": ["one", "two", "four", "and", "is", "!"]}


def run(*arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    return SimpleNamespace(code=done.exit_code, out=done.stdout, said=str(done.exception or ""), all=done.output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts of two domains; one expert saved by this library, one a plain folder of transformers."""
    made, rng = tmp_path_factory.mktemp("hf"), np.random.default_rng(0)
    for name, words in WORDS.items():
        texts = [" ".join(rng.choice(words, size=rng.integers(9, 15))) for _ in range(60)]
        (made / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    tiny_hf.save(made / "plain", positions=64)
    HFExpert(tiny_hf.model("gpt2", seed=1, positions=64), tokenizer=tiny_hf.tokenizer()).save(made / "saved")
    return made


@pytest.fixture(scope="module")
def composed(folder):
    data = [part for name in WORDS for part in ("--data", f"{name}={folder / name}.jsonl")]
    experts = ["--expert", f"sea={folder / 'plain'}", "--expert", f"sums={folder / 'saved'}"]
    done = run("compose", *data, *experts, "--out", folder / "run", "--steps", 3, "--longest", 60, "--json")
    assert done.code == 0, done.all + done.said
    return folder / "run"


def test_texts_are_encoded_and_bits_are_those_of_a_byte(folder, composed):
    stored = read_tensors(composed / "data" / "certify.safetensors")
    assert stored["tokens"].dtype == np.int32
    expert = HFExpert(folder / "plain")
    chosen = np.flatnonzero(stored["group"] == 0)
    documents = Documents(stored["tokens"], stored["offsets"]).select(chosen)
    texts = [
        expert.decode(documents.tokens[a:b]) for a, b in zip(documents.offsets, documents.offsets[1:], strict=False)
    ]
    given = [json.loads(line)["text"] for line in (folder / "sea.jsonl").read_text().splitlines()]
    whole = [t for t in texts if len(t.encode()) < 55]  # the others were cut at 60 bytes
    assert whole
    assert set(whole) <= set(given)
    assert max(len(t.encode()) for t in texts) <= 60
    bits = -expert.log_probs(expert.documents(texts)).sum() / np.log(2) / sum(len(t.encode()) for t in texts)
    metrics = json.loads((composed / "metrics.json").read_text())
    assert metrics["own_expert"]["sea"] == pytest.approx(bits, rel=1e-5)
    again = json.loads(run("verify", composed, "--rescore", "--json").out)
    assert all(claim["holds"] for claim in again["claims"])  # no gain can be certified here: so few documents
    assert len(again["claims"]) >= 2


def test_generate_speaks_the_tokenizer(folder, composed):
    options = ("--max-tokens", 8, "--temperature", 0)
    for model in (composed, folder / "saved"):
        told = json.loads(run("generate", model, "the sea is", *options, "--json").out)
        assert run("generate", model, "the sea is", *options).out.strip("\n") == told["text"].strip("\n")
    expert = HFExpert(folder / "plain")
    ids = expert.model.generate(
        **expert.tokenizer("<s>the sea is", return_tensors="pt"), max_new_tokens=8, do_sample=False, pad_token_id=1
    )[0, -8:]
    expert.save(folder / "again")
    assert json.loads(run("generate", folder / "again", "the sea is", *options, "--json").out)["text"] == (
        expert.tokenizer.decode(ids, skip_special_tokens=True)
    )


def test_bytes_are_refused_where_a_tokenizer_is(folder):
    expert = HFExpert(folder / "saved" / "hf")
    with pytest.raises(InvalidInputError, match="documents of bytes"):
        expert.log_probs(Documents.from_texts(["the sea"]))
    documents = expert.documents(["the sea is é", "", "two"])
    assert text_bytes(expert, documents).tolist() == [13, 0, 3]
    assert text_bytes(NgramModel.fit(Documents.from_texts(["a"])), Documents.from_texts(["é"])).tolist() == [2]


def test_experts_of_bytes_are_not_trained_beside_a_tokenizer(folder, tmp_path):
    data = [part for name in WORDS for part in ("--data", f"{name}={folder / name}.jsonl")]
    done = run("compose", *data, "--expert", f"sea={folder / 'saved'}", "--train", "--out", tmp_path / "run")
    assert "would read bytes" in done.said


def test_generate_without_a_tokenizer(tmp_path):
    model = TransformerLM(TransformerConfig(vocab_size=9, width=16, layers=1, heads=2, context=16))
    model.save(tmp_path / "m")
    assert "9 tokens and no tokenizer" in run("generate", tmp_path / "m", "Who?").said
    WordTokenizer(["Who", "wrote", "it", "?", "Jo", "."]).save(tmp_path / "m" / "words.json")
    done = run("generate", tmp_path / "m", "Who wrote", "--max-tokens", 5, "--seed", 1, "--json")
    assert set(json.loads(done.out)["text"].split()) <= {"Who", "wrote", "it", "?", "Jo", "."}
