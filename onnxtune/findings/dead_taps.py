"""Kernel rows and columns that read padding alone, or whose weights are all zero.

On a map of 1x1 a 3x3 kernel with padding 1 reads one pixel and eight zeros; with dilation 18 on a map of 14x14
the outer taps never meet it. They are multiplied all the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK207",
    name="dead-taps",
    summary="Kernel rows and columns that never meet the map, or are zero",
    severity="advice",
    remedy="optimize",
    action="they are cut off, exactly",
    fires="the rule crop_dead_taps can cut a kernel",
    quiet="every row and column of the kernel meets the map somewhere, or the map's size is open",
    guidelines=(2,),
    items=("A6",),
    rules=("crop_dead_taps",),
)


LEAST_SHARE = 0.002


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    keys = {key for p in scene.proposals("crop_dead_taps") for key in p.removes}
    nodes = tuple(n for n in facts.nodes if n.key in keys and n.is_op("Conv", "ConvTranspose"))
    share = scene.share(nodes)
    if nodes and share >= LEAST_SHARE:
        yield Found(
            f"{several(len(nodes), 'kernel has', 'kernels have')} rows or columns that never meet the map or are zero"
            f" ({share:.0%} of the arithmetic)",
            nodes,
            {"share_of_macs": share},
        )
