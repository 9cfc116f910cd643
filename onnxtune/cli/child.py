"""The command's work in a child process (`onnxtune.supervise`): this process hands on signals and waits.

It is gone when the user wants it to be: a child that does not react to Ctrl-C, because one native call keeps it, is
ended.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxtune.crashes import FOLDER
from onnxtune.supervise import GRACE, INTERRUPTED, Lost, attempts, is_child, start

SAID = "said"
TICK = 0.05
"""Seconds after which a signal is handed on at the latest."""


def note_said() -> None:
    """In the child: the user has been told of the interruption."""
    if is_child():
        (Path(os.environ[FOLDER]) / SAID).touch()


class _StoppedError(Exception):
    """The user has interrupted the command."""


def supervise(words: Sequence[str], say: Callable[[str], None]) -> int:
    """Run the command in a child; returns its exit code. `say`: one line for the user."""

    def run(folder: Path) -> int:
        code, stopped = _run(words, folder)
        if stopped:
            if not (folder / SAID).exists():
                say("interrupted")
            raise _StoppedError
        return code

    try:
        ended = attempts(run, say)
    except _StoppedError:
        return INTERRUPTED
    if isinstance(ended, Lost):
        say(ended.reason)
        return ended.code
    return ended if ended >= 0 else 128 - ended


def _run(words: Sequence[str], folder: Path) -> tuple[int, bool]:
    """(exit code, was it interrupted?)"""
    got: list[int] = []
    interrupted = 0
    children: list[subprocess.Popen[bytes]] = []

    def note(number: int, frame: object) -> None:
        del frame
        got.append(number)

    def pause(number: int, frame: object) -> None:
        del number, frame
        with contextlib.suppress(OSError):
            for child in children:
                child.send_signal(signal.SIGSTOP)
            os.kill(os.getpid(), signal.SIGSTOP)
            for child in children:
                child.send_signal(signal.SIGCONT)

    handlers: dict[int, Any] = {signal.SIGINT: note, signal.SIGTERM: note}
    if os.name == "posix":
        handlers |= {signal.SIGHUP: note, signal.SIGTSTP: pause}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        child = start([sys.executable, "-m", "onnxtune", *words], folder)
        children.append(child)
        latest = math.inf
        while child.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(TICK)
            while got:
                number = got.pop(0)
                if number == signal.SIGINT:
                    interrupted += 1
                    latest = min(latest, time.monotonic() + GRACE)
                with contextlib.suppress(OSError):  # it may just have ended
                    child.send_signal(number if interrupted < 2 else signal.SIGKILL)
            if time.monotonic() > latest:
                child.kill()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
    stopped = interrupted > 0 or signal.SIGINT in got
    return child.returncode, stopped and child.returncode != 0
