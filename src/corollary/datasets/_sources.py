"""Text that every installation holds, read as text: nothing is imported or executed to get at a docstring."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import sysconfig
import warnings
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from corollary.datasets._domain import draw

_SKIPPED = frozenset(["site-packages", "dist-packages", "lib-dynload", "__pycache__", "test", "tests", "testing"]) | {
    "idlelib",
    "lib2to3",
    "encodings",
    "pydoc_data",
    "externals",
    "_examples",
    "vendored",
}
# Strings are matched only so that a `#` inside one is not taken for a comment.
_STRING_OR_COMMENT = re.compile(
    rb'"""(?:\\.|[^\\])*?"""|'
    rb"'''(?:\\.|[^\\])*?'''|"
    rb'"(?:\\.|[^"\\\n])*"|'
    rb"'(?:\\.|[^'\\\n])*'|"
    rb"(#[^\n]*)",
    re.DOTALL,
)
_BLANK_LINES = re.compile(rb"[ \t]*\n(?:[ \t]*\n)*")


@dataclass(frozen=True)
class Piece:
    """A text and where it comes from: `file` decides the split, `origin` names the piece itself."""

    text: bytes
    file: str
    origin: str


@dataclass(frozen=True)
class Function:
    """A whole function as it stands in its file, and where its docstrings and comments lie."""

    text: bytes
    words: list[tuple[int, int]]
    name: str
    documented: bool

    @property
    def code(self) -> bytes:
        """The function without its docstrings, comments and blank lines."""
        parts, at = [], 0
        for start, end in self.words:
            parts.append(self.text[at:start])
            at = end
        return _BLANK_LINES.sub(b"\n", b"".join([*parts, self.text[at:]]))


@dataclass(frozen=True)
class Module:
    """The functions of one Python file, and its docstrings with the name of what they stand in."""

    functions: list[Function] = field(default_factory=list)
    docstrings: list[tuple[str, bytes]] = field(default_factory=list)


def walk(root: Path, suffixes: tuple[str, ...], *, skipped: frozenset[str] = _SKIPPED) -> list[Path]:
    """Files under `root` with one of the suffixes, sorted, leaving out the folders named in `skipped`."""
    found: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in skipped and not name.startswith("config-")]
        found += [Path(folder, name) for name in names if name.endswith(suffixes) and not name.startswith("_sysconfig")]
    return sorted(found)


def package_root(package: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin else None


def stdlib_root() -> Path:
    """The folder of the standard library."""
    return Path(sysconfig.get_path("stdlib"))


def stdlib_path(file: str) -> Path:
    """The path of a file named `stdlib:...` in the provenance of a domain."""
    return stdlib_root() / file.removeprefix("stdlib:")


def read_text(path: Path) -> bytes | None:
    """The bytes of a UTF-8 text file with Unix line ends, or None where it is anything else."""
    try:
        raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
        raw.decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return None if b"\0" in raw else raw


def parse_python(raw: bytes, *, functions: bool = True) -> Module:
    """Functions (on demand) and docstrings of a Python source; an unparsable one has none.

    A docstring is named after the outermost function around it, with which it is held out.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in others' files are not our caller's business
            tree = ast.parse(raw)
    except (SyntaxError, ValueError, RecursionError):
        return Module()
    starts = list(accumulate((len(line) + 1 for line in raw.split(b"\n")), initial=0))
    module = Module()
    owners: dict[str, str] = {}
    for node, name in _definitions(tree):
        above = name.rpartition(".")[0]
        inside = above in owners
        owner = owners.get(above, name)
        if inside or isinstance(node, _FUNCTION):
            owners[name] = owner
        if functions and not inside and isinstance(node, _FUNCTION):
            module.functions.append(_function(node, name, raw, starts))
        doc = ast.get_docstring(node)
        if doc:
            module.docstrings.append((owner, doc.encode("utf-8", "replace")))
    return module


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_DEFINED = _DOCUMENTED[1:]
_FUNCTION = _DOCUMENTED[2:]


def _definitions(root: ast.AST) -> Iterator[tuple[Any, str]]:
    """The node itself and every module, class and function below, in order, with dotted names.

    Only statements are entered, for expressions are most of a tree; one loop, for calls are most of the time.
    """
    stack: list[tuple[Any, str]] = [(root, "")]
    while stack:
        node, name = stack.pop()
        if isinstance(node, _DOCUMENTED):
            yield node, name
        below: list[tuple[Any, str]] = []
        for group in ("body", "orelse", "finalbody", "handlers", "cases"):
            for child in getattr(node, group, ()):
                below.append((child, f"{name}.{child.name}" if isinstance(child, _DEFINED) else name))
        stack += below[::-1]


