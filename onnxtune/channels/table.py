"""Operator name -> what it does to channel layouts. Every other operator is a barrier."""

from __future__ import annotations

from onnxtune.channels import contracting, pointwise, rearranging, spatial
from onnxtune.channels.operators import Operator
from onnxtune.channels.ranges import UNARY
from onnxtune.facts import Node

_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum")
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "PRelu")

TABLE: dict[str, Operator] = {
    **dict.fromkeys(UNARY, pointwise.Unary()),
    **dict.fromkeys(_ELEMENTWISE, pointwise.Elementwise()),
    **dict.fromkeys(_POOLS, spatial.Pool()),
    **dict.fromkeys(_REDUCTIONS, spatial.Reduce()),
    "Clip": pointwise.Clip(),
    "BatchNormalization": pointwise.BatchNormalization(),
    "InstanceNormalization": pointwise.InstanceNormalization(),
    "Conv": contracting.Convolution(),
    "ConvTranspose": contracting.Convolution(),
    "Gemm": contracting.Gemm(),
    "MatMul": contracting.MatMul(),
    "Pad": spatial.Pad(),
    "Resize": spatial.Resize(),
    "Upsample": spatial.Resize(),
    "Transpose": spatial.Transpose(),
    "Concat": rearranging.Concat(),
    "Split": rearranging.Split(),
    "Slice": rearranging.Slice(),
    "Flatten": rearranging.Flatten(),
    "Reshape": rearranging.Reshape(),
    "Squeeze": rearranging.Squeeze(),
    "Unsqueeze": rearranging.Squeeze(),
    "Shape": rearranging.Shape(),
}


def operator(node: Node) -> Operator | None:
    """What the node does to layouts; None: a barrier."""
    return TABLE.get(node.op_type) if node.domain == "" else None
