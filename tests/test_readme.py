"""README: its generated tables are up to date, its two commands are what CI runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_generated_tables_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    assert spec is not None
    assert spec.loader is not None
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.filled(text) == text, "run: python -m benchmarks.readme"


def test_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```\n(.*?)\n```", text, re.DOTALL)
    assert "pip install . && onnxtune demo" in blocks
    assert "pip install '.[dev]' && pytest" in blocks
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
