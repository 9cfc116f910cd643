"""What following the advice of a finding would be worth: regions timed before and after, unfitted where fitting is
needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxtune.apply import ApplyError, apply
from onnxtune.calibrate.level import Level
from onnxtune.comparison import Comparison
from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.finding import Checker, Found, Worth
from onnxtune.proposal import Decline, Proposal
from onnxtune.propose import propose, propose_levels
from onnxtune.rule import Rule
from onnxtune.scene import Scene
from onnxtune.select import select
from onnxtune.trial import MODEL_PLAN, Timer
from onnxtune.tune.promise import RATIO, usual_levels

LAYERS = 6
"""Largest layers whose calibrated forms are timed for a finding."""
ROUNDS = 4
"""How often folding may open the way for more folding."""


@dataclass(frozen=True, eq=False)
class Scales:
    """Measures findings on one model. `rules`: by name, all that checks may name. `folded`: the model after rewrites
    that
    cost nothing and let others fire (batch normalization folded...). `latency`: seconds of one inference."""

    scene: Scene
    rules: Mapping[str, Rule]
    timer: Timer
    folded: Facts
    latency: float
    tell: Callable[[str], None]

    def worth(self, checker: Checker, found: Found) -> Worth | None:
        """Measured where something can be timed, else estimated where the check gives an estimate."""
        self.tell(f"measuring {checker.card.name}")
        said = self._measured(checker, found)
        if said is None:
            return estimated(found)
        idle = said.speedup is not None and said.speedup <= 1
        tidying = checker.card.severity == "info" and checker.card.remedy == "optimize"
        return None if idle and tidying else said

    def _measured(self, checker: Checker, found: Found) -> Worth | None:
        if checker.measure is not None:
            said = checker.measure(self.scene, found, self.timer)
            known = said is not None and said.saved_seconds is not None
            return self._of(said.saved_seconds or 0.0, said.by) if said is not None and known else said
        rules = self._rules(checker, found)
        wholes = [r for r in rules if r.kind == "model"]
        if wholes:
            return self._whole(wholes)
        trials: list[tuple[Proposal, Comparison]] = []
        for facts, proposal in self._proposals(rules, found):
            comparison = self.timer.region(facts, proposal).comparison
            if comparison is not None:
                trials.append((proposal, comparison))
        if not trials:
            return None
        faster = [(p, c.saved) for p, c in trials if c.verdict == "faster"]
        chosen = select([p for p, _ in faster], [s for _, s in faster])
        by = sorted({faster[i][0].rule for i in chosen})
        return self._of(sum(faster[i][1] for i in chosen), ", ".join(by))

    def _rules(self, checker: Checker, found: Found) -> list[Rule]:
        """What the advice names; where it is to run `optimize` without data, only what does that."""
        names = checker.card.rules if found.rules is None else found.rules
        known = [self.rules[n] for n in names if n in self.rules]
        if (found.remedy or checker.card.remedy) == "calibrate":
            return known
        return [replace(r, levels=None) for r in known if r.card.safety == "exact"]

    def _of(self, seconds: float, by: str) -> Worth:
        left = max(self.latency - seconds, 0.05 * self.latency)
        return Worth("measured", self.latency / left, by, seconds)

    def _proposals(self, rules: Sequence[Rule], found: Found) -> Iterator[tuple[Facts, Proposal]]:
        """What these rules offer for the nodes that were found, on the folded model where folding comes first."""
        keys = _after_folding(self.scene.facts, {n.key for n in found.nodes})
        settings = _settings(rules, self.scene.provider)
        exact = [r for r in rules if r.card.safety == "exact"]
        for facts in (self.folded, self.scene.facts):
            said = [s for s in propose(facts, exact, settings) if isinstance(s, Proposal)]
            own = [p for p in said if not p.removes.isdisjoint(keys)]
            yield from ((facts, p) for p in own)
            if own:
                break
        fitted = [r for r in rules if r.levels is not None]
        layers = _levels(propose_levels(self.folded, fitted, settings)) if fitted else {}
        mine = [levels for levels in layers.values() if any(_touches(x.unfitted, keys) for x in levels.values())]
        for levels in mine[:LAYERS]:
            yield from ((self.folded, x.unfitted) for x in levels.values())

    def _whole(self, rules: Sequence[Rule]) -> Worth | None:
        """Whole-model rewrites, timed as such."""
        before = after = self.scene.facts.model
        for rule in rules:
            changed = rule.entry(after.proto, rule.settings({}))
            if changed is not None and not isinstance(changed, str):
                after = after.adopt(changed)
        if after is before:
            return None
        comparison = self.timer.models(before, after, self.scene.facts.sizes, MODEL_PLAN).comparison
        if comparison is None:
            return None
        by = ", ".join(r.name for r in rules)
        if comparison.verdict != "faster":
            return Worth("measured", 1.0, by, 0.0)
        return Worth("measured", comparison.speedup, by, comparison.saved)


def estimated(found: Found) -> Worth | None:
    """By the check's own estimate."""
    if found.left is None or found.left >= 0.995:
        return None
    return Worth("estimated", 1 / max(found.left, 0.05), "multiply-accumulates")


def folded(facts: Facts, rules: Sequence[Rule]) -> Facts:
    """The facts after enabling rewrites of single places, which change no time worth measuring."""
    enabling = [r for r in rules if r.card.enabling and r.kind != "model" and r.card.safety == "exact"]
    current = facts
    for _ in range(ROUNDS):
        said = [s for s in propose(current, enabling, {}) if isinstance(s, Proposal)]
        if not said:
            break
        chosen = [said[i] for i in select(said, [float(len(p.removes)) for p in said])]
        try:
            model = apply(current.model, chosen)
        except (ApplyError, ModelError):
            break
        current = Facts(model, facts.sizes, facts.ranges)
    return current


def _levels(said: Sequence[Level | Decline]) -> dict[str, dict[str, Level]]:
    """Layer -> rule -> what calibration mostly allows of it; of a rule that only takes little away, its mildest."""
    chosen = usual_levels(said)
    for level in (x for x in said if isinstance(x, Level)):
        own = chosen.setdefault(level.layer.key, {})
        known = own.get(level.rule)
        if known is None or RATIO < known.share < level.share:
            own[level.rule] = level
    return chosen


def _touches(proposal: Proposal, keys: set[str]) -> bool:
    return not proposal.removes.isdisjoint(keys)


def _after_folding(facts: Facts, keys: set[str]) -> set[str]:
    """The keys, and those that the nodes have once the normalization after them is folded in."""
    found = set(keys)
    for key in keys:
        node = facts.by_key.get(key)
        readers = facts.consumers(node.outputs[0]) if node is not None and node.outputs else ()
        while len(readers) == 1 and readers[0].is_op("BatchNormalization", "Mul", "Add"):
            found.add(readers[0].key)
            readers = facts.consumers(readers[0].outputs[0])
    return found


def _settings(rules: Sequence[Rule], provider: str) -> dict[str, dict[str, str]]:
    return {r.name: {"provider": provider} for r in rules if "provider" in r.card.settings}
