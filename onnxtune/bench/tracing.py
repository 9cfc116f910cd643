"""The process that is profiled: `python -m onnxtune.bench.tracing`, used by `profile`.

Models run in turn under ONNX Runtime's own profiler. Its node times are those of the host: on a GPU, where kernels are
only started, they are right when the process was started with CUDA_LAUNCH_BLOCKING=1.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxtune.binding import Call, Feeds, bind, direct
from onnxtune.errors import ProviderError
from onnxtune.library import plain, stderr_to_nowhere
from onnxtune.runtime import Level, Settings, Target, check_active, create
from onnxtune.temporary import temporary

WARM = 3
ROUNDS = 5
MOST = 200
KERNEL = "_kernel_time"


@dataclass(frozen=True, eq=False)
class Subject:
    """A model file with what it is fed; `optimized`: where the graph as it runs goes ("" nowhere).

    `repeats`: runs in a round; None: as many as fill the request's seconds; 0: one run in all, the first.
    """

    path: str
    feeds: Feeds
    optimized: str = ""
    level: Level = "all"
    repeats: int | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """Models to profile in turn, for `seconds` in all those that give no number of runs."""

    subjects: Sequence[Subject]
    target: Target
    seconds: float


def traced(request: Request) -> dict[str, Any]:
    """{"runs": for each subject a list of runs}, see `parsed`; those that only warm it up are left out."""
    target = request.target
    try:
        with temporary("profile") as folder, stderr_to_nowhere():
            sessions = [_open(s, target, f"{folder}/{i}") for i, s in enumerate(request.subjects)]
            calls = []
            for session, subject in zip(sessions, request.subjects, strict=True):
                check_active(session, target)
                bound = target.on_gpu and subject.repeats != 0
                calls.append(
                    bind(session, subject.feeds, "cuda", target.device_id) if bound else direct(session, subject.feeds)
                )
            _run(request, calls)
            traces = [json.loads(Path(s.end_profiling()).read_text(encoding="utf-8")) for s in sessions]
    except ProviderError as error:
        return {"kind": "provider", "error": str(error)}
    except Exception as error:  # onnxruntime raises its own classes, which share no base but Exception
        return {"kind": "model", "error": plain(error)}
    warm = [0 if s.repeats == 0 else WARM for s in request.subjects]
    return {"runs": [parsed(trace)[skip:] for trace, skip in zip(traces, warm, strict=True)]}


def _run(request: Request, calls: Sequence[Call]) -> None:
    """Warm up, then rounds in which every subject has its turn."""
    turns = []
    for call, subject in zip(calls, request.subjects, strict=True):
        if subject.repeats == 0:
            call()
            continue
        for _ in range(WARM - 1):
            call()
        started = time.perf_counter()
        call()
        once = max(time.perf_counter() - started, 1e-6)
        fill = max(2, min(MOST, round(request.seconds / once)) // ROUNDS)
        turns.append((call, fill if subject.repeats is None else subject.repeats))
    for _ in range(ROUNDS):
        for call, repeats in turns:
            for _ in range(repeats):
                call()


def _open(subject: Subject, target: Target, prefix: str) -> Any:
    """A session that profiles. A provider that compiles the graph cannot write it down: then without."""
    settings = Settings(subject.level, profile=prefix, optimized=subject.optimized)
    try:
        return create(subject.path, target, settings)
    except Exception:
        if not subject.optimized:
            raise
        return create(subject.path, target, Settings(subject.level, profile=prefix))


def parsed(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of ONNX Runtime's trace in order: `total` seconds and `nodes` as [name, operator, seconds, outputs],
    outputs as [[type, shape], ...]."""
    runs: list[dict[str, Any]] = []
    nodes: list[list[Any]] = []
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(KERNEL):
            arguments = event.get("args", {})
            outputs = [list(pair) for o in arguments.get("output_type_shape", ()) for pair in o.items()]
            nodes.append([name.removesuffix(KERNEL), arguments.get("op_name", ""), event["dur"] / 1e6, outputs])
        elif event.get("cat") == "Session" and name == "model_run":
            runs.append({"total": event["dur"] / 1e6, "nodes": nodes})
            nodes = []
    return runs


if __name__ == "__main__":
    print(json.dumps(traced(pickle.load(sys.stdin.buffer))))  # noqa: T201
