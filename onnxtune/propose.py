"""Asking every rule what it would change. Nothing is changed here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import onnx

from onnxtune.calibrate.level import Level
from onnxtune.crashes import CrashError, trying
from onnxtune.errors import OnnxtuneError, one_line
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.later import Later
from onnxtune.pattern import Match, find
from onnxtune.proposal import Decline, Fragment, Proposal
from onnxtune.rule import No, Rule
from onnxtune.timebox import TimeUp, time_box

Said = Proposal | Decline


RULE_SECONDS = 120.0
"""How long one rule may take to look at a graph, plus RULE_NODE_SECONDS for each node."""
RULE_NODE_SECONDS = 0.05
TIME_UP = "it took longer than"
"""What the Decline of a rule that was stopped says: it is not asked again."""


def guarded(rule: Rule, nodes: int, work: Callable[[], object], failed: Callable[[str], None]) -> None:
    """Do `work`, a rule's own code: it may be anybody's; what it raises, or how long it takes, must not cost the rest.

    `failed` is told why it was stopped: an exception, the time limit, or that it brought the process down before.
    onnxtune's own errors pass.
    """
    limit = RULE_SECONDS + RULE_NODE_SECONDS * nodes
    try:
        with trying("rule", rule.name), time_box(limit):
            work()
    except OnnxtuneError:
        raise
    except TimeUp:
        failed(f"{TIME_UP} {limit:.0f} s")
    except CrashError as crash:
        failed(f"the process died of {crash} in it")
    except (Exception, SystemExit) as error:  # scripts that were made rules like to exit
        failed(f"{type(error).__name__}: {one_line(error)}")


def propose(facts: Facts, rules: Iterable[Rule], settings: Mapping[str, Mapping[str, Any]]) -> list[Said]:
    """All proposals and declines of pattern and graph rules on this graph.

    A rule that raises, or does not end in time, is reported as a Decline with its name and the reason; the others
    go on.
    """
    said: list[Said] = []
    for rule in rules:
        if rule.kind in ("model", "levels"):
            continue
        chosen = rule.settings(settings.get(rule.name))
        found = _run(facts, rule, chosen)
        guarded(rule, len(facts.nodes), partial(said.extend, found), _note(said, rule))
    facts.forget()
    return said


def propose_levels(
    facts: Facts, rules: Iterable[Rule], settings: Mapping[str, Mapping[str, Any]]
) -> list[Level | Decline]:
    """All levels that calibrated rules offer on this graph, with the same promises kept as by `propose`."""
    said: list[Level | Decline] = []
    for rule in rules:
        if rule.levels is None or facts.opset < rule.card.min_opset:
            continue
        found = _levels(facts, rule, settings)
        guarded(rule, len(facts.nodes), partial(said.extend, found), _note(said, rule))
    return said


def _levels(facts: Facts, rule: Rule, settings: Mapping[str, Mapping[str, Any]]) -> Iterator[Level | Decline]:
    assert rule.levels is not None, "only asked of rules that have levels"
    for item in rule.levels(facts, rule.settings(settings.get(rule.name))):
        breach = _breach(facts, item.unfitted) if isinstance(item, Level) else None
        if breach:
            yield _failed(rule, item.layer.key, breach)
        else:
            yield item if isinstance(item, Level) else _decline(item, rule)


def _run(facts: Facts, rule: Rule, settings: Mapping[str, Any]) -> Iterator[Said]:
    if facts.opset < rule.card.min_opset:
        return
    if rule.kind == "graph":
        for item in rule.entry(facts, settings):
            yield _owned(facts, item, rule) if isinstance(item, Proposal) else _decline(item, rule)
        return
    assert rule.card.pattern is not None, "make_rule has checked that pattern rules have a pattern"
    for match in find(facts, rule.card.pattern):
        if isinstance(match, Match):
            yield from _rewrite(facts, rule, match, settings)
        else:
            yield Decline(rule.name, *match)


def _rewrite(facts: Facts, rule: Rule, match: Match, settings: Mapping[str, Any]) -> Iterator[Said]:
    tries: Sequence[Mapping[str, Any]] = [{}]
    if rule.variants is not None:
        tries = list(rule.variants(match, settings))
    for variant in tries:
        new = Builder(f"{match.place}/{rule.name}", facts.names, facts.opset)
        result = rule.entry(match, new, {**settings, **variant})
        if isinstance(result, No):
            yield Decline(rule.name, match.place, str(result))
            continue
        sources = (result,) if isinstance(result, str) else tuple(result)
        outputs = dict(zip((match[o] for o in match.pattern.outputs), sources, strict=True))
        fragment = new.finish(outputs)
        before = sorted(match.nodes.values(), key=lambda n: n.index)
        title = _title([n.op_type for n in before], [n.op_type for n in fragment.nodes])
        yield _owned(facts, Proposal(rule.name, title, match.keys, fragment, settings=variant), rule)


def _owned(facts: Facts, proposal: Proposal, rule: Rule) -> Said:
    """The proposal in its rule's name, or a Decline when it breaks what every proposal promises."""
    breach = _breach(facts, proposal)
    if breach:
        return _failed(rule, proposal.node if proposal.removes else "", breach)
    fragment = proposal.fragment.stowed(facts.model.kept)
    return replace(proposal, fragment=fragment, rule=rule.name, safety=rule.card.safety, enabling=rule.card.enabling)


