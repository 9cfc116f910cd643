"""Spending an accuracy budget on speed: measure levels, fit, choose, refit in order, and let the gate decide.

1  Every level of every rule is timed unfitted, on its region; what is not faster is dropped.
2  The rest of each layer is fitted alone; of levels that another beats in time and error nothing more is done.
   The others are put into the network one at a time, and their harm is measured on the select split.
3  Harms are added up to choose a set for a budget. The set is fitted again in the network's order, each layer
   on what the layers before it have become, and its drop is measured on the select split. The budget of
   harms is raised or lowered until the drop comes near the budget.
4  The gate: the same set is fitted on all but one fold of the samples that no choice has seen, and judged on
   that fold, for each fold in turn (cross-fitting), so that many samples can bound a small drop. The set that
   leaves is fitted on the fit split, and labels of the gate split can veto it. It begins with the set that promises
   most; where that passes, bolder ones follow, else more careful ones, which must be surer (see `spending`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.accuracy import parse_budget, unit
from onnxtune.apply import apply
from onnxtune.calibrate.dataset import Splits, split
from onnxtune.calibrate.evidence import most_rows
from onnxtune.calibrate.fitter import Fitter
from onnxtune.calibrate.judge import Judge, joined
from onnxtune.calibrate.level import Fitted
from onnxtune.calibrate.points import Calibration, Option, Point, Timed, combined, described, grouped
from onnxtune.calibrate.sets import Sets
from onnxtune.calibrate.shortlist import FORMS, by_kind, evenly, front, probe
from onnxtune.calibrate.spending import climb, confidence_of
from onnxtune.calibrate.tail import Tail
from onnxtune.choose import choose
from onnxtune.costs import total_macs
from onnxtune.facts import Facts
from onnxtune.model import tensor_bytes
from onnxtune.proposal import overlap
from onnxtune.runtime import Target

Notify = Callable[[str, int, int], None]
FOLDS = 3
TRIES = 6
"""Sets that are refitted and judged on the way to the budget."""
CLIMBS = 3
"""How often the gate is asked of sets as they were found."""
CAREFUL = (1.0, 0.5, 0.25)
"""Shares of the budget for the sets that are put before it after those."""
ALONE = 3
"""Levels that are put before it alone, at last."""
LEAST_GAIN = 0.004
"""A level must save at least this share of the model's latency to be worth its harm."""


