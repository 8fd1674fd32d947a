"""What the site needs beyond Markdown: names of a package as API entries, and formulas as text that needs no script.

An API page holds lines such as `<!-- api: corollary.gating robust_gate sigma_gate -->`; each name becomes an entry. The
gallery holds lines such as `<!-- run: examples/first_steps/bounds.py -->`; each becomes the script and what it prints.
"""

import html
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

API = re.compile(r"^<!-- api: (?P<package>[\w.]+)(?P<names>[^>]*)-->$", re.MULTILINE)
RUN = re.compile(r"^<!-- run: (?P<script>[\w./]+\.py) -->$", re.MULTILINE)
MATH = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
TOKEN = re.compile(r"\\[A-Za-z]+|\\.|.", re.DOTALL)
PLAIN = {"mathrm", "text", "operatorname", "mathcal", "mathbb", "mathbf", "textstyle", "left", "right"}
SYMBOLS = {
    **{f"{size}{side}": "" for size in ("big", "Big", "bigg", "Bigg") for side in ("", "l", "r")},
    "lambda": "λ", "Lambda": "Λ", "pi": "π", "epsilon": "ε", "sigma": "σ", "mu": "μ", "rho": "ρ", "gamma": "γ",
    "delta": "δ", "Delta": "Δ", "theta": "θ", "phi": "φ", "Phi": "Φ", "beta": "β", "eta": "η", "alpha": "α", "tau": "τ",
    "nu": "ν", "Pi": "Π", "langle": "⟨", "rangle": "⟩", "leftarrow": " ← ", "sup": " sup ",
    "ell": "ℓ", "nabla": "∇", "infty": "∞", "sum": "∑", "prod": "∏", "int": "∫", "cdot": "·", "dots": "…", "ldots": "…",
    "cdots": "…", "mid": " | ", "|": "‖", "top": "ᵀ", "odot": "⊙", "star": "*",
    "le": " ≤ ", "ge": " ≥ ", "ne": " ≠ ", "propto": " ∝ ", "in": " ∈ ", "to": " → ", "sim": " ~ ", "approx": " ≈ ",
    "times": " × ", "pm": " ± ", "subset": " ⊂ ", "cup": " ∪ ", "cap": " ∩ ",
    "log": " log ", "max": " max ", "min": " min ", "exp": " exp ", "arg": " arg ", "quad": " ", "qquad": " ",
    ",": " ", ";": " ", ":": " ", " ": " ", "!": "", "\\": " ",
}  # fmt: skip

ACCENTS = {"hat": "\u0302", "tilde": "\u0303", "bar": "\u0304"}


def entries(markdown: str) -> list[tuple[str, str]]:
    """The (package, name) pairs that a page documents."""
    return [(m["package"], name) for m in API.finditer(markdown) for name in m["names"].split()]


def on_page_markdown(markdown: str, **_: object) -> str:
    """Names become mkdocstrings entries, scripts their text and output."""
    markdown = API.sub(lambda m: "\n\n".join(_entry(m["package"], n) for n in m["names"].split()), markdown)
    return RUN.sub(lambda m: _executed(m["script"]), markdown)


def scripts(markdown: str) -> list[str]:
    """The examples that a page runs."""
    return [m["script"] for m in RUN.finditer(markdown)]


def _executed(script: str) -> str:
    source = (ROOT / script).read_text("utf-8")
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(ROOT / script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": paths})
    return f"`{script}`\n\n```python\n{source}```\n\nprints\n\n```text\n{done.stdout}```"


def _entry(package: str, name: str) -> str:
    """The name where it is defined, under its public name."""
    thing = getattr(importlib.import_module(package), name)
    module = getattr(thing, "__module__", None)
    home = f"{module}.{name}" if isinstance(module, str) and module.startswith("corollary") else f"{package}.{name}"
    return f"::: {home}\n    options:\n      heading: {name}\n      toc_label: {name}\n"


def on_page_content(content: str, **_: object) -> str:
    """TeX as plain text with Greek letters, indices and exponents."""
    return MATH.sub(lambda m: f'<{m[1]} class="formula">{formula(m[2])}</{m[1]}>', content)


def formula(tex: str) -> str:
    r"""TeX of the kind that docstrings hold, as HTML.

    Example:
        >>> formula(r"\(\frac{a + b}{c} \le \sqrt{\lambda_k} \, x^{2}\)")
        '(a + b)/c ≤ √λ<sub>k</sub> x<sup>2</sup>'
    """
    text = html.unescape(tex).strip()
    for mark in (r"\(", r"\)", r"\[", r"\]"):
        text = text.removeprefix(mark).removesuffix(mark)
    return re.sub(r" (?=<su[bp]>)", "", re.sub(r"\s+", " ", _sequence(TOKEN.findall(text)))).strip()


def _sequence(tokens: list[str]) -> str:
    """Everything up to a closing brace, which stays, or the end."""
    out = []
    while tokens and tokens[0] != "}":
        out.append(_item(tokens))
    return "".join(out)


def _item(tokens: list[str]) -> str:
    piece = tokens.pop(0)
    name = piece[1:]
    if piece == "{":
        inner = _sequence(tokens)
        del tokens[:1]
        return inner
    if tag := {"_": "sub", "^": "sup"}.get(piece):
        return f"<{tag}>{_argument(tokens).strip()}</{tag}>"
    if not name:
        return html.escape(piece)
    if name in ("frac", "tfrac", "dfrac"):
        return f"{_bracketed(_argument(tokens))}/{_bracketed(_argument(tokens))}"
    if name == "sqrt":
        return "√" + _bracketed(_argument(tokens))
    if name in ACCENTS:
        return _argument(tokens) + ACCENTS[name]
    return "" if name in PLAIN else html.escape(SYMBOLS.get(name, name))


def _argument(tokens: list[str]) -> str:
    while tokens and tokens[0].isspace():
        del tokens[0]
    return _item(tokens) if tokens else ""


def _bracketed(text: str) -> str:
    text = text.strip()
    return f"({text})" if re.search(r"[\s+−/-]", re.sub(r"<[^>]*>|\([^()]*\)", "", text)) else text