def _decline(item: object, rule: Rule) -> Decline:
    if isinstance(item, Decline) and isinstance(item.node, str) and isinstance(item.reason, str):
        return replace(item, rule=rule.name)
    raise TypeError(f"it gave a {type(item).__name__}, neither a Proposal nor a Decline")


def _note(said: list[Any], rule: Rule) -> Callable[[str], None]:
    return lambda reason: said.append(_failed(rule, "", reason))


def _failed(rule: Rule, node: str, reason: str) -> Decline:
    return Decline(rule.name, node, f"the rule failed ({reason}); report it to {rule.card.source}")


def _breach(facts: Facts, proposal: Proposal) -> str | None:
    """What a proposal must not do: remove what is not there, drop or read what it may not."""
    removes, fragment = proposal.removes, proposal.fragment
    if wrong := _misshapen(proposal):
        return wrong
    if not removes:
        return "it removes no node"
    unknown = [key for key in removes if key not in facts.by_key]  # not a difference, which goes through all keys
    if unknown:
        return f"it removes '{min(unknown)}', which no node makes"
    made = {o for key in removes for o in facts.by_key[key].outputs if o}
    if fragment.aliases.keys() - made:
        return f"it redirects '{min(fragment.aliases.keys() - made)}', which it does not remove"
    lost = made - fragment.tensors - fragment.aliases.keys()
    for tensor in sorted(lost):
        needed = facts.why_not_private(tensor, removes)
        if needed:
            return f"it drops a tensor that is needed: {needed}"
    for tensor in sorted(proposal.reads):
        if tensor in made or not facts.exists(tensor):
            return f"it reads '{tensor}', which {'it removes' if tensor in made else 'nothing makes'}"
    return None


def _misshapen(proposal: Proposal) -> str | None:
    """Python lets a rule put anything into a Proposal: what is not what its type says would break a later stage."""
    fragment = proposal.fragment
    if not isinstance(fragment, Fragment) or not isinstance(proposal.removes, frozenset):
        return "its proposal has no fragment, or no set of nodes to remove"
    if not all(isinstance(n, onnx.NodeProto) and any(n.output) for n in fragment.nodes):
        return "its fragment holds what is no node with an output"
    if not all(isinstance(w, onnx.TensorProto | Later) for w in fragment.stored):
        return "its fragment holds what is no weight"
    if not all(isinstance(n, str) for n in (proposal.title, *fragment.aliases, *fragment.aliases.values())):
        return "a title or name in its proposal is no text"
    try:
        json.dumps([dict(proposal.settings), dict(proposal.details)], allow_nan=False)
    except (TypeError, ValueError) as error:
        return f"settings and details must be plain data: {one_line(error)}"
    return None


def _title(before: list[str], after: list[str]) -> str:
    return f"{' + '.join(before)} -> {' + '.join(after) or 'nothing'}"
