"""Late rules: one round after all others, since no other can read what they make."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from onnxtune import trial as plans
from onnxtune.apply import ApplyError, apply
from onnxtune.model import Model
from onnxtune.steps import Step
from onnxtune.tune.rounds import best_of, candidates, reject_others, settled
from onnxtune.tune.run import Run
from onnxtune.tune.wording import no_gain

SECONDS = 30.0
"""What late rules have for measuring even where others have used up the time budget."""
PRICES = (25e-12, 100e-12)
"""Seconds for each byte of new weights, with which lighter sets are made: 40 and 10 GB/s."""


def late(run: Run, base: Model, steps: list[Step]) -> list[Step]:
    """`steps` and what late rules add to them."""
    if not run.late or not run.options.time_budget:
        return steps
    timer = run.timer
    run.timer = replace(timer, deadline=max(timer.deadline, time.monotonic() + SECONDS))
    try:
        before = apply(base, [s.proposal for s in steps])
        good = candidates(run, before, run.late, "late rules")
        taken = settled(run, reject_others(run, good, _fastest(run, before, good)))
        longer = run.verified(base, [*steps, *taken]) if taken else steps
        run.journal.take(longer[len(steps) :])
        return longer
    finally:
        run.timer = timer


def _fastest(run: Run, before: Model, good: Sequence[Step]) -> list[int]:
    """Which steps to take.

    A region is timed with all it needs in the caches; in the whole model other layers take their place, and rewrites
    that bring many times the weights may lose what they won. So sets that weigh less are timed as well, as whole
    models: each against the best so far.
    """
    best = best_of(good)
    if any(s.forced for s in good):
        return best
    for price in PRICES:
        lighter = best_of(good, price)
        if lighter == best:
            continue
        try:
            one, other = (apply(before, [good[i].proposal for i in chosen]) for chosen in (best, lighter))
        except ApplyError:  # what does not go together is told and dropped when the set is verified
            return best
        with run.stage("measure"):
            trial = run.timer.models(one, other, run.sizes, plans.MODEL_PLAN)
        run.journal.decide(
            f"{len(lighter)} late rewrites that weigh less, for {len(best)}: {no_gain(trial.comparison)}"
        )
        if trial.comparison is not None and trial.comparison.speedup > 1:
            best = lighter
    return best
