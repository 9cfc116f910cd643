"""What the scripts of this folder count: kept as data, and shown as a table in docs/reliability.md.

    python tests/robustness/tally.py        # writes the table anew, and that of benchmarks/results/growth.json

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
sys.path.insert(0, str(ROOT))  # called as a script
from benchmarks.growth import exponent  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "robustness"
PAGE = ROOT / "docs" / "reliability.md"
GROWTH = ROOT / "benchmarks" / "results" / "growth.json"
BEGIN, END = "<!-- {}: python tests/robustness/tally.py -->\n\n", "\n\n<!-- end of {} -->"
"""What stands around a table in the page."""


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
    lines = ["| what | tried | survived | lost | |", "|---|---:|---:|---:|---|"]
    for path in sorted(RESULTS.glob("*.json")):
        for command, rows in json.loads(path.read_text(encoding="utf-8")).items():
            lines.append(f"| **`{command}`** | | | | |")
            for row in (Row(**r) for r in rows):
                lines.append(f"| {row.what} | {row.tried} | {row.tried - row.lost} | {row.lost} | {row.remark} |")
    return "\n".join(lines)


def growth() -> str:
    """Seconds of the processor (of these in ONNX Runtime), on the clock, and peak memory, as Markdown."""
    rows = json.loads(GROWTH.read_text(encoding="utf-8"))
    sizes = sorted({r["asked"] for r in rows})
    lines = [
        "| network | " + " | ".join(f"{n:,} nodes" for n in sizes) + " | exponent |",
        "|---" * (len(sizes) + 2) + "|",
    ]
    for mode, kind in dict.fromkeys((r["mode"], r["model"]) for r in rows):
        own = {r["asked"]: r for r in rows if (r["mode"], r["model"]) == (mode, kind)}
        cells = [_grown(own[n]) if n in own else "" for n in sizes]
        slope = exponent(list(own.values()), lambda r: r["seconds"])
        lines.append(f"| {kind}, {mode} | {' | '.join(cells)} | {slope:.2f} |")
    return "\n".join(lines)


def _grown(row: dict[str, float]) -> str:
    return f"{row['seconds']:.1f} s ({row['onnxruntime']:.1f}), {row['elapsed']:.0f} s, {row['peak_mb']:.0f} MB"


TABLES = {"counts": table, "growth": growth}


def shown(page: str, name: str) -> str:
    """A table as it stands in a page."""
    return page.partition(BEGIN.format(name))[2].partition(END.format(name))[0]


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, made in TABLES.items():
        before, after = BEGIN.format(name), END.format(name)
        page = page.replace(before + shown(page, name) + after, before + made() + after)
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
