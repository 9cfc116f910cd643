"""Asking a fresh Python process of this very package: a pickled request on its stdin, JSON on its stdout."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from onnxtune.errors import ModelError, ProviderError, one_line

TIMEOUT = 600.0
"""Seconds after which a process that has not answered is given up."""


def ask(
    module: str, request: object, name: str, *, timeout: float = TIMEOUT, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What `python -m module` answers. `name`: the model that messages speak of.

    The process imports nothing from the current folder. Raises ModelError when ONNX Runtime cannot load or run the
    model there, when the process dies (mostly: memory runs out) or takes longer than `timeout` seconds; ProviderError
    when the provider does not become active.
    """
    home = str(Path(__file__).parents[2])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", module],
            input=pickle.dumps(request),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{name}: the process that measures it took longer than {timeout:g} s") from None
    if done.returncode < 0:
        raise ModelError(f"{name}: the process that ran it was killed (signal {-done.returncode}): out of memory?")
    if done.returncode:
        raise ModelError(f"{name}: the process that ran it failed ({one_line(_last(done.stderr))})")
    found: dict[str, Any] = json.loads(done.stdout)
    if found.get("kind") == "provider":
        raise ProviderError(found["error"])
    if "error" in found:
        raise ModelError(f"{name}: ONNX Runtime cannot load or run it ({found['error']})")
    return found


def _last(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