@dataclass(eq=False)
class Search:
    """One search over the levels of one model. `facts` are of the model before any calibrated rewrite, or of its
    `tail` where only that may change."""

    facts: Facts
    judge: Judge
    calibration: Calibration
    target: Target
    seed: int
    latency: float
    notify: Notify
    tail: Tail | None = None
    offered: int = 0
    """How many levels rules have offered, faster or not."""

    def __post_init__(self) -> None:
        self.teacher = self.facts.model
        data, store, digest = self.calibration.data, self.calibration.store, self.calibration.digest
        if self.tail is not None:
            data, digest = self.tail.data, self.tail.data.digest()
        self.budget = parse_budget(self.calibration.max_drop, self.judge.main.metric)
        self.splits: Splits = split(data.count, self.seed, classified=self.judge.classified, source=data.source)
        self.fitter = Fitter(self.teacher, data, digest, store, self.target, self.seed, self.notify)
        self.whole = self.teacher if self.tail is None else self.tail.whole
        self.points: list[Point] = []
        self.faster = 0
        self._spent, self._failed = 0, -math.inf
        self._considered: dict[str, Option] = {}
        self._closest: set[str] = set()
        """Identities of levels that no other of their layer beats in time and error."""

    def passing(self, timed: Sequence[Timed]) -> Iterator[Point]:
        """Sets that pass the gate, the boldest first. All that were tried are in `points`."""
        self.faster = len(timed)
        options = self._options([t for t in timed if t.gain > self._least(t)])
        if not options:
            return
        sets = Sets(options)
        self._approach(sets)
        for start in chain(self._climbs(), ([p] for p in self._careful(sets))):
            yield from reversed(self._passed(start))

    def _climbs(self) -> Iterator[list[Point]]:
        """Sets in the order in which the gate should see them, boldly at first."""
        for _ in range(CLIMBS):
            fresh = [p for p in self.points if p.gate is None]
            found = climb(fresh, [self._margin(p) for p in fresh], self._failed)
            if not found:
                return
            yield found

    def _passed(self, points: Sequence[Point]) -> list[Point]:
        """The first of them, in order, that the gate lets pass, before the first that it does not."""
        passed: list[Point] = []
        sure, margins = self._sure, [self._margin(p) for p in points]
        self._spent += 1
        for point, margin in zip(points, margins, strict=True):
            judged = self._gated(point, sure)
            self.points[self.points.index(point)] = judged
            if not self.open(judged):
                self._failed = max(self._failed, margin)
                break
            passed.append(judged)
        return passed

    def _margin(self, point: Point) -> float:
        return point.drop.margin(len(self._unseen), self._sure, self.budget)

    @property
    def _sure(self) -> float:
        """How sure the next climb must be."""
        return confidence_of(self._spent, self.judge.confidence)

    def _careful(self, sets: Sets) -> Iterator[Point]:
        """More and more careful sets, where the gate has let none pass.

        Levels whose harm alone the select split cannot see are told apart by the errors of their layers: what the most
        careful set so far may have lost is shared out by their squares. In the end single levels, of each layer the
        one that gains most: every further layer is a risk for what it gains. At last the most careful set of those
        that promised too little: the select split, a fraction of what the gate sees, may have been too small to tell.
        """
        known = min(self.points, key=lambda p: p.drop.bound, default=None)
        if known is None:
            return
        part = known.drop.bound / max(sum(o.error**2 for o in known.options), 1e-12)
        harm = [max(h, part * o.error**2) for h, o in zip(sets.harm, sets.options, strict=True)]
        for scale in CAREFUL:
            chosen = choose(sets.gain, harm, sets.conflicts, scale * self.budget)
            if self._is_new(sets, chosen):
                yield self._tried(sets, chosen)
        alone: dict[str, int] = {}
        for i in sorted(range(len(sets.options)), key=lambda i: -sets.gain[i]):
            if sets.harm[i] <= self.budget / 2:
                alone.setdefault(sets.options[i].timed.level.layer.key, i)
        for i in list(alone.values())[:ALONE]:
            if self._is_new(sets, frozenset({i})):
                yield self._tried(sets, frozenset({i}))
        unseen = [p for p in self.points if p.gate is None and p.drop.estimate <= self.budget]
        if unseen:
            yield min(unseen, key=lambda p: p.drop.bound)

    def _is_new(self, sets: Sets, chosen: frozenset[int]) -> bool:
        return bool(chosen) and not any(p.identity == sets.identity(chosen) for p in self.points)

    def _least(self, timed: Timed) -> float:
        return LEAST_GAIN * (self.latency if timed.freed is None else self.costs(self.facts)[1])

    def insisted(self, timed: Sequence[Timed]) -> Point | None:
        """What levels that the user insists on really cost: of each layer the least harmful, before the gate. Of two
        that are in each other's way, too."""
        best: list[Option] = []
        for option in sorted(self._options(timed), key=lambda o: o.harm):
            level = option.timed.level
            taken = (o.timed.level for o in best)
            if not any(t.layer.key == level.layer.key or overlap(t.unfitted, level.unfitted) for t in taken):
                best.append(option)
        if not best:
            return None
        point = self._gated(self._point(best), self._sure)
        self._spent += 1
        self.points = [*(p for p in self.points if p.identity != point.identity), point]
        return point

    def open(self, point: Point) -> bool:
        """Does the gate let the set pass?"""
        assert point.gate is not None, "asked before"
        assert point.veto is not None, "asked before"
        vetoed = point.veto.labelled_low is not None and point.veto.labelled_low > self.budget
        return point.gate.within(self.budget) and not vetoed

    @property
    def sampled(self) -> list[dict[str, Any]]:
        """Layers too wide for a covariance, of which levels were fitted to a sample of their rows."""
        layers = {o.timed.level.layer.key: o.timed.level.layer for o in self._considered.values()}
        images = len(self.splits.fit)
        return [
            {"layer": key, "columns": layer.columns, "rows": most_rows(layer, images)}
            for key, layer in layers.items()
            if layer.wide
        ]

    # --- harm of single levels ---------------------------------------------------------------

    def _options(self, timed: Sequence[Timed]) -> list[Option]:
        layers: dict[str, list[Timed]] = {}
        for item in timed:
            layers.setdefault(item.level.layer.key, []).append(item)
        found: list[Option] = []
        for number, items in enumerate(layers.values()):
            self.notify(f"fitting {items[0].level.layer.key}", number, len(layers))
            probes = self._fits([i for i in items if i.level is probe(items, i.level.family)])
            closest = (f for group in by_kind(probes) for f in front(group)[-FORMS:])
            forms = {item.level.family for item, _ in closest}
            fits = self._fits([i for i in items if i.level.family in forms])
            fronts = [front(group) for group in by_kind(fits)]
            self._closest |= {item.level.identity for best in fronts for item, _ in best}
            found += [self._option(item, fitted) for best in fronts for item, fitted in evenly(best)]
        self.fitter.forget()
        self._considered = {o.timed.level.identity: o for o in found}
        return found

    def _fits(self, items: Sequence[Timed]) -> list[tuple[Timed, Fitted]]:
        return list(zip(items, self.fitter.alone([i.level for i in items], self.splits.fit), strict=True))

    def why_not(self, timed: Timed) -> str:
        """Why a faster level is not in the set that was taken."""
        option = self._considered.get(timed.level.identity)
        if timed.gain <= self._least(timed):
            return "saves too little to be worth any accuracy"
        if option is None and timed.level.identity in self._closest:
            return "others of the layer, some faster and some closer, were tried in its place"
        if option is None:
            return "another level of the layer is faster and closer"
        factor, suffix = unit(self.judge.main.metric)
        return f"not in the best set: alone it costs {factor * option.harm:.2g}{suffix} of {self.judge.main.metric}"

    def _option(self, timed: Timed, fitted: Fitted) -> Option:
        model = apply(self.teacher, [fitted.proposal])
        drop = self.judge.drop(self.judge.score(model, self.splits.select), self.splits.select)
        floor = 1e-3 * self.budget * min(1.0, fitted.error)  # of two that did no measurable harm the closer one
        return Option(timed, fitted.error, max(drop.estimate, 0.0) + floor)

    # --- sets --------------------------------------------------------------------------------

    def _approach(self, sets: Sets) -> None:
        """Choose and refit sets for growing or shrinking budgets of harm."""
        low, high, scale = 0.0, math.inf, 1.0
        seen: dict[frozenset[int], bool] = {}
        for number in range(TRIES):
            chosen = sets.within(scale * self.budget)
            if chosen and chosen not in seen:
                self.notify(f"refitting set {number + 1} of at most {TRIES}", number, TRIES)
                seen[chosen] = self._promises(self._tried(sets, chosen))
            good = seen.get(chosen, True)
            low, high = (scale, high) if good else (low, scale)
            if good and sum(sets.harm) <= scale * self.budget:
                return
            scale = 2 * scale if math.isinf(high) else (low + high) / 2

    def _tried(self, sets: Sets, chosen: frozenset[int]) -> Point:
        point = self._point([sets.options[i] for i in sorted(chosen)])
        self.points.append(point)
        self.calibration.on_point(point)
        return point

    def _promises(self, point: Point) -> bool:
        """Would the gate, with its many samples, find the drop within the budget if it is what it seems?"""
        return self._margin(point) >= 0

    def _point(self, options: Sequence[Option]) -> Point:
        place = {key: n.index for key, n in self.facts.by_key.items()}
        options = sorted(options, key=lambda o: place[o.timed.level.layer.key])
        groups = grouped(options)
        model, fitted = self.fitter.in_order([combined(g) for g in groups], self.splits.fit)
        drop = self.judge.drop(self.judge.score(model, self.splits.select), self.splits.select)
        least = max(float(np.median(o.timed.comparison.after)) for o in options)  # what its slowest region takes
        latency = max(least, self.latency - sum(o.timed.saved for o in options))
        return Point(tuple(groups), fitted, self.whole, latency, *self.costs(Facts(model, self.facts.sizes)), drop)

    def costs(self, facts: Facts) -> tuple[int, int]:
        """Multiply-accumulates and bytes of weights of the whole model, of which the facts may know the tail only."""
        first = (0, 0) if self.tail is None else (self.tail.macs, self.tail.bytes)
        return first[0] + total_macs(facts), first[1] + tensor_bytes(facts.model)

    # --- the gate ----------------------------------------------------------------------------

    @property
    def _unseen(self) -> NDArray[np.int64]:
        """Samples that no choice has looked at; every fold of them is judged by a fit that has not seen it."""
        return np.concatenate([self.splits.fit, self.splits.gate])

    def _gated(self, point: Point, sure: float) -> Point:
        parts = []
        folds = np.array_split(np.random.default_rng(self.seed).permutation(self._unseen), FOLDS)
        for number, fold in enumerate(folds):
            self.notify("the gate: fitting without the samples it is judged on", number, FOLDS)
            rest = np.concatenate([f for i, f in enumerate(folds) if i != number])
            model, _ = self.fitter.in_order([combined(g) for g in point.groups], rest)
            parts.append((fold, self.judge.score(model, fold)))
        indices, scores = joined(parts)
        model = apply(self.teacher, [f.proposal for f in point.fitted])
        final = self.judge.score(model, self.splits.gate)
        gate = self.judge.drop(scores, indices, sure)
        return replace(point, gate=gate, veto=self.judge.drop(final, self.splits.gate))


