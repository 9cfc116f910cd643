"""The outcome of a comparison as a frozen value, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from onnxtune.numerics.difference import Difference
from onnxtune.numerics.origin import Origin
from onnxtune.runtime import Level

SCHEMA = 1


@dataclass(frozen=True)
class Numerics:
    """Model `b` against model `a`.

    `differences`: every output on every case at both optimisation levels; `failures`: cases that `a` runs and `b`
    does not; `skipped`: cases that `a` itself does not run. `origin`: where the first difference beyond the tolerance
    begins. `notes`: what was assumed.
    """

    a: str
    b: str
    differences: tuple[Difference, ...]
    failures: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    origin: Origin | None = None
    notes: tuple[str, ...] = ()
    environment: Mapping[str, Any] | None = None

    @property
    def within(self) -> bool:
        """Does every output lie within the tolerance wherever `a` runs?"""
        return not self.failures and all(d.within for d in self.differences)

    @property
    def reason(self) -> str:
        """The first thing beyond the tolerance, "" when there is none."""
        if self.failures:
            return self.failures[0]
        return next((f"{d.reason} ({d.case}, ONNX Runtime level {d.level})" for d in self.differences if d.reason), "")

    def worst(self, output: str, level: Level) -> Difference:
        """Of one output at one level the case beyond the tolerance, else that of the largest relative difference."""
        rows = [d for d in self.differences if d.output == output and d.level == level]
        return max(rows, key=lambda d: (not d.within, d.relative, d.differing))

    @property
    def pairs(self) -> tuple[tuple[str, Level], ...]:
        """Every (output, level) that was compared, in order."""
        return tuple(dict.fromkeys((d.output, d.level) for d in self.differences))

    def to_json(self) -> str:
        """Versioned JSON; what is not finite is null, and `differing` and `reason` tell what happened."""
        table = {
            "schema": SCHEMA,
            "command": "compare",
            "a": self.a,
            "b": self.b,
            "within": self.within,
            "reason": self.reason,
            "differences": [{**_finite(asdict(d)), "within": d.within} for d in self.differences],
            "failures": list(self.failures),
            "skipped": list(self.skipped),
            "first_diverging": None if self.origin is None else asdict(self.origin),
            "notes": list(self.notes),
            "environment": dict(self.environment or {}),
        }
        return json.dumps(table, indent=1)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
