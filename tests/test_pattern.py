"""The matcher: finds what is there, in any order and with gaps, and proves that nobody else looks inside."""

from __future__ import annotations

import itertools
import random

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxtune.errors import RuleError
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.pattern import Match, find
from onnxtune.patterntext import Pattern
from onnxtune.testing import model_of


def facts_of(nodes: str, inputs: str = "float[4] x", outputs: str = "float[4] y", **weights: np.ndarray) -> Facts:
    """A graph with constants `k` and `l` and those given."""
    stored = {"k": np.ones(4, np.float32), "l": np.ones(4, np.float32), **weights}
    return Facts(Model(model_of(f"g ({inputs}) => ({outputs}) {{ {nodes} }}", stored)))


def matches(facts: Facts, pattern: Pattern) -> list[Match]:
    return [m for m in find(facts, pattern) if isinstance(m, Match)]


def misses(facts: Facts, pattern: Pattern) -> list[tuple[str, str]]:
    return [m for m in find(facts, pattern) if not isinstance(m, Match)]


RELU_NEG = Pattern("p (x) => (z) { y = Relu (x)  z = Neg (y) }")


def test_a_chain() -> None:
    (match,) = matches(facts_of("a = Relu (x)  b = Neg (a)  y = Abs (b)"), RELU_NEG)
    assert dict(match.tensors) == {"x": "x", "y": "a", "z": "b"}
    assert match.keys == {"a", "b"}
    assert match.place == "b"
    assert match.y.op_type == "Relu"
    assert match.node("nothing") is None
    assert match["nothing"] == ""
    with pytest.raises(AttributeError):
        match.nothing  # noqa: B018


def test_every_place_once() -> None:
    facts = facts_of("a = Relu (x)  b = Neg (a)  c = Relu (b)  d = Neg (c)  y = Abs (d)")
    assert [m.keys for m in matches(facts, RELU_NEG)] == [{"a", "b"}, {"c", "d"}]


# --- commutative operators -------------------------------------------------------------------------------

SCALED = Pattern("p (x, s) => (z) { y = Relu (x)  z = Mul (y, s) }", constants=("s",))


@pytest.mark.parametrize("order", ["a, k", "k, a"])
def test_commutative_inputs_in_any_order(order: str) -> None:
    (match,) = matches(facts_of(f"a = Relu (x)  y = Mul ({order})"), SCALED)
    assert match["s"] == "k"
    value = match.constant("s")
    assert value is not None
    assert value.tolist() == [1, 1, 1, 1]


def test_other_operators_keep_their_order() -> None:
    pattern = Pattern("p (x, s) => (z) { y = Relu (x)  z = Sub (y, s) }", constants=("s",))
    assert matches(facts_of("a = Relu (x)  y = Sub (a, k)"), pattern)
    assert not matches(facts_of("a = Relu (x)  y = Sub (k, a)"), pattern)


def test_the_order_in_which_constants_are_constant_wins() -> None:
    """Add (s, y) fits the structure both ways round; only one has the constant where it must be."""
    pattern = Pattern("p (x, s) => (z) { z = Add (x, s) }", constants=("s",))
    (match,) = matches(facts_of("y = Add (k, x)"), pattern)
    assert (match["x"], match["s"]) == ("x", "k")


def test_alternatives_that_commute() -> None:
    pattern = Pattern(
        "p (x, s) => (z) { y = Relu (x)  z = Either (y, s) }", constants=("s",), any_of={"Either": ("Mul", "Sub")}
    )
    assert matches(facts_of("a = Relu (x)  y = Mul (k, a)"), pattern)
    assert matches(facts_of("a = Relu (x)  y = Sub (a, k)"), pattern)
    assert not matches(facts_of("a = Relu (x)  y = Sub (k, a)"), pattern)
    assert not matches(facts_of("a = Relu (x)  y = Div (a, k)"), pattern)


def test_variadic_operators_match_their_exact_number_of_inputs() -> None:
    pattern = Pattern("p (a, b) => (z) { y = Relu (a)  z = Sum (y, b) }")
    assert matches(facts_of("r = Relu (x)  y = Sum (k, r)"), pattern)
    assert not matches(facts_of("r = Relu (x)  y = Sum (k, r, l)"), pattern)


