"""Deformable convolutions.

Each tap reads at a place of its own, between pixels, and the places come from another convolution. No processor
has a fast path for that. Offsets that do not depend on the input make it a plain convolution, exactly; offsets
that hardly vary on real images nearly so. How far they spread cannot be told from the weights alone unless
these are zero, so the user's samples are asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnxtune.facts import Node
from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK205",
    name="deformable",
    summary="Deformable convolutions",
    severity="info",
    remedy="retrain",
    action="where the offsets hardly vary on your images, train on with a plain convolution in its place",
    fires="a DeformConv, or a deformable convolution of another domain",
    quiet="plain convolutions",
    guidelines=(9,),
    items=("A11",),
    rules=("deform_to_conv",),
    references=("Dai et al.: Deformable convolutional networks, 2017",),
)
NAMES = ("DeformConv", "DeformableConv2D", "MMCVDeformConv2d", "MMCVModulatedDeformConv2d", "DeformableConv")
STILL = 0.1
"""Spread of offsets, in pixels, below which they hardly matter."""


def find(scene: Scene) -> Iterator[Found]:
    nodes = tuple(n for n in scene.facts.nodes if n.op_type in NAMES)
    fixed = {key for p in scene.proposals("deform_to_conv") for key in p.removes} if nodes else set()
    still = tuple(n for n in nodes if n.key in fixed)
    if still:
        yield Found(
            several(len(still), "deformable convolution", "deformable convolutions")
            + " whose offsets do not depend on the input",
            still,
            {"share_of_macs": scene.share(still)},
            severity="advice",
            remedy="optimize",
            action="they become plain convolutions, exactly",
        )
    moving = tuple(n for n in nodes if n.key not in fixed)
    if moving:
        spreads = [s for s in (_spread(scene, n) for n in moving) if s is not None]
        known = (
            f"offsets spread by up to {max(spreads):.2g} pixels on your samples"
            if spreads
            else ("how far their offsets spread is not known without --calibration-data")
        )
        near = bool(spreads) and max(spreads) < STILL
        yield Found(
            several(len(moving), "deformable convolution", "deformable convolutions")
            + f", which no processor has a fast path for; {known}",
            moving,
            {"share_of_macs": scene.share(moving), "largest_spread": max(spreads, default=None)},
            severity="advice" if near else None,
            rules=(),
        )


def asks(scene: Scene) -> set[str]:
    """Tensors that the user's samples are asked about."""
    return {n.input(2 if n.op_type == "DeformConv" else 1) for n in scene.facts.nodes if n.op_type in NAMES}


def _spread(scene: Scene, node: Node) -> float | None:
    """Standard deviation of the offsets on the samples, in pixels."""
    name = node.input(2 if node.op_type == "DeformConv" else 1)
    if scene.seen is None or name not in scene.seen:
        return None
    mean, square = scene.seen[name]
    return math.sqrt(max(square - mean**2, 0.0))
