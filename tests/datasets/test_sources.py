"""Reading Python and headers as text."""

import ast
import textwrap

import pytest

from corollary.datasets import _sources

SOURCE = textwrap.dedent(
    '''
    """Module words."""
    class A:
        """Class words."""
        @property
        def f(self):
            """Words: é of `f`."""
            x = "# no comment"  # a comment
            # another one

            def g():
                """Inner words."""
                return """
        # still a string
                """
            return x + "\\"#" + g()
    async def h(): return 1
    if True:
        def i():
            pass
    '''
).encode()


def test_functions_and_docstrings():
    module = _sources.parse_python(SOURCE)
    assert [f.name for f in module.functions] == [".A.f", ".h", ".i"]
    assert [f.documented for f in module.functions] == [True, False, False]
    # An inner docstring belongs to the outermost function, with which it is held out.
    assert [name for name, _ in module.docstrings] == ["", ".A", ".A.f", ".A.f"]
    assert module.docstrings[2][1].decode() == "Words: é of `f`."
    f = module.functions[0]
    assert f.text.startswith(b'@property\ndef f(self):\n    """Words')
    words = [f.text[a:b].decode() for a, b in f.words]
    assert words == ['"""Words: é of `f`."""', "# a comment", "# another one", '"""Inner words."""']
    assert b"Words" not in f.code
    assert b"a comment" not in f.code
    assert b"# no comment" in f.code
    assert b"# still a string" in f.code
    ast.parse(f.code)
    ast.parse(f.text)


@pytest.mark.parametrize("raw", [b"def f(:\n", b"\xff\xfe", b"x = '\\d'\n", b""])
def test_odd_sources_are_silent(raw):
    assert _sources.parse_python(raw).functions == []


def test_unreadable_files_give_none(tmp_path):
    for name, raw in (("a", b"\xff"), ("b", b"a\0b")):
        (tmp_path / name).write_bytes(raw)
        assert _sources.read_text(tmp_path / name) is None
    assert _sources.read_text(tmp_path / "absent") is None
    (tmp_path / "c").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert _sources.read_text(tmp_path / "c") == b"a\nb"


def test_blocks_keep_every_paragraph():
    raw = b"\n\n".join(b"paragraph %d " % i + b"word " * (i % 40) for i in range(200))
    pieces = list(_sources.blocks(raw, "some file"))
    joined = b"\n\n".join(piece.text for piece in pieces)
    assert joined.split() == raw.split()
    assert len({piece.origin for piece in pieces}) == len(pieces) > 5
    assert pieces == list(_sources.blocks(raw, "some file"))


def test_absent_packages_are_skipped():
    assert _sources.package_root("no_such_package_here") is None
    assert list(_sources.licences(("no-such-package-here",)))
    assert list(_sources.topics())
