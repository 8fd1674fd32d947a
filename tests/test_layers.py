"""Imports run downwards only, rules of checking import no solver, and `import corollary` loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import corollary

SOURCE = Path(__file__).parents[1] / "src" / "corollary"
FLOOR = {
    **dict.fromkeys(("_lazy", "endpoints", "errors", "documents", "runs", "numerics", "certificates"), 1),
    **dict.fromkeys(("losses", "optim", "automata", "models", "datasets"), 2),
    **dict.fromkeys(("gating", "deferral", "unlearning", "metrics", "coherence", "calibration"), 3),
    **dict.fromkeys(("report", "integrations"), 4),
    **dict.fromkeys(("cli", "serving"), 5),
}
SAME_FLOOR = {  # a theme never imports another of its floor, except:
    ("certificates", "errors"),
    ("certificates", "runs"),
    ("certificates", "documents"),
    ("certificates", "numerics"),
    ("numerics", "errors"),
    ("documents", "errors"),
    ("endpoints", "errors"),
    ("runs", "errors"),
    ("automata", "models"),  # transductors stand on the blocks of `models`
    ("models", "optim"),  # trainers take their optimizer by name
    ("losses", "optim"),
    ("cli", "serving"),
}
FREE = {"testing", "__init__", "__main__"}


def test_every_package_is_reached_from_the_top():
    for folder in sorted(path.parent.name for path in SOURCE.glob("*/__init__.py")):
        if folder not in ("cli", "integrations", "serving"):  # a command, and extras: imported by their own names
            assert getattr(corollary, folder).__name__ == f"corollary.{folder}"
            assert folder in dir(corollary)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def package(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "corollary" and len(parts) > 1 else None


def edges():
    for path in SOURCE.rglob("*.py"):
        here = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for module in imports(path):
            there = package(module)
            if here not in FREE and there in FLOOR and there not in (here, "_lazy"):
                yield path.relative_to(SOURCE), here, there


def test_imports_run_downwards():
    upwards = [
        f"{path}: {here} imports {there}"
        for path, here, there in edges()
        if FLOOR[there] > FLOOR[here] or (FLOOR[there] == FLOOR[here] and (here, there) not in SAME_FLOOR)
    ]
    assert not upwards
    assert sum(1 for _ in edges()) > 10


def test_every_package_has_a_floor():
    packages = {p.parent.name for p in SOURCE.glob("*/__init__.py")} | {p.stem for p in SOURCE.glob("*.py")}
    assert packages - FREE <= FLOOR.keys()


SOLVERS = {
    *("optimize", "linear_model", "_robust_gate", "_finite", "_static", "_train", "optim", "_learners", "_projection"),
    "_directions",
}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*_certificate.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_rules_import_no_solver(path):
    for module in imports(path):
        own = module.removeprefix("corollary.optim")  # a theme of this name; `torch.optim` is a solver
        assert not SOLVERS & set(own.split(".")), f"{path} imports {module}"


def test_import_is_light():
    heavy = "('torch', 'sklearn', 'scipy')"
    code = f"import sys, corollary, corollary.certificates; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
