"""Without data: what calibrated rewrites could be worth, by levels that are timed and not fitted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from onnxtune.apply import apply
from onnxtune.calibrate.level import Level
from onnxtune.model import Model
from onnxtune.proposal import Decline
from onnxtune.propose import propose_levels
from onnxtune.select import select
from onnxtune.steps import Step
from onnxtune.tune.run import Run

LAYERS, SECONDS = 6, 15.0
"""How many layers' levels are timed, and for how long."""
RATIO = 0.3
"""Multiply-accumulates left of a layer that calibration mostly allows."""


def promise(run: Run, base: Model, steps: Sequence[Step], exact: Sequence[Step]) -> None:
    """Say what calibration data could be worth: levels of the largest layers, timed and not fitted.

    Calibrated rewrites would start from `steps`; `exact`: these and late rewrites, what is to be beaten.
    """
    model, rival = (apply(base, [s.proposal for s in chosen]) for chosen in (steps, exact))
    facts = run.facts_of(model)
    layers = usual_levels(propose_levels(facts, run.calibrated, run.rule_settings))
    timer = replace(run.timer, deadline=min(run.timer.deadline, time.monotonic() + SECONDS))
    faster: list[tuple[Level, float]] = []
    with run.stage("measure"):
        for key in list(layers)[:LAYERS]:
            for level in layers[key].values():
                run.notify("measuring what calibration could be worth", 0, 0)
                comparison = timer.region(facts, level.unfitted).comparison
                if comparison is not None and comparison.verdict == "faster":
                    faster.append((level, comparison.saved))
        latency, own = (run.timer.latency(m, run.sizes) if faster else 0.0 for m in (model, rival))
    chosen = [faster[i] for i in select([x.unfitted for x, _ in faster], [saved for _, saved in faster])]
    total = sum(saved for _, saved in chosen)
    left = latency - total
    if 0 < left < 0.95 * own:
        each = (f"{level.rule} at {level.layer.key} {1e6 * saved:.3g} us" for level, saved in chosen)
        run.notes.append(
            f"with --calibration-data up to {own / left:.1f}x more, by forms with at most {RATIO:.0%}"
            f" of a layer's multiply-accumulates, timed unfitted: {', '.join(each)}"
        )


def usual_levels(said: Iterable[Level | Decline]) -> dict[str, dict[str, Level]]:
    """Layer -> rule -> the level with most arithmetic that leaves no more than RATIO of it; largest layers first."""
    layers: dict[str, dict[str, Level]] = {}
    for level in (x for x in said if isinstance(x, Level)):
        own = layers.setdefault(level.layer.key, {})
        if level.share <= RATIO and level.share > getattr(own.get(level.rule), "share", 0.0):
            own[level.rule] = level
    largest = sorted(layers, key=lambda k: -max((x.full_macs for x in layers[k].values()), default=0))
    return {key: layers[key] for key in largest}
