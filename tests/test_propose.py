"""Asking the rules: nobody's failure costs the others, and what breaks a proposal's promise is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper

from onnxtune.errors import RuleError
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.patterntext import Pattern
from onnxtune.proposal import Decline, Fragment, Proposal, overlap
from onnxtune.propose import Said, propose
from onnxtune.rule import Card, Kind, No, Rule
from onnxtune.testing import model_of

FACTS = Facts(
    Model(
        model_of(
            "g (float[4] x) => (float[4] y, float[4] z) { a = Relu (x)  b = Neg (a)  y = Mul (b, k)  z = Neg (y) }",
            {"k": np.ones(4, np.float32)},
        )
    )
)
PATTERN = Pattern("p (x) => (z) { z = Neg (x) }")


def rule(
    entry: Callable[..., Any], kind: Kind = "pattern", name: str = "try_this", variants: Any = None, **card: Any
) -> Rule:
    pattern = PATTERN if kind == "pattern" else None
    return Rule(Card(name, "T1", "", "", pattern=pattern, source="a package", **card), kind, entry, variants)


def declines(said: list[Said]) -> list[str]:
    return [s.reason for s in said if isinstance(s, Decline)]


def proposals(said: list[Said]) -> list[Proposal]:
    return [s for s in said if isinstance(s, Proposal)]


def test_a_proposal_carries_what_its_rule_says_of_itself() -> None:
    found = proposals(propose(FACTS, [rule(lambda m, new, s: new.Abs(m["x"]), enabling=True)], {}))
    assert [(p.rule, p.title, p.removes, p.safety, p.enabling) for p in found] == [
        ("try_this", "Neg -> Abs", {"b"}, "exact", True),
        ("try_this", "Neg -> Abs", {"z"}, "exact", True),
    ]
    assert found[0].node == "b"
    assert found[0].reads == {"a"}
    assert not overlap(*found)


def test_variants_are_proposals_of_their_own() -> None:
    def rewrite(match: Any, new: Any, settings: Any) -> Any:
        return new.Abs(match["x"]) if settings["form"] == "abs" else No("only abs is possible")

    variants = lambda match, settings: [{"form": "abs"}, {"form": "other"}]  # noqa: E731
    said = propose(FACTS, [rule(rewrite, variants=variants, settings={"form": ""})], {})
    assert [dict(p.settings) for p in proposals(said)] == [{"form": "abs"}, {"form": "abs"}]
    assert declines(said) == ["only abs is possible"] * 2
    first, *_ = proposals(said)
    assert overlap(first, first)


def test_a_refusal_has_its_place() -> None:
    said = propose(FACTS, [rule(lambda m, new, s: No("because"))], {})
    assert said == [Decline("try_this", "b", "because"), Decline("try_this", "z", "because")]


def test_near_misses_are_declines() -> None:
    pattern = Pattern("p (x) => (z) { y = Mul (x, k)  z = Neg (y) }".replace("k)", "w)").replace("(x)", "(x, w)"))
    found = Rule(Card("r", "", "", "", pattern=pattern), "pattern", lambda m, new, s: new.Abs(m["x"]))
    assert propose(FACTS, [found], {}) == [Decline("r", "z", "'y' is a graph output")]


def test_a_rule_that_raises_is_reported_and_the_others_go_on() -> None:
    def broken(match: Any, new: Any, settings: Any) -> Any:
        raise ZeroDivisionError("a\nb")

    good = rule(lambda m, new, s: new.Abs(m["x"]), name="good")
    said = propose(FACTS, [rule(broken), good], {})
    assert declines(said) == ["the rule failed (ZeroDivisionError: a); report it to a package"]
    assert len(proposals(said)) == 2


@pytest.mark.parametrize("result", [None, 7, ("a", "b"), ()])
def test_a_rewrite_that_gives_nonsense_is_reported(result: Any) -> None:
    (reason,) = declines(propose(FACTS, [rule(lambda m, new, s: result)], {}))
    assert "the rule failed" in reason


def test_rules_for_newer_operator_sets_are_not_asked() -> None:
    def never(facts: Facts, settings: Any) -> Any:
        raise AssertionError("asked")

    assert propose(FACTS, [rule(never, "graph", min_opset=18)], {}) == []


def test_rules_on_the_whole_model_are_not_asked_here() -> None:
    assert propose(FACTS, [rule(lambda proto, settings: None, "model")], {}) == []


def test_settings_reach_the_rule() -> None:
    seen = []

    def entry(facts: Facts, settings: Any) -> list[Said]:
        seen.append(dict(settings))
        return []

    asked = rule(entry, "graph", settings={"limit": 3})
    propose(FACTS, [asked], {})
    propose(FACTS, [asked], {"try_this": {"limit": 5}})
    assert seen == [{"limit": 3}, {"limit": 5}]
    with pytest.raises(RuleError, match="unknown setting 'other'"):
        propose(FACTS, [asked], {"try_this": {"other": 5}})


# --- what a proposal must not do -------------------------------------------------------------------------


def node(op_type: str, source: str, target: str) -> Any:
    return helper.make_node(op_type, [source], [target])


@pytest.mark.parametrize(
    ("removes", "fragment", "reason"),
    [
        ({"gone"}, Fragment(()), "removes 'gone', which no node makes"),
        (set(), Fragment((node("Abs", "x", "t"),)), "removes no node"),
        ({"b"}, Fragment(()), "drops a tensor that is needed: 'b' has a second consumer (Mul)"),
        ({"z"}, Fragment(()), "drops a tensor that is needed: 'z' is a graph output"),
        ({"b"}, Fragment((node("Abs", "nowhere", "b"),)), "reads 'nowhere', which nothing makes"),
        ({"a", "b"}, Fragment((node("Abs", "a", "b"),)), "reads 'a', which it removes"),
        ({"a", "b"}, Fragment((), (), {"b": "a"}), "reads 'a', which it removes"),
        ({"z"}, Fragment((node("Abs", "y", "z"),), (), {"a": "x"}), "redirects 'a', which it does not remove"),
    ],
)
def test_a_graph_rule_that_breaks_the_promise(removes: set[str], fragment: Fragment, reason: str) -> None:
    bad = Proposal("", "", frozenset(removes), fragment)
    good = Proposal("", "", frozenset({"z"}), Fragment((node("Abs", "y", "z"),)))
    said = propose(FACTS, [rule(lambda facts, settings: [bad, good], "graph")], {})
    (said_reason,) = declines(said)
    assert reason in said_reason
    assert "report it to a package" in said_reason
    assert [p.removes for p in proposals(said)] == [{"z"}]


def test_a_rewrite_that_reads_what_it_removes() -> None:
    pattern = Pattern("p (x) => (z) { y = Relu (x)  z = Neg (y) }")
    found = Rule(Card("r", "", "", "", pattern=pattern), "pattern", lambda m, new, s: new.Neg(m["y"]))
    (reason,) = declines(propose(FACTS, [found], {}))
    assert "reads 'a', which it removes" in reason


def test_a_graph_rule_that_gives_something_else() -> None:
    (reason,) = declines(propose(FACTS, [rule(lambda facts, settings: ["text"], "graph")], {}))
    assert "it gave a str, neither a Proposal nor a Decline" in reason


def test_a_graph_rule_speaks_in_its_own_name() -> None:
    entry = lambda facts, settings: [Decline("somebody else", "b", "why")]  # noqa: E731
    assert propose(FACTS, [rule(entry, "graph")], {}) == [Decline("try_this", "b", "why")]
