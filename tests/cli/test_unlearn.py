"""`corollary unlearn` as a user meets it."""

import json
import shutil

import numpy as np
import pytest
import tiny_hf
from typer.testing import CliRunner
from unlearning_models import local_model

from corollary import cli
from corollary.certificates import load_certificate
from corollary.errors import CorollaryError
from corollary.gating import BayesGate, ComposedLM
from corollary.integrations import HFExpert
from corollary.runs import RunFolder, read_tensors, write_tensors
from corollary.unlearning import HeadTraining, tofu
from corollary.unlearning._run import fit_run


class Done:
    """What a command printed, run in this process: a torch of its own for each would take a minute in all."""

    def __init__(self, *arguments):
        found = CliRunner().invoke(cli.app, [str(a) for a in arguments])
        self.stdout, self.stderr, self.returncode = found.stdout, found.stderr, found.exit_code
        if isinstance(found.exception, CorollaryError):
            self.stderr = str(found.exception)
        elif found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception


run_command = Done


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    out = tmp_path_factory.mktemp("unlearn") / "run"
    done = run_command("unlearn", "fit", "--authors", "7", "--epochs", "40", "--out", out, "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert "forget probability" in done.stdout
    assert "forget quality (p)" in done.stdout
    return out


def copied(fitted, tmp_path):
    return shutil.copytree(fitted, tmp_path / "run")


def test_a_run_verifies_from_its_evidence_and_from_its_models(fitted):
    for arguments in ((), ("--rescore",)):
        done = run_command("verify", fitted, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    rules = [part.rule for part in load_certificate(fitted)[0].parts]
    arguments = ("--authors", "7", "--epochs", "40", "--out", fitted, "--threads", "1", "--json")
    again = run_command("unlearn", "fit", *arguments)  # the same command on a finished run does nothing
    assert again.returncode == 0, again.stderr
    assert load_certificate(fitted)[0].attempts == 1
    assert rules == [f"unlearning.{n}" for n in ("forgotten", "paraphrases", "retained", "forget_quality")]


def test_a_changed_base_or_head_is_noticed(fitted, tmp_path):
    run = copied(fitted, tmp_path)
    weights = next((run / "base").glob("weights-*.safetensors"))
    arrays = {k: v.copy() for k, v in read_tensors(weights).items()}
    next(iter(arrays.values())).flat[0] += 1
    write_tensors(weights, arrays)
    done = run_command("verify", run, "--rescore")
    assert done.returncode == 4
    assert "measured again" in done.stdout
    assert run_command("verify", run).returncode == 0  # the stored evidence is what it was


def test_edited_evidence_and_claims_are_noticed(fitted, tmp_path):
    run = copied(fitted, tmp_path)
    path = run / "certificate.safetensors"
    arrays = {k: v.copy() for k, v in read_tensors(path).items()}
    arrays["evidence/log_likelihood"][0] -= 0.1
    write_tensors(path, arrays)
    assert run_command("verify", run, "-q").returncode == 4
    stored = json.loads((fitted / "certificate.json").read_text())
    stored["certificate"]["parts"][0]["witness"]["mean"] = 1e-6
    (run / "certificate.json").write_text(json.dumps(stored))
    assert run_command("verify", run, "-q").returncode == 3


def test_evaluated_again_at_other_settings(fitted, tmp_path):
    run = copied(fitted, tmp_path)
    done = run_command("unlearn", "eval", run, "--temperature", "1", "--guidance", "0", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    before, after = told["figures"]["before"], told["figures"]["after"]
    assert before == after  # s = 0 and T = 1 are the base
    assert load_certificate(run)[0].attempts == 2
    page = (run / "report.html").read_text()
    assert "Answers before and after" in page
    plots = [f"Forget quality against utility (retain {what})" for what in ("probability", "hits")]
    for told in (*plots, "temperature T", "guidance s", "Figures before and after"):
        assert told in page
    settings = {(r["temperature"], r["guidance"]) for r in json.loads((run / "metrics.json").read_text())["sweep"]}
    assert {(t, 0.0) for t in (1.0, 1.5, 2.5)} | {(1.0, s) for s in (0.5, 1.0, 2.0)} <= settings
    first = json.loads((run / "questions.json").read_text())["forget"][0]
    assert first["question"] in page  # of the table of answers before and after


def test_without_a_reference_forget_quality_is_undecided(fitted, tmp_path):
    run = copied(fitted, tmp_path)
    setup = json.loads((run / "setup.json").read_text())
    (run / "setup.json").write_text(json.dumps(setup | {"reference": None}))
    done = run_command("unlearn", "eval", run)
    assert done.returncode == 0, done.stderr
    assert "UNDECIDED" in done.stdout
    assert run_command("verify", run, "-q").returncode == 0
    assert run_command("verify", run / "forget_quality.json", "-q").returncode == 4


def test_generate_with_heads_and_without(fitted):
    question = json.loads((fitted / "questions.json").read_text())["forget"][0]
    on, off = (
        json.loads(run_command("unlearn", "generate", fitted, question["question"], "--json", *more).stdout)
        for more in ((), ("--heads", ""))
    )
    assert off["answer"] == off["base"] == on["base"]
    drawn = ("--sampling", "1", "--top-k", "1", "--json")  # the likeliest of one
    told = json.loads(run_command("unlearn", "generate", fitted, question["question"], *drawn).stdout)
    assert told["answer"] == on["answer"]
    wrong = run_command("unlearn", "generate", fitted, "Who?", "--heads", "nobody")
    assert wrong.returncode == 1
    assert "no head is called" in wrong.stderr


def test_own_models_and_files(fitted, tmp_path):
    """The base and the questions of one run as the files of another, without a reference."""
    questions = json.loads((fitted / "questions.json").read_text())
    rows = {"forget": questions["forget"], "retain": questions["retain"] + questions["held_out"]}
    rows["unseen"] = [dict(row) for row in tofu.make_questions(authors=2, forget=1, seed=77).forget]
    for name, part in rows.items():
        (tmp_path / f"{name}.json").write_text("\n".join(json.dumps(row) for row in part))
    files = ("--forget", tmp_path / "forget.json", "--retain", tmp_path / "retain.json")
    options = ("--epochs", "5", "--threads", "1", "--quiet")
    out = tmp_path / "mine"
    unseen = ("--unseen", tmp_path / "unseen.json")
    done = run_command("unlearn", "fit", "--model", fitted / "base", *files, *unseen, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    before, after = metrics["figures"]["before"], metrics["figures"]["after"]
    assert before["membership AUC"] > 0.95  # the base knows them by heart, and not the others
    assert 0 < after["membership AUC"] <= before["membership AUC"]
    assert before["unseen variation"] == 0 < after["unseen variation"] < 1
    assert "privacy leakage" not in after  # without a reference
    told = run_command("unlearn", "eval", out, "--reference", fitted / "reference", "--json")
    assert np.isfinite(json.loads(told.stdout)["figures"]["after"]["privacy leakage"])
    (out / "setup.json").write_text(json.dumps(json.loads((out / "setup.json").read_text()) | {"reference": None}))
    known = ("--unseen", files[1])
    mixed = run_command("unlearn", "fit", "--model", fitted / "base", *files, *known, "--out", tmp_path / "y", *options)
    assert mixed.returncode == 1
    assert "unseen questions are to be forgotten" in mixed.stderr
    assert metrics["forget_quality"] is None
    assert np.isfinite(metrics["figures"]["after"]["forget probability"])
    assert run_command("verify", out, "-q").returncode == 0
    same = run_command(
        "unlearn", "fit", "--model", fitted / "base", "--forget", files[1], "--retain", files[1], "--out",
        tmp_path / "x", *options,
    )  # fmt: skip
    assert same.returncode == 1
    assert "also to be retained" in same.stderr


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_of_hugging_face(tmp_path, kind):
    local_model(kind, tmp_path / "base")
    made = tofu.make_questions(authors=6, forget=2)
    for name, rows in (("forget", made.forget), ("retain", made.retain)):
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    files = ("--forget", tmp_path / "forget.json", "--retain", tmp_path / "retain.json")
    options = ("--epochs", "2", "--rank", "2", "--threads", "1", "--quiet")
    out = tmp_path / "run"
    done = run_command("unlearn", "fit", "--model", tmp_path / "base", *files, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert run_command("verify", out, "--rescore", "-q").returncode == 0
    told = run_command("unlearn", "generate", out, made.forget[0]["question"], "--beams", "2", "--max-tokens", "5")
    assert "without the heads" in told.stdout


def test_errors_are_one_sentence(tmp_path):
    q = tmp_path / "q.json"
    q.write_text('{"question": "a", "answer": "b"}\n')
    for arguments, message in (
        (["fit", "--model", tmp_path, "--out", tmp_path / "a"], "questions"),
        (["fit", "--forget", q, "--out", tmp_path / "b"], "both"),
        (
            ["fit", "--forget", tmp_path / "q.json", "--retain", tmp_path / "q.json", "--out", tmp_path / "c"],
            "also to be retained",
        ),
        (["eval", tmp_path], "no finished run"),
        (["generate", tmp_path, "Who?"], "no finished run"),
    ):
        done = run_command("unlearn", *arguments)
        assert done.returncode == 1, (arguments, done.stderr)
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_a_run_is_served_by_the_gateway(fitted):
    """What the gateway says greedily is what the run's model says, all heads on."""
    from corollary.serving._loaders import library_model
    from corollary.unlearning._opened import Opened

    served, opened = library_model(fitted), Opened(fitted)
    question = opened.rows("retain")[0]["question"]
    options = {"max_tokens": 12, "temperature": 0.0, "top_p": 1.0, "seed": 0, "heads": None}
    said = "".join(served.stream(served.prompt([{"role": "user", "content": question}]), **options))
    own = opened.model().generate([served.prompt(question)], max_new_tokens=12)[0]
    assert said == opened.base[1].decode(own) != ""


def test_plain_questions_and_answers_are_enough(fitted, tmp_path):
    """Without wrong answers those of other questions are taken, and everything says so."""
    questions = json.loads((fitted / "questions.json").read_text())
    files = []
    for name, part in (("forget", questions["forget"]), ("retain", questions["retain"] + questions["held_out"])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps({k: row[k] for k in ("question", "answer")}) for row in part))
        files += [f"--{name}", path]
    out = tmp_path / "run"
    options = ("--model", fitted / "base", "--reference", fitted / "reference", "--epochs", "2", "--threads", "1")
    done = run_command("unlearn", "fit", *files, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert "answers of other questions" in done.stdout
    kept = json.loads((out / "questions.json").read_text())
    assert {len(r["perturbed_answer"]) for p in ("forget", "retain", "held_out") for r in kept[p]} == {5}
    assert all(r["answer"] not in r["perturbed_answer"] for r in kept["forget"])
    assert "against answers of other questions" in load_certificate(out)[0].parts[-1].statement
    assert "answers of other questions" in (out / "report.html").read_text()
    assert run_command("verify", out, "--rescore", "-q").returncode in (0, 4)
    half = tmp_path / "half.jsonl"
    half.write_text(json.dumps(questions["forget"][0]))
    files[1] = half
    refused = run_command("unlearn", "fit", *files, "--out", tmp_path / "other", *options)
    assert refused.returncode == 1
    assert "give wrong answers to all of them" in " ".join(refused.stderr.split())


class Killed(Exception):
    pass


def test_a_killed_run_goes_on_where_it_stopped(fitted, tmp_path):
    """Killed while training, then while measuring; it ends with the head of a run that was left alone."""
    questions = json.loads((fitted / "questions.json").read_text())
    paths = {"model": fitted / "base"}
    for name, part in (("forget", questions["forget"]), ("retain", questions["retain"] + questions["held_out"])):
        paths[name] = tmp_path / f"{name}.json"
        paths[name].write_text("\n".join(json.dumps(row) for row in part))
    training = HeadTraining(rank=4, epochs=25, seed=3)

    def run(out, *, until):
        seen = []

        def tell(what, share):
            seen.append(what)
            if what.startswith(until[0]) and share >= until[1]:
                raise Killed

        with RunFolder(tmp_path / out, {"verb": "unlearn"}) as folder, pytest.raises(Killed):
            fit_run(folder, **paths, training=training, tell=tell)
        return seen

    measuring = ("forget before", 0.0)
    run("alone", until=measuring)
    run("killed", until=("training the head", 0.9))
    assert not (tmp_path / "killed" / "heads").exists()
    assert not any(what.startswith("states") for what in run("killed", until=measuring))
    weights = [next((tmp_path / out / "heads").glob("weights-*.safetensors")) for out in ("alone", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    seen = run("killed", until=("sweeping", 0.0))  # what is certified is written by then
    assert "training the head" not in seen
    assert run_command("verify", tmp_path / "killed", "-q").returncode == 0


@pytest.mark.slow
def test_a_composed_model_of_hugging_face_experts(tmp_path):
    """It brings its tokenizer, so that the command needs nothing but its folder."""
    shared = tiny_hf.tokenizer()
    experts = {
        n: HFExpert(tiny_hf.model(n, seed=i, positions=256), tokenizer=shared) for i, n in enumerate(("llama", "gpt2"))
    }
    ComposedLM(experts, BayesGate(2)).save(tmp_path / "base")
    rows = [
        {"question": f"{a} and {b}?", "answer": f"{a} {b}", "perturbed_answer": ["no"]}
        for a in ("one", "two", "sea", "blue", "deep", "four")
        for b in ("is", "the", "and", "two", "sea", "one")
    ]
    for name, part in (("forget", rows[:6]), ("retain", rows[6:])):
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    files = ("--forget", tmp_path / "forget.json", "--retain", tmp_path / "retain.json")
    options = ("--epochs", "2", "--rank", "2", "--threads", "1", "--quiet")
    out = tmp_path / "run"
    done = run_command("unlearn", "fit", "--model", tmp_path / "base", *files, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["base_parameters"] == sum(p.numel() for e in experts.values() for p in e.model.parameters())
    assert metrics["trained_parameters"] == 2 * (64 + 280)
    assert run_command("verify", out, "--rescore", "-q").returncode == 4  # under 30 held out: undecided
    told = run_command("unlearn", "generate", out, "one and sea?", "--max-tokens", "4")
    assert "without the heads" in told.stdout
