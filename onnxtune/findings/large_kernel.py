"""Dense kernels of 5x5 and more.

A k x k kernel costs k^2 multiplications for each pair of channels and output pixel. Two 3x3 layers see as much
as one 5x5 for 18 instead of 25, three as much as a 7x7 for 27 instead of 49; a k x 1 and a 1 x k layer cost 2
k. After training, no such form is exact for general weights (an exact stack costs more than the kernel it
replaces), but trained kernels are close to forms of a quarter to a half of the arithmetic, and refitted to data
these come close enough. When training anew, stacks with an activation between them do better than the large
kernel.

Estimate: 1 / (1 - share (1 - 0.36)) with the layers' share of the arithmetic. Calibration mostly allows a quarter
of it; narrow maps, blocks of channels and memory leave 0.36 of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnxtune.facts import Node
from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK201",
    name="large-kernel",
    summary="Dense kernels of 5x5 and more",
    severity="advice",
    remedy="calibrate",
    action="refit them as cheaper forms (with data), or train stacks of 3x3 instead",
    fires="dense convolutions with a kernel of at least 5 on both axes that have 2 % of the arithmetic or more",
    quiet="depthwise and grouped kernels (they hardly factorise), k x 1 and 1 x k, convolutions over the whole map",
    guidelines=(2, 7),
    items=("A6",),
    rules=("stack_3x3", "separable_conv", "bottleneck_conv", "cp_conv"),
    references=("Simonyan, Zisserman 2015, section 2.3", "Zhang, Zou, He, Sun 2015 (arXiv 1505.06798)"),
)
LEAST_SHARE = 0.02
USUAL, LEAST_GAIN = 0.36, 1.05


def find(scene: Scene) -> Iterator[Found]:
    nodes = [n for n in scene.convolutions if _large(scene, n) and scene.share([n]) >= LEAST_SHARE]
    if not nodes:
        return
    share = scene.share(nodes)
    left = 1 - share * (1 - USUAL)
    sizes = sorted({scene.kernel(n) for n in nodes}, reverse=True)
    shown = ", ".join(f"{h}x{w}" for h, w in sizes)
    forms = [_forms(scene, n) for n in sorted(nodes, key=lambda n: -scene.macs.get(n.key, 0))]
    yield Found(
        f"{several(len(nodes), 'dense convolution', 'dense convolutions')} of {shown} with {share:.0%} of the"
        " multiply-accumulates",
        tuple(sorted(nodes, key=lambda n: -scene.macs.get(n.key, 0))),
        {"share_of_macs": share, "forms": forms},
        left,
        details=tuple(_said(f) for f in forms),
        severity="info" if 1 / left < LEAST_GAIN else None,
    )


def _large(scene: Scene, node: Node) -> bool:
    kernel, after = scene.kernel(node), scene.map_size(node.outputs[0])
    return min(kernel) >= 5 and scene.widths(node)[2] == 1 and after != (1, 1)


def _forms(scene: Scene, node: Node) -> dict[str, Any]:
    """Multiply-accumulates of each form with as many channels between as the narrower side, relative to the layer."""
    (height, width), (into, out, _) = scene.kernel(node), scene.widths(node)
    middle, full = min(into, out), into * out * height * width
    forms: dict[str, Any] = {"node": node.proto.name or node.key, "kernel": [height, width], "channels": [into, out]}
    if height == width and height % 2:
        depth = (height - 1) // 2
        stack = 9 * middle * (into + out + (depth - 2) * middle)
        forms["stack of 3x3"] = round(stack / full, 3)
    forms["column and row"] = round((height * into * middle + width * middle * out) / full, 3)
    return forms


def _said(forms: dict[str, Any]) -> str:
    """ "conv1: 5x5, 64 -> 64 channels; stack of 3x3 0.72, column and row 0.4 of its arithmetic" """
    (height, width), (into, out) = forms["kernel"], forms["channels"]
    shares = ", ".join(f"{form} {forms[form]:g}" for form in ("stack of 3x3", "column and row") if form in forms)
    return f"{forms['node']}: {height}x{width}, {into} -> {out} channels; {shares} of its arithmetic at equal width"
