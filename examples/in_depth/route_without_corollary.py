"""Route a prompt with the JSON of `corollary route export`, using nothing but the standard library.

Run: python route_without_corollary.py router.json "What is 2 + 2?"
"""

import itertools
import json
import math
import sys

WORD = 2**64
GROUPS = (b"0123456789", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"\n", b"?", b"+-*/=^<>\\$", b"_", b",", b"\"'`", b".;:!()[]{}")


def is_word(byte):
    return byte == 95 or byte >= 128 or (byte < 128 and chr(byte).isalnum())


def words_of(data):
    found, run = [], b""
    for byte in data + b" ":
        if is_word(byte):
            run += bytes([byte])
        elif run:
            found.append(run)
            run = b""
    return found


def hashed(block, text):
    """Feature key -> count."""
    base, mix, pair = int(block["base"]), int(block["mix"]), int(block["pair"])
    settings, salts = block["settings"], block["salts"]

    def value(data):
        return sum((b + 1) * pow(base, j, WORD) for j, b in enumerate(data)) % WORD

    def bucket(h, salt):
        h = (h + salt * mix) % WORD
        h = (h ^ (h >> 32)) * mix % WORD
        h = (h ^ (h >> 29)) * base % WORD
        return str(h >> (64 - settings["bits"]))

    data = text.replace("\x00", " ").lower().encode("utf-8", "replace")
    words = [value(w) for w in words_of(data)]
    keys = [bucket(w, salts["word"]) for w in words] if settings["words"] else []
    if settings["pairs"]:
        keys += [bucket((a * pair + b) % WORD, salts["pair"]) for a, b in itertools.pairwise(words)]
    for n in settings["characters"]:
        keys += [bucket(value(data[i : i + n]), salts["character"] + n) for i in range(len(data) - n + 1)]
    return {k: keys.count(k) for k in set(keys)}


def text_scores(block, text, models):
    """What the words of a text add to the score of each model."""
    rows = [(count, block["weights"][k]) for k, count in hashed(block, text).items() if k in block["weights"]]
    values = [((1 + math.log(count)) * row[0], row[1:]) for count, row in rows]
    norm = math.sqrt(sum(v * v for v, _ in values)) or 1.0
    return [sum(v * w[m] for v, w in values) / norm for m in range(models)]


def statistics_scores(block, text, models):
    """What length, digits, punctuation ... add to the score of each model."""
    data = text.rstrip().encode("utf-8", "replace") + b"\n"
    names = ("digits", "capitals", "lines", "questions", "symbols", "blanks", "commas", "quotes", "stops")
    count = {name: sum(b in group for b in data) for name, group in zip(names, GROUPS, strict=True)}
    count["non-ascii"] = sum(b >= 128 for b in data)
    words, letters = len(words_of(data)), sum(is_word(b) for b in data)
    lines = [len(line) for line in data[:-1].split(b"\n")]
    logs = {"length": len(data) - 1, "words": words, "longest line": max(lines), "last line": lines[-1]}
    found = {name: math.log1p(v) for name, v in logs.items()}
    found |= {"length of words": letters / (words + 1), "mean line": math.log1p(sum(lines) / len(lines))}
    found |= {f"share of {name}": v / len(data) for name, v in count.items()}
    found |= {f"number of {name}": math.log1p(v) for name, v in count.items()}
    raw = [found[name] for name in block["names"]]
    limit, scale = block["limit"], block["scale"]
    pairs = zip(raw, block["mean"], block["spread"], strict=True)
    x = [scale * min(limit, max(-limit, (v - mean) / spread)) for v, mean, spread in pairs]
    return [sum(v * row[m] for v, row in zip(x, block["weights"], strict=True)) for m in range(models)]


def route(router, text):
    """Name of the model, and what each is worth."""
    models, scores = len(router["models"]), list(router["intercept"])
    for block in router["blocks"]:
        adds = (statistics_scores if block["kind"] == "statistics" else text_scores)(block, text, models)
        scores = [a + b for a, b in zip(scores, adds, strict=True)]
    if router["loss"] == "value":
        worth = [1 / (1 + math.exp(-s)) for s in scores]
    else:
        top = max(scores)
        total = sum(math.exp(s - top) for s in scores)
        worth = [math.exp(s - top) / total for s in scores]
    infinite = router["price"] == "infinite"
    net = [-c if infinite else v - router["price"] * c for v, c in zip(worth, router["costs"], strict=True)]
    return router["models"][max(range(models), key=lambda k: net[k])], worth


def made_here():
    """A small router, made with corollary, for when no file is given."""
    import tempfile
    from pathlib import Path

    from corollary.cli import app

    folder = Path(tempfile.mkdtemp())
    words, sums = "why is the sky blue {}", "what is {} + {} * 2 ?"
    rows = [(words.format(i), 1.0, 1.0) if i % 2 else (sums.format(i, i + 1), 0.0, 1.0) for i in range(200)]
    log = "".join(json.dumps({"prompt": p, "small": a, "large": b}) + "\n" for p, a, b in rows)
    (folder / "log.jsonl").write_text(log)
    for arguments in (
        ["route", "fit", str(folder / "log.jsonl"), "--budget", "0.5", "--out", str(folder / "router"), "--quiet"],
        ["route", "export", str(folder / "router"), "--out", str(folder / "router.json")],
    ):
        app(arguments, standalone_mode=False)
    return folder / "router.json"


if __name__ == "__main__":
    path, prompt = sys.argv[1:] if len(sys.argv) == 3 else (made_here(), "what is 4 + 5 * 2 ?")
    with open(path) as file:
        chosen, values = route(json.load(file), prompt)
    print(chosen, [round(v, 3) for v in values])
