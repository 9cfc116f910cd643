"""What `onnxtune check` says of a model, as frozen values: checks, findings, what they would be worth, a report."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxtune.facts import Node
from onnxtune.scene import Scene
from onnxtune.trial import Timer

SCHEMA = 1
Severity = Literal["info", "advice", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "advice", "warning", "error")
"""info: good to know; advice: something may be gained; warning: much may be gained, or something is odd;
error: the model does not compute what it was trained to."""
Remedy = Literal["optimize", "calibrate", "retrain", "export", "deploy"]
REMEDIES: Mapping[Remedy, str] = {
    "optimize": "run `onnxtune optimize`",
    "calibrate": "run `onnxtune optimize --calibration-data`",
    "retrain": "needs training",
    "export": "export again",
    "deploy": "to be chosen when deploying",
}


@dataclass(frozen=True)
class Check:
    """What a check says of itself. `items`: numbers A1 to A16 of the list of advice that it covers. `rules`: rewrites
    that do what it advises. `action`: what to do, in words."""

    code: str
    name: str
    summary: str
    severity: Severity
    remedy: Remedy
    action: str
    fires: str
    quiet: str
    guidelines: tuple[int, ...] = ()
    items: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    only_speed: bool = True
    """Whether nothing but speed speaks for it: where measuring shows no gain, it is only good to know."""
    as_stored: bool = False
    """Whether it must see which weights are graph inputs; others look at the model with its weights constant."""


@dataclass(frozen=True)
class Worth:
    """What following the advice would be worth on the whole model: its speed-up, and how that is known.

    "measured": rewritten regions were timed here (unfitted weights where fitting is needed). "estimated": from
    multiply-accumulates alone. `table`: what else was measured, one mapping for each row.
    """

    kind: Literal["measured", "estimated"]
    speedup: float | None
    by: str = ""
    saved_seconds: float | None = None
    table: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, eq=False)
class Found:
    """One place or group of places, before it becomes a Finding. `left`: estimated share of the model's time that
    is left when the advice is followed (None: not known). What is None is as the check's card says."""

    message: str
    nodes: tuple[Node, ...] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)
    left: float | None = None
    severity: Severity | None = None
    remedy: Remedy | None = None
    action: str | None = None
    rules: tuple[str, ...] | None = None
    names: tuple[str, ...] = ()
    """What it is about where that is not nodes: inputs, weights."""
    details: tuple[str, ...] = ()
    """Further lines: a table of sizes, the layers one by one."""


@dataclass(frozen=True, eq=False)
class Checker:
    """A check ready to run. `measure` times what is no rewrite of ours; None: the card's rules are timed.
    `sweep`: findings that only measuring brings. `asks`: tensors that the samples are asked about."""

    card: Check
    find: Callable[[Scene], Iterable[Found]]
    explanation: str
    measure: Callable[[Scene, Found, Timer], Worth | None] | None = None
    sweep: Callable[[Scene, Timer], Iterable[Found]] | None = None
    asks: Callable[[Scene], set[str]] | None = None


@dataclass(frozen=True)
class Finding:
    """One finding. `nodes`: names of the nodes (of their first outputs where they have none), inputs or weights."""

    code: str
    name: str
    severity: Severity
    message: str
    nodes: tuple[str, ...]
    numbers: Mapping[str, Any]
    remedy: Remedy
    action: str
    rules: tuple[str, ...]
    guidelines: tuple[int, ...]
    worth: Worth | None = None
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckReport:
    """All findings on one model, the gravest first. `environment` and `settings` say how it was measured."""

    model: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    totals: Mapping[str, int]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    seconds: float
    latency: float | None = None
    """Seconds of one inference here, where it was measured."""
    schema: int = SCHEMA

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        least = SEVERITIES.index(severity)
        return tuple(f for f in self.findings if SEVERITIES.index(f.severity) >= least)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        fields = plain(self)
        assert isinstance(fields, dict)
        return fields

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)


def several(number: int, one: str, many: str) -> str:
    """ "1 layer has", "3 layers have" """
    return f"{number} {one if number == 1 else many}"


def plain(value: Any) -> Any:
    """As JSON has it: dataclasses and mappings as dicts, NumPy numbers as numbers, what is not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "item") and not isinstance(value, (str, int, float)):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
