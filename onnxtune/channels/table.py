"""Operator name -> what it does to channel layouts. Every other operator is a barrier."""

from __future__ import annotations

from onnxtune.channels import contracting, pointwise, quantized, rearranging, reshaping, spatial
from onnxtune.channels.operators import Operator
from onnxtune.channels.ranges import UNARY
from onnxtune.facts import Node

_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Pow", "PRelu", "Where", *pointwise.COMPARISONS)

TABLE: dict[str, Operator] = {
    **dict.fromkeys(UNARY, pointwise.Unary()),
    **dict.fromkeys(_ELEMENTWISE, pointwise.Elementwise()),
    **dict.fromkeys(_POOLS, spatial.Pool()),
    **dict.fromkeys(_REDUCTIONS, spatial.Reduce()),
    "Clip": pointwise.Clip(),
    "BatchNormalization": pointwise.BatchNormalization(),
    "LRN": pointwise.LRN(),
    "InstanceNormalization": pointwise.InstanceNormalization(),
    "Conv": contracting.Convolution(),
    "ConvTranspose": contracting.Convolution(),
    "Gemm": contracting.Gemm(),
    "MatMul": contracting.MatMul(),
    "Pad": spatial.Pad(),
    "Resize": spatial.Resize(),
    "Upsample": spatial.Resize(),
    "Concat": rearranging.Concat(),
    "Split": rearranging.Split(),
    "Slice": rearranging.Slice(),
    "Gather": rearranging.Gather(),
    "SpaceToDepth": rearranging.SpaceToDepth(),
    "DepthToSpace": rearranging.DepthToSpace(),
    "Transpose": reshaping.Transpose(),
    "Flatten": reshaping.Flatten(),
    "Reshape": reshaping.Reshape(),
    "Squeeze": reshaping.Squeeze(),
    "Unsqueeze": reshaping.Squeeze(),
    "Expand": reshaping.Expand(),
    "Shape": reshaping.Shape(),
    "QuantizeLinear": quantized.Quantization(),
    "DequantizeLinear": quantized.Quantization(),
}


def operator(node: Node) -> Operator | None:
    """What the node does to layouts; None: a barrier."""
    return TABLE.get(node.op_type) if node.domain == "" else None
