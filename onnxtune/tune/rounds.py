"""Rounds of exact rewrites: propose, measure each region, take the best set that does not overlap, verify."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnxtune.alike import signature
from onnxtune.apply import ApplyError, apply
from onnxtune.cache import structure
from onnxtune.costs import macs
from onnxtune.errors import ModelError, one_line
from onnxtune.facts import Facts
from onnxtune.localcheck import check_region
from onnxtune.model import Model
from onnxtune.proposal import Decline, Proposal
from onnxtune.propose import propose
from onnxtune.region import extract
from onnxtune.rule import Rule
from onnxtune.select import select
from onnxtune.steps import Step, step_of
from onnxtune.trial import Trial
from onnxtune.tune.estimate import WRITTEN, saved_work
from onnxtune.tune.run import Run
from onnxtune.tune.wording import UNDONE, no_gain, slower

ROUND_LIMIT = 8


def rounds(run: Run, base: Model, steps: list[Step], rules: Sequence[Rule]) -> list[Step]:
    """`steps` and what these rules add to them, round after round, until nothing more is found."""
    seen: set[str] = set()
    for number in range(ROUND_LIMIT):
        current = apply(base, [s.proposal for s in steps])
        seen.add(structure(current.proto))
        good = candidates(run, current, rules, f"round {number + 1}")
        taken = settled(run, reject_others(run, good, best_of(good)))
        if not taken:
            break
        longer = run.verified(base, [*steps, *taken])
        if structure(apply(base, [s.proposal for s in longer]).proto) in seen:
            for step in taken:  # rules that undo each other would go on for ever
                run.journal.reject(step.proposal, "select", UNDONE, step.comparison)
        else:
            run.journal.take(longer[len(steps) :])
            steps = longer
    return steps


def candidates(run: Run, current: Model, rules: Sequence[Rule], label: str) -> list[Step]:
    """What these rules propose for the model and what pays on its region, or opens ways for others.

    Regions with most work are measured first: where the time budget ends, what matters has been measured.
    """
    with run.stage("propose"):
        facts = run.facts_of(current)
        said = propose(facts, [r for r in rules if r.name not in run.journal.barred], run.rule_settings)
    run.journal.decline(s for s in said if isinstance(s, Decline))
    proposals = [p for p in said if isinstance(p, Proposal) and not run.journal.refused(p)]
    found: dict[int, Step] = {}
    works: dict[str, tuple[float, str]] = {}
    order = sorted(range(len(proposals)), key=lambda i: -_work(facts, proposals[i]))
    for done, i in enumerate(order):
        proposal = proposals[i]
        run.notify(f"{label}: measuring {proposal.rule}", done, len(proposals))
        forced = proposal.rule in run.options.force
        estimate, trial = 0.0, Trial(None)
        with run.stage("measure"):
            if run.options.measure:
                trial = run.timer.region(facts, proposal)
            else:
                alike = signature(facts, proposal)
                works[alike] = works.get(alike) or saved_work(facts, proposal)
                estimate, why = works[alike]
                trial = Trial(None, why)
        step = replace(step_of(facts, proposal, trial.comparison, forced=forced), estimate=estimate)
        if not (step.pays or (proposal.enabling and trial.comparison and not slower(trial.comparison))):
            run.journal.reject(proposal, "measure", trial.problem or no_gain(trial.comparison), trial.comparison)
            continue
        with run.stage("verify"):
            error, problem = _local(facts, proposal, run.options.seed)
        if problem:
            run.journal.reject(proposal, "verify", problem, trial.comparison)
            continue
        found[i] = replace(step, error=error)
    return [found[i] for i in sorted(found)]


def best_of(good: Sequence[Step], price: float = 0.0) -> list[int]:
    """Indices of the best set of steps that do not overlap. `price`: seconds for each byte of new weights."""
    bonus = [float(len(s.proposal.removes)) if s.forced else 1e-9 if s.proposal.enabling else 0.0 for s in good]
    gains = [max(s.saved, 0.0) - price * s.proposal.fragment.nbytes for s in good]
    weights = [g + b for g, b in zip(gains, bonus, strict=True)]  # no gain may read as a small loss
    worth = [i for i, w in enumerate(weights) if w >= 0]
    return [worth[i] for i in select([good[i].proposal for i in worth], [weights[i] for i in worth])]


def reject_others(run: Run, good: Sequence[Step], chosen: Sequence[int]) -> list[Step]:
    """The chosen ones, in order; the others are noted as not kept in this round."""
    for i in set(range(len(good))) - set(chosen):
        reason = "an overlapping rewrite saves more time"
        run.journal.reject(good[i].proposal, "select", reason, good[i].comparison, last=False)
    return [good[i] for i in chosen]


def settled(run: Run, steps: Sequence[Step]) -> list[Step]:
    """The steps with their weights computed, without those whose rules cannot compute them."""
    return [s for step in steps if (s := _settled(run, step)) is not None]


def _settled(run: Run, step: Step) -> Step | None:
    """The step with its weights computed; None, and reported, when its rule cannot compute them."""
    try:
        return step.settled(run.original)
    except (MemoryError, ModelError):
        raise
    except Exception as error:  # a rule's own code
        reason = f"its weights cannot be computed ({type(error).__name__}: {one_line(error)})"
        run.journal.reject(step.proposal, "verify", reason, step.comparison)
        return None


def _local(facts: Facts, proposal: Proposal, seed: int) -> tuple[float | None, str]:
    """The float64 check: (error, "") when it holds or cannot be made, else (error, what broke)."""
    if proposal.safety != "exact":
        return None, ""
    before = extract(facts, proposal.removes, proposal.reads)
    if before is None:
        return None, ""
    try:
        verdict = check_region(before, apply(before, [proposal]), seed, facts.ranges)
    except ApplyError as error:
        return None, str(error)
    return (verdict.error if verdict.ok else None), ("" if verdict.ok is not False else verdict.reason)


def _work(facts: Facts, proposal: Proposal) -> int:
    """How much the removed nodes do: multiply-accumulates, and the values that they write."""
    nodes = [facts.by_key[key] for key in proposal.removes]
    written = (math.prod(facts.size(o) or ()) for n in nodes for o in n.outputs if o)
    return sum(macs(facts, n) for n in nodes) + WRITTEN * sum(written)
