"""Per-channel scales and shifts folded into the layer before them.

    BatchNormalization:  z = (y - mean) / sqrt(var + epsilon) * gamma + beta = s y + t
        s = gamma / sqrt(var + epsilon),  t = beta - mean s                   (vectors over channels)
    Mul, Div, Add, Sub with constants are such (s, t) too; a chain of them is one:
        s2 (s1 y + t1) + t2 = (s2 s1) y + (s2 t1 + t2)

    y = W x + b  =>  z = (s W) x + (s b + t), where s multiplies the rows of W that make each channel:
        Conv            W (C_out, C_in / g, k...)      s over axis 0
        ConvTranspose   W (C_in, C_out / g, k...)      as (g, C_in / g, C_out / g, k...), s as (g, 1, C_out / g, 1...)
        Gemm            alpha A B + beta C             alpha s B and beta s C + t, then alpha = beta = 1
        MatMul          W (K, C)                       s over axis 1; a Gemm takes the shift when x is a matrix
        BatchNormalization (when no weights precede)   gamma' = s gamma,  beta' = s beta + t

A constant must not enlarge the layer's output: its rank is at most the output's and it has size 1 on
all axes but the channels'. All is computed in float64 and rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No

Vector = NDArray[np.float64]
RULE = "fold_batchnorm"
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization")


@dataclass(frozen=True)
class Layer:
    """A node with weights; channel c of its output (of `rank` axes) is index c of axis `axis`."""

    node: Node
    channels: int
    rank: int
    axis: int


@dataclass(frozen=True)
class Step:
    """z = scale * y + shift per channel, made by `nodes` (the first is the operator); or why it is not."""

    nodes: tuple[Node, ...]
    scale: Vector = field(default_factory=lambda: np.ones(1))
    shift: Vector = field(default_factory=lambda: np.zeros(1))
    problem: str = ""


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    folded: set[str] = set()
    for node in facts.nodes:
        if node.key in folded or not node.is_op(*LAYERS):
            continue
        layer = _layer(facts, node)
        steps = _chain(facts, layer, node.outputs[0]) if layer else []
        if layer is None or not steps:
            continue
        good = [s for s in steps if not s.problem]
        made = _fold(facts, layer, good) if good else No(steps[0].problem)
        if isinstance(made, Proposal):
            folded |= made.removes
            yield made
        elif made:
            yield Decline(RULE, steps[0].nodes[0].key, str(made))


def _layer(facts: Facts, node: Node) -> Layer | None:
    weight, x = facts.shape(node.input(1)), facts.shape(node.input(0))
    if weight is None or not all(isinstance(d, int) for d in weight):
        return None
    dims = [int(d or 0) for d in weight]
    if node.op_type == "Conv":
        return Layer(node, dims[0], len(dims), 1)
    if node.op_type == "ConvTranspose":
        return Layer(node, dims[1] * node.attribute("group", 1), len(dims), 1)
    if node.op_type == "Gemm":
        return Layer(node, dims[0 if node.attribute("transB", 0) else 1], 2, 1)
    if x is None or (node.op_type == "MatMul" and len(dims) != 2):
        return None
    return Layer(node, dims[-1], len(x), 1 if node.op_type == "BatchNormalization" else len(x) - 1)


def _chain(facts: Facts, layer: Layer, tensor: str) -> list[Step]:
    """The scales and shifts that follow; only the last may have a problem."""
    steps: list[Step] = []
    while not (steps and steps[-1].problem):
        found = next((s for n in facts.consumers(tensor) if (s := _step(facts, layer, n, tensor))), None)
        if found is None:
            break
        keys = {n.key for n in found.nodes}
        seen = facts.why_not_private(tensor, keys)
        shared = next((r for n in found.nodes[1:] if (r := facts.why_not_private(n.outputs[0], keys))), None)
        steps.append(replace(found, problem=found.problem or seen or shared or ""))
        tensor = found.nodes[0].outputs[0]
    return steps


def _step(facts: Facts, layer: Layer, node: Node, tensor: str) -> Step | None:
    if node.is_op("BatchNormalization") and node.inputs[0] == tensor:
        return _normalization(facts, layer, node)
    if not node.is_op("Mul", "Add", "Sub", "Div") or len(node.inputs) != 2 or node.inputs[0] == node.inputs[1]:
        return None
    first = node.inputs[0] == tensor
    values, makers = _constant(facts, node.inputs[1 if first else 0])
    if values is None or (node.op_type == "Div" and not first):
        return None
    nodes = (node, *makers)
    vector = _per_channel(values, layer)
    if vector is None:
        return Step(nodes, problem=f"the constant of shape {list(values.shape)} is not per channel")
    with np.errstate(all="ignore"):
        return {
            "Mul": Step(nodes, scale=vector),
            "Div": Step(nodes, scale=1 / vector),
            "Add": Step(nodes, shift=vector),
            "Sub": Step(nodes, shift=-vector) if first else Step(nodes, scale=-np.ones(1), shift=vector),
        }[node.op_type]


def _normalization(facts: Facts, layer: Layer, node: Node) -> Step:
    values = [facts.constant(i) for i in node.inputs[1:5]]
    problem = _training(facts, node)
    if layer.axis != 1:
        problem = problem or "its channels are not the layer's output channels"
    lost = next((i for i, v in zip(node.inputs[1:5], values, strict=True) if v is None or v.dtype.kind != "f"), None)
    if problem or lost:
        return Step((node,), problem=problem or f"'{lost}' is not a floating-point constant")
    gamma, beta, mean, var = (v.astype(np.float64) for v in values if v is not None)
    if any(v.shape != (layer.channels,) for v in (gamma, beta, mean, var)):
        return Step((node,), problem=f"its statistics are not {layer.channels} numbers each")
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(var + node.attribute("epsilon", 1e-5))
    return Step((node,), scale, beta - mean * scale)


def _training(facts: Facts, node: Node) -> str:
    """Why a BatchNormalization is not a fixed scale and shift ("" when it is)."""
    if node.attribute("training_mode", 0):
        return "training mode normalises with the batch's own statistics"
    if node.attribute("spatial", 1) == 0:
        return "spatial = 0 normalises every position by itself"
    used = [o for o in node.outputs[1:] if o and (facts.consumers(o) or facts.is_output(o))]
    return f"its statistics output '{used[0]}' is used" if used else ""


def _constant(facts: Facts, tensor: str) -> tuple[NDArray[Any] | None, tuple[Node, ...]]:
    """A constant, also one that an Unsqueeze reshapes (old exporters), with the Unsqueeze."""
    values, maker = facts.constant(tensor), facts.producer(tensor)
    if values is not None or maker is None or not maker.is_op("Unsqueeze"):
        return values, ()
    values = facts.constant(maker.inputs[0])
    stored = facts.constant(maker.input(1)) if maker.input(1) else None
    axes = maker.attribute("axes") if stored is None else stored.tolist()
    if values is None or axes is None:
        return None, ()
    return np.expand_dims(values, tuple(axes)), (maker,)


def _per_channel(values: NDArray[Any], layer: Layer) -> Vector | None:
    """The constant as a vector (C,) or (1,); None when it varies along, or adds, another axis."""
    if values.dtype.kind != "f" or values.ndim > layer.rank:
        return None
    shape = (1,) * (layer.rank - values.ndim) + values.shape
    if math.prod(shape) != shape[layer.axis] or shape[layer.axis] not in (1, layer.channels):
        return None
    return values.astype(np.float64).ravel()


def _fold(facts: Facts, layer: Layer, steps: list[Step]) -> Proposal | No:
    """The layer with the steps in its weights, or why not ("": there is nothing to gain)."""
    node, name = layer.node, layer.node.input(1)
    weight = facts.constant(name)
    if weight is None or weight.dtype.kind != "f":
        return No(f"'{name}' is not a floating-point constant")
    shared = "" if node.op_type == "BatchNormalization" else facts.why_not_private(name, {node.key})
    if shared or (node.op_type == "BatchNormalization" and (shared := _training(facts, node))):
        return No(shared)
    scale, shift = np.ones(layer.channels), np.zeros(layer.channels)
    with np.errstate(all="ignore"):
        for step in steps:
            scale, shift = step.scale * scale, step.scale * shift + step.shift
        new = Builder(f"{node.key}/{RULE}", facts.names, facts.opset)
        y = _with_new_weights(facts, layer, weight, scale, shift, new, len(steps))
    if isinstance(y, No):
        return y
    fragment = new.finish({steps[-1].nodes[0].outputs[0]: y})
    if not all(np.isfinite(numpy_helper.to_array(w)).all() for w in fragment.initializers):
        return No("the folded weights are not finite")
    before = " + ".join([node.op_type, *(s.nodes[0].op_type for s in steps)])
    title = f"{before} -> {' + '.join(n.op_type for n in fragment.nodes)}"
    return Proposal(RULE, title, frozenset([node.key, *(n.key for s in steps for n in s.nodes)]), fragment)


def _with_new_weights(
    facts: Facts, layer: Layer, w: NDArray[Any], scale: Vector, shift: Vector, new: Builder, steps: int
) -> str | No:
    """The layer on weights scale * w and bias scale * b + shift, rounded to the weights' type."""
    node, dtype, x = layer.node, w.dtype, layer.node.inputs[0]
    wide, old = w.astype(np.float64), facts.constant(node.input(2)) if node.input(2) else np.zeros(1)
    if old is None:
        return No(f"'{node.input(2)}' is not constant")
    if node.op_type in ("Conv", "ConvTranspose"):
        bias = (scale * old + shift).astype(dtype) if node.input(2) or shift.any() else None
        groups = node.attribute("group", 1) if node.op_type == "ConvTranspose" else layer.channels
        by_group = wide.reshape(groups, -1, layer.channels // groups, *w.shape[2:])
        rows = scale.reshape(groups, 1, layer.channels // groups, *(1,) * (w.ndim - 2))
        return new.copy(node.proto, [x, (by_group * rows).reshape(w.shape).astype(dtype), bias])[0]
    if node.op_type == "Gemm":
        by_column = node.attribute("alpha", 1.0) * wide * (scale[:, None] if node.attribute("transB", 0) else scale)
        bias = (node.attribute("beta", 1.0) * old * scale + shift).astype(dtype)
        return new.copy(node.proto, [x, by_column.astype(dtype), bias], alpha=None, beta=None)[0]
    if node.op_type == "MatMul":
        scaled, offset = (wide * scale).astype(dtype), shift.astype(dtype)
        if layer.rank == 2:
            return str(new.Gemm(x, scaled, offset))
        if steps == 1 and shift.any():
            return No("")  # MatMul + Add is the best form already
        product = str(new.MatMul(x, scaled))
        return str(new.Add(product, offset)) if shift.any() else product
    beta = (scale * old + shift).astype(old.dtype)
    return new.copy(node.proto, [x, (wide * scale).astype(dtype), beta, *node.inputs[3:]])[0]
