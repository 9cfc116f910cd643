"""Nodes of ONNX Runtime's graph back to the model's: fused, renamed, reordered, folded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from onnxtune.bench.attribution import Part, attributed, by_name, named, settled
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.testing import model_of

W = {
    "w": np.ones((4, 4, 3, 3), np.float32),
    "v": np.ones((4, 4, 3, 3), np.float32),
    "s": np.ones(4, np.float32),
    "z": np.zeros(4, np.float32),
}
RESIDUAL = """g (float[1, 4, 9, 9] x) => (float[1, 4, 9, 9] y) {
    c1 = Conv <pads = [1, 1, 1, 1]> (x, w)  b1 = BatchNormalization (c1, s, z, z, s)  r1 = Relu (b1)
    c2 = Conv <pads = [1, 1, 1, 1]> (r1, v)  b2 = BatchNormalization (c2, s, z, z, s)  a2 = Add (b2, x)
    r2 = Relu (a2)  y = Neg (r2) }"""


def facts(text: str = RESIDUAL, weights: Any = W) -> Facts:
    return Facts(Model(named(model_of(text, weights))))


def node(op_type: str, name: str, inputs: str, outputs: str) -> onnx.NodeProto:
    return make_node(op_type, inputs.split(), outputs.split(), name=name)


def test_every_node_gets_a_name_of_its_own() -> None:
    proto = model_of("g (float[2] x) => (float[2] y) { a = Abs (x)  b = Neg (a)  c = Abs (b)  y = Neg (c) }")
    proto.graph.node[1].name = "Abs_0"
    proto.graph.node[2].name = "Abs_0"
    names = [n.name for n in named(proto).graph.node]
    assert len(set(names)) == 4
    assert "" not in names
    assert names[1] == "Abs_0"
    assert [n.name for n in proto.graph.node] == ["", "Abs_0", "Abs_0", ""]


def test_as_onnx_runtime_fuses_a_residual_block() -> None:
    """Blocked layout: tensors lose their names, Add and Relu vanish in the second convolution."""
    graph = [
        node("ReorderInput", "ReorderInput", "x", "token_0"),
        node("Conv", "r1_nchwc", "token_0 token_w", "token_1"),
        node("Conv", "b2_nchwc", "token_1 token_v token_0", "token_2"),
        node("ReorderOutput", "ReorderOutput_token_7", "token_2", "r2"),
        node("Neg", "Neg_7", "r2", "y"),
    ]
    parts = attributed(facts(), graph)
    assert [p.nodes for p in parts] == [(), ("c1", "b1", "r1"), ("c2", "b2", "a2", "r2"), (), ("y",)]
    assert parts[3].serves == "r2"
    assert parts[0].serves == ""  # an input of the model


def test_tensors_that_keep_their_names() -> None:
    graph = [
        node("FusedConv", "Conv_0", "x w", "r1"),
        node("FusedConv", "Conv_3", "r1 v x", "r2"),
        node("Neg", "Neg_7", "r2", "y"),
    ]
    assert [p.nodes for p in attributed(facts(), graph)] == [("c1", "b1", "r1"), ("c2", "b2", "a2", "r2"), ("y",)]


def test_unoptimised_each_is_itself() -> None:
    found = facts()
    parts = attributed(found, [n.proto for n in found.nodes])
    assert [p.nodes for p in parts] == [(n.key,) for n in found.nodes]


def test_a_pad_goes_into_the_convolution_behind_it() -> None:
    text = """g (float[1, 4, 9, 9] x) => (float[1, 4, 9, 9] y) {
        a = Relu (x)  p = Pad (a, pads)  y = Conv (p, w) }"""
    found = facts(text, {**W, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)})
    graph = [node("Relu", "Relu_0", "x", "a"), node("Conv", "Conv_2", "a w", "y")]
    assert [p.nodes for p in attributed(found, graph)] == [("a",), ("p", "y")]


def test_what_depends_on_no_input_belongs_to_nobody_but_itself() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Neg (s)  b = Abs (a)  y = Add (x, b) }"
    found = facts(text, {"s": W["s"]})
    assert settled(found) == ["a", "b"]
    assert [p.nodes for p in attributed(found, [node("Add", "Add_2", "x b_folded", "y")])] == [("y",)]
    kept = [node("Neg", "Neg_0", "s", "a"), node("Abs", "Abs_1", "a", "b"), node("Add", "Add_2", "x b", "y")]
    assert [p.nodes for p in attributed(found, kept)] == [("a",), ("b",), ("y",)]


def test_a_layout_change_that_the_model_does_not_have() -> None:
    text = "g (float[1, 4, 9, 9] x) => (float[1, 9, 9, 4] y) { a = Relu (x)  y = Transpose <perm = [0, 2, 3, 1]> (a) }"
    found = facts(text, {})
    graph = [
        node("Relu", "Relu_0", "x", "a"),
        node("Transpose", "Transpose_token_3", "a", "t"),
        node("Transpose", "Transpose_1", "t", "y"),
    ]
    parts = attributed(found, graph)
    assert [p.nodes for p in parts] == [("a",), (), ("y",)]
    assert parts[1].serves == "a"


@pytest.mark.parametrize(
    ("name", "op_type", "nodes"),
    [
        ("Conv_0", "Conv", ("c1",)),
        ("Conv_0_token_12", "QLinearConv", ("c1",)),
        ("r1_nchwc", "Conv", ("r1",)),
        ("r1/duplicated", "Relu", ("r1",)),
        ("ReorderOutput", "ReorderOutput", ()),
        ("TRTKernel_graph_0", "TRTKernel_graph_0", ()),
    ],
)
def test_by_name_alone(name: str, op_type: str, nodes: tuple[str, ...]) -> None:
    assert by_name(facts(), [(name, op_type)]) == [Part(name, op_type, nodes)]


def test_with_the_runtime_itself(tmp_path: Any) -> None:
    """All nodes of a model with what ONNX Runtime fuses and folds find their place, whatever this version does."""
    from onnxtune.runtime import Settings, Target, create

    proto = named(model_of(RESIDUAL, W))
    path = tmp_path / "optimized.onnx"
    create(proto.SerializeToString(), Target(threads=1), Settings(optimized=str(path)))
    found = Facts(Model(proto))
    parts = attributed(found, onnx.load(path).graph.node)
    assert sorted(k for p in parts for k in p.nodes) == sorted(n.key for n in found.nodes)
    assert len(parts) < len(found.nodes)
