"""Where an inference spends its time: seconds of every node as ONNX Runtime runs it, after its own fusions.

ONNX Runtime's profiler writes a trace of events; those of the category `Node` are kernels, each inside a
`model_run`. Kernels are timed on the host: on a GPU, where they are only launched, the numbers say where the
host's time goes, and `clock` says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from onnxtune.feeds import random_feeds
from onnxtune.measure import warm
from onnxtune.model import Model
from onnxtune.runtime import Session, Settings, Target
from onnxtune.temporary import temporary

SECONDS, LEAST, MOST = 0.3, 5, 50
"""How long a model is profiled, and how many inferences at least and at most: the trace is held in memory."""
SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """Median seconds per inference of one node. `name` and `operator` are ONNX Runtime's (after its fusions)."""

    name: str
    operator: str
    provider: str
    seconds: float


@dataclass(frozen=True)
class Profile:
    """All nodes in the order of execution, and the median seconds of the whole inferences that they are part of."""

    nodes: tuple[NodeTime, ...]
    seconds: float
    clock: Literal["kernels", "launches"] = "kernels"

    @property
    def total(self) -> float:
        """Seconds of all kernels together; less than `seconds`, which holds what the profiler itself takes."""
        return sum(n.seconds for n in self.nodes)


def profile(model: Model, target: Target, sizes: Mapping[str, tuple[int, ...]], *, seed: int = 0) -> Profile:
    """Run the model on random inputs of these sizes under the profiler.

    Raises ModelError when ONNX Runtime cannot load or run it.
    """
    feeds = random_feeds(model, sizes, seed)
    with temporary("profile") as folder:
        session = Session(model, target, settings=Settings(profile=str(folder / "trace")))
        count = min(MOST, max(LEAST, round(SECONDS / warm(lambda: session.run(feeds), 0.0))))
        for _ in range(count):
            session.run(feeds)
        events = json.loads(Path(session.session.end_profiling()).read_text(encoding="utf-8"))
    return read(events, count, clock="launches" if target.on_gpu else "kernels")


def read(events: Iterable[Mapping[str, Any]], last: int, clock: Literal["kernels", "launches"] = "kernels") -> Profile:
    """The profile of the `last` inferences of a trace; those before them warmed up.

    A node that runs several times in an inference, in the body of a Loop, counts with all its runs. An event
    that lies in no inference is left out.
    """
    complete = [e for e in events if e.get("ph") == "X"]
    runs = sorted((e for e in complete if e["name"] == "model_run"), key=lambda e: int(e["ts"]))[-last:]
    kernels = [e for e in complete if e["cat"] == "Node" and e["name"].endswith(SUFFIX)]
    kernels.sort(key=lambda e: int(e["ts"]))
    spent: list[Counter[tuple[str, str, str]]] = [Counter() for _ in runs]
    number = 0
    for event in kernels:
        while number < len(runs) and int(event["ts"]) > _end(runs[number]):
            number += 1
        if number < len(runs) and int(event["ts"]) >= int(runs[number]["ts"]):
            arguments = event["args"]
            name = (event["name"].removesuffix(SUFFIX), arguments["op_name"], arguments["provider"])
            spent[number][name] += int(event["dur"])
    names = dict.fromkeys(name for counter in spent for name in counter)
    nodes = [NodeTime(*name, 1e-6 * median(counter[name] for counter in spent)) for name in names]
    return Profile(tuple(nodes), 1e-6 * median([int(r["dur"]) for r in runs] or [0]), clock)


def by_operator(nodes: Sequence[NodeTime]) -> list[tuple[str, int, float]]:
    """(operator, how many nodes, seconds), the most expensive first."""
    seconds: Counter[str] = Counter()
    for node in nodes:
        seconds[node.operator] += node.seconds  # type: ignore[assignment]
    counts = Counter(node.operator for node in nodes)
    return [(name, counts[name], total) for name, total in seconds.most_common()]


def _end(run: Mapping[str, Any]) -> int:
    return int(run["ts"]) + int(run["dur"])
