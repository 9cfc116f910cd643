"""What a benchmark found: frozen values, and the same as JSON. Times are seconds, sizes bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.bench.caveats import Caveat
from onnxtune.bench.caveats import as_json as caveat_as_json
from onnxtune.bench.memory import Memory
from onnxtune.bench.statistics import PERCENTILES, Summary, summarize
from onnxtune.comparison import Comparison

SCHEMA = 1
KNEE = 0.95
"""Share of the best throughput that the smallest sufficient batch must reach."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A model that was timed. `samples`: (blocks, rounds, 2 sessions), each the mean of `repeats` inferences; NaN for
    runs that other processes cut, as they did a share of `cut` of all, and which do not count.

    `items`: how many inputs one inference processes. `session`: seconds to create a session (median), `first`: its
    first inference, `noise`: how far apart equal sessions come (0.01 = 1 %). `memory`: None where it was not asked.
    `rewritten`: what was changed to run it, such as a fixed batch made free.
    """

    model: str
    items: int
    samples: NDArray[np.float64]
    repeats: int
    session: float
    first: float
    steady: bool
    noise: float
    cut: float
    model_bytes: int
    memory: Memory | None = None
    percentiles: tuple[float, ...] = PERCENTILES
    rewritten: str = ""

    @cached_property
    def summary(self) -> Summary:
        return summarize(self.kept, self.percentiles)

    @property
    def kept(self) -> NDArray[np.float64]:
        """The samples that count, (n,)."""
        return self.samples[np.isfinite(self.samples)]

    @property
    def throughput(self) -> float:
        """Items per second."""
        return self.summary.throughput(self.items)


@dataclass(frozen=True)
class Failed:
    """A model that could not be timed in this case, and why. `fits` is False where memory was what lacked."""

    model: str
    reason: str
    fits: bool = True


Row = Measured | Failed


@dataclass(frozen=True, eq=False)
class Case:
    """All models at the same inputs. `label` is empty where there is one case only; `batch` None where not asked.

    `comparisons`: for each model after the first, against the first; None where one of them failed.
    """

    label: str
    batch: int | None
    shapes: Mapping[str, tuple[int, ...]]
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison | None, ...]
    caveats: tuple[Caveat, ...] = ()

    @property
    def measured(self) -> tuple[Measured, ...]:
        return tuple(r for r in self.rows if isinstance(r, Measured))


@dataclass(frozen=True, eq=False)
class BenchmarkReport:
    """`machine`: where it was measured; `settings`: how. `extras`: further findings by name, as JSON values."""

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(r.model for r in self.cases[0].rows)

    def knee(self, model: int) -> int | None:
        """The smallest batch with at least 95 % of the best throughput; None without a sweep over two batches."""
        speeds = {
            case.batch: row.throughput
            for case in self.cases
            if case.batch is not None and isinstance(row := case.rows[model], Measured)
        }
        if len(speeds) < 2:
            return None
        best = max(speeds.values())
        return min(batch for batch, speed in speeds.items() if speed >= KNEE * best)

    def to_dict(self) -> dict[str, Any]:
        """Plain data by the schema in assets/benchmark.schema.json: raw samples included."""
        return {
            "schema": SCHEMA,
            "kind": "benchmark",
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "models": list(self.models),
            "cases": [_case(c) for c in self.cases],
            "knees": [{"model": m, "batch": self.knee(i)} for i, m in enumerate(self.models)],
            "notes": list(self.notes),
            **self.extras,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def _case(case: Case) -> dict[str, Any]:
    first = case.rows[0].model
    return {
        "label": case.label,
        "batch": case.batch,
        "shapes": {n: list(s) for n, s in case.shapes.items()},
        "results": [_row(r) for r in case.rows],
        "comparisons": [
            {"model": row.model, "against": first, **comparison_as_json(c)}
            for row, c in zip(case.rows[1:], case.comparisons, strict=True)
            if c is not None
        ],
        "warnings": [caveat_as_json(c) for c in case.caveats],
    }


def _row(row: Row) -> dict[str, Any]:
    if isinstance(row, Failed):
        return {"kind": "failed", **asdict(row)}
    s = row.summary
    return {
        "kind": "measured",
        "model": row.model,
        "items": row.items,
        "latency": {
            "count": s.count,
            "median": s.median,
            "mean": s.mean,
            "min": s.minimum,
            "mad": s.mad,
            "percentiles": {f"{p:g}": v for p, v in s.percentiles},
        },
        "throughput": row.throughput,
        "noise": finite(row.noise),
        "cut": row.cut,
        "repeats": row.repeats,
        "session_seconds": row.session,
        "first_run_seconds": row.first,
        "steady": row.steady,
        "model_bytes": row.model_bytes,
        "memory": None if row.memory is None else row.memory.as_json(),
        "rewritten": row.rewritten,
        "samples": _nullable(row.samples.tolist()),
    }


def comparison_as_json(result: Comparison) -> dict[str, Any]:
    """Without the samples, which stand with the models."""
    return {
        "speedup": result.speedup,
        "low": finite(result.low),
        "high": finite(result.high),
        "noise": finite(result.noise),
        "confidence": result.confidence,
        "error": result.error,
        "verdict": result.verdict,
    }


def _nullable(values: Any) -> Any:
    """Nested lists of numbers with None in place of NaN."""
    return [_nullable(v) for v in values] if isinstance(values, list) else finite(values)


def finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None
