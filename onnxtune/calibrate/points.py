"""What a calibrated search is given, and what it weighs: levels with their time, their harm, and sets of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxtune.accuracy import Drop
from onnxtune.apply import apply
from onnxtune.calibrate.dataset import Dataset
from onnxtune.calibrate.level import Fitted, Level, combinable
from onnxtune.calibrate.store import FitStore
from onnxtune.comparison import Comparison
from onnxtune.model import Model
from onnxtune.proposal import overlap


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the user allows: `data`, and a loss of at most `max_drop` (as on the command line, such as "0.5%") of
    `metric` (None: chosen by the outputs) at one-sided `confidence`."""

    data: Dataset
    max_drop: str
    metric: str | None = None
    confidence: float = 0.9
    store: FitStore = field(default_factory=lambda: FitStore(None))
    on_point: Callable[[Point], None] = lambda point: None
    """Called with every set that was refitted and judged."""
    crop_border: int = 0
    """Pixels at the border of dense outputs that do not count."""

    @cached_property
    def digest(self) -> str:
        return self.data.digest()

    def record(self) -> dict[str, Any]:
        """The settings that decide the result, as plain data."""
        return {
            "source": Path(self.data.source).name,
            "samples": self.data.count,
            "sha256": self.digest,
            "max_drop": self.max_drop,
            "metric": self.metric,
            "confidence": self.confidence,
            "crop_border": self.crop_border,
        }


@dataclass(frozen=True, eq=False)
class Timed:
    """A level that is faster, with its region's comparison. `freed`: bytes of weights that it saves, where these are
    what counts. `forgone`: seconds that late exact rewrites would save in its place; `on_top`: those that they would
    save on what it puts there."""

    level: Level
    comparison: Comparison
    freed: int | None = None
    forgone: float = 0.0
    on_top: float = 0.0

    @property
    def saved(self) -> float:
        return self.comparison.saved + self.on_top - self.forgone

    @property
    def gain(self) -> float:
        """What it is chosen for: bytes where those count, else seconds."""
        return self.saved if self.freed is None else float(self.freed)


@dataclass(frozen=True, eq=False)
class Option:
    """A level that was fitted alone: error of its layer, harm to the network."""

    timed: Timed
    error: float
    harm: float


@dataclass(frozen=True, eq=False)
class Point:
    """A set of levels, refitted in order on `source`, the model before; `latency` (s) as the regions promise.

    `fitted`: one for each of `groups`, of options whose regions overlap and that are one rewrite together.

    `drop` on the select split; `gate` on samples that neither fit nor choice has seen, None when not asked.
    """

    groups: tuple[tuple[Option, ...], ...]
    fitted: tuple[Fitted, ...]
    source: Model
    latency: float
    macs: int
    bytes: int
    drop: Drop
    gate: Drop | None = None
    veto: Drop | None = None

    def model(self) -> Model:
        """What comes out. Made anew each time: many points are kept, and each may be most of a large model."""
        return apply(self.source, [f.proposal for f in self.fitted])

    @property
    def options(self) -> tuple[Option, ...]:
        return tuple(o for group in self.groups for o in group)

    @property
    def gain(self) -> float:
        return sum(o.timed.gain for o in self.options)

    @property
    def identity(self) -> frozenset[str]:
        return frozenset(o.timed.level.identity for o in self.options)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats in both latency and loss, the fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.latency, p.drop.estimate)):
        if not front or point.drop.estimate < front[-1].drop.estimate:
            front.append(point)
    return front


def described(point: Point) -> dict[str, Any]:
    """A point as plain data: seconds, multiply-accumulates, bytes, losses, titles of its levels."""
    return {
        "latency": point.latency,
        "macs": point.macs,
        "bytes": point.bytes,
        "drop": asdict(point.drop),
        "gate": None if point.gate is None else asdict(point.gate),
        "levels": [o.timed.level.title for o in point.options],
    }


def grouped(options: Sequence[Option]) -> list[tuple[Option, ...]]:
    """Options that can be one rewrite and whose regions overlap, directly or through others, together; all in the
    order given."""
    groups: list[list[Option]] = []
    for option in options:
        near = [g for g in groups if any(_joins(o.timed.level, option.timed.level) for o in g)]
        groups = [g for g in groups if all(g is not n for n in near)]
        groups.append([*(o for g in near for o in g), option])
    place = {id(o): i for i, o in enumerate(options)}
    inside = [tuple(sorted(g, key=lambda o: place[id(o)])) for g in groups]
    return sorted(inside, key=lambda g: place[id(g[0])])


def _joins(first: Level, second: Level) -> bool:
    return combinable(first, second) and overlap(first.unfitted, second.unfitted)


def combined(group: Sequence[Option]) -> Level:
    """The one level that a group of options is."""
    levels = [o.timed.level for o in group]
    together = levels[0].together
    if len(levels) == 1:
        return levels[0]
    assert together is not None, "only such levels are grouped"
    return together([part for level in levels for part in level.parts])
