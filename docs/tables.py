"""Write the measured tables from benchmarks/results into README and docs, between their HTML comment markers.

A table stands between `<!-- table:NAME -->` and `<!-- /table -->`. NAME is a theme, or THEME:KIND for its cells whose
`data` is KIND. Run: python docs/tables.py [--check]; with --check nothing is written, and a stale page is an error.
"""

import json
import re
import sys
from pathlib import Path

from corollary.cli.bench import key, load_theme, plain_table

ROOT = Path(__file__).parents[1]
MARKED = re.compile(r"(<!-- table:(?P<name>[\w:-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def table(name: str, root: Path = ROOT) -> str:
    """The table as Markdown, with how many cells of the default grid it rests on, and where they were run."""
    theme, _, kind = name.partition(":")
    path = root / "benchmarks" / "results" / f"{theme}.json"
    module = load_theme(root / "benchmarks", theme)
    grid = {key(c) for c in module.DEFAULT if not kind or c["data"] == kind}
    stored = json.loads(path.read_text("utf-8"))["cells"] if path.exists() else []
    records = [r for r in stored if key(r["cell"]) in grid]
    if not records:
        return f"*Not measured yet; `corollary bench {theme}` does.*"
    body = module.table(records) if hasattr(module, "table") else plain_table(records)
    return f"{body.strip()}\n\n{len(records)} of {len(grid)} cells of the default grid; {_where(records)}."


def _where(records: list[dict]) -> str:
    versions = [r["versions"] for r in records]
    names = ("corollary", "python", "torch", "numpy")
    told = [
        f"{n} {'/'.join(sorted({v[n] for v in versions if n in v}))}" for n in names if any(n in v for v in versions)
    ]
    machines = sorted({f"{r['machine']['cpu']}, {r['machine']['threads']} threads" for r in records})
    return "; ".join([", ".join(told), *machines])


def filled(page: str, root: Path = ROOT) -> str:
    """The page with its tables as measured now."""
    return MARKED.sub(lambda m: f"{m[1]}\n{table(m['name'], root)}\n\n{m[3]}", page)


def main(arguments: list[str]) -> int:
    """Fill every page; 1 where --check finds a stale one."""
    stale = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        page = path.read_text("utf-8")
        if (new := filled(page)) != page:
            stale.append(path.relative_to(ROOT).as_posix())
            if "--check" not in arguments:
                path.write_text(new, "utf-8")
    if stale:
        print(f"{'stale' if '--check' in arguments else 'written'}: {', '.join(stale)}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
