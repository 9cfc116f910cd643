"""Pools whose windows overlap.

A max pool of 3x3 with stride 2 reads each pixel 2.25 times, one of 2x2 with stride 2 once, and the maps that
they leave are of the same size. Overlap was introduced with AlexNet, where it lowered the error by 0.4 points;
in later networks strided convolutions or 2x2 pools do without. The functions differ, so the change needs
training.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnxtune.finding import Check, Found, Worth
from onnxtune.fragment import Builder
from onnxtune.proposal import Proposal
from onnxtune.scene import Scene
from onnxtune.trial import Timer

CHECK = Check(
    code="CK105",
    name="overlapping-pool",
    summary="Pools whose windows overlap",
    severity="info",
    remedy="retrain",
    action="train with windows as large as the stride (2x2, stride 2)",
    fires="a max or average pool with stride 2 or more whose kernel is larger than its stride",
    quiet="kernel equal to the stride, stride 1, pools over the whole map",
    guidelines=(5,),
    items=("A9",),
    references=("Krizhevsky, Sutskever, Hinton: ImageNet classification with deep CNNs, 2012, section 3.4",),
)


def find(scene: Scene) -> Iterator[Found]:
    nodes = []
    for node in scene.facts.nodes:
        kernel, strides = node.attribute("kernel_shape", []), node.attribute("strides", [1, 1])
        after = scene.map_size(node.outputs[0]) if node.is_op("MaxPool", "AveragePool") else None
        if (
            after not in (None, (1, 1))
            and min(strides) >= 2
            and any(k > s for k, s in zip(kernel, strides, strict=True))
        ):
            nodes.append(node)
    if nodes:
        first = nodes[0]
        kernel, strides = first.attribute("kernel_shape"), first.attribute("strides")
        reads = kernel[0] * kernel[1] / (strides[0] * strides[1])
        shape = f"{kernel[0]}x{kernel[1]} with stride {strides[0]}"
        subject = f"the pool of {shape} reads" if len(nodes) == 1 else f"{len(nodes)} pools ({shape}) read"
        yield Found(f"{subject} each pixel {reads:.3g} times", tuple(nodes), {"reads_per_pixel": reads})


def measure(scene: Scene, found: Found, timer: Timer) -> Worth | None:
    """The pools with windows as large as their strides, timed in their places."""
    saved = 0.0
    for node in found.nodes:
        if len(node.outputs) > 1:
            continue
        comparison = timer.region(scene.facts, _plain_pool(scene, node.key)).comparison
        if comparison is not None and comparison.verdict == "faster":
            saved += comparison.saved
    return Worth("measured", None, "pools as large as their strides", saved)


def _plain_pool(scene: Scene, key: str) -> Proposal:
    node = scene.facts.by_key[key]
    kernel, strides = list(node.attribute("kernel_shape")), list(node.attribute("strides"))
    before, after = scene.map_size(node.input(0)), scene.map_size(node.outputs[0])
    assert before is not None and after is not None, "only pools of known maps are found"  # noqa: PT018
    short = [max((a - 1) * s + s - b, 0) for a, s, b in zip(after, strides, before, strict=True)]
    new = Builder(f"{key}/plain_pool", scene.facts.names, scene.facts.opset)
    small = [min(k, s) for k, s in zip(kernel, strides, strict=True)]
    pads = [0, 0, *(min(v, k - 1) for v, k in zip(short, small, strict=True))]
    out = new.copy(node.proto, [node.input(0)], kernel_shape=small, pads=pads, auto_pad=None, ceil_mode=None)[0]
    return Proposal("", "plain pool", frozenset({key}), new.finish({node.outputs[0]: out}))
