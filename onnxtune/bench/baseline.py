"""An earlier run as the measure of this one: is a model slower now than it was then?

The two runs share no rounds, so nothing pairs their samples: the places of all sessions then are held against those
of all sessions now (Welch's t at the confidence of the comparison). What both runs differ by between equal sessions
counts as noise; how much the machine as a whole has changed in between, no single run can tell.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.bench.report import SCHEMA, BenchmarkReport, Case, Measured, finite
from onnxtune.errors import DataError, UsageError, one_line

CONFIDENCE = 0.99
SAME = ("provider", "threads", "provider_options")
"""Settings that must be the same for two runs to be comparable."""


@dataclass(frozen=True)
class Change:
    """A model now against then: `ratio` of medians, now / then (1.1 = 10 % slower), its interval at 99 %, and the
    larger of both runs' A/A noise."""

    model: str
    case: str
    ratio: float
    low: float
    high: float
    noise: float

    def slower(self, allowed: float) -> bool:
        """Slower by more than `allowed`, and beyond interval and noise slower at all."""
        return self.ratio > 1 + allowed and self.low > 1 + self.noise

    @property
    def text(self) -> str:
        where = f" ({self.case})" if self.case else ""
        return (
            f"{self.model}{where}: {self.ratio:.3f}x the baseline's time"
            f" (99% interval {self.low:.3f} to {self.high:.3f}, A/A noise {self.noise:.1%})"
        )

    def as_json(self) -> dict[str, Any]:
        numbers = {k: finite(getattr(self, k)) for k in ("ratio", "low", "high", "noise")}
        return {"model": self.model, "case": self.case, **numbers}


def read_baseline(path: Path) -> Mapping[str, Any]:
    """The JSON of an earlier run. Raises DataError naming the file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({one_line(error)})") from None
    if not isinstance(found, dict) or found.get("kind") != "benchmark":
        raise DataError(f"{path}: not the JSON of `onnxtune bench`")
    if found.get("schema") != SCHEMA:
        raise DataError(f"{path}: has the schema {found.get('schema')}, this version reads {SCHEMA}; measure it anew")
    return found


def check_machine(old: Mapping[str, Any], new: Mapping[str, Any], named: str) -> None:
    """Raises UsageError when the two ran on different machines. Both are `machine` of a report."""
    if old.get("key") == new.get("key"):
        return
    theirs, ours = (_device(m) for m in (old, new))
    difference = f"{theirs}, this is {ours}" if theirs != ours else f"another kind of {ours}"
    raise UsageError(
        f"{named}: was measured on another machine ({difference}); times do not compare; --force compares all the same"
    )


def changes(old: Mapping[str, Any], new: BenchmarkReport, named: str) -> tuple[Change, ...]:
    """Every model and case that both have. Raises UsageError when they have none in common, or differ in settings or
    inputs; DataError when the old run does not hold what its schema promises."""
    _check_settings(old, new, named)
    try:
        found = tuple(_changes(old, new, named))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{named}: damaged ({type(error).__name__}: {one_line(error)})") from None
    if not found:
        raise UsageError(f"{named}: holds none of these models and cases; measure the baseline with the same command")
    return found


def _changes(old: Mapping[str, Any], new: BenchmarkReport, named: str) -> Iterator[Change]:
    cases = {case["label"]: case for case in old["cases"]}
    for case in new.cases:
        then = cases.get(case.label)
        if then is None:
            continue
        _check_shapes(then, case, named)
        measured = [r if r["kind"] == "measured" else None for r in then["results"]]
        for i, row in enumerate(case.rows):
            match = _match([r["model"] for r in then["results"]], [r.model for r in case.rows], i)
            before = None if match is None else measured[match]
            if before is None or not isinstance(row, Measured):
                continue
            samples = np.asarray(before["samples"], np.float64)
            yield change(row.model, case.label, samples, row.samples, max(float(before["noise"]), row.noise))


def change(model: str, case: str, then: NDArray[np.float64], now: NDArray[np.float64], noise: float) -> Change:
    """From samples (blocks, rounds, 2) of both runs."""
    from scipy.special import stdtrit

    places = [np.nanmedian(np.log(s), axis=1).ravel() for s in (then, now)]
    shift = float(np.mean(places[1]) - np.mean(places[0]))
    parts = [float(np.var(p, ddof=1)) / len(p) for p in places]
    total = sum(parts)
    freedom = total**2 / sum(v**2 / (len(p) - 1) for v, p in zip(parts, places, strict=True)) if total > 0 else math.inf
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(total) if total > 0 else 0.0
    return Change(model, case, math.exp(shift), math.exp(shift - half), math.exp(shift + half), noise)


def _match(old: Sequence[str], new: Sequence[str], i: int) -> int | None:
    """Which of the old models is the new one: of the same path, else file name, if there is one such on both sides."""
    for key in (lambda name: name, lambda name: PurePath(name).name):
        theirs, ours = [key(n) for n in old], [key(n) for n in new]
        if theirs == ours:
            return i
        if theirs.count(ours[i]) == 1 == ours.count(ours[i]):
            return theirs.index(ours[i])
    return 0 if len(old) == len(new) == 1 else None


def _check_settings(old: Mapping[str, Any], new: BenchmarkReport, named: str) -> None:
    theirs = old.get("settings")
    for key in SAME:
        then = theirs.get(key) if isinstance(theirs, dict) else None
        if then != new.settings[key]:
            raise UsageError(f"{named}: was measured with {key} {then}, this run has {new.settings[key]}")


def _check_shapes(then: Mapping[str, Any], now: Case, named: str) -> None:
    shapes = {n: list(s) for n, s in now.shapes.items()}
    if then["shapes"] != shapes:
        raise UsageError(f"{named}: was measured at {then['shapes']}, this run at {shapes}")


def _device(machine: Mapping[str, Any]) -> str:
    return str(machine.get("device") or "an unknown device")