def test_many_inputs_take_no_time() -> None:
    """12 inputs have 479 million orders."""
    facts = facts_of("r = Relu (x)  y = Sum (r, k, k, k, k, k, k, k, k, k, k, l)")
    assert not matches(facts, Pattern("p (a, b) => (z) { y = Relu (a)  z = Sum (y, b) }"))


# --- absent inputs and nodes -----------------------------------------------------------------------------

CONV = Pattern("p (x, w, b) => (z) { y = Conv (x, w, b)  z = Relu (y) }", constants=("w", "b"), optional=("b",))


@pytest.mark.parametrize("bias", ["", ", b"])
def test_optional_inputs(bias: str) -> None:
    facts = facts_of(
        f"c = Conv (x, w{bias})  y = Relu (c)", "float[N, 3, 9, 9] x", "float[N, 4, 7, 7] y",
        w=np.ones((4, 3, 3, 3), np.float32), b=np.ones(4, np.float32),
    )  # fmt: skip
    (match,) = matches(facts, CONV)
    assert match["b"] == bias.strip(", ")
    assert (match.constant("b") is None) == (not bias)
    required = Pattern(CONV.text, constants=("w", "b"))
    assert bool(matches(facts, required)) == bool(bias)


def test_a_gap_in_the_middle_is_an_absent_input() -> None:
    proto = facts_of("y = Clip (x, l0, h)", h=np.array(6, np.float32), l0=np.array(0, np.float32)).model.proto
    proto.graph.node[0].input[1] = ""  # not every onnx has a spelling of that
    facts = Facts(Model(proto))
    (match,) = matches(facts, Pattern("p (x, l, h) => (z) { z = Clip (x, l, h) }", ("l", "h"), optional=("l", "h")))
    assert (match["l"], match["h"]) == ("", "h")


def test_more_inputs_than_the_pattern_has_is_no_match() -> None:
    facts = facts_of("y = Clip (x, l0, h)", h=np.array(6, np.float32), l0=np.array(0, np.float32))
    assert not matches(facts, Pattern("p (x, l) => (z) { z = Clip (x, l) }"))


MAYBE_RELU = Pattern(
    "p (x, s) => (z) { a = Neg (x)  y = Relu (a)  z = Mul (y, s) }", constants=("s",), optional_nodes=("y",)
)


def test_optional_nodes() -> None:
    (match,) = matches(facts_of("a = Neg (x)  b = Relu (a)  y = Mul (b, k)"), MAYBE_RELU)
    assert match.node("y") is not None
    assert match.keys == {"a", "b", "y"}
    (match,) = matches(facts_of("a = Neg (x)  y = Mul (a, k)"), MAYBE_RELU)
    assert match.node("y") is None
    assert match.keys == {"a", "y"}


def test_an_optional_node_whose_result_is_used_twice_is_there_or_not() -> None:
    """y + Neg(y) with y = Relu(x) or y = x, but not Relu(x) + Neg(x)."""
    pattern = Pattern("p (x) => (z) { y = Relu (x)  n = Neg (y)  z = Sub (y, n) }", optional_nodes=("y",))
    (match,) = matches(facts_of("r = Relu (x)  n = Neg (r)  y = Sub (r, n)"), pattern)
    assert match.node("y") is not None
    (match,) = matches(facts_of("n = Neg (x)  y = Sub (x, n)"), pattern)
    assert match.node("y") is None
    assert not matches(facts_of("r = Relu (x)  n = Neg (x)  y = Sub (r, n)"), pattern)
    assert not matches(facts_of("r = Relu (x)  n = Neg (r)  y = Sub (x, n)"), pattern)


def test_a_visible_optional_node_is_left_out() -> None:
    """Relu's result is needed elsewhere: the pattern without the Relu still fits, with its result as input."""
    pattern = Pattern("p (x) => (z) { y = Relu (x)  z = Neg (y) }", optional_nodes=("y",))
    (match,) = matches(facts_of("r = Relu (x)  n = Neg (r)  y = Mul (r, n)"), pattern)
    assert match.keys == {"n"}
    assert match["x"] == "r"


# --- operators and attributes ----------------------------------------------------------------------------


def test_any_of() -> None:
    pattern = Pattern("p (x) => (z) { y = Activation (x)  z = Neg (y) }", any_of={"Activation": ("Relu", "Sigmoid")})
    for op_type, fits in (("Relu", True), ("Sigmoid", True), ("Tanh", False)):
        assert bool(matches(facts_of(f"a = {op_type} (x)  y = Neg (a)"), pattern)) == fits


