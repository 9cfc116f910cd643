"""The counts in docs/reliability.md are those that the scripts have kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tally


@pytest.mark.parametrize("name", tally.TABLES)
def test_the_page_shows_what_was_counted(name: str) -> None:
    page = tally.PAGE.read_text(encoding="utf-8")
    assert tally.shown(page, name) == tally.TABLES[name](), "python tests/robustness/tally.py writes it anew"
    assert len(tally.shown(page, name).splitlines()) > 5


def test_growth_is_about_linear() -> None:
    """Also with measuring, to the end."""
    rows = json.loads(tally.GROWTH.read_text(encoding="utf-8"))
    assert {(r["mode"], r["asked"]) for r in rows} >= {
        (m, n) for m in ("counted", "measured") for n in (1000, 3000, 10000)
    }
    for mode, kind in {(r["mode"], r["model"]) for r in rows}:
        own = [r for r in rows if (r["mode"], r["model"]) == (mode, kind)]
        assert tally.exponent(own, lambda r: r["seconds"]) < 1.3, (mode, kind)


def test_nothing_was_lost_and_all_scripts_are_there() -> None:
    kept = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in tally.RESULTS.glob("*.json")}
    assert set(kept) == {"faults", "hostile", "imports", "rules_that_fail", "scale", "strange", "weights"}
    for name, commands in kept.items():
        for command, rows in commands.items():
            assert command.startswith(f"python tests/robustness/{name}.py")
            assert all(tally.Row(**r).lost == 0 < tally.Row(**r).tried for r in rows), command


def test_a_run_takes_the_place_of_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(sys, "argv", ["/somewhere/tests/robustness/x.py", "--cases", "3", "--record"])
    for lost in (1, 0):
        tally.record([tally.Row("cases", 3, lost, "no more")])
    monkeypatch.setattr(sys, "argv", ["x.py"])
    tally.record([tally.Row("others", 2, 1)])
    assert tally.table().splitlines()[2:] == [
        "| **`python tests/robustness/x.py --cases 3`** | | | | |",
        "| cases | 3 | 3 | 0 | no more |",
        "| **`python tests/robustness/x.py`** | | | | |",
        "| others | 2 | 1 | 1 |  |",
    ]
