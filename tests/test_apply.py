"""The one place that builds a changed graph: order, aliases, weights and everything that must stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxtune.apply import ApplyError, apply
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.model import Model
from onnxtune.proposal import Fragment, Proposal
from onnxtune.runtime import Session, Target
from onnxtune.testing import model_of

K = np.array([1, 2, 3, 4], np.float32)


def model(text: str, outputs: str = "float[4] y", inputs: str = "float[4] x", **weights: np.ndarray) -> Model:
    return Model(model_of(f"g ({inputs}) => ({outputs}) {{ {text} }}", weights))


def proposal(source: Model, removes: str, build: Any, *outputs: str, rule: str = "rule") -> Proposal:
    """Replace the nodes named in `removes` by what `build(new)` returns for `outputs` (default: the last)."""
    keys = removes.split()
    facts = Facts(source)
    new = Builder(f"{keys[-1]}/{rule}", facts.names, facts.opset)
    made = build(new)
    sources = (made,) if isinstance(made, str) else made
    fragment = new.finish(dict(zip(outputs or keys[-1:], sources, strict=True)))
    return Proposal(rule, rule, frozenset(keys), fragment)


def alias(source: Model, old: str, to: str) -> Proposal:
    return proposal(source, old, lambda new: to, rule=f"alias_{old}")


def valid(result: Model) -> Model:
    onnx.checker.check_model(result.proto, full_check=True)
    return result


def ops(result: Model) -> list[str]:
    return [f"{n.op_type}({', '.join(n.input)})" for n in result.proto.graph.node]


def run(result: Model, **feeds: Any) -> dict[str, np.ndarray]:
    given = feeds or {"x": np.array([-2, -1, 1, 2], np.float32)}
    return Session(valid(result), Target(threads=1), "disable").run(given)


def test_nothing_to_do_is_the_same_model() -> None:
    source = model("a = Relu (x)  y = Mul (a, k)", k=K)
    assert apply(source, []).proto == source.proto


def test_the_original_is_not_changed() -> None:
    source = model("a = Relu (x)  y = Mul (a, k)", k=K)
    copy = onnx.ModelProto()
    copy.CopyFrom(source.proto)
    apply(source, [proposal(source, "a y", lambda new: new.Mul(new.Abs("x"), K * 2))])
    assert source.proto == copy


def test_replacement_takes_the_place_and_others_keep_their_order() -> None:
    source = model("a = Relu (x)  b = Neg (x)  c = Abs (b)  y = Sum (a, c)")
    result = apply(source, [proposal(source, "b c", lambda new: new.Abs("x"), "c")])
    assert ops(valid(result)) == ["Relu(x)", "Abs(x)", "Sum(a, c)"]


def test_a_replacement_that_needs_a_later_node_is_sorted_behind_it() -> None:
    """A merge of siblings stands where the first one stood, but reads what the second one read."""
    source = model("a = Neg (x)  b = Abs (x)  c = Neg (b)  y = Add (a, c)")

    def build(new: Builder) -> tuple[str, str]:
        both = new.Concat("x", "b", axis=0)
        first, second = new.Split(new.Neg(both), np.array([4, 4], np.int64), outputs=2)
        return first, second

    result = apply(source, [proposal(source, "a c", build, "a", "c")])
    assert np.array_equal(run(result)["y"], run(source)["y"])


def test_a_cycle_is_refused() -> None:
    source = model("a = Neg (x)  b = Abs (a)  c = Neg (b)  y = Add (a, c)")
    build = lambda new: (new.Neg("b"), new.Neg("b"))  # noqa: E731
    with pytest.raises(ApplyError, match="cycle"):
        apply(source, [proposal(source, "a c", build, "a", "c")])


def test_a_node_that_is_not_there_is_refused() -> None:
    source = model("y = Relu (x)")
    with pytest.raises(ApplyError, match="no node makes 'gone'"):
        apply(source, [Proposal("rule", "", frozenset({"gone"}), Fragment(()))])


def test_two_proposals_that_remove_the_same_node_are_refused() -> None:
    source = model("a = Relu (x)  b = Neg (a)  y = Abs (b)")
    first = proposal(source, "a b", lambda new: new.Tanh("x"), "b")
    second = proposal(source, "b y", lambda new: new.Abs("a"), "y")
    with pytest.raises(ApplyError):
        apply(source, [first, second])


def test_reading_what_no_longer_exists_is_refused() -> None:
    source = model("a = Relu (x)  b = Neg (a)  y = Abs (b)")
    with pytest.raises(ApplyError, match="'a'"):
        apply(source, [proposal(source, "a b", lambda new: new.Neg("a"), "b")])
    with pytest.raises(ApplyError, match="'nowhere'"):
        apply(source, [proposal(source, "b", lambda new: new.Neg("nowhere"))])


def test_making_what_already_exists_is_refused() -> None:
    source = model("a = Relu (x)  y = Neg (a)")
    fragment = Fragment((helper.make_node("Abs", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["y"])))
    with pytest.raises(ApplyError, match="'a'"):
        apply(source, [Proposal("rule", "", frozenset({"y"}), fragment)])


def test_a_visible_output_that_is_not_made_again_is_refused() -> None:
    source = model("y = Relu (x)  z = Neg (x)", "float[4] y, float[4] z")
    with pytest.raises(ApplyError, match="'z'"):
        apply(source, [Proposal("rule", "", frozenset({"z"}), Fragment(()))])


# --- several proposals -----------------------------------------------------------------------------------


def test_a_later_proposal_builds_on_an_earlier_one() -> None:
    source = model("a = Relu (x)  b = Neg (a)  y = Mul (b, k)", k=K)
    first = proposal(source, "a b", lambda new: new.Neg(new.Relu("x")), "b")
    half = apply(source, [first])
    second = proposal(half, "b y", lambda new: new.Mul(first.fragment.nodes[0].output[0], -K), "y", rule="second")
    result = apply(source, [first, second])
    assert np.array_equal(run(result)["y"], run(source)["y"])
    assert apply(half, [second]).proto == result.proto


def test_weights_of_a_proposal_that_a_later_one_replaced_go() -> None:
    source = model("a = Mul (x, k)  y = Neg (a)", k=K)
    first = proposal(source, "a", lambda new: new.Mul("x", K + 0))
    half = apply(source, [first])
    second = proposal(half, "a y", lambda new: new.Mul("x", -K), "y", rule="second")
    result = apply(source, [first, second])
    assert [i.name for i in result.proto.graph.initializer] == [w.name for w in second.fragment.initializers]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_removed_no_op_whose_result_another_proposal_reads(order: tuple[int, int]) -> None:
    """Both were proposed on the same graph: one aliases a to x, the other's replacement reads a."""
    source = model("a = Identity (x)  y = Mul (a, k)", k=K)
    both = [alias(source, "a", "x"), proposal(source, "y", lambda new: new.Mul("a", K + 0))]
    result = apply(source, [both[i] for i in order])
    assert [n.op_type for n in result.proto.graph.node] == ["Mul"]
    assert np.array_equal(run(result)["y"], run(source)["y"])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_a_chain_of_removed_no_ops(order: tuple[int, ...]) -> None:
    source = model("a = Identity (x)  b = Identity (a)  c = Identity (b)  y = Neg (c)")
    steps = [alias(source, "a", "x"), alias(source, "b", "a"), alias(source, "c", "b")]
    assert ops(valid(apply(source, [steps[i] for i in order]))) == ["Neg(x)"]


