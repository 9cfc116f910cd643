"""Convolutions without padding, which lose the border of their map.

A k x k window without padding leaves (H - k + 1)(W - k + 1) of H W pixels. What was at the border is seen by
fewer windows, and each layer works on a map that must have been larger to begin with. Padding with zeros costs
nothing.

Where it is on purpose (segmentation by overlapping tiles, exactness at the border) it is right as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found, several
from onnxtune.scene import Scene

CHECK = Check(
    code="CK103",
    name="shrinking-border",
    summary="Convolutions without padding, which lose the border of their map",
    severity="info",
    remedy="retrain",
    action="train with zero padding of half the kernel: the border is kept, and the same map fits a smaller input",
    fires="convolutions of stride 1 with a kernel of at least 3 and no padding lose 10 % of their map's pixels or more",
    quiet="padded convolutions, strided ones, those over the whole map, and those after a Pad",
    guidelines=(3,),
    references=("Simonyan, Zisserman: Very deep convolutional networks, 2015, section 2.1",),
)
LOST = 0.1


def find(scene: Scene) -> Iterator[Found]:
    facts = scene.facts
    found = []
    for conv in scene.convolutions:
        before, after = scene.map_size(conv.input(0)), scene.map_size(conv.outputs[0])
        made = facts.producer(conv.input(0))
        if before is None or after is None or min(after) <= 1 or scene.strides(conv) != (1, 1):
            continue
        if min(scene.kernel(conv)) < 3 or scene.pads(conv) != (0, 0, 0, 0) or (made is not None and made.is_op("Pad")):
            continue
        lost = 1 - after[0] * after[1] / (before[0] * before[1])
        if lost >= LOST:
            found.append((lost, conv))
    if found:
        worst, kept = max(lost for lost, _ in found), 1.0
        for lost, _ in found:
            kept *= 1 - lost
        yield Found(
            f"{several(len(found), 'convolution without padding loses', 'convolutions without padding lose')} up to"
            f" {worst:.0%} of the map" + (f", {1 - kept:.0%} together" if len(found) > 1 else ""),
            tuple(conv for _, conv in found),
            {"largest_loss": worst, "total_loss": 1 - kept},
        )
