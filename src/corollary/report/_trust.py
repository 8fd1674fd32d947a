"""One document as coloured text: behind every byte the colour of the expert that the gate trusts most."""

import codecs
from collections.abc import Sequence
from typing import Any

import numpy as np

from corollary.errors import InvalidFileError
from corollary.report._render import render
from corollary.report._run import Run

FILE = "stages/trust.safetensors"
MOST_BYTES = 6000
STEPS = 10  # opacities told apart: neighbours of one colour and strength share an element


def trusted_bytes(run: Run, experts: Sequence[str], domains: Sequence[str]) -> str | None:
    """The section, or None where the run kept no such document."""
    found = run.arrays(FILE, tokens=1, weights=2)
    if found is None or len(found["tokens"]) == 0:
        return None
    tokens, weights = found["tokens"], found["weights"]
    stored = run.arrays(FILE, label=1)
    label = stored["label"].astype(np.int64) if stored else np.full(len(tokens), -1)
    fits = len(weights) == len(tokens) == len(label) and weights.shape[1] == len(experts)
    if not fits or label.max() >= len(domains):
        problem = f"{len(tokens)} tokens, weights {weights.shape}, {len(label)} labels and {len(experts)} experts"
        raise InvalidFileError(run.path / FILE, f"its arrays do not fit ({problem})", "run again")
    best = weights.argmax(1)
    shown = min(len(tokens), MOST_BYTES)
    return render(
        "trust.html",
        names=list(experts),
        domains=len(domains),
        labelled=bool((label >= 0).any()),
        pieces=_pieces(tokens[:shown], weights, best, label, experts, domains),
        shares=_shares(best, label, domains, len(experts)),
        shown=shown,
        total=len(tokens),
        cut=shown < len(tokens),
    )


def _pieces(
    tokens: np.ndarray,
    weights: np.ndarray,
    best: np.ndarray,
    label: np.ndarray,
    experts: Sequence[str],
    domains: Sequence[str],
) -> list[dict[str, Any]]:
    """Runs of characters alike in expert, strength and label; a character goes with its first byte."""
    texts, starts = readable(tokens.astype(np.uint8).tobytes())
    strength = np.round(weights[np.arange(len(weights)), best] * STEPS).astype(int)
    keys = [(int(best[s]), int(strength[s]), int(label[s])) for s in starts]
    pieces: list[dict[str, Any]] = []
    for text, (expert, strong, domain) in zip(texts, keys, strict=True):
        if pieces and pieces[-1]["key"] == (expert, strong, domain):
            pieces[-1]["text"] += text
            continue
        title = f"{experts[expert]} {100 * strong // STEPS} %" + (f", from {domains[domain]}" if domain >= 0 else "")
        pieces.append(
            {
                "key": (expert, strong, domain),
                "text": text,
                "expert": expert,
                "label": domain,
                "weight": f"{strong / STEPS:g}",
                "title": title,
            }
        )
    return pieces


def readable(raw: bytes) -> tuple[list[str], list[int]]:
    """The characters of UTF-8 bytes and where each begins; broken bytes and control characters made visible.

    Example:
        >>> readable("é!".encode() + bytes([255, 0]))
        (['é', '!', '�', '␀'], [0, 2, 3, 4])
    """
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    texts: list[str] = []
    starts: list[int] = []
    begin = 0
    for i in range(len(raw)):
        text = decode(raw[i : i + 1], final=i + 1 == len(raw))
        for c in text:  # a broken sequence and the byte that breaks it come together
            texts.append(_visible(c))
            starts.append(begin)
            begin = i if len(text) > 1 else begin
        begin = i + 1 if text else begin
    return texts, starts


def _visible(character: str) -> str:
    code = ord(character)
    if code < 32 and character not in "\n\t":
        return chr(0x2400 + code)
    return "␡" if code == 127 else character


def _shares(best: np.ndarray, label: np.ndarray, domains: Sequence[str], experts: int) -> list[dict[str, Any]]:
    rows = []
    for k, name in enumerate(domains):
        here = best[label == k]
        if len(here):
            shares = (np.bincount(here, minlength=experts) / len(here)).tolist()
            rows.append({"name": name, "count": len(here), "shares": shares})
    return rows
