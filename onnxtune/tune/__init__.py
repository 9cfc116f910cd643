"""The loop that knows all the stages: propose, measure, select, apply, verify, confirm, report.

Each round asks all rules, measures what they propose region by region, takes the best set that does
not overlap, and verifies the new model; rewrites open others, so rounds go on until nothing is found.
Calibrated rewrites may then spend the budget; late rules, whose results no other rule reads, come after
them. In the end the whole model is timed against the original.
What is not faster there does not leave.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnxtune import provenance
from onnxtune.cache import Cache
from onnxtune.calibrate.points import Calibration
from onnxtune.feeds import Case
from onnxtune.model import Model
from onnxtune.report import Report
from onnxtune.rule import Rule
from onnxtune.runtime import Target
from onnxtune.sizes import unfed
from onnxtune.steps import prune_enabling
from onnxtune.tune import calibrated, confirm, rounds, wholes
from onnxtune.tune.finish import OWN, untouched
from onnxtune.tune.late_rules import late
from onnxtune.tune.options import DecideFunction, NotifyFunction, Objective, Options
from onnxtune.tune.promise import promise
from onnxtune.tune.run import Run
from onnxtune.tune.wording import no_gain

__all__ = ["DecideFunction", "NotifyFunction", "Objective", "Options", "tune"]


def tune(
    original: Model,
    rules: Sequence[Rule],
    target: Target,
    options: Options,
    *,
    cache: Cache,
    extra_cases: Sequence[Case] = (),
    calibration: Calibration | None = None,
    notify: NotifyFunction = lambda stage, done, total: None,
    decide: DecideFunction = lambda decision: None,
) -> tuple[Model, Report]:
    """Rewrite `original` for `target`; returns the model to use (the original when nothing pays) and the report.

    A model with inputs that cannot be fed comes back as it is. With `calibration`, calibrated rules may spend its
    budget. Raises ModelError when ONNX Runtime cannot load or run the original on the target, DataError and
    UsageError for calibration data that do not fit it.
    """
    settings = options.record(rules, target)
    if calibration is not None:
        settings["calibration"] = calibration.record()
    if provenance.is_own_result(original, settings):
        return original, untouched(original, settings, options, "already tuned", OWN)
    if (reason := unfed(original)) is not None:
        return original, untouched(original, settings, options, "nothing to gain", f"nothing was tried: {reason}")
    return _loop(Run(original, rules, target, options, cache, extra_cases, calibration, notify, settings, decide))


def _loop(run: Run) -> tuple[Model, Report]:
    base = wholes.prepare(run)
    steps = rounds.rounds(run, base, [], [r for r in run.rules if r.card.enabling])
    early = rounds.rounds(run, base, steps, run.rules)
    steps = late(run, base, early)
    if run.calibrated and run.calibration is not None:
        found = calibrated.spend(run, base, early, steps, run.calibration)
        if found is not None:
            return found
    elif run.calibrated and run.options.measure:
        promise(run, base, early, steps)
    idle = prune_enabling(steps)
    if idle:
        for i in sorted(idle):
            run.journal.reject(steps[i].proposal, "measure", no_gain(steps[i].comparison), steps[i].comparison)
        steps = run.verified(base, [s for i, s in enumerate(steps) if i not in idle])
    base = wholes.without_idle(run, base, steps)
    return confirm.confirm(run, base, steps)
