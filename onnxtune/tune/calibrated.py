"""Calibrated rewrites: their levels timed, a set found that keeps the budget, exact ones again on top."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxtune import trial as plans
from onnxtune.apply import apply
from onnxtune.calibrate.judge import Judge
from onnxtune.calibrate.level import Level
from onnxtune.calibrate.points import Calibration, Point, Timed
from onnxtune.calibrate.search import Search, summary
from onnxtune.calibrate.tail import tail_of
from onnxtune.comparison import Comparison
from onnxtune.facts import Facts
from onnxtune.model import Model, tensor_bytes
from onnxtune.proposal import Decline, Proposal, overlap
from onnxtune.propose import propose_levels
from onnxtune.report import Report, Status
from onnxtune.steps import Step, prune_enabling, step_of
from onnxtune.tune.confirm import last_word
from onnxtune.tune.finish import finish
from onnxtune.tune.late_rules import late
from onnxtune.tune.on_top import on_top
from onnxtune.tune.rounds import rounds
from onnxtune.tune.run import Run
from onnxtune.tune.wording import no_gain, slower


def spend(
    run: Run, base: Model, steps: list[Step], exact: list[Step], calibration: Calibration
) -> tuple[Model, Report] | None:
    """The model after calibrated rewrites that passed the gate; None when there is none that pays.

    They start from `steps`; `exact`: these and late rewrites, what is to be beaten.
    """
    before = apply(base, [s.proposal for s in steps])
    alone = apply(base, [s.proposal for s in exact])
    facts = run.facts_of(before)
    said = propose_levels(facts, run.calibrated, run.rule_settings)
    timed, slow = _timed(run, facts, said, exact[len(steps) :])
    search = _search(run, alone, facts, [t.level for t in (*timed, *slow)], calibration)
    search.offered = sum(isinstance(s, Level) for s in said)
    found = None
    with run.stage("fit"):
        for point in search.passing(timed):
            found = _with(run, base, steps, alone, point)
            run.fronts = summary(search, point if found else None)
            if found is not None:
                break
        if found is None and run.options.insist:
            asked = search.insisted([t for t in [*timed, *slow] if t.level.rule in run.options.insist])
            if asked is None:
                why = "was measured in the time budget" if search.offered else "can be made of any layer"
                run.notes.append(f"{', '.join(run.options.insist)}: nothing of the form that was asked for {why}")
            elif any(o.timed.level.rule in run.options.force for o in asked.options):
                found = _with(run, base, steps, alone, asked, forced=True)
                run.fronts = summary(search, asked)
            elif not search.open(asked):
                run.fronts = summary(search, asked, refused=True)
                return finish(run, run.original, "over budget", None, [], [])
            else:
                run.notes.append(
                    "the form that was asked for keeps the budget, but is not faster here;"
                    f" --force-rules {','.join(run.options.insist)} writes it all the same"
                )
    run.fronts = run.fronts or summary(search, None)
    for item in timed:
        if found is None or item.level.identity not in found[0].identity:
            run.journal.reject(item.level.unfitted, "select", search.why_not(item), item.comparison)
    if found is None:
        return None
    point, result, comparison, kept = found
    wholes = [k for k, _ in run.wholes]
    enough = comparison is not None and comparison.speedup >= run.options.min_speedup
    otherwise: Status = "smaller" if run.options.objective == "size" else "forced"
    return finish(run, result, "faster" if enough else otherwise, comparison, wholes, kept)


def _search(run: Run, exact: Model, facts: Facts, levels: Sequence[Level], calibration: Calibration) -> Search:
    """The search over these levels: on the tail of the network behind the first of them, where there is one. `exact`:
    what is to be beaten."""
    with run.stage("judge"):
        tell = lambda done, total: run.notify("running the model on the calibration data", done, total)  # noqa: E731
        tail = tail_of(facts, levels, calibration.data, run.target, tell) if levels else None
        judge = Judge(
            run.original if tail is None else tail.facts.model,
            calibration.data if tail is None else tail.data,
            run.target,
            metric=calibration.metric,
            confidence=calibration.confidence,
            crop_border=calibration.crop_border,
            notify=tell,
        )
        latency = run.timer.latency(exact, run.sizes)
        seen = facts if tail is None else tail.facts
        return Search(seen, judge, calibration, run.target, run.options.seed, latency, run.notify, tail)


def _timed(
    run: Run, facts: Facts, said: Sequence[Level | Decline], rivals: Sequence[Step]
) -> tuple[list[Timed], list[Timed]]:
    """The levels that are faster, unfitted, on their regions than these are with late rewrites; and those that are
    not, but are insisted on.

    Layers with most work come first: where the time budget ends, what matters has been measured."""
    run.journal.decline(d for d in said if isinstance(d, Decline))
    levels = sorted((s for s in said if isinstance(s, Level)), key=lambda level: -level.full_macs)
    found: list[Timed] = []
    slow: list[Timed] = []
    trials = run.timer.regions(facts, (level.unfitted for level in levels))
    for i, level in enumerate(levels):
        run.notify(f"measuring {level.rule}", i, len(levels))
        with run.stage("measure"):
            trial = next(trials)
        small = _freed(facts, level.unfitted) if run.options.objective == "size" else None
        good = ("faster",) if small is None else ("faster", "no measurable change")
        if trial.comparison is not None and trial.comparison.verdict in good:
            with run.stage("measure"):
                item = _against_rivals(run, facts, Timed(level, trial.comparison, small), rivals)
            if item.saved > 0 or small is not None:
                found.append(item)
            else:
                reason = f"an exact rewrite saves more ({1e6 * item.forgone:.3g} microseconds)"
                run.journal.reject(level.unfitted, "measure", reason, trial.comparison)
        else:
            reason = trial.problem or no_gain(trial.comparison)
            run.journal.reject(level.unfitted, "measure", reason, trial.comparison)
            if level.rule in run.options.insist and trial.comparison is not None:
                slow.append(Timed(level, trial.comparison, small))
    return found, slow


def _against_rivals(run: Run, facts: Facts, timed: Timed, rivals: Sequence[Step]) -> Timed:
    """With what late rewrites would save in the level's place, and what they would save on top of it."""
    forgone = sum(s.saved for s in rivals if overlap(s.proposal, timed.level.unfitted))
    if not forgone:
        return timed
    more = on_top(run.timer, facts, timed.level, run.late, run.rule_settings)
    return replace(timed, forgone=forgone, on_top=more)


