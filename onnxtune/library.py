"""The onnxruntime module, loaded once and quiet; its messages without codes and places in its source."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from onnxtune.errors import one_line


@functools.cache
def ort() -> Any:
    """The onnxruntime module, quiet, with the CUDA libraries of the nvidia wheels loaded when there."""
    with stderr_to_nowhere():
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        preload = getattr(onnxruntime, "preload_dlls", None)
        if preload is not None and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            with contextlib.redirect_stdout(io.StringIO()):  # it prints what is missing; `trouble` says it better
                preload()
    return onnxruntime


def plain(error: BaseException) -> str:
    """ONNX Runtime's message without its error codes and the places in its own source code."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", one_line(error, 2000))
    text = re.sub(r"\S+\.(cc|h|cpp):\d+ (\S.*?\)( \[with .*?\])? )?", "", text)
    return one_line(text)


@contextlib.contextmanager
def stderr_to_nowhere() -> Iterator[None]:
    """Native libraries write to file descriptor 2 past Python: send it to the null device meanwhile."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
