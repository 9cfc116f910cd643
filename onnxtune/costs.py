"""Arithmetic of a node at the measured sizes: multiply-accumulates and lengths of sums."""

from __future__ import annotations

import math

from onnxtune.facts import Facts, Node


def reduction_length(facts: Facts, node: Node) -> int:
    """How many products one output element sums (0 for operators that do not sum)."""
    if node.is_op("Conv", "ConvTranspose", "DeformConv"):
        weight = facts.size(node.input(1))
        if weight is None:
            return 0
        return weight[0] * math.prod(weight[2:]) if node.op_type == "ConvTranspose" else math.prod(weight[1:])
    if node.is_op("Gemm", "MatMul"):
        left = facts.size(node.input(0))
        if not left:
            return 0
        transposed = node.op_type == "Gemm" and node.attribute("transA", 0)
        return left[0] if transposed else left[-1]
    if node.is_op("AveragePool", "LpPool"):
        return math.prod(node.attribute("kernel_shape", [1]))
    if node.is_op("GlobalAveragePool", "ReduceMean", "ReduceSum", "LRN", "InstanceNormalization"):
        return math.prod((facts.size(node.input(0)) or (1, 1))[2:])
    return 0


def macs(facts: Facts, node: Node) -> int:
    """Multiply-accumulates of a convolution or matrix product; 0 for others or unknown sizes."""
    if not node.is_op("Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul"):
        return 0
    out = facts.size(node.outputs[0])
    if out is None:
        return 0
    if node.op_type == "ConvTranspose":
        weight, source = facts.size(node.input(1)), facts.size(node.input(0))
        return math.prod(source) * math.prod(weight[1:]) if source and weight else 0
    return math.prod(out) * reduction_length(facts, node)


def total_macs(facts: Facts) -> int:
    return sum(macs(facts, n) for n in facts.nodes)


def shrinks(facts: Facts, pool: Node) -> bool:
    """Does a pool leave fewer pixels than it gets, by its stride or at the measured sizes?"""
    if math.prod(pool.attribute("strides", [1])) > 1:
        return True
    before, after = facts.size(pool.inputs[0]), facts.size(pool.outputs[0])
    return before is not None and after is not None and math.prod(after) < math.prod(before)
