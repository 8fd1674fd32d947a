"""One small composition, made by the command itself and shared by the tests of the verbs."""

import random
import subprocess
import sys

import pytest

WORDS = (
    "the of and to in is that for it as was with be by on not he his but at are this have from or had an they"
).split()


def document(kind, rng):
    """100 to 300 bytes: the same words in every domain, each domain with its own habit of what follows what."""
    habit = random.Random(kind)
    follows = dict(zip(WORDS, habit.sample(WORDS, len(WORDS)), strict=True))
    word, out = rng.choice(WORDS), []
    for _ in range(rng.randrange(25, 60)):
        out.append(word)
        word = follows[word] if rng.random() < 0.85 else rng.choice(WORDS)
    return (kind + ": " if kind == "logs" else "") + " ".join(out)


def run_command(*arguments, **options):
    """`python -m corollary ...`, output captured."""
    return subprocess.run(
        [sys.executable, "-m", "corollary", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Three domains as files of three kinds: .jsonl, .txt with blank lines, and a folder."""
    import json

    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(0)
    made = {k: [document(k, rng) for _ in range(400)] for k in ("prose", "sums", "logs")}
    (folder / "prose.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in made["prose"]))
    (folder / "sums.txt").write_text("\n\n".join(made["sums"]))
    (folder / "logs").mkdir()
    for i, text in enumerate(made["logs"]):
        (folder / "logs" / f"{i:03d}.txt").write_text(text)
    return {"prose": folder / "prose.jsonl", "sums": folder / "sums.txt", "logs": folder / "logs"}


def compose_arguments(texts, out, *more):
    """The arguments of a small composition."""
    data = [part for name, path in texts.items() for part in ("--data", f"{name}={path}")]
    return ["compose", *data, "--train", "--against", "pooled", "--steps", "60", "--out", out, *more]


@pytest.fixture(scope="session")
def composed(texts, tmp_path_factory):
    """The run folder of a small composition."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    done = run_command(*compose_arguments(texts, out, "--quiet"))
    assert done.returncode == 0, done.stderr
    return out
