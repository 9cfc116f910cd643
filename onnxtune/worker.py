"""The child of `isolated`: `python -m onnxtune.worker FOLDER LEVEL`, started with a request in that folder.

Messages leave through what was standard output; what libraries print there goes to standard error. LEVEL: from
which log records are of interest.
"""

from __future__ import annotations

import logging
import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any, BinaryIO

import onnx

from onnxtune import isolated
from onnxtune.api import Result, optimize
from onnxtune.errors import OnnxtuneError
from onnxtune.supervise import INTERRUPTED, follow_parent


class Channel(logging.Handler):
    """Messages to the caller, each written by one call: a rule that runs too long is interrupted between calls."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream

    def send(self, kind: str, value: Any) -> None:
        self._stream.write(pickle.dumps((kind, value)))
        self._stream.flush()

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args, record.exc_info = record.getMessage(), None, None  # arguments may be anything
        self.send(isolated.RECORD, record)


def work(folder: Path, channel: Channel) -> None:
    """Do what the request asks and say how it ended. Raises KeyboardInterrupt."""
    with (folder / isolated.REQUEST).open("rb") as request:
        sys.path[:] = pickle.load(request)  # so that module:function is found where the caller would find it
        arguments = pickle.load(request)
    if arguments["model"] is None:
        arguments["model"] = _given(folder / isolated.GIVEN)
    result = optimize(
        **arguments,
        notify=lambda *progress: channel.send(isolated.PROGRESS, progress),
        decide=lambda decision: channel.send(isolated.DECISION, decision),
    )
    result.save(folder / isolated.RESULT)
    channel.send(isolated.OUTCOME, (result.report, _about(result)))


def _given(path: Path) -> onnx.ModelProto:
    """The caller's model as it was in memory: only what we put beside the file belongs to it."""
    return onnx.load(path, load_external_data=path.with_name(path.name + ".data").exists())


def _about(result: Result) -> dict[str, Any]:
    loaded = result._loaded
    return {"name": loaded.name, "path": loaded.path, "external": loaded.external}


def _portable(error: Exception) -> Exception:
    """The error as the caller can have it; where it comes from unless it is one that is raised on purpose."""
    try:
        found: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # an error class that pickle cannot make again
        found = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, OnnxtuneError):
        found.add_note("in the child process:\n" + "".join(traceback.format_exception(error)))
    return found


def main(folder: str, level: str) -> None:
    follow_parent()
    channel = Channel(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)
    logger = logging.getLogger("onnxtune")
    logger.addHandler(channel)
    logger.setLevel(int(level))
    try:
        work(Path(folder), channel)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        channel.send(isolated.OUTCOME, _portable(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
