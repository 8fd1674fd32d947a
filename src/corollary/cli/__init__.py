"""The command `corollary`: one file a verb, each thin around the library."""

import sys
from typing import Annotated

import typer

from corollary.cli import _verbs
from corollary.cli._console import fail
from corollary.errors import CorollaryError

app = typer.Typer(
    name="corollary",
    help="Machine learning with guarantees: every result carries a certificate that anyone can check again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
)
_verbs.attach(app)


def _version(*, asked: bool) -> None:
    if asked:
        from corollary import __version__

        typer.echo(f"corollary {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=lambda asked: _version(asked=asked)
        ),
    ] = False,
) -> None:
    """Machine learning with guarantees: every result carries a certificate that anyone can check again."""


def main() -> None:
    """Run the command; errors made on purpose end with one sentence and exit code 1."""
    try:
        app()
    except CorollaryError as problem:
        fail(str(problem))
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on where this one stopped", code=130)
    except BrokenPipeError:
        sys.stderr.close()
    except OSError as problem:
        where = f": {problem.filename}" if problem.filename else ""
        fail(f"{problem.strerror or problem}{where}; what was finished is kept")
