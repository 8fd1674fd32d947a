"""Files of questions as people have them: byte order marks, duplicates, overlaps, fields of the wrong kind; `eval`."""

import json
import shutil

import numpy as np
import pytest
from test_unlearn import run_command
from unlearning_models import local_model

from corollary.certificates import load_certificate
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import TransformerConfig, TransformerLM
from corollary.unlearning import WordTokenizer
from corollary.unlearning._asked import distinct, split
from corollary.unlearning._opened import Opened
from corollary.unlearning.tofu import load_questions


def rows(name, count, **more):
    return [{"question": f"Who is {name} {i}?", "answer": f"It is {name} number {i}.", **more} for i in range(count)]


LOST, KEPT = rows("Ann", 6), rows("Bob", 40)


def written(path, given):
    path.write_text("\n".join(map(json.dumps, given)), encoding="utf-8")
    return path


@pytest.fixture
def base(tmp_path):
    tokenizer = WordTokenizer.fit(f"{r['question']} {r['answer']}" for r in LOST + KEPT)
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=64)
    TransformerLM(config).save(tmp_path / "base")
    tokenizer.save(tmp_path / "base" / "words.json")
    return tmp_path / "base"


@pytest.fixture
def fit(base, tmp_path):
    def command(lost, kept, *more, out="run"):
        files = ("--forget", written(tmp_path / "lost", lost), "--retain", written(tmp_path / "kept", kept))
        options = ("--model", base, "--epochs", "2", "--rank", "2", "--threads", "1", "--out", tmp_path / out, *more)
        return run_command("unlearn", "fit", *files, *options)

    return command


def test_a_question_in_two_files_is_refused_before_anything_is_written(fit, tmp_path):
    other_answer = [{"question": KEPT[3]["question"] + " ", "answer": "Nobody."}]
    for lost, more, told in (
        ([*LOST, *KEPT[:2]], (), "2 of 8 questions to forget are also to be retained"),
        (LOST + other_answer, (), "1 of 7 questions to forget are also to be retained"),
        (LOST, ("--unseen", written(tmp_path / "new", other_answer)), "1 of 1 unseen questions are to be forgotten"),
        (LOST, ("--reference", tmp_path), "no model lies there"),
        (LOST, ("--model", tmp_path / "nowhere"), "no model lies there"),
    ):
        refused = fit(lost, KEPT, *more)
        assert refused.returncode == 1
        assert told in refused.stderr
        assert not (tmp_path / "run").exists()
    assert fit(LOST, KEPT, "--quiet").returncode == 0  # the corrected file, into the same folder
    assert "among the 26 trained on" in str(load_certificate(tmp_path / "run")[0].parts[1].assumptions)


def test_a_changed_file_is_noticed_and_duplicates_are_dropped(fit, tmp_path):
    assert "5 rows were left out" in fit([*LOST, *LOST[:2]], [*KEPT, *KEPT[7:10]]).stdout
    kept = json.loads((tmp_path / "run" / "questions.json").read_text())
    assert (kept["dropped"], len(kept["forget"]), len(kept["retain"]) + len(kept["held_out"])) == (5, 6, 40)
    changed = fit(LOST[:-1], KEPT)
    assert changed.returncode == 1
    assert "contents" in changed.stderr
    assert "give another --out, or add --overwrite" in changed.stderr
    again = fit(LOST[:-1], KEPT, "--overwrite", "--quiet")
    assert again.returncode == 0
    assert len(Opened(tmp_path / "run").rows("forget")) == 5


def test_an_evaluation_that_fails_leaves_the_run_as_it_was(fit, tmp_path):
    assert fit(LOST, KEPT, "--quiet").returncode == 0
    run = tmp_path / "run"
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    local_model("llama", tmp_path / "foreign")
    for reference, told in (("nowhere", "no model lies there"), (tmp_path / "foreign", "one tokenizer")):
        failed = run_command("unlearn", "eval", run, "--reference", reference, "--temperature", "2")
        assert failed.returncode == 1
        assert told in failed.stderr
        assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before
    (run / "setup.json").write_text("{}")
    for verb in (("eval", run), ("generate", run, "Who?")):
        broken = run_command("unlearn", *verb)
        assert broken.returncode == 1
        assert "not the setup of a run" in broken.stderr


def test_rows_are_split_by_question(fit):
    doubled = [*KEPT, *({**r, "answer": "Somebody else."} for r in KEPT[::3])]
    trained_on, held_out = split(doubled, seed=0)
    asked = [{r["question"] for r in part} for part in (trained_on, held_out)]
    assert not asked[0] & asked[1]
    assert (len(asked[0]), len(asked[1]), len(trained_on) + len(held_out)) == (20, 20, len(doubled))
    order = np.random.default_rng([3, 3]).permutation(40)  # of distinct questions: by row, as ever
    assert split(KEPT, seed=3)[1] == [KEPT[i] for i in sorted(order[:20])]
    assert distinct([LOST[0], LOST[1], {**LOST[0], "more": 1}]) == LOST[:2]
    with pytest.raises(InvalidInputError, match="at least two"):
        split(KEPT[:1] * 3, seed=0)
    assert "give at least two" in fit(LOST, KEPT[:1] * 2).stderr
    uneven = [{**r, "perturbed_answer": ["a", "b"][: 1 + i % 2]} for i, r in enumerate(LOST)]
    assert "from 1 to 2 wrong answers" in fit(uneven, rows("Bob", 40, perturbed_answer=["a"])).stderr


def test_files_are_read_as_editors_write_them(tmp_path):
    path = tmp_path / "q.jsonl"
    given = [{"question": "Où?", "answer": "In Łódź,\u2028 or\x85 not."}, LOST[0]]
    text = "\n  \n".join(json.dumps(r, ensure_ascii=False) for r in given)
    for content in (
        text.encode("utf-8-sig"),
        text.replace("\n", "\r\n").encode(),
        json.dumps(given).encode("utf-8-sig"),
        ("\n\n" + text + "\n\n").encode(),
        json.dumps([{**r, "perturbed_answer": None, "paraphrased_answer": None} for r in given]).encode(),
    ):
        path.write_bytes(content)
        assert load_questions(path) == given


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (json.dumps({"data": LOST}), "one JSON object a line"),
        (json.dumps({"data": LOST}, indent=1), "one JSON object a line"),
        ("question,answer\nWho?,Ann\n", "one JSON object a line"),
        ("", "holds no question"),
        (json.dumps([LOST[0], {"question": "Who?", "answer": 5}]), "row 2 has no texts"),
        (json.dumps({**LOST[0], "perturbed_answer": "wrong"}), "no list of texts"),
        (json.dumps({**LOST[0], "perturbed_answer": ["a", 1]}), "no list of texts"),
        (json.dumps({**LOST[0], "paraphrased_answer": ["a"]}), "that is no text"),
    ],
)
def test_files_of_another_make_are_told_what_is_wanted(tmp_path, content, told):
    path = tmp_path / "q.json"
    path.write_text(content)
    with pytest.raises(InvalidFileError, match=told):
        load_questions(path)


def test_a_truncated_model_is_named(tmp_path):
    folder = local_model("llama", tmp_path / "whole")
    shutil.copytree(folder, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    files = ("--forget", written(tmp_path / "lost", LOST), "--retain", written(tmp_path / "kept", KEPT))
    cut = run_command("unlearn", "fit", "--model", tmp_path / "cut", *files, "--out", tmp_path / "run")
    assert cut.returncode == 1
    assert "no causal model" in cut.stderr
