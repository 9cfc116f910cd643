"""The work in a child process, so that a library that aborts takes down one attempt and not the command.

The parent only waits. It hands on signals, starts the child again without what it died of (see `onnxtune.crashes`),
and is gone when the user wants it to be: a child that does not react to Ctrl-C, because one native call keeps it, is
ended. The child ends itself when the parent is gone, however that came.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ATTEMPTS = 20
GRACE = 10.0
"""Seconds that a child has to tidy up after Ctrl-C."""
FAULTS = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSYS", "SIGTRAP")
FOLDER = "ONNXTUNE_CRASH_NOTES"
SAID = "said"
INTERRUPTED = 130
WINDOWS_FAULT = 0xC0000000
"""Exit codes from here on are what Windows calls unhandled exceptions."""


def is_child() -> bool:
    return FOLDER in os.environ


def note_said() -> None:
    """In the child: the user has been told of the interruption."""
    if is_child():
        (Path(os.environ[FOLDER]) / SAID).touch()


def follow_parent() -> None:
    """In the child: end when the parent, which holds the other end of standard input, is gone."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            os.read(0, 1)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, name="onnxtune-parent", daemon=True).start()


def supervise(words: Sequence[str], say: Callable[[str], None]) -> int:
    """Run the command in a child; returns its exit code. `say`: one line for the user."""
    folder = Path(tempfile.mkdtemp(prefix="onnxtune-notes-"))
    try:
        for _ in range(ATTEMPTS):
            code, stopped = _run(words, folder)
            if stopped:
                if not (folder / SAID).exists():
                    say("interrupted")
                return INTERRUPTED
            fault = _fault(code)
            if fault is None:
                return code if code >= 0 else 128 - code
            again = _learn(folder, fault, say)
            if again is not None:
                return again
        say(f"native libraries crashed {ATTEMPTS} times; given up")
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(words: Sequence[str], folder: Path) -> tuple[int, bool]:
    """(exit code, was it interrupted?)"""
    own_group: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
    child = subprocess.Popen(
        [sys.executable, "-m", "onnxtune", *words],
        env={**os.environ, FOLDER: str(folder)},
        stdin=subprocess.PIPE,
        **own_group,
    )
    asked: list[float] = []

    def hand_on(number: int, frame: object) -> None:
        del frame
        if number == signal.SIGINT:
            if asked:
                child.kill()
            asked.append(time.monotonic())
        with contextlib.suppress(OSError):  # it may just have ended
            child.send_signal(number)

    def pause(number: int, frame: object) -> None:
        del number, frame
        with contextlib.suppress(OSError):
            child.send_signal(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            child.send_signal(signal.SIGCONT)

    handlers: dict[int, Any] = {signal.SIGINT: hand_on, signal.SIGTERM: hand_on}
    if os.name == "posix":
        handlers |= {signal.SIGHUP: hand_on, signal.SIGTSTP: pause}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.5)
            if asked and time.monotonic() > asked[0] + GRACE:
                child.kill()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        assert child.stdin is not None
        child.stdin.close()
    return child.returncode, bool(asked) and child.returncode != 0


def _fault(code: int) -> str | None:
    """The name of the fault that a process died of; None for any other end."""
    if code >= WINDOWS_FAULT:
        return f"exception 0x{code:08X}"
    name = signal.Signals(-code).name if code < 0 else ""
    return name if name in FAULTS else None


def _learn(folder: Path, fault: str, say: Callable[[str], None]) -> int | None:
    """Remember what the child died of; an exit code when there is nothing that could be left out."""
    from onnxtune.crashes import remember, under_way

    found = under_way(folder)
    if found is None:
        say(f"internal error: the process died of {fault}; please report it")
        return 1
    if found["kind"] == "file":
        say(f"{found['what']}: not a valid ONNX model (the onnx library dies of {fault} on it)")
        return 3
    remember(folder, found["key"], fault)
    about = f"rule {found['what']}" if found["kind"] == "rule" else f"ONNX Runtime on {found['what']}"
    say(f"{about} died of {fault}; starting again without it")
    return None
