"""Kernels with an even number of taps.

An even kernel has no centre: padding cannot be the same on both sides, each layer shifts the map by half a
pixel, and kernels tuned for 3x3 do not take it. Where the stride is as large as the kernel (patches, 2x2
reduction) nothing overlaps and even is right.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK202",
    name="even-kernel",
    summary="Kernels with an even number of taps",
    severity="info",
    remedy="retrain",
    action="train with the odd kernel next to it",
    fires="a convolution with an even kernel whose windows overlap",
    quiet="kernels as large as their stride, kernels over the whole map, transposed convolutions, small layers",
    guidelines=(2,),
    items=("A6",),
)
LEAST_SHARE = 0.01


def find(scene: Scene) -> Iterator[Found]:
    nodes = []
    for node in scene.convolutions:
        kernel, strides, before = scene.kernel(node), scene.strides(node), scene.map_size(node.input(0))
        whole = before is not None and any(k >= b for k, b in zip(kernel, before, strict=True))
        even = any(k % 2 == 0 and k != s for k, s in zip(kernel, strides, strict=True))
        if even and not whole and scene.share([node]) >= LEAST_SHARE:
            nodes.append(node)
    if nodes:
        shown = ", ".join(f"{h}x{w}" for h, w in sorted({scene.kernel(n) for n in nodes}))
        yield Found(
            f"{several(len(nodes), 'convolution', 'convolutions')} of {shown}: no centre, maps shift by half a pixel",
            tuple(nodes),
            {"share_of_macs": scene.share(nodes)},
        )