def summary(search: Search, chosen: Point | None, *, refused: bool = False) -> dict[str, Any]:
    """What the report says of a search: data, metric, budget, and every point that was tried.

    `refused`: the chosen set was insisted on, but costs too much to be written.
    """
    factor, suffix = unit(search.judge.main.metric)
    taken = None if chosen is None else chosen.identity
    macs, stored = search.costs(search.facts)
    points = sorted(search.points, key=lambda p: p.latency)
    gate = None if chosen is None else chosen.gate
    return {
        **search.calibration.record(),
        "splits": {"fit": len(search.splits.fit), "select": len(search.splits.select), "gate": len(search.splits.gate)},
        "plans": [asdict(p) for p in search.judge.plans],
        "levels": {"offered": search.offered, "faster": search.faster},
        "sampled": search.sampled,
        "budget": search.budget,
        "refused": refused,
        "unit": {"factor": factor, "suffix": suffix},
        "gate": None if gate is None else {**asdict(gate), "needed_for_half": gate.needed(search.budget / 2)},
        "veto": None if chosen is None or chosen.veto is None else asdict(chosen.veto),
        "exact": {"latency": search.latency, "bytes": stored, "macs": macs},
        "points": [{**described(p), "chosen": p.identity == taken and not refused} for p in points],
    }
