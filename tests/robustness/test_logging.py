"""Standard logging under `onnxtune`: silent by itself in the API, shown with -v by the command line."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from strange import classic

import onnxtune

OPTIONS = ("--providers", "cpu", "--threads", "1", "--time-budget", "0", "--force-rules", "fold_batchnorm")


def test_the_api_is_silent(tmp_path: Path) -> None:
    """In a process without any logging set up, where the last resort would print warnings."""
    model = tmp_path / "model.onnx"
    onnx.save(classic(17), model)
    (tmp_path / "bad.toml").write_text('name = "bad"\ncode = "U1"\nsummary = "s"\nwhy = "w"\n')
    (tmp_path / "bad.py").write_text("def propose(facts, settings): raise ValueError('oops')\n")
    code = f"import onnxtune; onnxtune.optimize({str(model)!r}, providers='cpu', threads=1, time_budget=0, rules=[{str(tmp_path)!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_records_say_what_is_decided(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "onnxtune"):
        onnxtune.optimize(classic(17), providers="cpu", threads=1, time_budget=0, force_rules=["fold_batchnorm"])
    said = [(r.name.partition(".")[0], r.levelname, r.getMessage()) for r in caplog.records]
    assert {name for name, _, _ in said} == {"onnxtune"}
    assert any(level == "INFO" and "fold_batchnorm" in text and "is kept (forced)" in text for _, level, text in said)
    assert any(level == "DEBUG" and "loaded on CPU" in text for _, level, text in said)


@pytest.mark.parametrize(("flag", "shown"), [((), False), (("-vv",), True)])
def test_the_command_line_shows_them_when_asked(tmp_path: Path, flag: tuple[str, ...], shown: bool) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(classic(17), model)
    command = [sys.executable, "-m", "onnxtune", "optimize", str(model), *OPTIONS, *flag, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records = [line for line in done.stderr.splitlines() if " ms onnxtune." in line]
    assert {line[0] for line in records} == ({"I", "D"} if shown else set())
    assert shown or not done.stderr
    assert done.stdout.startswith("{")
