"""The process whose memory is measured: `python -m onnxtune.bench.child`, used by `memory`.

Takes a pickled Request on stdin from the process that started it; answers with one line of JSON on stdout.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from dataclasses import dataclass
from typing import Any

from onnxtune.bench import nvml, resident
from onnxtune.binding import WITHOUT_GRAPH, Feeds, run_options
from onnxtune.errors import ProviderError
from onnxtune.library import ort, plain, stderr_to_nowhere
from onnxtune.runtime import Settings, Target, check_active, create

RUNS = 3


@dataclass(frozen=True, eq=False)
class Request:
    """Which file to load where, and what to feed it."""

    path: str
    target: Target
    feeds: Feeds


def measured(request: Request) -> dict[str, Any]:
    """Load and run the model; what that took, or `error` with `kind`."""
    target = request.target
    ort()
    device_before = nvml.memory_used(target.device_id) if target.on_gpu else None
    resident.forget_peak()
    before = resident.current()
    try:
        started = time.perf_counter()
        with stderr_to_nowhere():
            session = create(request.path, target, Settings())
        seconds = time.perf_counter() - started
        check_active(session, target)
        loaded = resident.current()
        options = run_options(WITHOUT_GRAPH) if target.cuda_graph else None
        with stderr_to_nowhere():
            for _ in range(RUNS):
                session.run(None, dict(request.feeds), options)
    except ProviderError as error:
        return {"kind": "provider", "error": str(error)}
    except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
        return {"kind": "model", "error": plain(error)}
    device_after = nvml.memory_used(target.device_id) if target.on_gpu else None
    known = device_before is not None and device_after is not None
    return {
        "session_seconds": seconds,
        "before": before,
        "loaded": loaded,
        "peak": resident.peak(),
        "device": device_after - device_before if known else None,  # type: ignore[operator]
    }


if __name__ == "__main__":
    print(json.dumps(measured(pickle.load(sys.stdin.buffer))))  # noqa: T201