@pytest.mark.parametrize(
    ("literal", "node", "fits"),
    [
        ("Elu <alpha = 1.0> (x)", "Elu (x)", True),
        ("Elu <alpha = 1.0> (x)", "Elu <alpha = 1.0> (x)", True),
        ("Elu <alpha = 1.0> (x)", "Elu <alpha = 0.5> (x)", False),
        ("Elu <alpha = 0.1> (x)", "Elu <alpha = 0.1> (x)", True),
        ("Elu (x)", "Elu <alpha = 0.5> (x)", True),
        ("LeakyRelu <alpha = 0.01> (x)", "LeakyRelu (x)", True),
    ],
)
def test_attribute_literals_and_their_defaults(literal: str, node: str, fits: bool) -> None:
    facts = facts_of(f"y = {node}")
    assert bool(matches(facts, Pattern(f"p (x) => (z) {{ z = {literal} }}"))) == fits


@pytest.mark.parametrize(("opset", "axis"), [(11, 1), (13, -1)])
def test_the_default_is_that_of_the_models_opset(opset: int, axis: int) -> None:
    """Softmax: axis 1 up to opset 12, the last axis since."""
    facts = Facts(Model(model_of("g (float[2, 3, 4] x) => (float[2, 3, 4] y) { y = Softmax (x) }", opset=opset)))
    for literal in (1, -1):
        pattern = Pattern(f"p (x) => (z) {{ z = Softmax <axis = {literal}> (x) }}")
        assert bool(matches(facts, pattern)) == (literal == axis)


def test_string_and_list_attributes() -> None:
    facts = facts_of(
        'y = MaxPool <kernel_shape = [2, 2], auto_pad = "VALID"> (x)', "float[1, 1, 4, 4] x", "float[1, 1, 3, 3] y"
    )
    assert matches(facts, Pattern('p (x) => (z) { z = MaxPool <kernel_shape = [2, 2], auto_pad = "VALID"> (x) }'))
    assert not matches(facts, Pattern("p (x) => (z) { z = MaxPool <kernel_shape = [2, 3]> (x) }"))
    assert not matches(facts, Pattern('p (x) => (z) { z = MaxPool <auto_pad = "NOTSET"> (x) }'))


def test_other_domains_are_other_operators() -> None:
    proto = model_of("g (float[4] x) => (float[4] y) { a = Relu (x)  y = Neg (a) }")
    proto.graph.node[0].domain = "com.example"
    assert not matches(Facts(Model(proto)), RELU_NEG)


# --- several outputs -------------------------------------------------------------------------------------

SIBLINGS = Pattern("p (x, a, b) => (y, z) { y = Mul (x, a)  z = Mul (x, b) }", constants=("a", "b"))


def test_siblings_share_what_the_pattern_names_once() -> None:
    two = "float[4] y, float[4] z"
    (match,) = matches(facts_of("y = Mul (x, k)  z = Mul (x, l)", outputs=two), SIBLINGS)
    assert match.keys == {"y", "z"}
    assert match.place == "y"
    assert not matches(facts_of("r = Relu (x)  y = Mul (x, k)  z = Mul (r, l)", outputs=two), SIBLINGS)


def test_one_node_cannot_be_both_siblings() -> None:
    assert not matches(facts_of("y = Mul (x, k)"), SIBLINGS)


def test_a_sibling_that_does_not_do_hides_no_other_that_does() -> None:
    """The first candidate's inner tensor is seen from outside; the second one's is private."""
    pattern = Pattern("p (x) => (y, z) { y = Neg (x)  a = Relu (x)  z = Abs (a) }")
    facts = facts_of(
        "n = Neg (x)  p = Relu (x)  q = Abs (p)  r = Relu (x)  s = Abs (r)  y = Sum (n, p, q, s)"
    )  # fmt: skip
    (match,) = matches(facts, pattern)
    assert match.keys == {"n", "r", "s"}


def test_siblings_of_which_one_feeds_the_other_from_outside() -> None:
    """Merging Neg and Abs would need Abs's input, which comes from Neg by way of a node that stays."""
    pattern = Pattern("p (x, w) => (y, z) { y = Neg (x)  z = Abs (w) }")
    facts = facts_of("n = Neg (x)  r = Relu (n)  a = Abs (r)  y = Add (n, a)")
    assert not matches(facts, pattern)
    assert any("depends on" in reason for _, reason in misses(facts, pattern))


