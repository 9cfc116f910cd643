"""Convolutions in fewer or more groups: the same numbers, with or without zeros between the blocks.

With g groups the weights W (g * R, C, taps), R rows for each group, are the diagonal blocks of a dense
layer. Joining m neighbouring groups puts their blocks into one wider matrix:

    W'[(a m + j) R + r, j C + c] = W[(a m + j) R + r, c],    zero elsewhere,    g' = g / m

which takes m times the products, m - 1 of m of them with zeros. The other way round, a layer whose matrix
is zero outside of k equal blocks on the diagonal (of every group) is one of k g groups. Rows are outputs
and columns inputs of a Conv; in a ConvTranspose it is the reverse, and the same holds. No number changes,
so bias, pads, strides and auto_pad stay as they are. Which grouping is fast only a measurement says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal

RULE = "regroup_conv"
Weight = NDArray[Any]


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        if not node.is_op("Conv", "ConvTranspose"):
            continue
        groups, weight = int(node.attribute("group", 1)), facts.constant(node.input(1))
        if weight is None:
            shape = facts.shape(node.input(1))
            if groups > 1 and shape is not None and shape[:2] != (groups, 1):
                yield Decline(RULE, node.key, f"the weight '{node.input(1)}' is not constant")
            continue
        blocks = _blocks(node, weight, groups)
        if isinstance(blocks, str):
            yield Decline(RULE, node.key, blocks)
            continue
        for k in _worth_a_try(blocks, weight.shape[1], settings["blocks"]):
            yield _proposal(facts, node, _split(weight, groups, k), groups * k)
        if not blocks:
            for m in _joins(node, weight, groups, settings):
                yield _proposal(facts, node, _join(weight, groups, m), groups // m)


def _joins(node: Node, weight: Weight, groups: int, settings: Mapping[str, Any]) -> list[int]:
    """How many groups to join into one."""
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    into = columns if node.op_type == "Conv" else rows
    if groups == 1 or (node.op_type == "Conv" and rows == columns == 1):
        return []
    wanted = {block // gcd(block, into) for block in settings["blocks"] if into < block}
    wanted |= {groups} if into * groups <= max(settings["blocks"]) else set()
    return sorted(m for m in wanted if 1 < m <= settings["growth"] and groups % m == 0)


def _join(weight: Weight, groups: int, m: int) -> Weight:
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    taps = weight.shape[2:]
    blocks = weight.reshape(groups // m, m, rows, columns, *taps)
    joined = np.zeros((groups // m, m, rows, m, columns, *taps), weight.dtype)
    for j in range(m):
        joined[:, j, :, j] = blocks[:, j]
    return joined.reshape(groups * rows, m * columns, *taps)


def _blocks(node: Node, weight: Weight, groups: int) -> list[int] | str:
    """All k > 1 for which every group falls into k blocks on the diagonal, or why it almost does."""
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    if rows == 1 or columns == 1 or not weight.size or np.all(weight[0]):
        return []
    taps = tuple(range(3, weight.ndim + 1))
    used = np.any(weight.reshape(groups, rows, *weight.shape[1:]) != 0, axis=(0, *taps))
    most = gcd(rows, columns)
    found = [k for k in range(2, most + 1) if most % k == 0 and _diagonal(used, k)]
    if not found and used.any() and _parts(used) > 1:
        return "the weights are blocks, but not equal ones on the diagonal without a permutation of channels"
    return found if used.any() else []


def _diagonal(used: NDArray[np.bool_], k: int) -> bool:
    """Is the matrix zero outside of k equal blocks?"""
    blocks = used.reshape(k, used.shape[0] // k, k, -1).any(axis=(1, 3))
    return not np.any(blocks & ~np.eye(k, dtype=bool))


def _parts(used: NDArray[np.bool_]) -> int:
    """Number of unconnected parts with more than one row, rows and columns that are not used left out."""
    left, parts = used[used.any(axis=1)], 0
    while len(left):
        reached: NDArray[np.bool_] = np.arange(len(left)) == 0
        while not np.array_equal(reached, now := np.asarray(left[:, left[reached].any(axis=0)].any(axis=1))):
            reached = now
        parts += int(reached.sum() > 1)
        left = left[~reached]
    return parts


def _worth_a_try(found: Sequence[int], columns: int, blocks: Sequence[int]) -> list[int]:
    """The finest blocks, and those of a size that suits the processor."""
    return sorted({k for k in found if k == max(found) or columns // k in blocks})


def _split(weight: Weight, groups: int, k: int) -> Weight:
    rows, columns = weight.shape[0] // groups // k, weight.shape[1] // k
    blocks = weight.reshape(groups, k, rows, k, columns, *weight.shape[2:])
    kept = np.stack([blocks[:, j, :, j] for j in range(k)], axis=1)
    return kept.reshape(weight.shape[0], columns, *weight.shape[2:])


def _proposal(facts: Facts, node: Node, weight: Weight, groups: int) -> Proposal:
    new = Builder(f"{node.key}/{RULE}", facts.names, facts.opset)
    (y,) = new.copy(node.proto, [node.input(0), weight, *node.inputs[2:]], group=groups)
    title = f"{node.op_type} in {node.attribute('group', 1)} groups -> {groups} groups"
    chosen = {"groups": groups}
    return Proposal(RULE, title, frozenset({node.key}), new.finish({node.outputs[0]: y}), settings=chosen)
