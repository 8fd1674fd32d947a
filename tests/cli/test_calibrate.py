"""`corollary calibrate`: recorded and live streams, labels and vectors, a model's stream, bad input, resuming."""

import json

import numpy as np
import pytest

from conftest import run_command
from corollary.calibration import TreeCal, read_stream
from corollary.calibration._calibrate import calibrate_stream
from corollary.calibration._follow import LOG, Follower
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.runs import RunFolder


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    """700 rounds of three classes with a model's probabilities."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("stream") / "s.csv"
    P = rng.dirichlet(np.ones(3), 700)
    Q = P**0.5 / (P**0.5).sum(1, keepdims=True)
    y = [rng.choice(["cat", "dog", "eel"], p=q) for q in Q]
    lines = [",".join([*(f"{v:.6f}" for v in p), label]) for p, label in zip(P, y, strict=True)]
    path.write_text("\n".join(["p_cat,p_dog,p_eel,y", *lines]) + "\n")
    return path


def test_calibrate_prints_bounds_at_powers_of_two_and_verifies(csv, tmp_path):
    out = tmp_path / "run"
    done = run_command("calibrate", csv, "--outcome", "y", "--method", "treecal", "--levels", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    for word in ("theorem", "trivial", "512", "700", "swap regret", "method treecal", "Brier"):
        assert word in done.stdout
    page = (out / "report.html").read_text()
    for heading in ("Error and bounds over time", "Reliability", "Calibration error as the stream runs", "Certificate"):
        assert heading in page
    rows = json.loads((out / "metrics.json").read_text())["checkpoints"]
    assert [r["rounds"] for r in rows] == [2**k for k in range(10)] + [700]
    assert all(r["l1"] <= r["theorem_spread"] <= r["theorem"] <= r["trivial"] + 1e-9 for r in rows)
    for extra in ([], ["--rescore"]):
        again = run_command("verify", out, *extra)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "HOLDS" in again.stdout


def test_calibrate_a_models_stream(csv, tmp_path):
    out = tmp_path / "run"
    done = run_command("calibrate", csv, "--outcome", "y", "--forecast", "p_*", "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["method"] == "platt"
    assert told["brier"]["brier"] < told["base_brier"]
    assert told["ece"]["calibrated"] < told["ece"]["model"]
    assert run_command("verify", out, "--rescore").returncode == 0


def test_errors_are_one_sentence(csv, tmp_path):
    broken = tmp_path / "b.csv"
    text = csv.read_text().splitlines()
    broken.write_text("\n".join([*text[:10], "0.2,nan,0.8,cat", *text[10:20]]))
    for arguments, message in (
        ([csv, "--outcome", "label"], "has no column 'label'"),
        ([broken, "--forecast", "p_*"], "round 10: column 'p_dog' holds 'nan'"),
        ([csv, "--method", "magic"], "`method` must be"),
        ([csv, "--method", "calibeating"], "builds on another model"),
        ([csv, "--forecast", "p_c*"], "has 1 columns, the outcomes 3"),
        ([csv, "--classes", "cat,dog"], "'eel' is none of the classes"),
        ([csv, "--method", "hedge", "--levels", "3"], "are for trees"),
        ([tmp_path / "none.csv"], "no such file"),
        ([], "give a CSV file"),
        ([csv, "--follow"], "give no file"),
        (["--follow", "--levels", "3"], "for recorded streams"),
    ):
        done = run_command("calibrate", *arguments, "--out", tmp_path / "run", "--overwrite")
        assert done.returncode == 1, arguments
        assert message in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def test_follow_answers_every_line_and_goes_on_where_it_stopped(tmp_path):
    out, lines = tmp_path / "run", ["y", "", "yes", "no", "nan", "maybe", "yes"]
    arguments = ("calibrate", "--follow", "--classes", "no,yes", "--method", "treecal", "--out", out)
    done = run_command(*arguments, input="\n".join(lines) + "\n")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [a["round"] for a in answers] == [1, 2, 3, 3, 3, 4]
    assert [a["forecasts"] for a in answers[3:5]] == [answers[2]["forecasts"]] * 2  # refused: nothing changed
    assert "round 3: the outcome 'nan'" in answers[3]["refused"]
    assert "round 3" in done.stderr
    # cut short in the middle of a line, as by a power failure
    log = out / LOG
    log.write_bytes(log.read_bytes() + b'{"y": [0.0,')
    done = run_command(*arguments, input="y\nno\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["round"] == 5
    for extra in ([], ["--rescore"]):
        assert run_command("verify", out, *extra).returncode == 0
    assert json.loads((out / "metrics.json").read_text())["rounds"] == 4


def test_followed_forecasts_are_those_of_the_library(tmp_path):
    outcomes = [[0.0, 1.0], [0.5, 0.25], [1.0, 1.0], [0.25, 0.0]]
    follower = Follower(tmp_path, outcome="[ab]", method="treecal")
    answers = list(follower.answer(["a,b", *(f"{a},{b}" for a, b in outcomes), "2,0", "x,1", "1", "nan,1"]))
    alone = TreeCal(follower.domain, **follower.calibrator.forecaster.schedule.as_plain())
    for y, answer in zip(outcomes, answers, strict=False):
        alone.update(y)
        assert answer.forecasts == alone.predict()[0].tolist()
    problems = [a.problem for a in answers[4:]]
    for told, expected in zip(problems, ("outside", "'x'", "1 fields", "'nan'"), strict=True):
        assert expected in told
        assert "round 5" in told
    shares = Follower(tmp_path / "shares", outcome="[ab]", set="simplex")
    shares.folder.mkdir()
    told = list(shares.answer(["a,b", ".3,.7", ".5,.6"]))
    assert "outside" in told[1].problem
    with pytest.raises(InvalidInputError, match="given beforehand"):
        Follower(tmp_path, set="ball")
    again = Follower(tmp_path, outcome="[ab]", method="treecal")
    assert next(again.answer(["a,b", "0,0"])).round == 6


def test_follow_with_a_model(tmp_path):
    follower = Follower(tmp_path, forecast="p_*", classes=["a", "b"])
    said = list(follower.answer(["y,p_b", "b,.7", ",.7", "b,.6", "a,1.5", "a,.1", ""]))
    assert "before the first forecast" in said[0].problem
    assert said[0].forecasts == []
    assert said[1].mean == pytest.approx([0.3, 0.7])
    assert "no probabilities" in said[3].problem
    assert [a.round for a in said] == [1, 1, 2, 2, 3]
    for arguments, message in (
        ({"classes": ["a"]}, "two different"),
        ({"classes": ["a", "a"]}, "two different"),
        ({"low": 1.0, "high": 0.0}, "below"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            Follower(tmp_path, **arguments)
    with pytest.raises(InvalidInputError, match="must be a header"):
        list(Follower(tmp_path / "x").answer([]))
    (tmp_path / LOG).write_text('{"z": 1}\n')
    with pytest.raises(InvalidFileError, match="line 1 is none of a log"):
        list(Follower(tmp_path, classes=["a", "b"]).answer(["y", "a"]))


def test_interrupted_run_goes_on(csv, tmp_path, monkeypatch):
    monkeypatch.setattr("corollary.calibration._calibrate.CHUNK", 100)
    options = {"outcome": "y", "forecast": "p_*", "method": "platt+calibeating"}
    with RunFolder(tmp_path / "whole", {"verb": "calibrate"}) as run:
        whole = calibrate_stream(run, csv, **options)
    calls = []

    def stop(what, share=0.0):
        calls.append(what)
        if what == "round 401":
            raise KeyboardInterrupt

    with RunFolder(tmp_path / "part", {"verb": "calibrate"}) as run, pytest.raises(KeyboardInterrupt):
        calibrate_stream(run, csv, tell=stop, **options)
    assert not (tmp_path / "part" / "metrics.json").exists()
    with RunFolder(tmp_path / "part", {"verb": "calibrate"}) as run:
        assert calibrate_stream(run, csv, **options) == whole


def write(path, text):
    path.write_text(text)
    return path


def test_streams_are_read_as_what_they_are(tmp_path):
    labels = read_stream(write(tmp_path / "a.csv", "p,y\n.2,0\n.9,1\n"), forecast="p")
    assert labels.classes == ("0", "1")
    assert labels.base.tolist() == [[0.8, 0.2], [0.09999999999999998, 0.9]]
    shares = read_stream(write(tmp_path / "b.csv", "y_1;y_2\n.2;.8\n1;0\n.33333;.66666\n"), outcome="y_*")
    assert (shares.kind, shares.domain.as_plain()["set"]) == ("vectors", "simplex")
    free = read_stream(write(tmp_path / "c.csv", "a\tb\n1\t-3\n0\t5\n"), outcome="[ab]")
    assert free.domain.as_plain() == {"set": "box", "low": [0.0, -3.0], "high": [1.0, 5.0]}
    assert read_stream(tmp_path / "c.csv", outcome="[ab]", set="ball").domain.radius == 5.0
    number = read_stream(write(tmp_path / "d.csv", "y\n0.5\n1.25\n"))
    assert (number.kind, number.outcomes.shape) == ("vectors", (2, 1))
    places = read_stream(write(tmp_path / "e.csv", "p_0,p_1,p_2,y\n.2,.3,.5,2\n.2,.3,.5,0\n"), forecast="p_*")
    assert places.outcomes.tolist() == [[0, 0, 1], [1, 0, 0]]
    constant = read_stream(write(tmp_path / "f.csv", "y\n1\n1\n"))
    assert constant.outcomes.tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("y\n", {}, "no rounds"),
        ("", {}, "no rounds"),
        ("a,y\n1,2\n1\n", {}, "round 2 has 1 fields"),
        ("y\ncat\n\ncat\n", {}, "1 different labels"),
        ("y,z\n0.5,a\nnan,b\n", {"outcome": "y"}, "nan"),
        ("y_a,y_b\n0.5,0.5\n0.5,oops\n", {"outcome": "y_*"}, "round 2: column 'y_b' holds 'oops'"),
        ("y_a,y_b\n0.5,0.5\n0.5,2\n", {"outcome": "y_*", "set": "simplex"}, "round 2: .*simplex"),
        ("y_a,y_b\n0.5,0.5\n0.5,2\n", {"outcome": "y_*", "set": "sphere"}, "`set` must be"),
        ("y,p\n1,0.5\n0,1.5\n", {"forecast": "p"}, "round 2: .*no probabilities"),
        ("y,p\n1,0.5\n0,0.5\n", {"outcome": "*", "forecast": "p"}, "both outcome and forecast"),
    ],
)
def test_bad_files(tmp_path, text, options, message):
    with pytest.raises((InvalidFileError, InvalidInputError), match=message):
        read_stream(write(tmp_path / "s.csv", text), **options)
    with pytest.raises(InvalidFileError, match="is a folder"):
        read_stream(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InvalidFileError, match="not a CSV"):
        read_stream(tmp_path / "binary.csv")
