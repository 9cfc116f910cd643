"""`optimize(..., isolate=True)`: the call in a child process, so that a library that aborts takes down one attempt and
not the caller.

The child is `onnxtune.worker`, started again without what it died of as the command line's child is (`supervise`).
The arguments and the resulting model go through files in a temporary folder; what happens meanwhile (progress,
decisions, log records) and the outcome come back as pickled messages on the child's standard output.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from onnxtune import model as models
from onnxtune.errors import ModelError, OnnxtuneError, UsageError, one_line
from onnxtune.model import Model
from onnxtune.report import Report
from onnxtune.supervise import GRACE, Lost, attempts, start
from onnxtune.temporary import temporary

LOG = logging.getLogger(__name__)
Listeners = Mapping[str, Callable[..., None] | None]
REQUEST, GIVEN, RESULT = "request.pickle", "given.onnx", "result.onnx"
"""Files in the folder that caller and child share."""
PROGRESS, DECISION, RECORD, OUTCOME = "progress", "decision", "record", "outcome"
"""Kinds of messages, which are pairs of a kind and a value. The outcome is an exception, or the report and what
belongs to the model beside its graph."""


def optimize(arguments: Mapping[str, Any], listeners: Listeners) -> tuple[Model, Report]:
    """What `onnxtune.optimize(**arguments)` gives, done in a child. `listeners`: notify and decide.

    Raises what the call raises; UsageError for arguments that are no data; ModelError or OnnxtuneError when the child
    dies and starting again is of no use.
    """
    with temporary("isolated") as folder:
        _write(folder, arguments)
        outcome: list[Exception | tuple[Report, dict[str, Any]]] = []

        def say(text: str) -> None:
            LOG.warning("%s", text)
            if listeners["decide"]:
                listeners["decide"](text)

        def run(notes: Path) -> int:
            return _run(folder, notes, listeners, outcome)

        ended = attempts(run, say)
        if isinstance(ended, Lost):
            raise (ModelError if ended.code == ModelError.exit_code else OnnxtuneError)(ended.reason)
        if not outcome:
            raise OnnxtuneError(f"the process that did the work {_how(ended)}")
        if isinstance(outcome[-1], Exception):
            raise outcome[-1]
        report, about = outcome[-1]
        return replace(models.load(folder / RESULT), **about), report


def _write(folder: Path, arguments: Mapping[str, Any]) -> None:
    """The request: the module path of this process, and the arguments. A model in memory becomes a file."""
    model = arguments["model"]
    if isinstance(model, onnx.ModelProto):
        models.save(Model(model), folder / GIVEN, external=False)
        arguments = {**arguments, "model": None}
    try:
        data = pickle.dumps(sys.path) + pickle.dumps(dict(arguments))
    except Exception as error:  # pickle lets through whatever an object raises
        raise UsageError(f"isolate: the arguments must be plain data ({one_line(error)})") from None
    (folder / REQUEST).write_bytes(data)


def _run(folder: Path, notes: Path, listeners: Listeners, outcome: list[Any]) -> int:
    """One child; its exit code. Its last word goes to `outcome`, where it comes to that."""
    paths = [str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    level = str(logging.getLogger("onnxtune").getEffectiveLevel())
    child = start(
        [sys.executable, "-P", "-m", "onnxtune.worker", str(folder), level],
        notes,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        with contextlib.suppress(EOFError, pickle.UnpicklingError):  # it has ended, perhaps in the middle of a message
            while True:
                kind, value = pickle.load(child.stdout)
                if kind == OUTCOME:
                    outcome.append(value)
                else:
                    _tell(kind, value, listeners)
        return child.wait()
    finally:
        _end(child)


def _tell(kind: str, value: Any, listeners: Listeners) -> None:
    if kind == RECORD:
        logger = logging.getLogger(value.name)
        if logger.isEnabledFor(value.levelno):
            logger.handle(value)
    elif kind == PROGRESS and listeners["notify"]:
        listeners["notify"](*value)
    elif kind == DECISION and listeners["decide"]:
        listeners["decide"](value)


def _end(child: subprocess.Popen[bytes]) -> None:
    """After Ctrl-C, or when a listener has raised: the child may tidy up, but is gone in the end."""
    if child.poll() is None:
        with contextlib.suppress(OSError):
            if os.name == "posix":
                child.send_signal(signal.SIGINT)
            else:
                child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C does not wait
            child.wait(GRACE)
        child.kill()
        child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended without an answer (exit code {code})"
    return f"was killed ({signal.Signals(-code).name}): out of memory?"
