"""The builder of replacements: names, weights, attributes and optional inputs come out as they were meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxtune.fragment import Builder
from onnxtune.proposal import Fragment


def builder(taken: frozenset[str] = frozenset(), opset: int = 17) -> Builder:
    return Builder("y/rule", taken, opset)


def weights_of(fragment: Fragment) -> dict[str, np.ndarray]:
    return {w.name: numpy_helper.to_array(w) for w in fragment.initializers}


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def test_the_last_tensor_takes_the_visible_name() -> None:
    new = builder()
    fragment = new.finish({"y": new.Relu(new.Neg("x"))})
    assert [n.op_type for n in fragment.nodes] == ["Neg", "Relu"]
    assert fragment.nodes[0].input[0] == "x"
    assert fragment.nodes[1].output[0] == "y"
    assert fragment.keys == {fragment.nodes[0].output[0], "y"}
    assert not fragment.aliases


@pytest.mark.parametrize("shape", [(), (1,), (2, 0), (1, 4, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int64, np.int8, np.uint8, np.bool_])
def test_arrays_are_stored_as_they_are(shape: tuple[int, ...], dtype: type) -> None:
    """A scalar stays a scalar: Gather with a scalar index drops an axis, with a list it does not."""
    new = builder()
    value = np.ones(shape, dtype)
    fragment = new.finish({"y": new.Mul("x", value)})
    (stored,) = weights_of(fragment).values()
    assert stored.shape == shape
    assert stored.dtype == dtype
    assert np.array_equal(stored, value)


def test_arrays_in_any_memory_order() -> None:
    new = builder()
    value = np.arange(6, dtype=np.float32).reshape(2, 3).T
    fragment = new.finish({"y": new.Mul("x", value)})
    assert np.array_equal(*weights_of(fragment).values(), value)


@pytest.mark.parametrize("value", [np.float32(0), np.float32(2.5)])
def test_numpy_scalars_are_weights_not_missing_inputs(value: Any) -> None:
    new = builder()
    fragment = new.finish({"y": new.Add("x", value)})
    assert [w.item() for w in weights_of(fragment).values()] == [value]


def test_absent_inputs() -> None:
    new = builder()
    fragment = new.finish({"y": new.Clip("x", None, np.array(6, np.float32))})
    assert fragment.nodes[0].input[1] == ""
    new = builder()
    fragment = new.finish({"y": new.Conv("x", "w", None)})
    assert list(fragment.nodes[0].input) == ["x", "w"], "absent inputs at the end are left out"


def test_attributes() -> None:
    new = builder()
    node = new.finish({"y": new.Conv("x", "w", pads=[1, 1, 1, 1], group=None, auto_pad="NOTSET")}).nodes[0]
    assert attributes_of(node) == {"pads": [1, 1, 1, 1], "auto_pad": b"NOTSET"}


def test_several_outputs_and_domains() -> None:
    new = builder()
    left, right = new.Split("x", outputs=2, axis=1)
    odd = new.Odd(left, domain="com.example")
    fragment = new.finish({"a": odd, "b": right})
    split, other = fragment.nodes
    assert list(split.output) == [other.input[0], "b"]
    assert (other.op_type, other.domain, other.output[0]) == ("Odd", "com.example", "a")


def test_names_that_are_taken_are_avoided() -> None:
    first = builder().Relu("x")
    assert builder(frozenset({first})).Relu("x") != first


def test_names_in_one_fragment_are_unique() -> None:
    new = builder()
    out = "x"
    for _ in range(5):
        out = new.Add(new.Relu(out), np.ones(1, np.float32))
    fragment = new.finish({"y": out})
    names = [o for n in fragment.nodes for o in n.output] + [w.name for w in fragment.initializers]
    assert len(set(names)) == len(names) == 15
    assert len({n.name for n in fragment.nodes}) == 10


def test_a_tensor_that_passes_through_is_an_alias() -> None:
    fragment = builder().finish({"y": "x"})
    assert fragment.aliases == {"y": "x"}
    assert fragment.nodes == ()


def test_one_tensor_for_two_outputs() -> None:
    new = builder()
    out = new.Relu("x")
    fragment = new.finish({"a": out, "b": out})
    assert [(n.op_type, *n.input, *n.output) for n in fragment.nodes] == [("Relu", "x", "a"), ("Identity", "a", "b")]


def test_a_constant_as_output() -> None:
    new = builder()
    fragment = new.finish({"y": new.constant(np.ones(3, np.float32))})
    (node,) = fragment.nodes
    assert (node.op_type, node.output[0]) == ("Identity", "y")
    assert node.input[0] in weights_of(fragment)


def test_weights_that_nothing_reads_are_left_out() -> None:
    new = builder()
    new.constant(np.ones(3, np.float32))
    assert new.finish({"y": new.Relu("x")}).initializers == ()


@pytest.mark.parametrize(
    "source",
    [
        onnx.helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 0, 0], auto_pad="NOTSET"),
        onnx.helper.make_node("LRN", ["x"], ["y"], size=3, alpha=1.0, beta=0.5),
        onnx.helper.make_node("ConstantOfShape", ["x"], ["y"], value=numpy_helper.from_array(np.ones(1, np.int64))),
        onnx.helper.make_node("Odd", ["x"], ["y"], domain="com.example", words=["a", "b"]),
    ],
    ids=lambda n: n.op_type,
)
def test_copy_keeps_operator_and_attributes(source: onnx.NodeProto) -> None:
    new = builder()
    (out,) = new.copy(source, ["z", *source.input[1:]])
    (node,) = new.finish({"y": out}).nodes
    assert (node.op_type, node.domain, node.input[0], node.output[0]) == (source.op_type, source.domain, "z", "y")
    assert {a.name: a.type for a in node.attribute} == {a.name: a.type for a in source.attribute}
    assert str(attributes_of(node)) == str(attributes_of(source))


def test_copy_keeps_empty_lists() -> None:
    """`axes = []` has no element to tell its type from."""
    source = onnx.helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)
    source.attribute.append(onnx.AttributeProto(name="axes", type=onnx.AttributeProto.INTS))
    new = builder(opset=13)
    (out,) = new.copy(source, ["x"])
    (node,) = new.finish({"y": out}).nodes
    assert {a.name: a.type for a in node.attribute} == {a.name: a.type for a in source.attribute}


def test_copy_keeps_the_gaps_of_absent_outputs() -> None:
    source = onnx.helper.make_node("Odd", ["x"], ["a", "", "c"], domain="com.example")
    new = builder()
    first, gap, last = new.copy(source, ["x"])
    assert gap == ""
    (node,) = new.finish({"a": first, "c": last}).nodes
    assert list(node.output) == ["a", "", "c"]


@pytest.mark.parametrize(
    ("opset", "call", "inputs"),
    [
        (12, lambda new: new.squeeze("x", [1]), 1),
        (13, lambda new: new.squeeze("x", [1]), 2),
        (12, lambda new: new.unsqueeze("x", [1]), 1),
        (13, lambda new: new.unsqueeze("x", [1]), 2),
        (12, lambda new: new.reduce("ReduceSum", "x", [1]), 1),
        (13, lambda new: new.reduce("ReduceSum", "x", [1]), 2),
        (17, lambda new: new.reduce("ReduceMean", "x", [1]), 1),
        (18, lambda new: new.reduce("ReduceMean", "x", [1]), 2),
        (10, lambda new: new.pad("x", [0, 0, 1, 1]), 1),
        (11, lambda new: new.pad("x", [0, 0, 1, 1]), 2),
        (9, lambda new: new.slice("x", 1, 0, 2), 1),
        (10, lambda new: new.slice("x", 1, 0, 2), 4),
    ],
)
def test_operators_whose_attributes_became_inputs(opset: int, call: Any, inputs: int) -> None:
    new = builder(opset=opset)
    (node,) = new.finish({"y": call(new)}).nodes
    assert len(node.input) == inputs
    assert all(onnx.defs.get_schema(node.op_type, opset, "").min_input <= len(node.input) for _ in "a")
    known = onnx.defs.get_schema(node.op_type, opset, "").attributes
    assert {a.name for a in node.attribute} <= set(known)


def test_only_operators_are_methods() -> None:
    with pytest.raises(AttributeError):
        builder().relu  # noqa: B018
