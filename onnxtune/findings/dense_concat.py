"""Blocks that concatenate everything before.

In a densely connected block every layer reads the maps of all layers before it. Written as Concats, each copies
all of them again: a block of L layers that add g channels each copies g L^2 / 2 channels. Normalization and
activation of each branch before the Concat would be exact, but compute no less. Fewer, wider layers with skip
connections move less memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.facts import Node
from onnxtune.finding import Check, Found
from onnxtune.scene import Scene

CHECK = Check(
    code="CK503",
    name="dense-concat",
    summary="Blocks that concatenate everything before, and copy it each time",
    severity="info",
    remedy="retrain",
    action="additions instead of Concats, or fewer and wider layers, when training anew",
    fires="Concats over channels of more than 4 maps (those inside of them counted) that feed a normalization"
    " or a further"
    " Concat four deep, with 10 % of what is written",
    quiet="Concats of branches (Inception, pyramids, U-shaped networks), heads of detectors",
    guidelines=(12,),
    items=("A16",),
    rules=("split_concat_conv", "swap_conv_average_pool"),
    references=("Pleiss et al.: Memory-efficient implementation of DenseNets, 2017",),
)
MANY, DEEP, LEAST_SHARE = 4, 4, 0.1


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    maps: dict[str, int] = {}
    depth: dict[str, int] = {}
    nodes: list[Node] = []
    for node in facts.nodes:
        if not node.is_op("Concat") or node.attribute("axis") not in (1, -3):
            continue
        inner = [i for i in node.inputs if i in maps]
        out = node.outputs[0]
        maps[out] = sum(maps.get(i, 1) for i in node.inputs)
        depth[out] = 1 + max((depth[i] for i in inner), default=0)
        readers = facts.consumers(out)
        normed = any(n.is_op("BatchNormalization", "Mul") and not n.is_op("Concat") for n in readers)
        scaled = any(n.is_op("BatchNormalization") for n in readers) or (normed and depth[out] >= DEEP)
        if (maps[out] > MANY and scaled) or depth[out] >= DEEP:
            nodes.append(node)
    copied = sum(scene.tensor_bytes(n.outputs[0]) for n in nodes)
    share = copied / max(scene.written_bytes, 1)
    if len(nodes) > 1 and share >= LEAST_SHARE:
        yield Found(
            f"{len(nodes)} Concats of dense blocks copy {copied / 1e6:.1f} MB, {share:.0%} of what is written",
            tuple(sorted(nodes, key=lambda n: -scene.tensor_bytes(n.outputs[0]))),
            {"copied_bytes": copied, "share_of_writes": share, "largest": max(maps[n.outputs[0]] for n in nodes)},
        )
