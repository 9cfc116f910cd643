"""Two linear layers without an activation between them are one.

    W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)      W1: (J1, J0), W2: (J2, J1)

That takes J2 J0 products instead of J1 (J0 + J2), and is offered where it is not more. The entries of
|W2 W1| are at most those of |W2| |W1|: rounding does not grow. The product is computed in float64 and
rounded once; weights that other nodes share stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.heads import Linear, gemm, linear, linear_before
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        second = linear(facts, node)
        first = linear_before(facts, second.x) if isinstance(second, Linear) else None
        if isinstance(second, Linear) and first is not None:
            answer = _merged(facts, node, first, second)
            yield Decline("merge_linear_layers", node.key, str(answer)) if isinstance(answer, No) else answer


def _merged(facts: Facts, node: Node, first: Linear, second: Linear) -> Proposal | No:
    (j1, j0), j2 = first.weight.shape, second.weight.shape[0]
    if j2 * j0 > j1 * (j0 + j2):
        return No(f"one layer {j0} -> {j2} would need more products than {j0} -> {j1} -> {j2}")
    if reason := facts.why_not_private(second.x, {node.key}):
        return No(reason)
    dtype, wide = second.weight.dtype, second.weight.astype(np.float64)
    weight = wide @ first.weight.astype(np.float64)
    bias = np.zeros(j2) if first.bias is None else wide @ first.bias.astype(np.float64)
    bias = bias if second.bias is None else bias + second.bias
    largest = max(np.abs(weight).max(), np.abs(bias).max())
    if not largest <= np.finfo(dtype).max:
        return No(f"the product of the weights overflows {dtype}")
    new = Builder(f"{node.key}/merge_linear_layers", facts.names, facts.opset)
    y = gemm(new, first.x, weight.astype(dtype), bias.astype(dtype))
    nodes = (*first.nodes, *second.nodes)
    return Proposal(
        "merge_linear_layers",
        f"linear layers {j0} -> {j1} -> {j2} without activation -> {j0} -> {j2}",
        frozenset(n.key for n in nodes),
        new.finish({second.output: y}),
        details={"parameters_before": j1 * (j0 + j2), "parameters_after": j2 * j0},
    )
