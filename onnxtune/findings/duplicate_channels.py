"""Channels of a layer that compute the same.

Filters that are equal, bias and normalization included, make equal maps; the layer after can take one of them
with the sum of its columns. It happens to nets that were widened by copying, or initialised without breaking
the symmetry.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Node
from onnxtune.finding import Check, Found
from onnxtune.scene import Scene

CHECK = Check(
    code="CK304",
    name="duplicate-channels",
    summary="Channels of a layer that compute the same",
    severity="advice",
    remedy="optimize",
    action="they are merged, exactly, where the layers after allow it",
    fires="at least 2 % of the channels of dense convolutions repeat another's filter, bias and normalization",
    quiet="depthwise filters (their inputs differ), filters of zeros (another check's), single repetitions",
    guidelines=(13,),
    rules=("merge_duplicate_channels",),
)
LEAST_SHARE = 0.02


def find(scene: Scene) -> Iterator[Found]:
    total, repeated = 0, 0
    nodes: list[tuple[int, Node]] = []
    for node in scene.convolutions:
        rows = _rows(scene, node)
        if rows is None:
            continue
        alive = rows[np.any(rows, axis=1)]
        again = (
            len(alive) - len(np.unique(np.ascontiguousarray(alive).view(_bytes(alive)), axis=0)) if len(alive) else 0
        )
        total, repeated = total + len(rows), repeated + again
        if again:
            nodes.append((again, node))
    if total and repeated / total >= LEAST_SHARE:
        nodes.sort(key=lambda pair: -pair[0])
        yield Found(
            f"{repeated} of {total} channels ({repeated / total:.0%}) repeat another one of their layer",
            tuple(n for _, n in nodes),
            {"repeated": repeated, "channels": total, "share": repeated / total},
            severity="warning" if repeated / total >= 0.1 else None,
        )


def _rows(scene: Scene, node: Node) -> NDArray[np.float32] | None:
    """Each output channel as one row: filter, bias, normalization. None for grouped and unknown weights."""
    facts, weight = scene.facts, scene.weight(node)
    if weight is None or weight.dtype != np.float32 or scene.widths(node)[2] > 1:
        return None
    parts = [weight.reshape(len(weight), -1)]
    readers = facts.consumers(node.outputs[0])
    norm = readers[0] if len(readers) == 1 and readers[0].is_op("BatchNormalization") else None
    for name in (node.input(2), *(norm.inputs[1:5] if norm is not None else ())):
        stored = facts.constant(name) if name else None
        if name and (stored is None or stored.shape != (len(weight),)):
            return None
        if stored is not None:
            parts.append(stored.reshape(-1, 1).astype(np.float32))
    return np.concatenate(parts, axis=1)


def _bytes(rows: NDArray[np.float32]) -> np.dtype[np.void]:
    return np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))