def test_an_inner_tensor_may_be_visible_when_the_pattern_says_so() -> None:
    pattern = Pattern("p (x) => (z, y) { y = Relu (x)  z = Neg (y) }")
    facts = facts_of("a = Relu (x)  b = Neg (a)  y = Mul (a, b)")
    assert not matches(facts, RELU_NEG)
    (match,) = matches(facts, pattern)
    assert (match["y"], match["z"]) == ("a", "b")


def test_nodes_with_several_outputs() -> None:
    pattern = Pattern("p (x, s) => (z) { a, b = Split (x, s)  z = Add (a, b) }", constants=("s",))
    halves = np.array([2, 2], np.int64)
    (match,) = matches(facts_of("u, v = Split (x, h)  y = Add (u, v)", outputs="float[2] y", h=halves), pattern)
    assert (match["a"], match["b"]) == ("u", "v")
    facts = facts_of("u, v = Split (x, h)  w = Add (u, v)  y = Mul (v, w)", outputs="float[2] y", h=halves)
    assert misses(facts, pattern) == [("w", "'v' has a second consumer (Mul)")]


def test_further_outputs_must_be_unused() -> None:
    pattern = Pattern("p (x) => (z) { z = MaxPool <kernel_shape = [2, 2]> (x) }")
    text = "y, i = MaxPool <kernel_shape = [2, 2]> (x)"
    shape = ("float[1, 1, 4, 4] x", "float[1, 1, 3, 3] y")
    assert matches(facts_of(text, *shape), pattern)
    facts = facts_of(text, shape[0], shape[1] + ", int64[1, 1, 3, 3] i")
    assert misses(facts, pattern) == [("y", "'i' is a graph output")]


# --- near misses -----------------------------------------------------------------------------------------

BODY = """a = Relu (x)  b = Neg (a)
    y = If (c) <then_branch = t () => (float[4] p) { p = Add (a, b) },
                else_branch = e () => (float[4] q) { q = Abs (b) }>"""


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (facts_of("a = Relu (x)  b = Neg (a)  y = Add (a, b)"), "'a' has a second consumer (Add)"),
        (facts_of("a = Relu (x)  y = Neg (a)", outputs="float[4] y, float[4] a"), "'a' is a graph output"),
        (facts_of(BODY, "bool c, float[4] x"), "'a' has a second consumer (If)"),
    ],
    ids=["second consumer", "graph output", "captured by a body"],
)
def test_interiors_must_be_private(facts: Facts, reason: str) -> None:
    assert not matches(facts, RELU_NEG)
    (miss,) = misses(facts, RELU_NEG)
    assert miss[1] == reason


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (facts_of("a = Relu (x)  y = Mul (a, s)", "float[4] x, float[4] s"), "'s' is a graph input, not a constant"),
        (facts_of("a = Relu (x)  b = Neg (x)  y = Mul (a, b)"), "'b' is not constant"),
        (facts_of("a = Relu (x)  y = Mul (a, k)", "float[4] x, float[4] k"), "'k' is a graph input, not a constant"),
    ],
    ids=["graph input", "computed", "weight that may be fed"],
)
def test_constants_must_be_constant(facts: Facts, reason: str) -> None:
    assert misses(facts, SCALED) == [("y", reason)]


def test_an_input_of_the_pattern_is_not_made_inside_of_it() -> None:
    """Relu(x) * Relu(x): the second operand would vanish with the region."""
    pattern = Pattern("p (x, b) => (z) { y = Relu (x)  z = Mul (y, b) }")
    facts = facts_of("a = Relu (x)  y = Mul (a, a)")
    assert not matches(facts, pattern)
    assert misses(facts, pattern) == [("y", "'a' is made and read inside the region")]


def test_something_else_is_neither_match_nor_miss() -> None:
    assert list(find(facts_of("a = Abs (x)  y = Neg (a)"), RELU_NEG)) == []