def test_a_name_that_was_an_alias_may_be_made_again() -> None:
    """Round one makes a tensor, round two removes it as a no-op, round three uses the free name again."""
    source = model("a = Neg (x)  y = Relu (a)")
    make = Proposal(
        "one", "", frozenset({"y"}),
        Fragment((helper.make_node("Identity", ["a"], ["t"]), helper.make_node("Relu", ["t"], ["y"]))),
    )  # fmt: skip
    drop = Proposal("two", "", frozenset({"t"}), Fragment((), (), {"t": "a"}))
    again = Proposal(
        "three", "", frozenset({"y"}),
        Fragment((helper.make_node("Abs", ["a"], ["t"]), helper.make_node("Relu", ["t"], ["y"]))),
    )  # fmt: skip
    result = apply(source, [make, drop, again])
    assert ops(valid(result)) == ["Neg(x)", "Abs(a)", "Relu(t)"]


# --- aliases ---------------------------------------------------------------------------------------------


def test_an_alias_redirects_all_readers() -> None:
    source = model("a = Identity (x)  b = Relu (a)  c = Mul (a, a)  y = Add (b, c)")
    assert ops(valid(apply(source, [alias(source, "a", "x")]))) == ["Relu(x)", "Mul(x, x)", "Add(b, c)"]


