"""A product with a matrix and a bias behind it as one Gemm on the rows of all other axes.

    x W + b,  x: (..., K), W: (K, N), b: (N)   =   reshaped Gemm(x as (rows, K), W, b)

Gemm starts from the bias in place of zeros, where MatMul and Add write the map and read and write it once more.
ONNX Runtime joins the two only where x is a matrix. What one place saves is too little to tell; so all of a network
are one rewrite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal

RULE = "matmul_to_gemm"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    new = Builder(RULE, facts.names, facts.opset)
    outputs: dict[str, str] = {}
    region: set[str] = set()
    for node in facts.nodes:
        found = _read(facts, node)
        if isinstance(found, str):
            yield Decline(RULE, node.key, found)
        elif found is not None:
            product, bias, shape = found
            columns = bias.size
            rows = new.Reshape(product.input(0), np.array([-1, shape[-1]], np.int64))
            y = new.Gemm(rows, product.input(1), bias.reshape(-1))
            free = [d if isinstance(d, int) else -1 for d in shape[:-1]]
            outputs[node.outputs[0]] = new.Reshape(y, np.array([*free, columns], np.int64))
            region |= {product.key, node.key}
    if region:
        title = f"MatMul + Add -> Gemm at {len(outputs)} places"
        yield Proposal(RULE, title, frozenset(region), new.finish(outputs))


def _read(facts: Facts, node: Node) -> tuple[Node, NDArray[Any], tuple[int | str | None, ...]] | str | None:
    """The MatMul before an Add, the bias and the shape of the rows; why not, in words; None: something else."""
    for x, other in ((0, 1), (1, 0)):
        product, bias = facts.producer(node.input(x)), facts.constant(node.input(other))
        if not node.is_op("Add") or product is None or not product.is_op("MatMul") or bias is None:
            continue
        weight = facts.size(product.input(1)) if facts.is_constant(product.input(1)) else None
        shape = facts.shape(product.input(0))
        if weight is None or len(weight) != 2 or shape is None or len(shape) < 3:
            continue  # a batch of products, or a matrix, which ONNX Runtime joins with its bias itself
        return _why_not(facts, product, node, bias.shape, shape, weight[1]) or (product, bias, (*shape[:-1], weight[0]))
    return None


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
