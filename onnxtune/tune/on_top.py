"""What late exact rewrites would save on top of a calibrated level: measured on the level's own new nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onnxtune.apply import ApplyError, apply
from onnxtune.calibrate.level import Level
from onnxtune.facts import Facts
from onnxtune.proposal import Proposal
from onnxtune.propose import propose
from onnxtune.region import extract, input_sizes, neighbourhood
from onnxtune.rule import Rule
from onnxtune.select import select
from onnxtune.trial import Timer

Settings = Mapping[str, Mapping[str, Any]]


def on_top(timer: Timer, facts: Facts, level: Level, late: Sequence[Rule], settings: Settings) -> float:
    """Seconds that these late rules would save on the nodes that the level brings, unfitted; 0 where none pays.

    A level takes the place of a layer that late rewrites might have made faster, too: without what they do for the
    level itself, only the most radical levels would seem worth their harm.
    """
    around = extract(facts, neighbourhood(facts, level.unfitted.removes), level.unfitted.reads)
    if around is None:
        return 0.0
    try:
        after = apply(around, [level.unfitted])
    except ApplyError:
        return 0.0
    seen = Facts(after, input_sizes(after))
    said = propose(seen, late, settings)
    own = level.unfitted.fragment.keys
    proposals = [p for p in said if isinstance(p, Proposal) and p.removes & own]
    saved = []
    for trial in timer.regions(seen, proposals):
        found = trial.comparison
        saved.append(found.saved if found is not None and found.verdict == "faster" else 0.0)
    return sum(saved[i] for i in select(proposals, saved))
