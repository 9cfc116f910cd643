"""Channels that carry next to nothing.

Training with an L1 penalty on the scales of batch normalization (network slimming) or with weight decay drives
whole channels towards zero. A scale that is exactly zero makes its channel a constant, which can be removed
exactly. One below a thousandth of the largest of its layer, or a filter whose norm is, carries a signal that
the next layer can do without: pruned channels are made up for by refitting that layer to data. The scale gamma
is the standard deviation of the channel after normalization; without one the norm of the filter stands for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxtune.facts import Node
from onnxtune.finding import Check, Found
from onnxtune.scene import Scene, row_norms

CHECK = Check(
    code="CK303",
    name="near-dead-channels",
    summary="Channels that carry next to nothing",
    severity="advice",
    remedy="calibrate",
    action="prune them and refit the layer after (with data)",
    fires="at least 1 % of all channels have a normalization scale or a filter norm below 1/1000 of their"
    " layer's largest",
    quiet="scales and norms of ordinary spread; a few single channels",
    guidelines=(13,),
    items=("A13",),
    rules=("remove_dead_channels", "prune_channels"),
    references=("Liu et al.: Learning efficient convolutional networks through network slimming, 2017",),
)
SMALL, FEW, LEAST_SHARE = 1e-3, 4, 0.01
COMMON = 0.1
"""Share of channels from which it is a warning: removing them changes the model's cost."""


def find(scene: Scene) -> Iterator[Found]:
    total, small, zero = 0, 0, 0
    nodes: list[tuple[int, Node]] = []
    for node in scene.facts.nodes:
        sizes = _sizes(scene, node)
        if sizes is None or not len(sizes) or not sizes.max() > 0:
            continue
        count = int((sizes < SMALL * sizes.max()).sum())
        total, small, zero = total + len(sizes), small + count, zero + int((sizes == 0).sum())
        if count:
            nodes.append((count, node))
    if small >= FEW and small / total >= LEAST_SHARE:
        nodes.sort(key=lambda pair: -pair[0])
        exact = f", {zero} of them are exactly 0" if zero and zero < small else ", all exactly 0" if zero else ""
        only = zero == small
        yield Found(
            f"{small} of {total} channels ({small / total:.0%}) carry less than 1/1000 of what their layer's largest"
            f" does{exact}",
            tuple(n for _, n in nodes),
            {"near_dead": small, "exactly_zero": zero, "channels": total, "share": small / total},
            severity="warning" if small / total >= COMMON else None,
            remedy="optimize" if zero else None,
            action="the zero ones are removed, exactly, as far as the layers after allow"
            + ("" if only else "; with data the others can be pruned, too")
            if zero
            else None,
            rules=("remove_dead_channels",) if only else None,
        )


def _sizes(scene: Scene, node: Node) -> np.ndarray | None:
    """How much each channel that the node makes carries, relative to the others; None when it is not asked."""
    facts = scene.facts
    if node.is_op("BatchNormalization"):
        scale = facts.constant(node.input(1))
        return None if scale is None else np.abs(scale.astype(np.float64))
    if node.is_op("Conv") and scene.weight(node) is not None:
        readers = facts.consumers(node.outputs[0])
        if len(readers) == 1 and readers[0].is_op("BatchNormalization"):
            return None
        weight = scene.weight(node)
        return None if weight is None or weight.dtype.kind != "f" else row_norms(weight)
    return None
