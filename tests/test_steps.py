"""Which rewrites stand on which: what goes with a dropped one, and which enabling ones were of no use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from onnxtune.apply import apply
from onnxtune.comparison import Comparison
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.model import Model
from onnxtune.proposal import Proposal
from onnxtune.steps import Step, dependants, prune_enabling, step_of
from onnxtune.testing import model_of

ONE = np.ones(1)
FASTER = Comparison(2 * ONE, ONE, 2.0, 1.9, 2.1, 0.0, 0.99)
SAME = Comparison(ONE, ONE, 1.0, 0.9, 1.1, 0.0, 0.99)

Change = tuple[str, Callable[[Builder], str]]


def history(text: str, *changes: Change) -> list[Step]:
    """Steps, each proposed on the graph that the earlier ones left; `changes`: nodes removed, last one made anew."""
    base = Model(model_of(f"g (float[4] x) => (float[4] y) {{ {text} }}"))
    steps: list[Step] = []
    for number, (removes, build) in enumerate(changes):
        facts = Facts(apply(base, [s.proposal for s in steps]))
        keys = removes.split()
        new = Builder(f"{keys[-1]}/rule{number}", facts.names, facts.opset)
        fragment = new.finish({keys[-1]: build(new)})
        steps.append(step_of(facts, Proposal(f"rule{number}", "", frozenset(keys), fragment), FASTER))
    return steps


CHAIN = "a = Relu (x)  b = Neg (a)  c = Abs (b)  y = Exp (c)"


def test_reading_a_tensor_that_was_there_before_is_no_dependence() -> None:
    """The first rewrite makes `b` anew under its old name; the second one reads `b`."""
    steps = history(CHAIN, ("a b", lambda new: new.Neg(new.Relu("x"))), ("c", lambda new: new.Sqrt(new.Mul("b", "b"))))
    assert dependants(steps, {0}) == {0}
    assert dependants(steps, {1}) == {1}


def test_removing_what_the_earlier_one_made_is() -> None:
    steps = history(CHAIN, ("a b", lambda new: new.Neg(new.Relu("x"))), ("b c", lambda new: new.Abs("b/rule0/relu_0")))
    assert dependants(steps, {0}) == {0, 1}
    assert dependants(steps, {1}) == {1}


def test_reading_what_the_earlier_one_brought_is() -> None:
    steps = history(CHAIN, ("b", lambda new: new.Neg(new.Tanh("a"))), ("y", lambda new: new.Exp("b/rule0/tanh_0")))
    assert dependants(steps, {0}) == {0, 1}


def test_dropping_a_tensor_that_only_the_earlier_one_made_private_is() -> None:
    """`a` has two readers; the first rewrite bends one of them to x, the second one fuses `a` away."""
    text = "a = Relu (x)  b = Neg (a)  c = Abs (a)  y = Add (b, c)"
    steps = history(text, ("c", lambda new: new.Abs("x")), ("a b", lambda new: new.Min("x", "x")))
    assert dependants(steps, {0}) == {0, 1}
    base = Model(model_of(f"g (float[4] x) => (float[4] y) {{ {text} }}"))
    assert dependants(steps, {1}) == {1}
    assert apply(base, [steps[0].proposal])


def test_what_stands_on_what_stands_on_it() -> None:
    steps = history(
        CHAIN,
        ("a b", lambda new: new.Neg(new.Relu("x"))),
        ("b c", lambda new: new.Tanh("b/rule0/relu_0")),
        ("c y", lambda new: new.Exp("b/rule0/relu_0")),
    )
    assert dependants(steps, {0}) == {0, 1, 2}
    assert dependants(steps, {1}) == {1, 2}
    assert dependants(steps, ()) == set()


def enabling(s: Step) -> Step:
    return replace(s, proposal=replace(s.proposal, enabling=True), comparison=SAME)


def test_an_enabling_step_stays_only_for_what_stands_on_it() -> None:
    first = ("a b", lambda new: new.Neg(new.Relu("x")))
    used = history(CHAIN, first, ("b c", lambda new: new.Abs("b/rule0/relu_0")))
    assert prune_enabling([enabling(used[0]), used[1]]) == set()
    unused = history(CHAIN, first, ("c", lambda new: new.Sqrt("b")))
    assert prune_enabling([enabling(unused[0]), unused[1]]) == {0}
    assert prune_enabling([replace(enabling(unused[0]), forced=True), unused[1]]) == set()
    assert prune_enabling([replace(enabling(unused[0]), comparison=FASTER), unused[1]]) == set()


def test_a_chain_of_useless_enabling_steps_goes_whole() -> None:
    steps = history(
        CHAIN, ("a b", lambda new: new.Neg(new.Relu("x"))), ("b c", lambda new: new.Tanh("b/rule0/relu_0"))
    )  # fmt: skip
    assert prune_enabling([enabling(s) for s in steps]) == {0, 1}
    assert prune_enabling([enabling(steps[0]), steps[1]]) == set()


@pytest.mark.parametrize(
    ("comparison", "forced", "pays", "saved"),
    [(FASTER, False, True, 1.0), (SAME, False, False, 0.0), (None, False, False, 0.0), (None, True, True, 0.0)],
)
def test_what_a_step_says_of_itself(comparison: Comparison | None, forced: bool, pays: bool, saved: float) -> None:
    made = replace(history(CHAIN, ("a", lambda new: new.Tanh("x")))[0], comparison=comparison, forced=forced)
    assert (made.pays, made.saved) == (pays, saved)
    assert (made.made, made.read) == ({"a"}, {"x"})
