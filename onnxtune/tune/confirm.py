"""The last gate: the whole model against the original, on the target."""

from __future__ import annotations

import time
from dataclasses import replace

from onnxtune import trial as plans
from onnxtune.apply import apply
from onnxtune.comparison import Comparison
from onnxtune.model import Model
from onnxtune.report import Kept, Rejected, Report, Status
from onnxtune.steps import Step, dependants
from onnxtune.trial import Trial
from onnxtune.tune.finish import finish
from onnxtune.tune.run import Run
from onnxtune.tune.wording import NOT_NEEDED, no_gain, sharp

SECONDS = 60.0
"""How long smaller sets are tried at least."""
LATE = "; smaller sets were not tried, the time budget is over (--time-budget)"


def confirm(run: Run, base: Model, steps: list[Step]) -> tuple[Model, Report]:
    """Whole model against the original; not faster: keep only the better half, and again.

    Smaller sets are tried for as long as the time budget is (SECONDS at least), counted from here: with large models
    one comparison may take minutes.
    """
    wholes = [kept for kept, _ in run.wholes]
    if not run.options.measure:
        return _unmeasured(run, base, steps, wholes)
    latest = time.monotonic() + max(run.options.time_budget, SECONDS)
    kept, latency = steps, 0.0
    if kept and not any(s.forced for s in kept):
        with run.stage("confirm"):
            latency = run.timer.latency(base, run.sizes)
        kept = _worth_confirming(run, kept, latency)
    forced = any(s.forced for s in kept) or any(k.rewrite.rule in run.options.force for k in wholes)
    comparison: Comparison | None = None
    while kept or wholes:
        result = apply(base, [s.proposal for s in kept])
        run.notify("confirming on the whole model", 0, 0)
        with run.stage("confirm"):
            trial = last_word(run, result)
        comparison = trial.comparison
        run.journal.decide(f"whole model with {len(kept) + len(wholes)} rewrites: {no_gain(comparison)}")
        enough = comparison and comparison.verdict == "faster" and comparison.speedup >= run.options.min_speedup
        if enough or forced:
            status: Status = "faster" if enough else "forced"
            return finish(run, result, status, comparison, wholes, kept)
        why = trial.problem or _too_little(run, comparison)
        late = time.monotonic() > latest
        why += LATE if late and kept else ""
        if late or not kept:
            for step in kept:
                run.journal.reject(step.proposal, "confirm", why, step.comparison)
            for k in wholes:
                run.journal.add(Rejected(k.rewrite, "confirm", why, k.comparison))
            wholes = []
            break
        order = sorted(range(len(kept)), key=lambda i: kept[i].saved)
        lost = dependants(kept, order[: (len(order) + 1) // 2])
        for i in sorted(lost):
            run.journal.reject(kept[i].proposal, "confirm", why, kept[i].comparison)
        kept = run.verified(base, [s for i, s in enumerate(kept) if i not in lost])
        kept = _worth_confirming(run, kept, latency)
    return finish(run, run.original, "nothing to gain", comparison, [], [])


def _unmeasured(run: Run, base: Model, steps: list[Step], wholes: list[Kept]) -> tuple[Model, Report]:
    """Nothing was timed: what does less work and verifies stays."""
    if any(s.pays for s in steps) or any(k.rewrite.rule in run.options.force for k in wholes):
        return finish(run, apply(base, [s.proposal for s in steps]), "unmeasured", None, wholes, steps)
    for k in wholes:
        run.journal.add(Rejected(k.rewrite, "measure", NOT_NEEDED, None))
    return finish(run, run.original, "nothing to gain", None, [], [])


def _worth_confirming(run: Run, steps: list[Step], latency: float) -> list[Step]:
    """No steps where all their regions together save far less than --min-speedup asks for, of the model's latency in
    seconds."""
    saved = sum(s.saved for s in steps if s.pays)
    if saved > (1 - 1 / max(run.options.min_speedup, 1.0)) / 2 * latency:
        return steps
    for step in steps:
        reason = f"all regions together save {1e6 * saved:.3g} of {1e6 * latency:.4g} microseconds, too little to tell"
        run.journal.reject(step.proposal, "confirm", reason, step.comparison)
    return []


def last_word(run: Run, result: Model) -> Trial:
    """The whole model against the original; measured longer where the first answer is blurred.

    The time budget does not hold here, but where it is 0 nothing is measured at all.
    """
    timer = replace(run.timer, deadline=float("inf")) if run.options.time_budget else run.timer
    original = timer.subject(run.original, run.sizes)
    rival = original.rival(result)
    for plan in plans.CONFIRM_PLANS:
        trial = timer.against(original, rival, plan)
        if trial.comparison is None or trial.comparison.verdict != "no measurable change" or sharp(trial.comparison):
            break
    return trial


def _too_little(run: Run, comparison: Comparison | None) -> str:
    if comparison is None or comparison.verdict != "faster":
        return f"on the whole model: {no_gain(comparison)}"
    return f"whole-model speed-up {comparison.speedup:.3f} is below --min-speedup {run.options.min_speedup:g}"