def _docstring_spans(node: ast.AST, starts: list[int]) -> list[tuple[int, int]]:
    """Where in the file the docstrings of a function, and of what is defined in it, lie."""
    spans = []
    for inner, _ in _definitions(node):
        head = inner.body[0]
        if isinstance(head, ast.Expr) and isinstance(head.value, ast.Constant) and isinstance(head.value.value, str):
            assert head.end_lineno is not None
            assert head.end_col_offset is not None
            spans.append((starts[head.lineno - 1] + head.col_offset, starts[head.end_lineno - 1] + head.end_col_offset))
    return spans


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, name: str, raw: bytes, starts: list[int]) -> Function:
    """Cut a function out of its file, dedented, with the places of its docstrings and comments."""
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
    begin, end = starts[first], starts[node.end_lineno - 1] + node.end_col_offset
    spans = _docstring_spans(node, starts)
    spans += [m.span(1) for m in _STRING_OR_COMMENT.finditer(raw, begin, end) if m.group(1) is not None]
    indent = raw[begin : begin + node.col_offset]
    if indent.strip():  # `class A: def f(self): ...` on one line
        indent = b""
    # Dedent line by line, and remember how far each line has moved.
    lines, moved = [], [0]
    for line in raw[begin:end].split(b"\n"):
        cut = len(indent) if line.startswith(indent) else 0
        moved.append(moved[-1] + cut)
        lines.append(line[cut:])

    edges = [edge for span in sorted(spans) for edge in span]
    places = [max(e - begin - moved[bisect_right(starts, e) - first], 0) for e in edges]
    words = list(zip(places[::2], places[1::2], strict=True))
    return Function(b"\n".join(lines), words, name, ast.get_docstring(node, clean=False) is not None)


def blocks(raw: bytes, file: str, *, low: int = 300, high: int = 1400) -> Iterator[Piece]:
    """Whole paragraphs packed into blocks; its end is drawn from the file's name and its number."""
    held: list[bytes] = []
    number, size = 0, 0
    target = low + draw("block", f"{file}#0") % (high - low)
    for paragraph in re.split(rb"\n[ \t]*\n\s*?(?=\S|[ \t])", raw):
        paragraph = paragraph.strip(b"\n").rstrip()
        if not paragraph:
            continue
        held.append(paragraph)
        size += len(paragraph) + 2
        if size >= target:
            yield Piece(b"\n\n".join(held), file, f"{file}#{number}")
            held, size, number = [], 0, number + 1
            target = low + draw("block", f"{file}#{number}") % (high - low)
    if held:
        yield Piece(b"\n\n".join(held), file, f"{file}#{number}")


def topics() -> Iterator[Piece]:
    """The help topics that Python ships, each topic a file of its own."""
    raw = read_text(stdlib_root() / "pydoc_data" / "topics.py")
    if raw is None:
        return
    for node in ast.parse(raw).body:
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict):
            for key, text in zip(value.keys, value.values, strict=True):
                name, words = ast.literal_eval(key), ast.literal_eval(text)  # type: ignore[arg-type]
                yield from blocks(words.encode(), f"topic:{name}")


def licences(packages: tuple[str, ...] = ("numpy", "scipy", "scikit-learn", "torch")) -> Iterator[Piece]:
    """The licence texts of Python and of the packages the library stands on."""
    paths = [("python", stdlib_root() / "LICENSE.txt")]
    for package in packages:
        try:
            listed = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        kept = sorted(str(f) for f in listed if re.match(r"(LICEN[CS]E|NOTICE|COPYING)", Path(f).name.upper()))
        by_name = {str(f): f for f in listed}
        paths += [(f"{package}/{name}", Path(str(by_name[name].locate()))) for name in kept if ".py" not in name]
    for name, path in paths:
        raw = read_text(path)
        if raw is not None:
            yield from blocks(raw, f"licence:{name}")


def headers() -> Iterator[tuple[str, Path]]:
    """Name and path of the C headers at hand: Python's, numpy's, then torch's hand-written ones."""
    folders = [("python", Path(sysconfig.get_path("include")))]
    for package, below in (("numpy", "_core/include"), ("torch", "include")):
        root = package_root(package)
        if root is not None:
            folders.append((package, root / below))
    for label, folder in folders:
        # The operator headers of torch are written by a program: a thousand copies of one text.
        for path in walk(folder, (".h",), skipped=frozenset({"ops", "generated", "pybind11", "google", "dnnl"})):
            yield f"header:{label}/{path.relative_to(folder).as_posix()}", path
