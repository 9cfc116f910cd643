"""What the user asks of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxtune.ranges import Ranges
from onnxtune.report import Outcome
from onnxtune.rule import Rule
from onnxtune.runtime import Target
from onnxtune.sizes import Sizes

Objective = Literal["latency", "size", "throughput"]
BATCH = 32
"""Images at a time when throughput counts."""
NotifyFunction = Callable[[str, int, int], None]
"""Progress: stage in words, how many of how many are done (total 0: unknown)."""

DecideFunction = Callable[[Outcome | str], None]
"""Decisions as they happen: a rewrite taken (for the time being), refused or declined; or a remark in words."""


@dataclass(frozen=True)
class Options:
    """How to tune. `min_speedup`: least whole-model speed-up worth a new file. `time_budget`: seconds
    after which nothing new is measured, and as long again for the last comparison (0: nothing at all; then only forced
    rewrites stay). `force`: rules kept even when they are not faster. `sizes`: input shapes to measure at. `ranges`:
    between which values inputs lie. `settings`: overrides of rules' settings, by rule."""

    min_speedup: float = 1.02
    time_budget: float = 120.0
    seed: int = 0
    rtol: float | None = None
    atol: float | None = None
    sizes: Sizes = field(default_factory=dict)
    ranges: Ranges = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    force: tuple[str, ...] = ()
    objective: Objective = "latency"
    """What is chosen by: time at the measured sizes, bytes of weights, or time of a batch of BATCH."""
    measure: bool = True
    """Whether anything is timed. If not, exact rewrites are kept that do less work, on every machine the same."""
    insist: tuple[str, ...] = ()
    """Calibrated rules of which something must be in the result, or nothing is written."""

    def record(self, rules: Sequence[Rule], target: Target) -> dict[str, Any]:
        """The settings that decide the result, as plain data for report and provenance."""
        found: dict[str, Any] = {
            "rules": [r.name for r in rules],
            "settings": {k: dict(v) for k, v in self.settings.items()},
            "force": list(self.force),
            "insist": list(self.insist),
            "objective": self.objective,
            "min_speedup": self.min_speedup,
            "time_budget": self.time_budget,
            "rtol": self.rtol,
            "atol": self.atol,
            "seed": self.seed,
            "sizes": {k: list(v) for k, v in self.sizes.items()},
            "input_ranges": {k: list(v) for k, v in self.ranges.items()},
            "provider": target.provider,
            "provider_options": dict(target.options),
        }
        # What is not measured does not depend on these, and is to be the same bytes everywhere.
        return (
            {**found, "threads": target.threads, "device": target.device}
            if self.measure
            else {**found, "measure": False}
        )