# --- the text --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (Pattern("p (x) => (z) { z = Relu (x"), "cannot be parsed"),
        (Pattern("p (x) => (z) { z = Relu (x) }", constants=("w",)), "constants: 'w'"),
        (Pattern("p (x) => (z) { z = Relu (x) }", optional=("w",)), "optional: 'w'"),
        (Pattern("p (x) => (z) { z = Relu (x) }", optional_nodes=("w",)), "optional_nodes: 'w'"),
        (Pattern("p (x) => (z) { z = Relu (x) }", any_of={"Either": ("Relu",)}), "any_of: 'Either'"),
        (Pattern("p (x) => (q) { z = Relu (x) }"), "'q' is made by no node"),
        (Pattern("p (x) => () { z = Relu (x) }"), "has no outputs"),
        (Pattern("p (x) => (z) { z = Relu (x) }", optional_nodes=("z",)), "'z' is an output"),
        (Pattern("p (x) => (z) { z = Relu (x)  y = Neg (x) }"), "no output depends on 'y'"),
        (Pattern("p (x) => (z) { z = Relu (y) }"), "'y' is neither an input nor made by a node"),
    ],
)
def test_what_a_pattern_must_not_say(pattern: Pattern, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        pattern.validate()


def test_what_it_may_say() -> None:
    for pattern in (RELU_NEG, SCALED, CONV, MAYBE_RELU, SIBLINGS):
        pattern.validate()


# --- a planted pattern in a random graph -----------------------------------------------------------------


def random_graph(rng: random.Random, size: int) -> list[onnx.NodeProto]:
    """Unary and binary nodes on earlier tensors, none of which looks like the planted pattern's root."""
    nodes, tensors = [], ["x", "k"]
    for i in range(size):
        count = rng.choice([1, 2])
        op_type = rng.choice(["Relu", "Neg", "Abs"] if count == 1 else ["Add", "Mul"])
        nodes.append(helper.make_node(op_type, rng.choices(tensors, k=count), [f"t{i}"]))
        tensors.append(f"t{i}")
    return nodes


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 25))
def test_a_planted_pattern_is_found(seed: int, size: int) -> None:
    rng = random.Random(seed)
    nodes = random_graph(rng, size)
    place = rng.randrange(len(nodes) + 1)
    source = rng.choice(["x", *(n.output[0] for n in nodes[:place])])
    operands = ["planted/e", "planted/k"]
    rng.shuffle(operands)
    planted = [
        helper.make_node("Exp", [source], ["planted/e"]),
        helper.make_node("Mul", operands, ["planted/m"]),
        helper.make_node("Sqrt", ["planted/m"], ["planted/s"]),
    ]
    later = [*nodes[:place], *planted, *nodes[place:]]
    last = [helper.make_node("Sum", [n.output[0] for n in nodes] + ["planted/s"], ["y"])]
    graph = helper.make_graph(
        later + last, "g",
        [helper.make_tensor_value_info("x", 1, [4])], [helper.make_tensor_value_info("y", 1, [4])],
        [helper.make_tensor(n, 1, [4], [1.0] * 4) for n in ("k", "planted/k")],
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    pattern = Pattern("p (x, k) => (s) { e = Exp (x)  m = Mul (k, e)  s = Sqrt (m) }", constants=("k",))
    (match,) = matches(Facts(Model(proto)), pattern)
    assert match.keys == {"planted/e", "planted/m", "planted/s"}
    assert (match["x"], match["k"]) == (source, "planted/k")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), size=st.integers(1, 14))
def test_matches_are_exactly_those_of_a_search_by_hand(seed: int, size: int) -> None:
    """All (a, b) with a = Relu or Neg, b = Add of a and something else, a private: by brute force."""
    nodes = random_graph(random.Random(seed), size)
    used = {i for n in nodes for i in n.input}
    ends = [n.output[0] for n in nodes if n.output[0] not in used]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [4])],
        [helper.make_tensor_value_info(e, 1, [4]) for e in ends], [helper.make_tensor("k", 1, [4], [1.0] * 4)],
    )  # fmt: skip
    facts = Facts(Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)))
    pattern = Pattern("p (x, o) => (z) { y = Unary (x)  z = Add (y, o) }", any_of={"Unary": ("Relu", "Neg")})
    expected = set()
    for first, second in itertools.permutations(facts.nodes, 2):
        inner = first.outputs[0]
        if first.op_type in ("Relu", "Neg") and second.op_type == "Add" and list(second.inputs).count(inner) == 1:
            others = [n for n in facts.nodes if inner in n.inputs and n is not second]
            if not others and not facts.is_output(inner):
                expected.add(second.key)
    assert {m.place for m in matches(facts, pattern)} == expected
