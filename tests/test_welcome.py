"""The first thing that a user meets, and completion in the shell."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from onnxtune.cli import COMMANDS, main
from onnxtune.cli.welcome import COMPLETION


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def test_without_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert len(out.splitlines()) <= 12
    for command in ("onnxtune demo", "onnxtune check model.onnx", "onnxtune optimize model.onnx", "onnxtune --help"):
        assert command in out


def test_help_says_how_to_complete(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    for _, file, line in COMPLETION:
        assert line in out
        assert file in out


def completed(*words: str) -> list[str]:
    """What the shell is offered for the last word."""
    environment = {
        **os.environ,
        "_ONNXTUNE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(("onnxtune", *words)),
        "COMP_CWORD": str(len(words)),
    }
    command = [sys.executable, "-m", "onnxtune"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert answer.stderr == ""
    return [line.partition(",")[2] for line in answer.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ch",), ["check"]),
        (("rules", "explain", "pad"), ["pad_channels"]),
        (("check", "--select", "CK40"), ["CK401"]),
        (("optimize", "--skip", "stack"), ["stack_3x3"]),
    ],
)
def test_completion(words: tuple[str, ...], expected: list[str]) -> None:
    assert completed(*words) == expected


@pytest.mark.parametrize("shell", [shell for shell, *_ in COMPLETION])
def test_completion_scripts(shell: str) -> None:
    environment = {**os.environ, "_ONNXTUNE_COMPLETE": f"{shell}_source"}
    command = [sys.executable, "-m", "onnxtune"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if shell == "bash" and answer.returncode:
        pytest.skip("click asks bash for its version, and there is none")
    assert f"_ONNXTUNE_COMPLETE={shell}_complete" in answer.stdout


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)
