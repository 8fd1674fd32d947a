"""README, pages and docstrings: complete, and what they show runs."""

import doctest
import importlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import corollary

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "corollary"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEAVY = {"embedded-data.md", "in_depth/compose_text.py"}  # tens of seconds: with the slow tests
THREADS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}


def load(path):
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks, tables, figures = (load(DOCS / f"{name}.py") for name in ("hooks", "tables", "figures"))


def marked(items, name):
    return [pytest.param(i, id=name(i), marks=[pytest.mark.slow] if name(i) in HEAVY else []) for i in items]


def relative(path):
    return path.relative_to(ROOT / "examples" if "examples" in path.parts else DOCS).as_posix()


# what is public


def public_packages():
    """Packages with names of their own to offer: all but the command line and what is still empty."""
    for path in sorted(SOURCE.glob("*/__init__.py")):
        module = importlib.import_module(f"corollary.{path.parent.name}")
        if path.parent.name != "cli" and getattr(module, "__all__", ()):
            yield module


def public_things():
    """(full name, object) of every public function and class."""
    for module in public_packages():
        for name in module.__all__:
            yield f"{module.__name__}.{name}", getattr(module, name)
    for path in sorted(SOURCE.glob("[a-z]*.py")):
        module = importlib.import_module(f"corollary.{path.stem}")
        for name, thing in vars(module).items():
            if not name.startswith("_") and getattr(thing, "__module__", None) == module.__name__:
                yield f"{module.__name__}.{name}", thing


def on_api_pages():
    return [pair for page in sorted(DOCS.glob("api/*.md")) for pair in hooks.entries(page.read_text("utf-8"))]


def test_every_public_name_stands_on_exactly_one_api_page():
    found = on_api_pages()
    declared = {(m.__name__, name) for m in public_packages() for name in m.__all__}
    covered = {package for package, _ in declared}
    unknown = [f"{p}.{n}" for p, n in found if p in covered and (p, n) not in declared]
    missing = sorted(f"{p}.{n}" for p, n in declared - set(found))
    assert not missing, "not on an API page of docs/api: " + ", ".join(missing)
    assert not unknown, "on an API page, but not in __all__: " + ", ".join(unknown)
    assert len(found) == len(set(found)), "twice on API pages"


def test_modules_of_the_foundation_are_on_api_pages():
    missing = {f"{n}" for n, t in public_things() if n.count(".") == 2 and "corollary.__main__" not in n}
    missing = {n for n in missing if (SOURCE / f"{n.split('.')[1]}.py").exists()}
    missing -= {f"{p}.{n}" for p, n in on_api_pages()}
    assert not {
        n for n in missing if callable(getattr(importlib.import_module(n.rpartition(".")[0]), n.split(".")[-1]))
    }


def offenders(section):
    """Public functions and classes whose docstring lacks the section."""
    for name, thing in public_things():
        if (inspect.isclass(thing) or inspect.isroutine(thing)) and f"{section}:" not in (inspect.getdoc(thing) or ""):
            yield name


@pytest.mark.parametrize("section", ["Guarantee", "Example"])
def test_docstrings_have_their_sections(section):
    found = sorted(set(offenders(section)))
    assert not found, f"{len(found)} docstrings without `{section}:`\n  " + "\n  ".join(found)


# what is shown runs


def blocks(path):
    return BLOCK.findall(path.read_text("utf-8"))


@pytest.mark.parametrize("path", marked([p for p in PAGES if blocks(p)], lambda p: p.name))
def test_code_of_a_page_runs(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "page"}
    for block in blocks(path):
        exec(compile(block, str(path), "exec"), space)
    if path.name in ("README.md", "index.md"):
        assert "CERTIFICATE gating.duality_gap" in capsys.readouterr().out


def test_readme_is_short_and_its_first_code_is_a_dozen_lines():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert len(readme.splitlines()) <= 120
    first = [line for line in blocks(ROOT / "README.md")[0].splitlines() if line.strip()]
    assert len(first) <= 12
    assert "make demo" in readme
    assert "make test" in readme


EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))


@pytest.mark.parametrize("path", marked(EXAMPLES, relative))
def test_examples_run(path):
    command = [sys.executable, "-W", "error", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **THREADS}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


def test_the_gallery_shows_every_example():
    shown = [s for p in PAGES for s in hooks.scripts(p.read_text("utf-8"))]
    assert sorted(shown) == [p.relative_to(ROOT).as_posix() for p in EXAMPLES]
    assert {p.parent.name for p in EXAMPLES} >= {"first_steps", "in_depth", "paper_tables"}


