"""Fully connected layers wherever they stand in a head: on a flattened map, on a row of features, as a Conv.

map -> Flatten | Reshape | Squeeze [-> Dropout] -> Gemm | MatMul [-> Add]      `size` (C, H, W)
row of features of one image -> Gemm | MatMul [-> Add]                          `size` None
map -> Conv whose kernel is the whole map                                       `size`, `conv`
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.heads import FLOATS, FlatMap, flat_map, linear
from onnxtune.rule import No

SAME = ("Dropout", "Identity")
"""Operators that hand on what they get, at inference."""
ACTIVATIONS = ("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish")
ROWWISE = (*SAME, *ACTIVATIONS, "Clip", "Softplus", "BatchNormalization", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div")
"""Operators that treat each row of a matrix on its own when all other operands are constant."""
POOLS = ("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax")


@dataclass(frozen=True, eq=False)
class FullyConnected:
    """y = W rows(x) + b. `nodes` make y and nothing else that is seen outside.

    With a `size` (C, H, W), x is a map (N, C, H, W), `weight` (J, C H W) is ordered as its Flatten, and
    `conv` tells that y is (N, J, 1, 1). Without one, x is (N, d) and `weight` (J, d). Do not write into weights.
    `unpoolable`: why the map must not be pooled, though the layer can be understood.
    """

    key: str
    nodes: frozenset[str]
    x: str
    y: str
    weight: NDArray[Any]
    bias: NDArray[Any] | None
    size: tuple[int, int, int] | None
    conv: bool = False
    unpoolable: str = ""


@dataclass(frozen=True)
class Classifier:
    """Two or more fully connected layers, the first of them on a map: `nodes` make y (N, `outputs`) of the map and
    nothing else that is seen outside. `second` is the key of a node between them, `weights` how many they have."""

    nodes: frozenset[str]
    y: str
    outputs: int
    second: str
    weights: int


def classifier(facts: Facts, first: FullyConnected) -> Classifier | None:
    """All layers from `first` to the last in a row where every result has one reader; None when there is one only."""
    if first.size is None or first.conv or first.unpoolable:
        return None
    keys, y, weights, second = set(first.nodes), first.y, first.weight.size, ""
    found, product = None, False
    while (node := _only_reader(facts, y)) is not None:
        keys.add(node.key)
        y, second = node.outputs[0], second or node.key
        layer = node.is_op("Gemm", "MatMul")
        weight = facts.size(node.input(1)) if layer else None
        weights += math.prod(weight) if weight else 0
        shape = facts.size(y)
        if (layer or (product and node.is_op("Add"))) and shape is not None and len(shape) == 2:
            found = Classifier(frozenset(keys), y, shape[1], second, weights)
        product = node.is_op("MatMul")
    return found


def _only_reader(facts: Facts, tensor: str) -> Node | None:
    """The node that alone reads the tensor, if it treats each row on its own and has one result."""
    readers = facts.consumers(tensor)
    if len(readers) != 1 or facts.is_output(tensor):
        return None
    node = readers[0]
    live = [i for i in node.inputs if i and not facts.is_constant(i)]
    if not node.is_op(*ROWWISE) or live != [tensor] or (node.input(0) != tensor and node.is_op("Gemm", "MatMul")):
        return None
    if (
        (node.is_op("Dropout") and _trains(facts, node))
        or node.attribute("training_mode", 0)
        or node.attribute("transA", 0)
    ):
        return None
    more = (o for o in node.outputs[1:] if o)
    return None if any(facts.consumers(o) or facts.is_output(o) for o in more) else node


def fully_connected(facts: Facts, node: Node) -> FullyConnected | No | None:
    """The layer that a Gemm, MatMul or Conv is the heart of; None when it is none, a No when that is unclear."""
    if node.is_op("Conv"):
        return _whole_map(facts, node)
    layer = linear(facts, node)
    if layer is None or isinstance(layer, No):
        return layer
    if reason := _shared(facts, node):
        return No(reason)
    skipped, source = _behind(facts, layer.x)
    maker = facts.producer(source)
    if maker is not None and maker.is_op("Softmax", "LogSoftmax", "ArgMax", "TopK"):
        return No(f"its input is a {maker.op_type}, not features")
    flat = None if maker is None else flat_map(facts, maker)
    if isinstance(flat, FlatMap):
        return _on_map(facts, layer.nodes, layer.weight, layer.bias, flat, skipped)
    if reason := _mixes(facts, source):
        return No(f"{flat or reason}: its rows are not known to be images")
    nodes = frozenset(n.key for n in layer.nodes)
    return FullyConnected(node.key, nodes, layer.x, layer.output, layer.weight, layer.bias, None)


def _on_map(
    facts: Facts,
    nodes: tuple[Node, ...],
    weight: NDArray[Any],
    bias: NDArray[Any] | None,
    flat: FlatMap,
    skipped: tuple[Node, ...],
) -> FullyConnected | No:
    c, h, w = size = (flat.channels, flat.height, flat.width)
    if weight.shape[1] != math.prod(size):
        return No(f"it has {weight.shape[1]} columns for a map of {c}x{h}x{w}")
    if flat.channels_last:
        weight = np.ascontiguousarray(weight.reshape(-1, h, w, c).transpose(0, 3, 1, 2).reshape(len(weight), -1))
    keys, unpoolable = {n.key for n in nodes}, ""
    for node in (*reversed(skipped), *reversed(flat.nodes)):
        tensor = node.outputs[0]
        if facts.why_not_private(tensor, keys) is None:
            keys.add(node.key)
            continue
        if reason := _seen_by_others(facts, tensor, keys):
            unpoolable = reason
        break
    y = nodes[-1].outputs[0]
    return FullyConnected(nodes[0].key, frozenset(keys), flat.x, y, weight, bias, size, unpoolable=unpoolable)


def _seen_by_others(facts: Facts, features: str, known: set[str]) -> str:
    """Why flattened features are more than the input of fully connected layers, of which `known` are some nodes; ""
    when they are not."""
    if facts.is_output(features):
        return f"the features '{features}' are a graph output"
    for reader in facts.consumers(features):
        if reader.key in known:
            continue
        other = reader.is_op(*SAME) and not _seen_by_others(facts, reader.outputs[0], known)
        if not (other or reader.is_op("Gemm", "MatMul", "Shape")):
            return f"the features '{features}' are read by a {reader.op_type} too"
    return ""


def _whole_map(facts: Facts, node: Node) -> FullyConnected | No | None:
    """A Conv whose kernel is as large as its map, without pads; on a map of one pixel any 1x1 Conv."""
    x, w = node.input(0), facts.constant(node.input(1))
    shape = facts.shape(x)
    if w is None or w.ndim != 4 or w.dtype not in FLOATS or shape is None or shape[1:] != w.shape[1:]:
        return None
    if any(node.attribute("pads", [0])) or any(d != 1 for d in node.attribute("dilations", [1, 1])):
        return None
    if node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID", ""):
        return None
    bias = facts.constant(node.input(2)) if node.input(2) else None
    if node.input(2) and bias is None:
        return No("the bias is not constant")
    if reason := _shared(facts, node):
        return No(reason)
    size, y = (w.shape[1], w.shape[2], w.shape[3]), node.outputs[0]
    return FullyConnected(node.key, frozenset({node.key}), x, y, w.reshape(len(w), -1), bias, size, conv=True)


def _shared(facts: Facts, node: Node) -> str:
    if len(facts.consumers(node.input(1))) > 1:
        return f"the weight '{node.input(1)}' is shared with another layer"
    return ""


def _behind(facts: Facts, tensor: str) -> tuple[tuple[Node, ...], str]:
    """Nodes that only hand on the tensor, in the graph's order, and what they got."""
    nodes: list[Node] = []
    while (maker := facts.producer(tensor)) is not None and maker.is_op(*SAME) and not _trains(facts, maker):
        nodes.insert(0, maker)
        tensor = maker.input(0)
    return tuple(nodes), tensor


def _trains(facts: Facts, node: Node) -> bool:
    """Does a Dropout drop anything?"""
    mode = facts.constant(node.input(2)) if node.input(2) else np.array(False)
    return mode is None or bool(mode)


def _mixes(facts: Facts, tensor: str) -> str:
    """Why the rows of a matrix may not be images; "" when each is made of one image."""
    while (maker := facts.producer(tensor)) is not None:
        if isinstance(flat_map(facts, maker), FlatMap):
            return ""
        if maker.is_op(*POOLS) and facts.rank(maker.outputs[0]) == 2:
            return ""
        live = [i for i in maker.inputs if i and not facts.is_constant(i)]
        if not maker.is_op(*ROWWISE) or len(live) != 1 or facts.rank(live[0]) != 2:
            return f"'{tensor}' comes from a {maker.op_type}"
        tensor = live[0]
    return "" if tensor in facts.inputs and facts.rank(tensor) == 2 else f"'{tensor}' is a constant"
