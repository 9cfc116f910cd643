"""Whole-model rewrites: they go first, since they decide what the other rules get to see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import onnx

from onnxtune import trial as plans
from onnxtune.cache import structure
from onnxtune.errors import ModelError
from onnxtune.mapped import embedded, hollow, mapped_bytes, refilled, with_weights
from onnxtune.model import PROTOBUF_LIMIT, Model, file_bytes, tensor_bytes
from onnxtune.proposal import Decline, ModelProposal, Proposal
from onnxtune.propose import TIME_UP, guarded, propose
from onnxtune.report import Kept, Rejected, describe
from onnxtune.rule import OWN, Rule
from onnxtune.steps import Step
from onnxtune.tune.run import Run
from onnxtune.tune.wording import ENABLING, NOT_NEEDED, no_gain, slower


def prepare(
    run: Run,
) -> Model:
    """Whole-model rewrites first: they decide what the other rules get to see.

    One that is enabling and not slower stays for the time being; see `_without_idle_wholes`.
    """
    base = run.original
    for rule in [r for r in run.rules if r.kind == "model"]:
        run.notify(f"trying {rule.name}", 0, 0)
        with run.stage("propose"):
            proposal, after = _transformed(run, base, rule)
        if proposal is None or after is None or structure(after.proto) == structure(base.proto):
            continue
        forced = rule.name in run.options.force
        if not (rule.card.pays_alone or forced or _opens(run, base, after)):
            run.journal.reject(proposal, "measure", NOT_NEEDED)
            continue
        with run.stage("verify"):
            verdict = run.verifier.verify(after)
        if not verdict.ok:
            run.journal.reject(proposal, "verify", verdict.reason)
            continue
        with run.stage("measure"):
            trial = run.timer.models(base, after, run.sizes, plans.MODEL_PLAN)
        comparison = trial.comparison
        if comparison and comparison.verdict == "faster":
            reason = "faster"
        elif forced:
            reason = "forced"
        elif rule.card.enabling and not slower(comparison):
            reason = ENABLING
        else:
            run.journal.reject(proposal, "measure", trial.problem or no_gain(comparison), comparison)
            continue
        kept = Kept(describe(proposal), comparison, None, reason)
        run.journal.decide(kept)
        run.wholes.append((kept, base))
        base = after
    return base


def without_idle(run: Run, base: Model, steps: Sequence[Step]) -> Model:
    """Drop whole-model rewrites that save no time, the last one first, where the steps do as well without."""
    while run.wholes and run.wholes[-1][0].reason == ENABLING:
        kept, before = run.wholes[-1]
        frozen = {i.name for i in before.proto.graph.input} - {i.name for i in base.proto.graph.input}
        if any(not step.read.isdisjoint(frozen) for step in steps):
            break  # a step took for constant what a caller of the model before could feed
        if steps:
            with run.stage("verify"):
                verdict = run.attempt(before, steps)
            if not verdict.ok:
                break
            run.verdict = verdict
        run.wholes.pop()
        reason = no_gain(kept.comparison) if kept.comparison else NOT_NEEDED
        run.journal.add(Rejected(kept.rewrite, "measure", reason, kept.comparison))
        base = before
    return base


def _transformed(run: Run, base: Model, rule: Rule) -> tuple[ModelProposal | None, Model | None]:
    said: list[onnx.ModelProto | str | None] = []
    broken: list[str] = []
    guarded(rule, len(base.proto.graph.node), lambda: said.append(_change(run, base, rule)), broken.append)
    if broken:
        reason = f"it failed ({broken[0]}); report it to {rule.card.source}"
        run.journal.decline([Decline(rule.name, "", reason)])
        return None, None
    (changed,) = said
    if changed is None:
        return None, None
    if isinstance(changed, str):
        run.journal.decline([Decline(rule.name, "", changed)])
        return None, None
    title = _node_change(base.proto, changed)
    details = {"operators": _operator_changes(base.proto, changed)}
    proposal = ModelProposal(rule.name, title, rule.card.safety, rule.card.enabling, details=details)
    try:
        return proposal, base.adopt(changed)
    except ModelError as error:
        run.journal.reject(proposal, "verify", str(error))
        return None, None


def _change(run: Run, base: Model, rule: Rule) -> onnx.ModelProto | str | None:
    """What the rule makes of the model; somebody else's gets a copy, which it may edit, with all weights in memory.

    Our own see inputs in the place of weights that stay in files: they have no use for the values of these.
    """
    mapped = mapped_bytes(base.proto) > 0
    if rule.card.source == OWN:
        proto = hollow(base.proto) if mapped else base.proto
    elif file_bytes(base) > PROTOBUF_LIMIT:
        return f"the model's {tensor_bytes(base) / 1e9:.3g} GB of weights do not fit the one message that it would get"
    else:
        proto = onnx.ModelProto()
        proto.CopyFrom(embedded(base.proto))
    changed = rule.entry(proto, rule.settings(run.rule_settings.get(rule.name)))
    if changed is not None and not isinstance(changed, onnx.ModelProto | str):
        raise TypeError(f"it gave a {type(changed).__name__}, neither a ModelProto, a reason nor None")
    if isinstance(changed, onnx.ModelProto) and mapped:
        if rule.card.source == OWN:
            return refilled(changed, base.proto)
        return with_weights(changed, map(base.kept, changed.graph.initializer))
    return changed


def _opens(run: Run, base: Model, after: Model) -> bool:
    """Do pattern and graph rules find more places after the whole-model rewrite?"""
    found = []
    for model in (base, after):
        rules = [r for r in run.rules if not r.card.enabling and r.name not in run.journal.barred]
        said = propose(run.facts_of(model), rules, run.rule_settings)
        run.journal.decline(s for s in said if isinstance(s, Decline) and TIME_UP in s.reason)
        found.append(Counter(p.rule for p in said if isinstance(p, Proposal)))
    return bool(found[1] - found[0])


def _operator_changes(before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, list[int]]:
    """Operator -> how many there were and are, of those whose number changed."""
    was, now = (Counter(n.op_type for n in m.graph.node) for m in (before, after))
    return {name: [was[name], now[name]] for name in sorted(was | now) if was[name] != now[name]}


def _node_change(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    was, now = len(before.graph.node), len(after.graph.node)
    return f"{was} -> {now} nodes" if was != now else f"{was} nodes"