def test_a_graph_output_keeps_its_name() -> None:
    source = model("r = Relu (x)  y = Identity (r)")
    result = apply(source, [alias(source, "y", "r")])
    assert [o.name for o in valid(result).proto.graph.output] == ["y"]
    assert np.array_equal(run(result)["y"], run(source)["y"])


def test_an_output_that_is_read_too() -> None:
    source = model("r = Relu (x)  y = Identity (r)  z = Neg (y)", "float[4] y, float[4] z")
    result = apply(source, [alias(source, "y", "r")])
    for name in ("y", "z"):
        assert np.array_equal(run(result)[name], run(source)[name])


BODY = """t = Identity (x)
    y = If (c) <then_branch = a () => (float[4] p) { p = Abs (t) },
                else_branch = b () => (float[4] q) { q = Neg (t) }>"""


def test_a_tensor_that_a_body_captures_keeps_its_name() -> None:
    source = model(BODY, inputs="bool c, float[4] x")
    result = apply(source, [alias(source, "t", "x")])
    for flag in (True, False):
        feeds = {"c": np.array(flag), "x": np.array([-2, -1, 1, 2], np.float32)}
        assert np.array_equal(run(result, **feeds)["y"], run(source, **feeds)["y"])


def test_what_a_body_captures_is_not_dead() -> None:
    source = model(BODY.replace("Identity (x)", "Mul (x, k)"), inputs="bool c, float[4] x", k=K)
    result = apply(source, [proposal(source, "t", lambda new: new.Mul(new.Relu("x"), "k"))])
    assert [n.op_type for n in valid(result).proto.graph.node] == ["Relu", "Mul", "If"]
    assert [i.name for i in result.proto.graph.initializer] == ["k"]


# --- what goes and what stays ----------------------------------------------------------------------------


def test_dead_nodes_and_weights_go() -> None:
    source = model("s = Mul (k, k)  a = Add (x, s)  b = Mul (a, l)  y = Neg (b)", k=K, l=K)
    result = apply(source, [proposal(source, "a b", lambda new: new.Add("x", K * 3), "b")])
    assert [n.op_type for n in valid(result).proto.graph.node] == ["Add", "Neg"]
    assert len(result.proto.graph.initializer) == 1


def test_what_was_unused_before_stays() -> None:
    source = model("d = Abs (x)  e = Mul (d, l)  a = Relu (x)  y = Neg (a)", l=K, unused=K)
    result = apply(source, [proposal(source, "a y", lambda new: new.Neg(new.Relu("x")), "y")])
    assert [n.op_type for n in valid(result).proto.graph.node] == ["Abs", "Mul", "Relu", "Neg"]
    assert {i.name for i in result.proto.graph.initializer} == {"l", "unused"}


def test_what_an_unused_node_reads_stays() -> None:
    """`d` leads nowhere, but it is in the model and reads `a`, which nothing else needs any more."""
    source = model("a = Relu (x)  d = Abs (a)  b = Identity (a)  y = Neg (b)")
    result = apply(source, [proposal(source, "b y", lambda new: new.Neg("x"), "y")])
    assert ops(valid(result)) == ["Relu(x)", "Abs(a)", "Neg(x)"]


def test_a_weight_that_is_a_graph_output_stays() -> None:
    source = model("a = Mul (x, k)  y = Neg (a)", "float[4] y, float[4] k", k=K)
    result = apply(source, [proposal(source, "a y", lambda new: new.Mul("x", -K), "y")])
    assert "k" in {i.name for i in valid(result).proto.graph.initializer}


def test_an_input_with_a_default_that_nothing_reads_any_more() -> None:
    """Its default must not go alone: callers would have to feed the input."""
    source = model("a = Mul (x, k)  y = Neg (a)", inputs="float[4] x, float[4] k", k=K)
    result = apply(source, [proposal(source, "a y", lambda new: new.Neg("x"), "y")])
    assert [i.name for i in result.inputs] == ["x"]
    assert run(result)["y"].tolist() == [2, 1, -1, -2]