def test_the_page_of_methods_names_files_and_tests_that_exist():
    page = (DOCS / "methods.md").read_text("utf-8")
    files = set(re.findall(r"`((?:gating|models|certificates|losses|metrics|optim|deferral)/\w+\.py)`", page))
    tests = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page))
    assert len(files) > 5
    assert len(tests) > 5
    assert not [f for f in files if not (SOURCE / f).exists()]
    assert not [t for f, t in tests if f"def {t}(" not in (ROOT / f).read_text("utf-8")]


def test_the_readme_names_files_that_exist():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text("utf-8"))
    assert links
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]


# tables and formulas


def test_tables_are_those_of_the_results():
    stale = [p.name for p in PAGES if tables.filled(p.read_text("utf-8")) != p.read_text("utf-8")]
    assert not stale, f"{stale}: run python docs/tables.py"


def test_figures_are_those_of_the_results(tmp_path, monkeypatch, capsys):
    assert figures.main(["--check"]) == 0, "run python docs/figures.py"
    (tmp_path / "docs" / "pictures").mkdir(parents=True)
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    curves = {f"curve {rate} {name}": [3.0, 2.0, 1.0] for rate in ("0.005", "0.01", "0.05") for name in figures.RIPPLES}
    cell = {"cell": {"data": "ripples", "seed": 0}, "result": curves}
    results = tmp_path / "benchmarks" / "results" / "optim.json"
    results.write_text(json.dumps({"cells": [cell]}))
    monkeypatch.setattr(figures, "ROOT", tmp_path)
    assert figures.main(["--check"]) == 1  # not drawn yet
    assert figures.main([]) == figures.main(["--check"]) == 0
    assert [f.name for f in (tmp_path / "docs" / "pictures").iterdir()] == ["optim-ripples.svg"]
    curves["curve 0.01 muon"][1] = 2.5
    results.write_text(json.dumps({"cells": [cell]}))
    capsys.readouterr()
    assert figures.main(["--check"]) == 1
    assert "stale: optim-ripples.svg" in capsys.readouterr().out


CELLS = """
DEFAULT = [{"data": "a", "seed": s} for s in range(3)] + [{"data": "b", "seed": 0}]
"""


def test_tables_are_filled_between_their_markers_and_again(tmp_path):
    (tmp_path / "benchmarks" / "toy").mkdir(parents=True)
    (tmp_path / "benchmarks" / "toy" / "cells.py").write_text(CELLS)
    page = "before\n<!-- table:toy:a -->\nold\n<!-- /table -->\nbetween <!-- table:toy -->\n<!-- /table --> after"
    empty = tables.filled(page, tmp_path)
    assert empty.count("Not measured yet") == 2
    assert "old" not in empty
    about = {"seconds": 1.0, "versions": {"python": "3.11"}, "machine": {"cpu": "a processor", "threads": 2}}
    done = [{"cell": {"data": "a", "seed": s}, "result": {"score": 1.0 + s}, **about} for s in (0, 1, 7)]
    results = tmp_path / "benchmarks" / "results" / "toy.json"
    results.parent.mkdir()
    results.write_text(json.dumps({"cells": done}))
    filled = tables.filled(page, tmp_path)
    assert "a: score 1.5 ± 0.5" in filled  # the cell of seed 7 is of no default grid
    assert "2 of 3 cells of the default grid; python 3.11; a processor, 2 threads." in filled
    assert "2 of 4 cells" in filled
    assert filled.startswith("before\n")
    assert filled.endswith(" after")
    assert tables.filled(filled, tmp_path) == filled


@pytest.mark.parametrize("name", ["hooks", "docstrings"])
def test_examples_in_the_scripts_of_the_site(name):
    outcome = doctest.testmod(load(DOCS / f"{name}.py"))
    assert outcome.attempted
    assert not outcome.failed


@pytest.mark.parametrize(
    ("tex", "shown"),
    [
        (r"\(\max_k \mathrm{KL}(p_k \| \pi)\)", "max<sub>k</sub> KL(p<sub>k</sub> ‖ π)"),
        (r"\(\frac{a + b}{c}\)", "(a + b)/c"),
        (r"\(x^{2} &lt; y\)", "x<sup>2</sup> &lt; y"),
        (r"\(\hat\sigma^2\)", "σ\u0302<sup>2</sup>"),
        (r"\(\sqrt{2 n}\)", "√(2 n)"),
        (r"\(a_", "a<sub></sub>"),
    ],
)
def test_formulas_read_without_scripts(tex, shown):
    assert hooks.formula(tex) == shown


def test_citation_and_changelog_know_the_version():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (.*)$", citation, re.MULTILINE)[1] == corollary.__version__
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["license"] in citation


@pytest.mark.slow
def test_the_site_builds_strictly_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **THREADS}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.search(r'<(?:script|img|iframe)[^>]*\bsrc="(?:https?:)?//', text), page
        assert not re.search(r'<link[^>]*rel="(?:stylesheet|preload|preconnect)"[^>]*href="(?:https?:)?//', text), page
