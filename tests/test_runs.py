"""Run folders: resume, refusal, locks, and nothing half-written."""

import numpy as np
import pytest

import corollary.runs
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.runs import RunFolder, read_json, read_tensors, to_toml, write_atomically, write_json, write_tensors


def test_a_stage_is_computed_once_and_survives(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        with RunFolder(tmp_path / "run", {"seed": 0}) as run:
            assert (run.stage("a", compute)["x"] == [0, 1, 2]).all()
    assert len(calls) == 1


def test_a_failing_stage_leaves_nothing(tmp_path):
    with RunFolder(tmp_path / "run", {}) as run:
        with pytest.raises(ZeroDivisionError):
            run.stage("a", lambda: 1 / 0)
        with pytest.raises(KeyboardInterrupt):
            run.once("model", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt()), lambda folder: None)
        assert run.once("model", lambda f: (f / "x").write_text("1"), lambda f: (f / "x").read_text()) == "1"
    assert not list((tmp_path / "run" / "stages").glob("a*"))


def test_other_settings_are_refused_by_name(tmp_path):
    RunFolder(tmp_path / "run", {"seed": 0, "data": {"a": "x"}}).close()
    with pytest.raises(InvalidInputError, match="seed: 0 there, 1 now"):
        RunFolder(tmp_path / "run", {"seed": 1, "data": {"a": "x"}})
    with RunFolder(tmp_path / "run", {"seed": 1}, overwrite=True) as run:
        assert run.config == {"seed": 1}


def test_foreign_folders_files_and_locks(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidInputError, match="is a file"):
        RunFolder(tmp_path / "file", {})
    with pytest.raises(InvalidInputError, match="something else"):
        RunFolder(tmp_path, {})
    with (
        RunFolder(tmp_path / "run", {}) as run,
        pytest.raises(InvalidInputError, match="in use"),
    ):
        RunFolder(tmp_path / "run", {})
    with pytest.raises(InvalidInputError, match="leave the run folder"):
        run.inside("../outside.json")


def test_refused_input_does_not_bind_the_folder(tmp_path):
    def attempt(config, *, work=False):
        with RunFolder(tmp_path / "run", config) as run:
            run.inside("data/x")
            if work:
                write_json(run.inside("metrics.json"), {})
            raise InvalidInputError("no such column")

    with pytest.raises(InvalidInputError, match="no such column"):
        attempt({"target": "wrong"})
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(InvalidInputError, match="no such column"):
        attempt({"target": "wrong again"})
    assert {p.name for p in (tmp_path / "run").iterdir()} == {".lock"}
    with pytest.raises(InvalidInputError, match="no such column"):
        attempt({"target": "right"}, work=True)
    with pytest.raises(InvalidInputError, match="other settings"):  # work was done here, so the settings stay
        RunFolder(tmp_path / "run", {"target": "other"})


def test_broken_settings_are_named(tmp_path):
    RunFolder(tmp_path / "run", {"seed": 0}).close()
    (tmp_path / "run" / "config.toml").write_text("= broken")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        RunFolder(tmp_path / "run", {"seed": 0})


def test_atomic_writes_clean_up(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_atomically(target, "old")

    def broken(path):
        path.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_atomically(target, broken)
    monkeypatch.setattr(corollary.runs, "MAX_JSON_BYTES", 1)
    with pytest.raises(InvalidFileError, match="larger than"):
        read_json(target)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_tensors_and_limits(tmp_path, monkeypatch):
    write_tensors(tmp_path / "t.safetensors", {"x": np.eye(2)[:, ::-1]})
    assert (read_tensors(tmp_path / "t.safetensors")["x"] == np.eye(2)[:, ::-1]).all()
    monkeypatch.setattr(corollary.runs, "MAX_TENSOR_BYTES", 1)
    with pytest.raises(InvalidFileError, match="larger than"):
        read_tensors(tmp_path / "t.safetensors")
    with pytest.raises(InvalidFileError, match="no such file"):
        read_tensors(tmp_path / "missing")


def test_toml_of_what_users_type():
    import tomllib

    config = {"a": True, "b": [1, 2.5], "c": 'quo"te', "d": None, "t": {"k.x": "v", "n": None}}
    assert tomllib.loads(to_toml(config)) == {"a": True, "b": [1, 2.5], "c": 'quo"te', "t": {"k.x": "v"}}
