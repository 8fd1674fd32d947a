"""What the verbs share of the terminal: progress and errors on standard error, results on standard output."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no tables; errors only.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads for matrix work; OMP_NUM_THREADS or all cores by default.")
]
Device = Annotated[str, typer.Option(help="Where networks run: cpu, cuda, cuda:0, mps.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Throw away a run of other settings in that folder.")]


def fail(sentence: str, *, code: int = 1) -> NoReturn:
    """One sentence on standard error, and out."""
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[bold red]error[/] {_plain(sentence)}")
    raise SystemExit(code)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def say(text: str = "") -> None:
    """A line of result on standard output."""
    sys.stdout.write(text + "\n")


def emit(value: Any) -> None:
    """One JSON object on standard output."""
    say(json.dumps(value, ensure_ascii=False, indent=1))


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table on standard output, as wide as it needs when it is piped."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    drawn = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        drawn.add_row(*row)
    say(title)  # not the table's own: rich would fold it to the width of the columns
    console.print(drawn)


@contextmanager
def progress(*, quiet: bool) -> Iterator[Any]:
    """A bar on standard error; yields `tell(what, share)`."""
    if quiet:
        yield lambda what, share=0.0: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda what, share=0.0: bar.update(task, description=what, completed=min(share, 1.0))


def set_threads(threads: int | None) -> None:
    """Use this many threads for matrix work; by default what OMP_NUM_THREADS says, else all cores of this process."""
    import torch

    if threads is None and os.environ.get("OMP_NUM_THREADS"):
        return  # torch has read it
    able = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(threads or able or 1)


def check_device(device: str) -> str:
    """The device, if this machine has it."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise typer.BadParameter(
            f"device {device!r} is not usable here ({str(problem).splitlines()[0]}); try cpu"
        ) from None
    return device


def named_paths(values: list[str], option: str) -> dict[str, str]:
    """`name=path` options as a dictionary."""
    out: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or not name or not path:
            raise typer.BadParameter(f"{option} takes NAME=PATH, got {value!r}")
        if "/" in name or name.startswith("."):
            raise typer.BadParameter(f"{option}: {name!r} is no plain name")
        if name in out:
            raise typer.BadParameter(f"{option}: the name {name!r} is given twice")
        out[name] = path
    return out
