"""Write the table of the benchmark data into the page on embedded data: bytes and SHA-256 of every file.

Run: COROLLARY_DATA=<folder> python docs/data_table.py
"""

import hashlib
import os
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("embedded-data.md")
BEGIN, END = "<!-- data table: begin -->", "<!-- data table: end -->"


def table(folder: Path) -> str:
    """A row for every file below `folder` but its README, sorted by path."""
    rows = ["| file | bytes | SHA-256 |", "|---|---:|---|"]
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "README.md"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append(f"| `{path.relative_to(folder).as_posix()}` | {path.stat().st_size:,} | `{digest}` |")
    return "\n".join(rows)


def main() -> int:
    folder = os.environ.get("COROLLARY_DATA", "")
    if not folder or not Path(folder).is_dir():
        print("COROLLARY_DATA names no folder; set it to the benchmark data", file=sys.stderr)
        return 2
    page = PAGE.read_text("utf-8")
    head, rest = page.split(BEGIN)
    _, tail = rest.split(END)
    PAGE.write_text(f"{head}{BEGIN}\n{table(Path(folder))}\n{END}{tail}", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
