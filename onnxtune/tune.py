"""The loop that knows all the stages: propose, measure, select, apply, verify, confirm, report.

Each round asks all rules, measures what they propose region by region, takes the best set that does
not overlap, and verifies the new model; rewrites open others, so rounds go on until nothing is found.
In the end the whole model is timed against the original. What is not faster there does not leave.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import onnx

from onnxtune import provenance
from onnxtune.apply import ApplyError, apply
from onnxtune.cache import Cache, structure
from onnxtune.calibrate.judge import Judge
from onnxtune.calibrate.level import Level
from onnxtune.calibrate.points import Calibration, Point, Timed
from onnxtune.calibrate.search import Search, summary
from onnxtune.calibrate.tail import tail_of
from onnxtune.comparison import Comparison
from onnxtune.costs import macs, total_macs
from onnxtune.errors import ModelError, one_line
from onnxtune.facts import Facts
from onnxtune.feeds import Case, cases
from onnxtune.localcheck import check_region
from onnxtune.memory import peak_bytes
from onnxtune.model import Model, tensor_bytes
from onnxtune.proposal import Decline, ModelProposal, Proposal
from onnxtune.propose import propose, propose_levels
from onnxtune.ranges import Ranges, notes_on
from onnxtune.region import extract
from onnxtune.report import Kept, ModelSummary, Outcome, Rejected, Report, Stage, Status, describe
from onnxtune.rule import Rule
from onnxtune.runtime import Target, versions
from onnxtune.select import select
from onnxtune.sizes import Sizes, with_batch
from onnxtune.sizes import bind as bind_sizes
from onnxtune.steps import Step, dependants, prune_enabling, step_of
from onnxtune.trial import CONFIRM_PLANS, MODEL_PLAN, Timer, Trial
from onnxtune.verify import Verdict, Verifier

ROUND_LIMIT = 8
PROMISE_LAYERS, PROMISE_SECONDS = 6, 15.0
"""Without data: how many layers' levels are timed, and for how long, to say what calibration could be worth."""
PROMISE_RATIO = 0.3
"""Multiply-accumulates left of a layer that calibration mostly allows."""
ENABLING = "lets other rules fire"
WRITTEN = 8
"""Multiply-accumulates that take as long as writing one value, roughly."""
UNDONE = "it leads back to a graph that was there before"
NOT_NEEDED = "no other rule needs it"
Objective = Literal["latency", "size", "throughput"]
BATCH = 32
"""Images at a time when throughput counts."""
NotifyFunction = Callable[[str, int, int], None]
"""Progress: stage in words, how many of how many are done (total 0: unknown)."""


@dataclass(frozen=True)
class Options:
    """How to tune. `min_speedup`: least whole-model speed-up worth a new file. `time_budget`: seconds
    after which nothing new is measured (0: nothing at all; then only forced rewrites stay). `force`:
    rules kept even when they are not faster. `sizes`: input shapes to measure at. `ranges`: between which
    values inputs lie. `settings`: overrides of rules' settings, by rule."""

    min_speedup: float = 1.02
    time_budget: float = 120.0
    seed: int = 0
    rtol: float | None = None
    atol: float | None = None
    sizes: Sizes = field(default_factory=dict)
    ranges: Ranges = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    force: tuple[str, ...] = ()
    objective: Objective = "latency"
    """What is chosen by: time at the measured sizes, bytes of weights, or time of a batch of BATCH."""
    insist: tuple[str, ...] = ()
    """Calibrated rules of which something must be in the result, or nothing is written."""

    def record(self, rules: Sequence[Rule], target: Target) -> dict[str, Any]:
        """The settings that decide the result, as plain data for report and provenance."""
        return {
            "rules": [r.name for r in rules],
            "settings": {k: dict(v) for k, v in self.settings.items()},
            "force": list(self.force),
            "insist": list(self.insist),
            "objective": self.objective,
            "min_speedup": self.min_speedup,
            "time_budget": self.time_budget,
            "rtol": self.rtol,
            "atol": self.atol,
            "seed": self.seed,
            "sizes": {k: list(v) for k, v in self.sizes.items()},
            "input_ranges": {k: list(v) for k, v in self.ranges.items()},
            "provider": target.provider,
            "provider_options": dict(target.options),
            "threads": target.threads,
            "device": target.device,
        }


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
) -> tuple[Model, Report]:
    """Rewrite `original` for `target`; returns the model to use (the original when nothing pays) and the report.

    With `calibration`, calibrated rules may spend its budget. Raises ModelError when ONNX Runtime cannot load
    or run the original on the target, DataError and UsageError for calibration data that do not fit it.
    """
    settings = options.record(rules, target)
    if calibration is not None:
        settings["calibration"] = calibration.record()
    if provenance.is_own_result(original, settings):
        return original, _untouched(original, settings, options)
    return _Tuning(original, rules, target, options, cache, extra_cases, calibration, notify, settings).run()


