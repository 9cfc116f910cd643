"""Work in a child process that is started again when a native library brings it down, without what it died of.

The child notes what it is about to try (`onnxtune.crashes`); the parent only waits. The command line does all its
work so (`cli.child`), and a Python program may ask for it (`onnxtune.optimize(..., isolate=True)`, `isolated`).
A child ends itself when its parent is gone, however that came.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxtune import temporary
from onnxtune.crashes import FOLDER, remember, under_way

ATTEMPTS = 20
GRACE = 10.0
"""Seconds that a child has to tidy up after Ctrl-C."""
FAULTS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP")
INTERRUPTED = 130
WINDOWS_FAULT = 0xC0000000
"""Exit codes from here on are what Windows calls unhandled exceptions."""


@dataclass(frozen=True)
class Lost:
    """Why starting again is of no use: one line, and the exit code that it means."""

    reason: str
    code: int


def attempts(run: Callable[[Path], int], say: Callable[[str], None]) -> int | Lost:
    """The exit code of the first child that does not die of a fault, or why there is none.

    `run`: starts a child with this folder for its notes, waits for it, returns its exit code (negative: the signal
    that ended it). `say`: one line for the user, when it starts again.
    """
    folder = temporary.make("notes")
    try:
        for _ in range(ATTEMPTS):
            code = run(folder)
            fault = _fault(code)
            if fault is None:
                return code
            lost = _learn(folder, fault, say)
            if lost is not None:
                return lost
        return Lost(f"native libraries crashed {ATTEMPTS} times; given up", 1)
    finally:
        temporary.remove(folder)


def start(words: Sequence[str], notes: Path, **how: Any) -> subprocess.Popen[bytes]:
    """A child that keeps its notes in that folder and ends with us (`follow_parent`).

    It does not get the terminal's Ctrl-C: that is for the parent to hand on. `how`: more for Popen.
    """
    own_group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
    environment = {**how.pop("env", os.environ), FOLDER: str(notes)}
    return subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, **own_group, **how)


def is_child() -> bool:
    return FOLDER in os.environ


def follow_parent() -> None:
    """In the child: end when the parent, which holds the other end of standard input, is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(0, 1)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, name="onnxtune-parent", daemon=True).start()


def _fault(code: int) -> str | None:
    """The name of the fault that a process died of; None for any other end."""
    if code >= WINDOWS_FAULT:
        return f"exception 0x{code:08X}"
    name = signal.Signals(-code).name if code < 0 else ""
    return name if name in FAULTS else None


def _learn(folder: Path, fault: str, say: Callable[[str], None]) -> Lost | None:
    """Remember what the child died of, so that the next one leaves it out; where it cannot be left out: why."""
    found = under_way(folder)
    if found is None:
        return Lost(f"internal error: the process died of {fault}; please report it", 1)
    if found["kind"] == "file":
        return Lost(f"{found['what']}: not a valid ONNX model (the onnx library dies of {fault} on it)", 3)
    remember(folder, found["key"], fault)
    about = f"rule {found['what']}" if found["kind"] == "rule" else f"ONNX Runtime on {found['what']}"
    say(f"{about} died of {fault}; starting again without it")
    return None
