"""The read-out of a finite head or a network at every state and symbol, and run folders that hold it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from corollary.automata._chomsky import StringTask
from corollary.automata._dfa import DFA
from corollary.automata._finite_head import FiniteHead
from corollary.automata._tasks import Task
from corollary.automata._transducer import Transducer
from corollary.certificates import Certificate, Undecided, save_certificate
from corollary.errors import InvalidInputError

DECLARED, NETWORK = "declared.safetensors", "network"


def declared_transducer(declared: Any) -> Transducer:
    """A transducer from a DFA, a transducer, a task, or the table of a group: (g, g) products, symbols its elements."""
    if isinstance(declared, Transducer):
        return declared
    if isinstance(declared, DFA):
        return declared.transducer()
    if isinstance(declared, Task | StringTask):
        return declared.automaton  # where there is none it says so
    table = np.asarray(declared)
    if table.ndim == 2 and table.dtype.kind in "iu" and table.shape[0] == table.shape[1]:
        return Transducer(table, table)
    raise InvalidInputError(
        f"a DFA, a transducer, a task or a group's table (g, g) is declared, got {type(declared).__name__}"
    )


@torch.no_grad()
def network_logits(model: Any) -> Float[np.ndarray, "n v c"]:
    """(n, V, C) logits of a network that depends on (state before, symbol, state after) alone."""
    head = model.head
    if not isinstance(head, FiniteHead):
        raise InvalidInputError("the head has no finite states; call `snap` first")
    n, V = head.transitions.shape
    before = head.vectors.repeat_interleave(V, 0)
    after = head.vectors[head.transitions.reshape(-1)]
    h = {"inclusive": after, "exclusive": before}.get(model.config.state, torch.cat([before, after], -1))
    symbols = torch.arange(V, device=h.device).repeat(n)[:, None]
    logits = model.outputs(symbols, h[:, None].to(model.embedding.weight.dtype))[:, 0]
    return logits.view(n, V, -1).double().cpu().numpy()


def save_certified(
    folder: str | Path, model: Any, declared: Any, certificate: Certificate, evidence: Mapping[str, np.ndarray]
) -> None:
    """Write a run: the network, the declared automaton, the certificate and its evidence.

    Args:
        folder: of the run; `corollary verify FOLDER` checks it, with `--rescore` the network is loaded and read out
            again.
        model: the network.
        declared: what it was certified against.
        certificate: what `certify` issued.
        evidence: and its evidence.

    Raises:
        InvalidInputError: for a folder that holds something else.

    Guarantee: none; what is written is whole or absent.

    Example:
        >>> import tempfile
        >>> from corollary.automata import DFA, RationalTransductor, certify, save_certified
        >>> from corollary.certificates import load_certificate
        >>> model, declared = RationalTransductor.from_regex("(ab)*", "ab"), DFA.from_regex("(ab)*", "ab")
        >>> folder = tempfile.mkdtemp()
        >>> save_certified(folder, model, declared, *certify(model, declared))
        >>> certificate, evidence = load_certificate(folder)
        >>> certificate.check(**evidence).status.name
        'HOLDS'
    """
    from corollary.runs import RunFolder, write_json, write_tensors

    wanted = declared_transducer(declared)
    settings = {"verb": "automata", "rule": certificate.rule, "network": model.fingerprint()}
    with RunFolder(folder, settings) as run:
        model.save_pretrained(run.inside(NETWORK))
        write_tensors(run.inside(DECLARED), {"transitions": wanted.transitions, "outputs": wanted.outputs})
        write_json(run.inside("metrics.json"), {"states": len(evidence["transitions"]), "declared": wanted.states})
        save_certificate(run.path, certificate, evidence)


def rescored(run: Path, digests: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Evidence computed again from a run that `save_certified` wrote."""
    from corollary.automata._storage import load
    from corollary.runs import read_tensors

    model, declared = load(Path(run) / NETWORK), read_tensors(Path(run) / DECLARED)
    if "network" in digests and model.fingerprint() != digests["network"]:
        raise Undecided("the network in this folder is not the one that the certificate was issued on")
    if not model.depends_on_state_only:
        raise Undecided("the output depends on more than the state")
    head: Any = model.head
    return {
        "transitions": head.transitions.cpu().numpy(),
        "logits": network_logits(model),
        "declared_transitions": declared["transitions"],
        "declared_outputs": declared["outputs"],
    }
