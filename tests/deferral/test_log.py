"""Reading logs: wide and long, three formats, roles by rule, and files that are not what they should be."""

import json

import numpy as np
import pytest

from corollary.deferral.routing import RoutingLog, read_log
from corollary.errors import InvalidFileError, InvalidInputError

WIDE = [
    {"id": 1, "question": "easy one", "cheap": True, "dear": True, "cheap_cost": 0.1, "dear_cost": 2.0, "feature:x": 3},
    {
        "id": 2,
        "question": "hard one",
        "cheap": False,
        "dear": True,
        "cheap_cost": 0.1,
        "dear_cost": 3.0,
        "feature:x": 4,
    },
]
LONG = [
    {"prompt": "b", "model": "dear", "quality": 1.0, "cost": 2.0, "propensity": 0.5},
    {"prompt": "a", "model": "cheap", "quality": 0.0, "cost": 0.1, "propensity": 0.5},
    {"prompt": "a", "model": "dear", "quality": 1.0, "cost": 4.0, "propensity": 0.25},
]


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    elif path.suffix == ".csv":
        names = list(rows[0])
        path.write_text("\n".join([",".join(names), *(",".join(str(r[n]) for n in names) for r in rows)]))
    else:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_wide(tmp_path, ending):
    log = read_log(write(tmp_path / f"log.{ending}", WIDE))
    assert log.models == ("cheap", "dear")
    assert log.prompts == ("easy one", "hard one")
    np.testing.assert_array_equal(log.quality, [[1, 1], [0, 1]])
    np.testing.assert_array_equal(log.costs, [[0.1, 2], [0.1, 3]])
    np.testing.assert_array_equal(log.given, [[3], [4]])
    assert log.roles["dear_cost"] == "cost of dear"
    assert "id" not in log.roles


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_long(tmp_path, ending):
    log = read_log(write(tmp_path / f"log.{ending}", LONG))
    assert log.models == ("cheap", "dear")
    assert log.prompts == ("b", "a")
    np.testing.assert_array_equal(log.quality, [[np.nan, 1], [0, 1]])
    np.testing.assert_array_equal(log.costs, [[0.1, 2], [0.1, 4]])  # the empty cell at the model's mean
    np.testing.assert_array_equal(log.propensity, [[np.nan, 0.5], [0.5, 0.25]])
    assert not log.complete


def test_without_costs(tmp_path):
    path = write(tmp_path / "log.jsonl", [{"prompt": "p", "m1": 1, "m2": 0}, {"prompt": "q", "m1": 1, "m2": 1}])
    log = read_log(path)
    assert log.models[log.dearer] == "m1"  # of higher mean quality
    np.testing.assert_array_equal(log.costs, [[1, 0], [1, 0]])
    priced = read_log(path, prices={"m1": 0.5, "m2": 2.0})
    assert priced.models[priced.dearer] == "m2"
    with pytest.raises(InvalidInputError, match="m2"):
        read_log(path, prices={"m1": 0.5})


def test_sizes_in_names_price_more_than_two(tmp_path):
    rows = [{"prompt": "p", "small-7b": 1, "big-70b": 0, "mid-3.5B-it": 1}]
    log = read_log(write(tmp_path / "log.jsonl", rows))
    np.testing.assert_allclose(log.costs[0], [0.1, 1.0, 0.05])
    rows = [{"prompt": "p", "a": 1, "b": 0, "c": 1}]
    with pytest.raises(InvalidInputError, match="prices"):
        read_log(write(tmp_path / "other.jsonl", rows))


def test_choices_groups_and_exclusion(tmp_path):
    path = write(tmp_path / "log.jsonl", [{**r, "who": f"user {r['id']}"} for r in WIDE])
    drop = tmp_path / "drop.jsonl"
    drop.write_text(json.dumps({"eval_prompt": "easy one"}) + "\n" + json.dumps("nothing") + "\n")
    log = read_log(path, models=["dear", "cheap"], group="who", exclude=drop)
    assert log.models == ("dear", "cheap")
    assert log.prompts == ("hard one",)
    assert log.group.tolist() == ["user 2"]


def test_longest_text_is_the_prompt(tmp_path):
    rows = [{"tag": "x", "request body": "a long request", "a": 1, "b": 0}]
    assert read_log(write(tmp_path / "log.jsonl", rows)).prompts == ("a long request",)


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("absent.csv", None, InvalidFileError, "no such file"),
        ("log.txt", "x", InvalidFileError, "ending"),
        ("empty.jsonl", "", InvalidFileError, "no rows"),
        ("cut.jsonl", '{"prompt": "a", "m1": 1, "m2"', InvalidFileError, "line 1"),
        ("list.jsonl", "[1]\n", InvalidFileError, "object"),
        ("ragged.csv", "prompt,a,b\nx,1\n", InvalidFileError, "fields"),
        ("twice.csv", "prompt,a,a\nx,1,1\n", InvalidFileError, "same name"),
        ("binary.csv", b"\xff\xfe\x00", InvalidFileError, "UTF-8"),
        ("foreign.parquet", "not parquet", InvalidFileError, "Parquet"),
        ("one.csv", "prompt,a\nx,1\n", InvalidInputError, "two models"),
        ("range.csv", "prompt,a,b\nx,1,7\n", InvalidInputError, "two models"),
        ("noprompt.csv", "a,b\n1,1\n", InvalidInputError, "prompt"),
        ("hole.csv", "prompt,a,b\n,1,1\n", InvalidInputError, "prompt"),
        ("half.csv", "prompt,a,b,a_cost\nx,1,1,2\n", InvalidInputError, "cost"),
        ("double.csv", "prompt,model,quality\nx,a,1\nx,a,1\nx,b,0\n", InvalidInputError, "twice"),
        ("nan.csv", "prompt,a,b,feature:z\nx,1,0,\n", InvalidInputError, "finite"),
    ],
)
def test_files_that_are_not_logs(tmp_path, name, content, error, words):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(error, match=words):
        read_log(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"quality": np.full((2, 2), 3.0)}, "quality"),
        ({"quality": np.array([[np.nan, 1], [np.nan, 1]])}, "never asked"),
        ({"cost": np.full((2, 2), -1.0)}, "cost"),
        ({"cost": np.ones((3, 2))}, "shape"),
        ({"propensity": np.zeros((2, 2))}, "propensity"),
        ({"models": ("a", "a")}, "twice"),
        ({"prompts": ()}, "prompts"),
    ],
)
def test_logs_that_contradict_themselves(options, words, as_shipped):
    base = {"prompts": ("x", "y"), "models": ("a", "b"), "quality": np.ones((2, 2))}
    with pytest.raises(InvalidInputError, match=words):
        RoutingLog(**{**base, **options})
