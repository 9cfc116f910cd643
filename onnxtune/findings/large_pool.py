"""Large max pools that slide pixel by pixel.

A k x k maximum costs k^2 comparisons for each pixel, but it is a chain of smaller ones: 5x5 twice is 9x9, and
rows after columns cost 2 k. Pyramids (SPP 5/9/13) can share the links. Exact.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK107",
    name="large-pool",
    summary="Large max pools that slide pixel by pixel",
    severity="advice",
    remedy="optimize",
    action="they become chains of small pools, or columns and rows, exactly",
    fires="the rule cascade_max_pool offers a form for a pool",
    quiet="small windows, windows that do not overlap",
    guidelines=(5,),
    rules=("cascade_max_pool",),
)


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    keys = {key for p in scene.proposals("cascade_max_pool") for key in p.removes}
    nodes = tuple(n for n in facts.nodes if n.key in keys and n.is_op("MaxPool"))
    if nodes:
        shown = ", ".join(sorted({"x".join(map(str, n.attribute("kernel_shape"))) for n in nodes}))
        yield Found(
            f"{several(len(nodes), 'max pool', 'max pools')} of {shown}: every pixel of the window is compared anew",
            nodes,
            {"kernels": shown},
        )