def _with(
    run: Run, base: Model, steps: list[Step], exact: Model, point: Point, *, forced: bool = False
) -> tuple[Point, Model, Comparison | None, list[Step]] | None:
    """The point's rewrites, exact ones again on top, timed: against what exact rewrites alone give, and the
    original. None when they do not pay."""
    facts = run.facts_of(apply(base, [s.proposal for s in steps]))
    fitted = []
    for group, made in zip(point.groups, point.fitted, strict=True):
        measured = group[0].timed.comparison if len(group) == 1 else _anew(run, facts, made.proposal)
        step = step_of(facts, made.proposal, measured, forced=forced)
        fitted.append(replace(step, error=made.error).settled(run.original))
    both = [*steps, *fitted]
    both = _busy(both)
    middle = apply(base, [s.proposal for s in both])
    outer, run.verifier = run.verifier, run.verifier_of(middle)
    broken = outer.unlike(run.verifier)
    if broken:
        run.verifier = outer
        run.notes.append(f"a set of calibrated rewrites was dropped: {broken}")
        return None
    try:
        after = rounds(run, middle, [], run.rules)
        after = run.verified(middle, _busy(after))
        after = late(run, middle, after)
        result = apply(middle, [s.proposal for s in after])
    finally:
        run.verifier = outer
    with run.stage("confirm"):
        timer = replace(run.timer, deadline=float("inf"))
        last = last_word(run, result)
        # Without exact rewrites it is the original itself that they are measured against: once is enough.
        alone = exact is run.original and run.options.time_budget > 0
        bought = last.comparison if alone else timer.models(exact, result, run.sizes, plans.MODEL_PLAN).comparison
    count = len(point.options)
    run.journal.decide(f"whole model with {count} calibrated rewrites, against without: {no_gain(bought)}")
    run.journal.decide(
        f"whole model with {count} calibrated rewrites, against the original: {no_gain(last.comparison)}"
    )
    pays = bought is not None and bought.verdict == "faster"
    best = last.comparison
    faster = best is not None and best.verdict == "faster" and best.speedup >= run.options.min_speedup
    if run.options.objective == "size":
        pays, faster = tensor_bytes(result) < tensor_bytes(exact), not slower(last.comparison)
    if not (forced or (pays and faster)):
        return None
    return point, result, last.comparison, [*both, *after]


def _anew(run: Run, facts: Facts, proposal: Proposal) -> Comparison | None:
    """What levels save that are one rewrite now, timed whatever the time budget says."""
    with run.stage("measure"):
        return replace(run.timer, deadline=float("inf")).region(facts, proposal).comparison


def _freed(facts: Facts, proposal: Proposal) -> int:
    """Bytes of weights that only the removed nodes read, less those of the new ones."""
    removed = [facts.by_key[key] for key in proposal.removes]
    inputs = {i for n in removed for i in n.inputs if i and facts.is_constant(i)}
    own = (i for i in inputs if facts.why_not_private(i, proposal.removes) is None)
    before = sum(math.prod(facts.size(i) or (0,)) * (facts.dtype(i) or np.dtype(np.int8)).itemsize for i in own)
    return before - proposal.fragment.nbytes


def _busy(steps: Sequence[Step]) -> list[Step]:
    """Without enabling steps that save nothing and that nothing stands on."""
    idle = prune_enabling(steps)
    return [s for i, s in enumerate(steps) if i not in idle]
