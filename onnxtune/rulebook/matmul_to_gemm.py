"""A product with a matrix and a bias behind it as one Gemm on the rows of all other axes.

    x W + b,  x: (..., K), W: (K, N), b: (N)   =   reshaped Gemm(x as (rows, K), W, b)

Gemm starts from the bias in place of zeros, where MatMul and Add write the map and read and write it once more.
ONNX Runtime joins the two only where x is a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal

RULE = "matmul_to_gemm"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        if not node.is_op("Add"):
            continue
        for x, other in ((0, 1), (1, 0)):
            product, bias = facts.producer(node.input(x)), facts.constant(node.input(other))
            if product is None or not product.is_op("MatMul") or bias is None:
                continue
            weight = facts.constant(product.input(1))
            shape = facts.shape(product.input(0))
            if weight is None or weight.ndim != 2 or shape is None or len(shape) < 3:
                continue  # a batch of products, or a matrix, which ONNX Runtime joins with its bias itself
            reason = _why_not(facts, product, node, bias.shape, shape, weight.shape[1])
            if reason:
                yield Decline(RULE, node.key, reason)
                continue
            new = Builder(f"{node.key}/{RULE}", facts.names, facts.opset)
            rows = new.Reshape(product.input(0), np.array([-1, weight.shape[0]], np.int64))
            y = new.Gemm(rows, product.input(1), bias.reshape(-1))
            free = [d if isinstance(d, int) else -1 for d in shape[:-1]]
            y = new.Reshape(y, np.array([*free, weight.shape[1]], np.int64))
            title = f"MatMul with a {weight.shape[0]}x{weight.shape[1]} matrix + Add -> Gemm"
            yield Proposal(RULE, title, frozenset({product.key, node.key}), new.finish({node.outputs[0]: y}))


def _why_not(
    facts: Facts, product: Node, add: Node, bias: tuple[int, ...], shape: tuple[int | str | None, ...], columns: int
) -> str:
    if bias[-1:] != (columns,) or any(d != 1 for d in bias[:-1]) or len(bias) > len(shape):
        return "what is added is not one number for each column"
    if sum(not isinstance(d, int) for d in shape[:-1]) > 1:
        return "more than one size of the rows is not fixed"
    if 0 in shape:
        return "the map is empty"
    return facts.why_not_private(product.outputs[0], {add.key}) or ""
