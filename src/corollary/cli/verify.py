"""`corollary verify`: check a certificate again, from stored evidence, other evidence, or data and models."""

from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.certificates import Certificate, Report, Status, Undecided, find_rule, load_certificate
from corollary.cli import _console as ui
from corollary.errors import InvalidFileError
from corollary.runs import read_tensors

EXIT = {Status.HOLDS: 0, Status.VIOLATED: 3, Status.UNDECIDED: 4}


def run(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Run folder, or a certificate's .json file.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Other evidence: a .safetensors file, or another run or certificate.")
    ] = None,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Compute the evidence again from the stored documents and models.")
    ] = False,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Derive every claim of a certificate again. Exit code 0: it holds, 3: violated, 4: undecided."""
    certificate, evidence = load_certificate(path)
    if data is not None:
        evidence = _evidence(data)
    report = _rescored(path, certificate, evidence) if rescore else certificate.check(**evidence)
    if as_json:
        ui.emit(as_plain(certificate, report))
    elif not quiet:
        ui.say(str(certificate))
        ui.say()
        for number, part in enumerate(report.parts, 1):
            ui.say(f"({number}) {part}")
        ui.say(str(report))
    raise typer.Exit(EXIT[report.status])


def _evidence(path: Path) -> dict[str, Any]:
    if path.is_dir() or path.suffix == ".json":
        return dict(load_certificate(path)[1])
    tensors = read_tensors(path)
    kept = {n.removeprefix("evidence/"): a for n, a in tensors.items() if not n.startswith(("witness", "part"))}
    if not kept:
        raise InvalidFileError(path, "holds no arrays", "give the .safetensors file beside a certificate")
    return kept


def _rescored(path: Path, certificate: Certificate, stored: dict[str, Any]) -> Report:
    folder = path if path.is_dir() else path.parent
    again: dict[str, Any] = {}
    done = set()
    for part in certificate.parts or (certificate,):
        rule = find_rule(part.rule)
        if rule is None or rule.rescore is None:
            return Report(Status.UNDECIDED, f"evidence of {part.rule} cannot be computed again from data")
        if rule.rescore in done:
            continue
        done.add(rule.rescore)
        try:
            again |= rule.rescore(folder, part.digest)
        except Undecided as reason:
            return Report(Status.UNDECIDED, str(reason))
    return certificate.check_rescored(stored, again)


def as_plain(certificate: Certificate, report: Report) -> dict[str, Any]:
    """The outcome as plain values."""
    return {
        "status": report.status.name.lower(),
        "reason": report.reason,
        "statement": certificate.statement,
        "confidence": certificate.confidence,
        "claims": [
            {"name": c.name, "lhs": repr(c.lhs), "relation": c.relation, "rhs": repr(c.rhs), "holds": c.holds}
            for c in certificate.claims
        ],
    }
