"""Padding that depends on the input's size.

auto_pad SAME_UPPER and SAME_LOWER are resolved when a map arrives: with stride 2, even sizes are padded on one
side only and odd ones on both, so the same weights see another border at another input size. Explicit pads say
what is meant, and every tool understands them. The same holds for output_shape of transposed convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK610",
    name="implicit-padding",
    summary="Padding that depends on the input's size",
    severity="info",
    remedy="export",
    action="export with explicit pads",
    fires="auto_pad SAME on layers with a stride or an even kernel, or output_shape on transposed convolutions",
    quiet="explicit pads, VALID, and SAME where it is symmetric for every size",
    guidelines=(3,),
    items=("A15",),
)


def find(scene: Scene) -> Iterator[Found]:
    nodes = []
    for node in scene.facts.nodes:
        same = str(node.attribute("auto_pad", "NOTSET")).startswith("SAME")
        shaped = node.is_op("ConvTranspose") and bool(node.attribute("output_shape"))
        kernel = node.attribute("kernel_shape", None) or list(scene.facts.size(node.input(1)) or ())[2:]
        uneven = max(node.attribute("strides", [1]), default=1) > 1 or any(k % 2 == 0 for k in kernel)
        if node.is_op("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool") and ((same and uneven) or shaped):
            nodes.append(node)
    if nodes:
        yield Found(
            f"{several(len(nodes), 'layer leaves', 'layers leave')} padding to the runtime: other sizes, other borders",
            tuple(nodes),
            {"layers": len(nodes)},
        )