def test_old_models_with_new_weights_are_valid() -> None:
    """Up to IR version 3 every weight had to be listed among the inputs."""
    source = model("a = Mul (x, k)  y = Neg (a)", inputs="float[4] x, float[4] k", k=K)
    source.proto.ir_version = 3
    source.proto.opset_import[0].version = 9
    result = valid(apply(source, [proposal(source, "y", lambda new: new.Mul("a", -np.ones(1, np.float32)))]))
    assert [i.name for i in result.inputs] == ["x"]


def decorated() -> Model:
    """A model with everything that people hang on one."""
    proto = model_of(
        "g (float[N, 4] x) => (float[N, 4] y) { a = Relu (x)  b = com.example.Double (a)  y = Neg (b) }".replace(
            "com.example.Double (a)", "Mul (a, k)"
        ),
        {"k": K},
    )
    proto.producer_name, proto.producer_version, proto.domain, proto.model_version = "maker", "1.2", "org.example", 5
    proto.doc_string = "about the model"
    proto.metadata_props.add(key="author", value="somebody")
    proto.opset_import.add(domain="com.example", version=3)
    proto.functions.append(
        helper.make_function(
            "com.example", "Twice", ["i"], ["o"], [helper.make_node("Add", ["i", "i"], ["o"])],
            [helper.make_opsetid("", 17)],
        )
    )  # fmt: skip
    graph = proto.graph
    graph.doc_string = "about the graph"
    graph.input[0].doc_string = "an image"
    graph.node[0].doc_string = "a node"
    graph.node[0].name = "relu_1"
    graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["N", 4]))
    graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["N", 4]))
    for name in ("a", "b"):
        note = graph.quantization_annotation.add(tensor_name=name)
        note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="k")
    return Model(proto, "model.onnx")


def test_everything_that_people_hang_on_a_model_stays() -> None:
    source = decorated()
    assert apply(source, []).proto == source.proto
    result = valid(apply(source, [proposal(source, "b y", lambda new: new.Mul("a", -K), "y")]))
    before, after = source.proto, result.proto
    for name in ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(before, name) == getattr(after, name)
    for part in ("opset_import", "metadata_props", "functions"):
        assert list(getattr(before, part)) == list(getattr(after, part))
    for part in ("name", "doc_string", "input", "output"):
        assert getattr(before.graph, part) == getattr(after.graph, part)
    assert after.graph.node[0] == before.graph.node[0]
    assert [v.name for v in after.graph.value_info] == ["a"]
    assert [q.tensor_name for q in after.graph.quantization_annotation] == ["a"]
    assert (result.name, result.path) == (source.name, source.path)


def test_what_a_quantization_annotation_names_stays() -> None:
    source = decorated()
    source.proto.graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [0.5]))
    source.proto.graph.quantization_annotation[0].quant_parameter_tensor_names[0].value = "scale"
    result = apply(source, [proposal(source, "b y", lambda new: new.Mul("a", -K), "y")])
    assert "scale" in {i.name for i in result.proto.graph.initializer}


def test_sparse_weights_stay() -> None:
    source = model("a = Relu (x)  y = Neg (a)")
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [2.0])
    positions = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    source.proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, positions, [4]))
    result = apply(source, [proposal(source, "a y", lambda new: new.Relu("x"), "y")])
    assert result.proto.graph.sparse_initializer == source.proto.graph.sparse_initializer


def test_a_node_whose_first_output_is_absent() -> None:
    """A node is known by its first *named* output."""
    source = model("a = Relu (x)  y = Neg (a)")
    nodes = tuple(
        helper.make_node("Odd", ["x"], ["", name], domain="com.example") for name in ("p", "q")
    )  # fmt: skip
    last = helper.make_node("Add", ["p", "q"], ["y"])
    fragment = Fragment((*nodes, last))
    result = apply(source, [Proposal("rule", "", frozenset({"a", "y"}), fragment)])
    assert [n.op_type for n in result.proto.graph.node] == ["Odd", "Odd", "Add"]
    assert fragment.keys == {"p", "q", "y"}
