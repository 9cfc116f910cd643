"""What the stages of one run share: the model, the target, the clock, the verifier and the journal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from onnxtune.apply import ApplyError, apply
from onnxtune.cache import Cache
from onnxtune.calibrate.points import Calibration
from onnxtune.channels.cost import ANY_CPU
from onnxtune.facts import Facts
from onnxtune.feeds import Case, cases
from onnxtune.model import Model
from onnxtune.ranges import notes_on
from onnxtune.report import Kept
from onnxtune.rule import Rule
from onnxtune.runtime import Target
from onnxtune.sizes import bind, with_batch
from onnxtune.steps import Step, dependants
from onnxtune.trial import Timer
from onnxtune.tune.journal import Journal
from onnxtune.tune.options import BATCH, DecideFunction, NotifyFunction, Options
from onnxtune.verify import Verdict, Verifier


class Run:
    """One run of the loop. `late`: rules that go last, since no other can read what they make, and only where time is
    measured. `wholes`: whole-model rewrites so far, each with the model before it; `fronts`: what the
    calibration found, for the report; `verdict`: the last one that held."""

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
        decide: DecideFunction,
    ) -> None:
        self.original, self.target, self.options = original, target, options
        exact = [r for r in rules if r.card.safety == "exact"]  # others need data, or only advise
        self.rules = [r for r in exact if not r.card.late]
        self.late = [r for r in exact if r.card.late and options.measure]
        self.calibrated = [r for r in rules if r.levels is not None]
        self.calibration, self.notify, self.settings = calibration, notify, settings
        self.journal = Journal(decide=decide)
        self.wholes: list[tuple[Kept, Model]] = []
        self.fronts: Mapping[str, Any] | None = None
        self.verdict = Verdict(True, 0.0, 0)
        self.seconds: Counter[str] = Counter()
        binding = bind(original, options.sizes)
        self.sizes = binding.sizes
        self.notes = [*binding.assumed, *notes_on(options.ranges)]
        self.notes += [] if calibration is None else calibration.data.notes
        if options.objective == "throughput":
            self.sizes, free = with_batch(original, binding.sizes, options.sizes, BATCH)
            self.notes.append(f"measured at batch {BATCH}" if free else "measured at the batch that the model fixes")
        self.rule_settings = self._rule_settings()
        with self.stage("load"):
            self.facts = self.facts_of(original)
            self.verifier = self.verifier_of(original, extra_cases)
        self.timer = Timer(target, cache, options.seed, time.monotonic() + options.time_budget)
        self.notes += [f"verification input left out, the original fails on it: {s}" for s in self.verifier.skipped]

    def _rule_settings(self) -> dict[str, dict[str, Any]]:
        """The user's settings; a rule that has a setting `provider` learns there what it is tuned for."""
        found = {name: dict(values) for name, values in self.options.settings.items()}
        for rule in {*self.rules, *self.calibrated}:
            if "provider" in rule.card.settings:
                known = self.target.label.lower()
                if not self.options.measure and known == "cpu":
                    known = ANY_CPU
                found.setdefault(rule.name, {}).setdefault("provider", known)
        return found

    def facts_of(self, model: Model) -> Facts:
        return Facts(model, self.sizes, self.options.ranges)

    def verifier_of(self, model: Model, extra: Sequence[Case] = ()) -> Verifier:
        """What compares rewrites of this model with it."""
        options = self.options
        tests = [*cases(model, self.sizes, options.seed, options.ranges), *extra]
        return Verifier(
            model, self.facts_of(model), tests, self.target, rtol=options.rtol, atol=options.atol, seed=options.seed
        )

    def attempt(self, base: Model, steps: Sequence[Step]) -> Verdict:
        """Verify the steps together."""
        try:
            return self.verifier.verify(apply(base, [s.proposal for s in steps]))
        except ApplyError as error:
            return Verdict(False, float("inf"), 0, str(error))

    def verified(self, base: Model, steps: list[Step]) -> list[Step]:
        """Verify the steps together; the guilty are found by bisection and dropped with all that stands on them."""
        while steps:
            self.notify("verifying", 0, 0)
            with self.stage("verify"):
                verdict = self.attempt(base, steps)
            if verdict.ok:
                self.verdict = verdict
                break
            low, high = 0, len(steps)  # the prefix of length `low` verifies, the one of length `high` does not
            while high - low > 1:
                middle = (low + high) // 2
                with self.stage("verify"):
                    attempt = self.attempt(base, steps[:middle])
                low, high = (middle, high) if attempt.ok else (low, middle)
                verdict = verdict if attempt.ok else attempt
            lost = dependants(steps, {high - 1})
            for i in sorted(lost):
                reason = verdict.reason if i == high - 1 else f"stands on a rewrite that failed: {verdict.reason}"
                self.journal.reject(steps[i].proposal, "verify", reason, steps[i].comparison)
            steps = [s for i, s in enumerate(steps) if i not in lost]
        return steps

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time within as this stage's."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start  # type: ignore[assignment]
