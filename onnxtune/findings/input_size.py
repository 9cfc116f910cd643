"""Input height and width against the strides of the network.

Each layer of stride s leaves a map of ceil(H / s) rows (with "same" padding) or drops the rows that its last
window does not reach. With S the product of all strides, an H that is no multiple of S pays twice: a row more
on every smaller map (225 instead of 224 pixels costs a 50-layer residual network 8x8 instead of 7x7 at the
end), or rows of the image that no output ever sees. Multiples of S are what counts; powers of two are only the
special case where S is one. The cost grows with H W, so the table shows the neighbouring multiples and powers
of two.

Rows dropped: the last row that a window reads is (out - 1) s + d (k - 1) - p_begin; what lies after it, inside
of the map, is not seen. 1x1 kernels with a stride skip pixels everywhere and have a check of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import onnx

from onnxtune.costs import macs
from onnxtune.errors import ModelError
from onnxtune.facts import Facts, Node
from onnxtune.finding import Check, Found, Worth, several
from onnxtune.model import Model
from onnxtune.scene import Scene
from onnxtune.shapes import describe
from onnxtune.trial import Timer

CHECK = Check(
    code="CK101",
    name="input-size",
    summary="Input sizes that the strides do not divide",
    severity="info",
    remedy="deploy",
    action="feed images of a neighbouring size from the table; accuracy at another size must be checked on data",
    fires="height or width is no multiple of the total stride although every layer rounds up, or a layer never reads"
    " the last rows or columns of its map",
    quiet="every strided layer divides its map; an open size that is not given; networks without stride; inputs"
    " that are no images",
    guidelines=(1,),
    items=("A4",),
    references=("Touvron, Vedaldi, Douze, Jegou: Fixing the train-test resolution discrepancy, 2019",),
)
LEAST_STRIDE = 4
DROPPED, MUCH = 0.03, 0.1
"""Shares of a map's rows or columns from which dropping them is more than a detail, and much."""


def find(scene: Scene) -> Iterator[Found]:
    for value in scene.facts.model.inputs:
        size = scene.facts.size(value.name)
        if size is None or len(size) != 4 or min(size[2:]) < 2 * LEAST_STRIDE or value.name in scene.assumed:
            continue
        stride, strided = _downsampling(scene, value.name)
        if not strided:
            continue
        dropped = {n: _dropped(scene, n) for n in strided}
        lost = [n for n in strided if max(dropped[n]) >= DROPPED]
        rounds_up = all(_rounds_up(scene, n) for n in strided)
        off = [axis for axis in (0, 1) if stride[axis] >= LEAST_STRIDE and size[2 + axis] % stride[axis]]
        if not lost and not (rounds_up and off):
            continue
        table = _table(scene.facts, value.name, size, max(stride))
        worst = max((max(dropped[n]) for n in lost), default=0.0)
        if lost:
            message = (
                f"{several(len(lost), 'layer never reads', 'layers never read')} the last rows or columns of the map"
                f" (up to {worst:.0%}); input '{value.name}' is {size[2]}x{size[3]}, total stride {max(stride)}"
            )
        else:
            message = (
                f"input '{value.name}' is {size[2]}x{size[3]}, no multiple of the total stride {max(stride)}:"
                " every smaller map is rounded up"
            )
        numbers = {"height": size[2], "width": size[3], "stride": max(stride), "dropped": worst, "sizes": table}
        lines = (f"{r['height']}x{r['width']}: {r['macs']:.2f}x the work" for r in table)
        yield Found(
            message,
            tuple(lost),
            numbers,
            severity="advice" if worst >= MUCH else None,
            names=() if lost else (value.name,),
            details=tuple(lines),
        )


def measure(scene: Scene, found: Found, timer: Timer) -> Worth | None:
    """Latency at the neighbouring sizes. None where the model cannot run at another size."""
    sizes = scene.facts.sizes
    value = next(v for v in scene.facts.model.inputs if len(sizes.get(v.name, ())) == 4)
    rows: list[dict[str, Any]] = []
    for row in found.numbers["sizes"]:
        other = {**sizes, value.name: (*sizes[value.name][:2], row["height"], row["width"])}
        if time.monotonic() > timer.deadline:
            break
        try:
            seconds = timer.latency(_opened(scene.facts.model, value.name), other)
        except ModelError:
            continue
        rows.append({**row, "seconds": seconds})
    return Worth("measured", None, "latency at neighbouring sizes", table=tuple(rows)) if len(rows) > 1 else None


