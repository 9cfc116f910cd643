"""What the scripts of this folder count: kept as data, and shown as a table in docs/reliability.md.

    python tests/robustness/tally.py        # writes the table anew

A script that is called with `--record` writes its counts into benchmarks/results/robustness/, one row for each kind of
thing that it tries, with the command that gives it; the last run of a command counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "robustness"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- counts: python tests/robustness/tally.py -->", "<!-- end of counts -->"


@dataclass(frozen=True)
class Row:
    """`lost`: of those tried; the others survived. `remark`: what else there is to say, in words."""

    what: str
    tried: int
    lost: int
    remark: str = ""

    def __str__(self) -> str:
        more = f" ({self.remark})" if self.remark else ""
        return f"{self.what}: tried {self.tried}, survived {self.tried - self.lost}, lost {self.lost}{more}"


def option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--record", action="store_true", help="keep the counts in benchmarks/results/robustness/")


def record(rows: Sequence[Row]) -> None:
    """Keep the rows under the command that is running, in the place of those that it gave before."""
    script = Path(sys.argv[0])
    command = " ".join(["python", f"tests/robustness/{script.name}", *(w for w in sys.argv[1:] if w != "--record")])
    path = RESULTS / f"{script.stem}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known[command] = [asdict(r) for r in rows]
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def table() -> str:
    """All rows, as Markdown."""
    lines = ["| tried | | survived | lost | |", "|---|---:|---:|---:|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        for command, rows in json.loads(path.read_text(encoding="utf-8")).items():
            lines.append(f"| **`{command}`** | | | | |")
            for row in (Row(**r) for r in rows):
                lines.append(f"| {row.what} | {row.tried} | {row.tried - row.lost} | {row.lost} | {row.remark} |")
    return "\n".join(lines)


def shown(page: str) -> str:
    """The table as it stands in a page."""
    return page.partition(f"{BEGIN}\n\n")[2].partition(f"\n\n{END}")[0]


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(shown(page), table()), encoding="utf-8")


if __name__ == "__main__":
    main()
