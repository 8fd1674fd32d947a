"""Which verbs there are, in the order in which the help shows them."""

import typer

from corollary.cli import (
    bench,
    calibrate,
    cohere,
    compose,
    demo,
    doctor,
    fit,
    generate,
    keys,
    ledger,
    predict,
    report,
    route,
    serve,
    unlearn,
    verify,
)

VERBS = (demo, compose, generate, fit, predict, cohere, calibrate, serve, verify, report, bench, doctor)


def attach(app: typer.Typer) -> None:
    """Add every verb: the function `run` of its module, under the module's name."""
    for module in VERBS:
        app.command(name=module.__name__.rpartition(".")[2])(module.run)
    for group in (route.app, unlearn.app, keys.app, ledger.app):
        app.add_typer(group)
