import json
import os
import subprocess
import sys

import numpy as np
import pytest

from corollary.documents import Documents
from corollary.errors import InvalidFileError
from corollary.models import LanguageModel, NgramModel, load, register_loader
from corollary.models import _protocol as protocol
from corollary.models import _storage as storage

OLD = NgramModel.fit(Documents.from_texts(["to be or not to be"]), order=4)
NEW = NgramModel.fit(Documents.from_texts(["that is the question"]), order=5)


@pytest.fixture
def folder(tmp_path):
    OLD.save(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder, **changes):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def weights(folder):
    (path,) = folder.glob("weights-*.safetensors")
    return path


def test_round_trip_is_bit_equal(folder):
    back = load(folder)
    assert isinstance(back, LanguageModel)
    assert back.fingerprint() == OLD.fingerprint()
    np.testing.assert_array_equal(back.discounts, OLD.discounts)
    for ours, theirs in zip(OLD.tables, back.tables, strict=True):
        for name in ("keys", "log_prob", "log_escape", "count"):
            assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes()
    documents = Documents.from_texts(["be not", "zz"])
    np.testing.assert_array_equal(back.log_probs(documents), OLD.log_probs(documents))
    header = json.loads((folder / "model.json").read_text())
    assert (header["kind"], header["format"]) == ("ngram", 1)


def test_saving_again_replaces_and_leaves_two_files(folder):
    NEW.save(folder)
    assert load(folder).fingerprint() == NEW.fingerprint()
    assert len(list(folder.iterdir())) == 2
    NEW.save(folder)
    assert load(folder).fingerprint() == NEW.fingerprint()


@pytest.mark.parametrize("victim", ["weights", "model.json"])
@pytest.mark.parametrize("problem", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_model(folder, monkeypatch, victim, problem):
    replace = os.replace

    def failing(source, target):
        if os.path.basename(target).startswith(victim):
            raise problem
        replace(source, target)

    monkeypatch.setattr(storage.os, "replace", failing)
    with pytest.raises(type(problem)):
        NEW.save(folder)
    assert load(folder).fingerprint() == OLD.fingerprint()
    assert not [p for p in folder.iterdir() if p.name.startswith(".partial")]


def test_a_full_disk_while_writing_leaves_no_part(folder, monkeypatch):
    import safetensors.numpy

    def half(arrays, path):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", half)
    with pytest.raises(OSError, match="space"):
        NEW.save(folder)
    assert load(folder).fingerprint() == OLD.fingerprint()
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("after", [0, 1])
def test_a_killed_save_leaves_the_old_model(folder, after):
    code = f"""
import os
from corollary.documents import Documents
from corollary.models import NgramModel
replace, calls = os.replace, []
def killed(source, target):
    if len(calls) == {after}:
        os._exit(9)
    calls.append(target)
    replace(source, target)
os.replace = killed
NgramModel.fit(Documents.from_texts(["that is the question"]), order=5).save({str(folder)!r})
"""
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 9
    assert load(folder).fingerprint() == OLD.fingerprint()
    NEW.save(folder)  # what the killed process left is cleared by the next save
    assert len(list(folder.iterdir())) == 2


def test_missing_and_foreign_files(folder, tmp_path):
    with pytest.raises(InvalidFileError, match="no such file"):
        load(tmp_path / "nowhere")
    for content, problem in [
        (b"\xff\xfe", "not JSON"),
        (b"{", "not JSON"),
        (b"[1]", "no description"),
        (b'{"a": 1}', "no description"),
        (b'{"kind": "ngram"}', "format None"),
        (b'{"kind": "ngram", "format": 2}', "format 2"),
        (b'{"kind": "bigfoot", "format": 1}', "unknown kind 'bigfoot'"),
        (b'{"kind": "ngram", "format": 1, "order": 99}', "order"),
        (b'{"kind": "ngram", "format": 1, "order": 2, "discounts": [["a"]]}', "discounts"),
        (b'{"kind": "ngram", "format": 1, "order": 1, "discounts": [[1, 1, 1]]}', "names no weights"),
        (b" " * (storage.MAX_JSON_BYTES + 1), "larger than"),
    ]:
        (folder / "model.json").write_bytes(content)
        with pytest.raises(InvalidFileError, match=problem):
            load(folder)


def test_weights_never_leave_the_folder(folder):
    for name in ("../model/weights-0123456789abcdef.safetensors", "/etc/passwd", 3):
        rewrite(folder, weights=name)
        with pytest.raises(InvalidFileError, match="no weights of its own"):
            load(folder)


def test_truncated_oversized_and_changed_weights(folder):
    path = weights(folder)
    good = path.read_bytes()
    for size in (0, 7, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(InvalidFileError, match="bytes long"):
            load(folder)
        rewrite(folder, weights_bytes=size)
        with pytest.raises(InvalidFileError, match="not a safetensors file"):
            load(folder)
        rewrite(folder, weights_bytes=len(good))
    path.write_bytes(good + b"more")
    with pytest.raises(InvalidFileError, match="bytes long"):
        load(folder)
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(InvalidFileError, match=r"hash differs|wrong shapes"):
        load(folder)
    path.unlink()
    with pytest.raises(InvalidFileError, match="no such file"):
        load(folder)


def damaged(name, value):
    arrays = OLD._arrays()
    arrays[name] = value
    return arrays


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("log_prob.2", np.full_like(OLD.tables[2].log_prob, np.nan), "not finite"),
        ("log_escape.1", np.full_like(OLD.tables[1].log_escape, -np.inf), "not finite"),
        ("log_prob.2", OLD.tables[2].log_prob[:-1], "wrong shapes"),
        ("log_prob.2", OLD.tables[2].log_prob + 40, "wrong shapes, types or values"),
        ("log_prob.2", OLD.tables[2].log_prob.astype(np.float16), "wrong shapes"),
        ("count.2", -1 - OLD.tables[2].count, "wrong shapes, types or values"),
        ("keys.2", OLD.tables[2].keys[::-1].copy(), "wrong shapes, types or values"),
        ("keys.2", OLD.tables[2].keys + np.uint64(1 << 20), "wrong shapes, types or values"),
        ("keys.2", OLD.tables[2].keys.astype(np.int64), "wrong shapes"),
        ("keys.2", OLD.tables[2].keys[None], "wrong shapes"),
        ("extra", np.zeros(1), "not the tables"),
        ("log_prob.2", OLD.tables[2].log_prob - 0.5, "hash differs"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, name, value, problem):
    header = {"kind": "ngram", **OLD._config(), "fingerprint": OLD.fingerprint()}
    storage.write_model(tmp_path, header, damaged(name, value))
    with pytest.raises(InvalidFileError, match=problem):
        load(tmp_path)


def test_registered_loaders(folder, monkeypatch):
    monkeypatch.setattr(protocol, "_LOADERS", dict(protocol._LOADERS))
    seen = []
    register_loader("mine", lambda path, header: seen.append((path, header["note"])) or OLD)
    rewrite(folder, kind="mine", note=7)
    assert load(str(folder)) is OLD
    assert seen == [(folder, 7)]


def test_torch_is_not_loaded_for_ngrams():
    code = "import sys, corollary.models as m; m.NgramModel; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