def _opened(model: Model, name: str) -> Model:
    """The model with this input's height and width left open, and no stated intermediate shapes."""
    graph = onnx.GraphProto()
    graph.CopyFrom(model.proto.graph)
    del graph.value_info[:]
    for value in graph.input:
        if value.name == name:
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                if axis >= 2:
                    dim.dim_param = f"size{axis}"
    for value in graph.output:
        info = describe(value)
        for dim in value.type.tensor_type.shape.dim if info else ():
            dim.Clear()
    proto = onnx.ModelProto(ir_version=model.proto.ir_version, opset_import=model.proto.opset_import)
    proto.graph.CopyFrom(graph)
    return replace(model, proto=proto, path=None)


def _downsampling(scene: Scene, source: str) -> tuple[tuple[int, int], list[Node]]:
    """Largest total stride by axis of any tensor that stems from the input, and the layers that make it."""
    total: dict[str, tuple[int, int]] = {source: (1, 1)}
    strided = []
    for node in scene.facts.nodes:
        into = [total[i] for i in node.inputs if i in total]
        if not into or not node.outputs:
            continue
        stride = (max(s[0] for s in into), max(s[1] for s in into))
        if node.is_op("Conv", "MaxPool", "AveragePool") and node.input(0) in total:
            own = scene.strides(node)
            if max(own) > 1 and scene.map_size(node.outputs[0]) not in (None, (1, 1)):
                strided.append(node)
                stride = (stride[0] * own[0], stride[1] * own[1])
        elif node.is_op("Resize", "Upsample", "ConvTranspose", "DepthToSpace", "SpaceToDepth"):
            stride = (1, 1)  # going up again: what comes after is judged on its own
        if any(scene.map_size(o) for o in node.outputs if o):
            total.update((o, stride) for o in node.outputs if o)
    strides = list(total.values())
    return (max(s[0] for s in strides), max(s[1] for s in strides)), strided


def _window(node: Node, axis: int, scene: Scene) -> tuple[int, int]:
    """(kernel extent, stride) along an axis."""
    kernel = scene.kernel(node) if node.is_op("Conv") else tuple(node.attribute("kernel_shape", [1, 1]))
    dilations = list(node.attribute("dilations", [1, 1]))
    return dilations[axis] * (kernel[axis] - 1) + 1, scene.strides(node)[axis]


def _dropped(scene: Scene, node: Node) -> tuple[float, float]:
    """Share of rows and of columns that no window reads."""
    before, after, pads = scene.map_size(node.input(0)), scene.map_size(node.outputs[0]), scene.pads(node)
    if before is None or after is None or pads is None:
        return 0.0, 0.0
    shares = []
    for axis in (0, 1):
        extent, stride = _window(node, axis, scene)
        last = (after[axis] - 1) * stride + extent - pads[axis]
        shares.append(max(before[axis] - last, 0) / before[axis] if extent >= stride else 0.0)
    return shares[0], shares[1]


def _rounds_up(scene: Scene, node: Node) -> bool:
    before, after = scene.map_size(node.input(0)), scene.map_size(node.outputs[0])
    if before is None or after is None:
        return False
    return all(a == math.ceil(b / s) for a, b, s in zip(after, before, scene.strides(node), strict=True))


def _table(facts: Facts, name: str, size: tuple[int, ...], stride: int) -> list[dict[str, Any]]:
    """Multiply-accumulates of the convolutions at neighbouring multiples of the stride and powers of two."""
    step = max(stride, 2)

    def near(h: int) -> set[int]:
        low, power = h // step * step, 2 ** int(math.log2(h))
        return {v for v in (low, low + step, power, 2 * power) if 0.6 * h <= v <= 1.5 * h}

    pairs = {(h, max(round(size[3] * h / size[2] / step), 1) * step) for h in near(size[2])}
    if size[2] == size[3]:
        pairs = {(h, h) for h in near(size[2])}
    base = _convolution_macs(facts)
    rows = []
    for height, width in sorted(pairs | {(size[2], size[3])}):
        other = Facts(facts.model, {**facts.sizes, name: (*size[:2], height, width)})
        ratio = _convolution_macs(other) / max(base, 1)
        rows.append({"height": height, "width": width, "macs": round(ratio, 3)})
    return rows


def _convolution_macs(facts: Facts) -> int:
    nodes: Iterable[Node] = (n for n in facts.nodes if n.is_op("Conv", "ConvTranspose"))
    return sum(macs(facts, n) for n in nodes)
