"""Four domains of text in pieces of 256 bytes: from the folder named by COROLLARY_DATA, or the embedded ones.

Splits are by place (Shakespeare), by file (WikiText-2: valid trains, test is halved; Python: whole files) or by row
(GSM8K). A piece is one document; pieces of one file lie in one split, yet are not independent draws.
"""

import json
import os
import sysconfig
from pathlib import Path

import numpy as np

from corollary.documents import Documents

PIECE = 256
CAP = 4 << 20  # bytes of a domain's training text


def domains(seed, *, gate=240, test=240):
    """Name -> {"train": (n, 256) bytes, "gate": Documents, "test": Documents}."""
    real = os.environ.get("COROLLARY_DATA")
    sources = real_text(Path(real) / "text") if real else embedded_text(seed)
    rng = np.random.default_rng([seed, 17])
    out = {}
    for name, (train, held, judged) in sources.items():
        parts = {"train": pieces(train[:CAP])}
        for split, text, count in (("gate", held, gate), ("test", judged, test)):
            found = pieces(text)
            chosen = rng.choice(len(found), size=min(count, len(found)), replace=False)
            parts[split] = as_documents(found[np.sort(chosen)])
        out[name] = parts
    return out


def pieces(text):
    """(n, 256) bytes; the rest is left out. Zero bytes, which end documents, become blanks."""
    flat = np.frombuffer(text, dtype=np.uint8)
    found = flat[: len(flat) // PIECE * PIECE].reshape(-1, PIECE).copy()
    found[found == 0] = 32
    return found


def as_documents(found):
    return Documents(found.reshape(-1), np.arange(len(found) + 1, dtype=np.int64) * PIECE)


def splices(data, split, count, seed):
    """Documents whose first part is of one domain and whose second part is of another."""
    rng, names = np.random.default_rng([seed, 23, *split.encode()]), list(data)
    flat = {name: data[name][split].tokens.reshape(-1, PIECE) for name in names}
    out = np.empty((count, PIECE), dtype=np.uint8)
    for row in out:
        first, second = rng.choice(len(names), size=2, replace=False)
        cut = int(rng.integers(64, PIECE - 64))
        row[:cut] = flat[names[first]][rng.integers(len(flat[names[first]]))][:cut]
        row[cut:] = flat[names[second]][rng.integers(len(flat[names[second]]))][: PIECE - cut]
    return as_documents(out)


def thirds(text):
    """80, 10 and 10 percent, by place."""
    a, b = int(0.8 * len(text)), int(0.9 * len(text))
    return text[:a], text[a:b], text[b:]


def real_text(folder):
    wiki = (folder / "wikitext2_test.txt").read_bytes()
    rows = [json.loads(line) for line in (folder / "gsm8k_train.jsonl").read_text("utf-8").splitlines()]
    sums = "\n\n".join(f"{r['question']}\n{r['answer']}" for r in rows).encode()
    return {
        "shakespeare": thirds((folder / "shakespeare.txt").read_bytes()),
        "wikitext": ((folder / "wikitext2_valid.txt").read_bytes(), wiki[: len(wiki) // 2], wiki[len(wiki) // 2 :]),
        "gsm8k": thirds(sums),
        "python": python_source(),
    }


def python_source():
    """Files of the standard library by name, in a fixed random order; whole files in one split."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [f for f in sorted(root.rglob("*.py")) if not {"test", "tests", "site-packages"} & set(f.parts)]
    order = np.random.default_rng(0).permutation(len(files))
    kept, size = [], 0
    for i in order:
        text = files[i].read_bytes()
        if 2_000 < len(text) < 100_000 and size < CAP * 5 // 4:
            kept.append(text)
            size += len(text)
    a, b = int(0.8 * len(kept)), int(0.9 * len(kept))
    return b"\n".join(kept[:a]), b"\n".join(kept[a:b]), b"\n".join(kept[b:])


def embedded_text(seed):
    from corollary.datasets import text_domains

    found = text_domains(("prose", "code", "numpydoc", "json"), seed=seed)
    return {
        name: tuple(b"\n".join(d.splits[split]) for split in ("train", "gate", "certify")) for name, d in found.items()
    }