class _Tuning:
    """One run of the loop: the state that the stages hand on to each other."""

    def __init__(
        self,
        original: Model,
        rules: Sequence[Rule],
        target: Target,
        options: Options,
        cache: Cache,
        extra_cases: Sequence[Case],
        calibration: Calibration | None,
        notify: NotifyFunction,
        settings: Mapping[str, Any],
    ) -> None:
        self.original, self.target, self.options = original, target, options
        self.rules = [r for r in rules if r.card.safety == "exact"]  # others need data, or only advise
        self.calibrated = [r for r in rules if r.levels is not None]
        self.calibration = calibration
        self.fronts: Mapping[str, Any] | None = None  # what the calibration found, for the report
        self.notify, self.settings = notify, settings
        binding = bind_sizes(original, options.sizes)
        self.sizes = binding.sizes
        self.notes = [*binding.assumed, *notes_on(options.ranges)]
        if options.objective == "throughput":
            self.sizes, free = with_batch(original, binding.sizes, options.sizes, BATCH)
            self.notes.append(f"measured at batch {BATCH}" if free else "measured at the batch that the model fixes")
        self.rule_settings = self._rule_settings()
        self.timer = Timer(target, cache, options.seed, time.monotonic() + options.time_budget)
        self.seconds: Counter[str] = Counter()
        self.outcomes: list[Outcome] = []
        self.wholes: list[tuple[Kept, Model]] = []  # whole-model rewrites, each with the model before it
        self.refused: set[tuple[str, str, str]] = set()
        self.verdict = Verdict(True, 0.0, 0)
        with self._stage("load"):
            self.facts = self._facts(original)
            self.verifier = self._verifier(original, extra_cases)
        self.notes += [f"verification input left out, the original fails on it: {s}" for s in self.verifier.skipped]

    def _rule_settings(self) -> dict[str, dict[str, Any]]:
        """The user's settings; a rule that has a setting `provider` learns there what it is tuned for."""
        found = {name: dict(values) for name, values in self.options.settings.items()}
        for rule in {*self.rules, *self.calibrated}:
            if "provider" in rule.card.settings:
                found.setdefault(rule.name, {}).setdefault("provider", self.target.label.lower())
        return found

    # --- the loop ----------------------------------------------------------------------------

    def run(self) -> tuple[Model, Report]:
        base = self._prepare()
        steps = self._rounds(base, [], [r for r in self.rules if r.card.enabling])
        steps = self._rounds(base, steps, self.rules)
        if self.calibrated and self.calibration is not None:
            found = self._spend(base, steps, self.calibration)
            if found is not None:
                return found
        elif self.calibrated:
            self._promise(apply(base, [s.proposal for s in steps]))
        idle = prune_enabling(steps)
        if idle:
            for i in sorted(idle):
                self._reject(steps[i].proposal, "measure", _no_gain(steps[i].comparison), steps[i].comparison)
            steps = [s for i, s in enumerate(steps) if i not in idle]
            steps = self._verified(base, steps)
        base = self._without_idle_wholes(base, steps)
        return self._confirm(base, steps)

    def _prepare(self) -> Model:
        """Whole-model rewrites first: they decide what the other rules get to see.

        One that is enabling and not slower stays for the time being; see `_without_idle_wholes`.
        """
        base = self.original
        for rule in [r for r in self.rules if r.kind == "model"]:
            self.notify(f"trying {rule.name}", 0, 0)
            with self._stage("propose"):
                proposal, after = self._transformed(base, rule)
            if proposal is None or after is None or structure(after.proto) == structure(base.proto):
                continue
            forced = rule.name in self.options.force
            if not (rule.card.pays_alone or forced or self._opens(base, after)):
                self._reject(proposal, "measure", NOT_NEEDED)
                continue
            with self._stage("verify"):
                verdict = self.verifier.verify(after)
            if not verdict.ok:
                self._reject(proposal, "verify", verdict.reason)
                continue
            with self._stage("measure"):
                trial = self.timer.models(base, after, self.sizes, MODEL_PLAN)
            comparison = trial.comparison
            if comparison and comparison.verdict == "faster":
                reason = "faster"
            elif forced:
                reason = "forced"
            elif rule.card.enabling and not _slower(comparison):
                reason = ENABLING
            else:
                self._reject(proposal, "measure", trial.problem or _no_gain(comparison), comparison)
                continue
            self.wholes.append((Kept(describe(proposal), comparison, None, reason), base))
            base = after
        return base

    def _without_idle_wholes(self, base: Model, steps: Sequence[Step]) -> Model:
        """Drop whole-model rewrites that save no time, the last one first, where the steps do as well without."""
        while self.wholes and self.wholes[-1][0].reason == ENABLING:
            kept, before = self.wholes[-1]
            frozen = {i.name for i in before.proto.graph.input} - {i.name for i in base.proto.graph.input}
            if any(not step.read.isdisjoint(frozen) for step in steps):
                break  # a step took for constant what a caller of the model before could feed
            if steps:
                with self._stage("verify"):
                    verdict = self._try(before, steps)
                if not verdict.ok:
                    break
                self.verdict = verdict
            self.wholes.pop()
            reason = _no_gain(kept.comparison) if kept.comparison else NOT_NEEDED
            self.outcomes.append(Rejected(kept.rewrite, "measure", reason, kept.comparison))
            base = before
        return base

    def _transformed(self, base: Model, rule: Rule) -> tuple[ModelProposal | None, Model | None]:
        try:
            changed = rule.entry(base.proto, rule.settings(self.rule_settings.get(rule.name)))
        except Exception as error:  # simplifiers and plug-ins may raise anything; the rest goes on
            reason = f"it failed ({type(error).__name__}: {one_line(error)}); report it to {rule.card.source}"
            self.outcomes.append(Decline(rule.name, "", reason))
            return None, None
        if changed is None:
            return None, None
        if isinstance(changed, str):
            self.outcomes.append(Decline(rule.name, "", changed))
            return None, None
        title = _node_change(base.proto, changed)
        proposal = ModelProposal(rule.name, title, rule.card.safety, rule.card.enabling)
        try:
            return proposal, base.adopt(changed)
        except ModelError as error:
            self._reject(proposal, "verify", str(error))
            return None, None

    def _opens(self, base: Model, after: Model) -> bool:
        """Do pattern and graph rules find more places after the whole-model rewrite?"""
        found = []
        for model in (base, after):
            rules = [r for r in self.rules if not r.card.enabling]
            said = propose(self._facts(model), rules, self.rule_settings)
            found.append(Counter(p.rule for p in said if isinstance(p, Proposal)))
        return bool(found[1] - found[0])

    def _rounds(self, base: Model, steps: list[Step], rules: Sequence[Rule]) -> list[Step]:
        seen: set[str] = set()
        for number in range(ROUND_LIMIT):
            current = apply(base, [s.proposal for s in steps])
            seen.add(structure(current.proto))
            with self._stage("propose"):
                facts = self._facts(current)
                said = propose(facts, rules, self.rule_settings)
            known = {o for o in self.outcomes if isinstance(o, Decline)}
            self.outcomes += dict.fromkeys(s for s in said if isinstance(s, Decline) and s not in known)
            proposals = [p for p in said if isinstance(p, Proposal) and _identity(p) not in self.refused]
            taken = self._judge(facts, proposals, f"round {number + 1}")
            if not taken:
                break
            longer = self._verified(base, [*steps, *taken])
            if structure(apply(base, [s.proposal for s in longer]).proto) in seen:
                for step in taken:  # rules that undo each other would go on for ever
                    self._reject(step.proposal, "select", UNDONE, step.comparison)
            else:
                steps = longer
        return steps

    def _judge(self, facts: Facts, proposals: Sequence[Proposal], label: str) -> list[Step]:
        """Measure each proposal's region, then take the best set that does not overlap.

        Regions with most work come first: where the time budget ends, what matters has been measured.
        """
        found: dict[int, Step] = {}
        order = sorted(range(len(proposals)), key=lambda i: -_work(facts, proposals[i]))
        for done, i in enumerate(order):
            proposal = proposals[i]
            self.notify(f"{label}: measuring {proposal.rule}", done, len(proposals))
            forced = proposal.rule in self.options.force
            with self._stage("measure"):
                trial = self.timer.region(facts, proposal)
            step = step_of(facts, proposal, trial.comparison, forced=forced)
            if not (step.pays or (proposal.enabling and trial.comparison and not _slower(trial.comparison))):
                self._reject(proposal, "measure", trial.problem or _no_gain(trial.comparison), trial.comparison)
                continue
            with self._stage("verify"):
                error, problem = _local(facts, proposal, self.options.seed)
            if problem:
                self._reject(proposal, "verify", problem, trial.comparison)
                continue
            found[i] = replace(step, error=error)
        good = [found[i] for i in sorted(found)]
        bonus = [float(len(s.proposal.removes)) if s.forced else 1e-9 if s.proposal.enabling else 0.0 for s in good]
        weights = [max(s.saved, 0.0) + b for s, b in zip(good, bonus, strict=True)]  # no gain may read as a small loss
        chosen = select([s.proposal for s in good], weights)
        for i in set(range(len(good))) - set(chosen):
            self._reject(
                good[i].proposal, "select", "an overlapping rewrite saves more time", good[i].comparison, last=False
            )
        return [good[i].settled() for i in chosen]

    # --- calibrated rewrites -----------------------------------------------------------------

    def _spend(self, base: Model, steps: list[Step], calibration: Calibration) -> tuple[Model, Report] | None:
        """The model after calibrated rewrites that passed the gate; None when there is none that pays."""
        before = apply(base, [s.proposal for s in steps])
        facts = self._facts(before)
        timed, slow = self._timed(facts, propose_levels(facts, self.calibrated, self.rule_settings))
        with self._stage("judge"):
            tell = lambda done, total: self.notify("running the model on the calibration data", done, total)  # noqa: E731
            levels = [t.level for t in (*timed, *slow)]
            tail = tail_of(facts, levels, calibration.data, self.target, tell) if levels else None
            judge = Judge(
                self.original if tail is None else tail.facts.model,
                calibration.data if tail is None else tail.data,
                self.target,
                metric=calibration.metric,
                confidence=calibration.confidence,
                crop_border=calibration.crop_border,
                notify=tell,
            )
            latency = self.timer.latency(before, self.sizes)
            seen = facts if tail is None else tail.facts
            search = Search(seen, judge, calibration, self.target, self.options.seed, latency, self.notify, tail)
        found = None
        with self._stage("fit"):
            for point in search.passing(timed):
                found = self._with(base, steps, point)
                self.fronts = summary(search, point if found else None)
                if found is not None:
                    break
            if found is None and self.options.insist:
                asked = search.insisted([t for t in [*timed, *slow] if t.level.rule in self.options.insist])
                if asked is None:
                    self.notes.append(
                        f"{', '.join(self.options.insist)}: no layer can take the form that was asked for"
                    )
                elif any(o.timed.level.rule in self.options.force for o in asked.options):
                    found = self._with(base, steps, asked, forced=True)
                    self.fronts = summary(search, asked)
                elif not search.open(asked):
                    self.fronts = summary(search, asked, refused=True)
                    return self._finish(self.original, "over budget", None, [], [])
                else:
                    self.notes.append("the form that was asked for keeps the budget, but is not faster here")
        self.fronts = self.fronts or summary(search, None)
        for item in timed:
            if found is None or item.level.identity not in found[0].identity:
                self._reject(item.level.unfitted, "select", search.why_not(item), item.comparison)
        if found is None:
            return None
        point, result, comparison, kept = found
        wholes = [k for k, _ in self.wholes]
        enough = comparison is not None and comparison.speedup >= self.options.min_speedup
        otherwise: Status = "smaller" if self.options.objective == "size" else "forced"
        return self._finish(result, "faster" if enough else otherwise, comparison, wholes, kept)

    def _timed(self, facts: Facts, said: Sequence[Level | Decline]) -> tuple[list[Timed], list[Timed]]:
        """The levels that are faster, unfitted, on their regions; and those that are not, but are insisted on."""
        self.outcomes += [d for d in said if isinstance(d, Decline)]
        levels = [level for level in said if isinstance(level, Level)]
        found: list[Timed] = []
        slow: list[Timed] = []
        for i, level in enumerate(levels):
            self.notify(f"measuring {level.rule}", i, len(levels))
            with self._stage("measure"):
                trial = self.timer.region(facts, level.unfitted)
            small = _freed(facts, level.unfitted) if self.options.objective == "size" else None
            good = "faster" if small is None else ("faster", "no measurable change")
            if trial.comparison is not None and trial.comparison.verdict in good:
                found.append(Timed(level, trial.comparison, small))
            else:
                reason = trial.problem or _no_gain(trial.comparison)
                self._reject(level.unfitted, "measure", reason, trial.comparison)
                if level.rule in self.options.insist and trial.comparison is not None:
                    slow.append(Timed(level, trial.comparison, small))
        return found, slow

    def _with(
        self, base: Model, steps: list[Step], point: Point, *, forced: bool = False
    ) -> tuple[Point, Model, Comparison | None, list[Step]] | None:
        """The point's rewrites, exact ones again on top, timed: against what exact rewrites alone give, and the
        original. None when they do not pay."""
        facts = self._facts(apply(base, [s.proposal for s in steps]))
        fitted = [
            replace(step_of(facts, f.proposal, o.timed.comparison), error=f.error)
            for o, f in zip(point.options, point.fitted, strict=True)
        ]
        both = [*steps, *fitted]
        both = _busy(both)
        middle = apply(base, [s.proposal for s in both])
        outer, self.verifier = self.verifier, self._verifier(middle)
        broken = outer.unlike(self.verifier)
        if broken:
            self.verifier = outer
            self.notes.append(f"a set of calibrated rewrites was dropped: {broken}")
            return None
        try:
            after = self._rounds(middle, [], self.rules)
            after = self._verified(middle, _busy(after))
            result = apply(middle, [s.proposal for s in after])
        finally:
            self.verifier = outer
        with self._stage("confirm"):
            exact = apply(base, [s.proposal for s in steps])
            timer = replace(self.timer, deadline=float("inf"))
            bought = timer.models(exact, result, self.sizes, MODEL_PLAN).comparison
            last = self._last_word(result)
        pays = bought is not None and bought.verdict == "faster"
        best = last.comparison
        faster = best is not None and best.verdict == "faster" and best.speedup >= self.options.min_speedup
        if self.options.objective == "size":
            pays, faster = tensor_bytes(result) < tensor_bytes(exact), not _slower(last.comparison)
        if not (forced or (pays and faster)):
            return None
        return point, result, last.comparison, [*both, *after]

    def _facts(self, model: Model) -> Facts:
        return Facts(model, self.sizes, self.options.ranges)

    def _verifier(self, model: Model, extra: Sequence[Case] = ()) -> Verifier:
        """What compares rewrites of this model with it."""
        options = self.options
        tests = [*cases(model, self.sizes, options.seed, options.ranges), *extra]
        return Verifier(
            model, self._facts(model), tests, self.target, rtol=options.rtol, atol=options.atol, seed=options.seed
        )

    def _promise(self, model: Model) -> None:
        """Say what calibration data could be worth: levels of the largest layers, timed and not fitted."""
        facts = self._facts(model)
        levels = [x for x in propose_levels(facts, self.calibrated, self.rule_settings) if isinstance(x, Level)]
        layers: dict[str, dict[str, Level]] = {}
        for level in levels:
            own = layers.setdefault(level.layer.key, {})
            if level.share <= PROMISE_RATIO and level.share > getattr(own.get(level.rule), "share", 0.0):
                own[level.rule] = level
        timer = replace(self.timer, deadline=min(self.timer.deadline, time.monotonic() + PROMISE_SECONDS))
        saved: dict[str, float] = {}
        largest = sorted(layers, key=lambda k: -max((x.full_macs for x in layers[k].values()), default=0))
        with self._stage("measure"):
            for key in largest[:PROMISE_LAYERS]:
                for level in layers[key].values():
                    self.notify("measuring what calibration could be worth", 0, 0)
                    comparison = timer.region(facts, level.unfitted).comparison
                    if comparison is not None and comparison.verdict == "faster":
                        saved[key] = max(saved.get(key, 0.0), comparison.saved)
            latency = self.timer.latency(model, self.sizes) if saved else 0.0
        total = sum(saved.values())
        if 0.05 * latency < total < latency:
            self.notes.append(
                f"with --calibration-data up to {latency / (latency - total):.1f}x more: {len(saved)} layers have"
                f" forms with {PROMISE_RATIO:.0%} of their multiply-accumulates that are faster here"
            )

    # --- gates -------------------------------------------------------------------------------

    def _verified(self, base: Model, steps: list[Step]) -> list[Step]:
        """Verify the steps together; the guilty are found by bisection and dropped with all that stands on them."""
        while steps:
            self.notify("verifying", 0, 0)
            with self._stage("verify"):
                verdict = self._try(base, steps)
            if verdict.ok:
                self.verdict = verdict
                break
            low, high = 0, len(steps)  # the prefix of length `low` verifies, the one of length `high` does not
            while high - low > 1:
                middle = (low + high) // 2
                with self._stage("verify"):
                    attempt = self._try(base, steps[:middle])
                low, high = (middle, high) if attempt.ok else (low, middle)
                verdict = verdict if attempt.ok else attempt
            lost = dependants(steps, {high - 1})
            for i in sorted(lost):
                reason = verdict.reason if i == high - 1 else f"stands on a rewrite that failed: {verdict.reason}"
                self._reject(steps[i].proposal, "verify", reason, steps[i].comparison)
            steps = [s for i, s in enumerate(steps) if i not in lost]
        return steps

    def _try(self, base: Model, steps: Sequence[Step]) -> Verdict:
        try:
            return self.verifier.verify(apply(base, [s.proposal for s in steps]))
        except ApplyError as error:
            return Verdict(False, float("inf"), 0, str(error))

    def _confirm(self, base: Model, steps: list[Step]) -> tuple[Model, Report]:
        """Whole model against the original; not faster: keep only the better half, and again."""
        wholes = [kept for kept, _ in self.wholes]
        steps = self._worth_confirming(base, steps)
        forced = any(s.forced for s in steps) or any(k.rewrite.rule in self.options.force for k in wholes)
        kept = steps
        comparison: Comparison | None = None
        while kept or wholes:
            result = apply(base, [s.proposal for s in kept])
            self.notify("confirming on the whole model", 0, 0)
            with self._stage("confirm"):
                trial = self._last_word(result)
            comparison = trial.comparison
            enough = comparison and comparison.verdict == "faster" and comparison.speedup >= self.options.min_speedup
            if enough or forced:
                status: Status = "faster" if enough else "forced"
                return self._finish(result, status, comparison, wholes, kept)
            why = trial.problem or self._too_little(comparison)
            if not kept:
                self.outcomes += [Rejected(k.rewrite, "confirm", why, k.comparison) for k in wholes]
                wholes = []
                break
            order = sorted(range(len(kept)), key=lambda i: kept[i].saved)
            lost = dependants(kept, order[: (len(order) + 1) // 2])
            for i in sorted(lost):
                self._reject(kept[i].proposal, "confirm", why, kept[i].comparison)
            kept = self._verified(base, [s for i, s in enumerate(kept) if i not in lost])
        return self._finish(self.original, "nothing to gain", comparison, [], [])

    def _worth_confirming(self, base: Model, steps: list[Step]) -> list[Step]:
        """No steps where all their regions together save far less than --min-speedup asks for."""
        if not steps or any(s.forced for s in steps):
            return steps
        with self._stage("confirm"):
            latency = self.timer.latency(base, self.sizes)
        saved = sum(s.saved for s in steps if s.pays)
        if saved > (1 - 1 / self.options.min_speedup) / 2 * latency:
            return steps
        for step in steps:
            reason = (
                f"all regions together save {1e6 * saved:.3g} of {1e6 * latency:.4g} microseconds, too little to tell"
            )
            self._reject(step.proposal, "confirm", reason, step.comparison)
        return []

    def _last_word(self, result: Model) -> Trial:
        """The whole model against the original; measured longer where the first answer is blurred.

        The time budget does not hold here, but where it is 0 nothing is measured at all.
        """
        timer = replace(self.timer, deadline=float("inf")) if self.options.time_budget else self.timer
        for plan in CONFIRM_PLANS:
            trial = timer.models(self.original, result, self.sizes, plan)
            if (
                trial.comparison is None
                or trial.comparison.verdict != "no measurable change"
                or _sharp(trial.comparison)
            ):
                break
        return trial

    def _finish(
        self, result: Model, status: Status, comparison: Comparison | None, wholes: list[Kept], steps: Sequence[Step]
    ) -> tuple[Model, Report]:
        kept = [Kept(describe(s.proposal), s.comparison, s.error, _reason(s)) for s in steps]
        changed = bool(wholes or kept)
        took_place = [k.rewrite for k in (*wholes, *kept)]
        others = [o for o in self.outcomes if not (isinstance(o, Rejected) and o.rewrite in took_place)]
        outcomes = (*wholes, *kept, *others)
        verdict = self.verifier.verify(result) if wholes and not steps else self.verdict
        report = Report(
            model=self.original.name,
            status=status,
            before=_summary(self.facts),
            after=_summary(self._facts(result)) if changed else _summary(self.facts),
            comparison=comparison,
            outcomes=outcomes,
            verification={
                "cases": list(self.verifier.cases),
                "levels": ["disable", "all"],
                "largest_relative_error": verdict.error if changed else 0.0,
            },
            notes=tuple(self.notes),
            environment={**versions(), "device": self.target.device, "provider": self.target.provider},
            settings={**self.settings, "measured_sizes": {k: list(v) for k, v in self.sizes.items()}},
            seconds=dict(self.seconds),
            calibration=self.fronts,
        )
        entries: dict[str, Any] = {
            "source_sha256": self.original.graph_sha256(),
            "rules": dict(report.counts()),
            "settings": self.settings,
            "speedup": None if comparison is None else round(comparison.speedup, 3) if changed else 1.0,
        }
        if self.calibration is not None:
            entries["calibration_sha256"] = self.settings["calibration"]["sha256"]
        return provenance.stamp(result, entries), report

    # --- bookkeeping -------------------------------------------------------------------------

    def _too_little(self, comparison: Comparison | None) -> str:
        if comparison is None or comparison.verdict != "faster":
            return f"on the whole model: {_no_gain(comparison)}"
        return f"whole-model speed-up {comparison.speedup:.3f} is below --min-speedup {self.options.min_speedup:g}"

    def _reject(
        self,
        proposal: Proposal | ModelProposal,
        stage: Stage,
        reason: str,
        comparison: Comparison | None = None,
        *,
        last: bool = True,
    ) -> None:
        """Report a rewrite as not kept; `last`: do not try it again in later rounds."""
        outcome = Rejected(describe(proposal), stage, reason, comparison)
        self.outcomes = [o for o in self.outcomes if not (isinstance(o, Rejected) and o.rewrite == outcome.rewrite)]
        self.outcomes.append(outcome)
        if last and isinstance(proposal, Proposal):
            self.refused.add(_identity(proposal))

    def _stage(self, name: str) -> _Stopwatch:
        return _Stopwatch(self.seconds, name)


class _Stopwatch:
    def __init__(self, totals: Counter[str], name: str) -> None:
        self.totals, self.name = totals, name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.totals[self.name] += time.perf_counter() - self.start  # type: ignore[assignment]


def _identity(proposal: Proposal) -> tuple[str, str, str]:
    return proposal.rule, repr(sorted(proposal.removes)), repr(sorted(proposal.settings.items()))


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


def _slower(comparison: Comparison | None) -> bool:
    return comparison is not None and comparison.verdict == "slower"


def _sharp(comparison: Comparison) -> bool:
    """Is the interval narrow enough to say that there is no gain worth having?"""
    return comparison.high < 1.02 and comparison.noise < 0.02


def _no_gain(comparison: Comparison | None) -> str:
    if comparison is None:
        return "not measured"
    ratio = f"{comparison.speedup:.2f}x [{comparison.low:.2f}, {comparison.high:.2f}]"
    return f"{comparison.verdict}: {ratio}"


def _reason(step: Step) -> str:
    if step.forced:
        return "forced"
    return "faster" if step.pays else ENABLING


def _node_change(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    was, now = len(before.graph.node), len(after.graph.node)
    return f"{was} -> {now} nodes" if was != now else f"{was} nodes"


def _summary(facts: Facts) -> ModelSummary:
    operators = Counter(n.op_type for n in facts.nodes)
    return ModelSummary(
        len(facts.nodes), tensor_bytes(facts.model), total_macs(facts), dict(operators), peak_bytes(facts)
    )


def _untouched(model: Model, settings: Mapping[str, Any], options: Options) -> Report:
    summary = _summary(Facts(model, bind_sizes(model, options.sizes).sizes))
    return Report(
        model=model.name,
        status="already tuned",
        before=summary,
        after=summary,
        comparison=None,
        outcomes=(),
        verification={},
        notes=("this model is onnxtune's own result under the same settings",),
        environment=versions(),
        settings=settings,
        seconds={},
    )
