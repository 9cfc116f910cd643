"""Fill the generated parts of README.md: the tables of rules, guidelines and results.

python -m benchmarks.readme            write README.md
python -m benchmarks.readme --check    exit 1 when README.md is out of date
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from benchmarks.suite.table import COSTS
from onnxtune.catalog import cards
from onnxtune.guidelines import guideline_table
from onnxtune.render.guidelines import guideline_markdown

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "suite.md"


def filled(text: str) -> str:
    """README text with its marked blocks made anew."""
    rules = [f"| `{c.name}` | {c.summary} |" for c in cards(plugins=False)]
    text = _block(text, "rules", "\n".join(["| rule | what it does |", "|---|---|", *rules]))
    text = _block(text, "guidelines", guideline_markdown(guideline_table()))
    command = (
        "`python -m benchmarks.run` makes these tables anew (benchmarks/results/ has all samples, what each contender"
        " took, and a figure); `python -m benchmarks.rules` shows where each rule wins and where it loses."
    )
    shown = RESULTS.read_text(encoding="utf-8").partition(COSTS)[0].strip()
    return _block(text, "results", f"{shown}\n\n{command}")


def _block(text: str, name: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    assert pattern.search(text), f"README.md has no block {name}"
    return pattern.sub(lambda m: f"{m[1]}{content}\n{m[2]}", text)


def main() -> None:
    readme = ROOT / "README.md"
    before = readme.read_text(encoding="utf-8")
    after = filled(before)
    if "--check" in sys.argv:
        sys.exit(0 if before == after else "README.md is out of date: python -m benchmarks.readme")
    readme.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
