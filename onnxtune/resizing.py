"""A Resize or Upsample node as numbers: by how much, and which pixel each output pixel reads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder


@dataclass(frozen=True)
class Resizing:
    """y = Resize(x). `scales`: output size over input size per axis of x, None where it is not known.

    `mode` is nearest, linear or cubic; `coordinates` and `rounding` are the coordinate transformation and
    the nearest mode, as today's operator names what the older ones did. `plain`: without antialiasing,
    excluded borders, a region of interest or an aspect ratio to keep.
    """

    node: Node
    mode: str
    coordinates: str
    rounding: str
    scales: tuple[float | None, ...]
    plain: bool

    @property
    def x(self) -> str:
        return self.node.input(0)

    @property
    def y(self) -> str:
        return self.node.outputs[0]

    @property
    def maps_only(self) -> bool:
        """Are batch and channels left alone?"""
        return self.scales[:2] == (1, 1)


def resizing(facts: Facts, node: Node) -> Resizing | str:
    """The node as numbers, or in words why it cannot be read."""
    if not node.is_op("Resize", "Upsample"):
        return f"{node.op_type} is no Resize"
    rank = facts.rank(node.input(0))
    if rank is None or rank < 3:
        return f"'{node.input(0)}' is not known to be a map"
    mode = node.attribute("mode", "nearest")
    old = node.op_type == "Upsample" or facts.opset < 11
    coordinates = "asymmetric" if old else node.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else node.attribute("nearest_mode", "round_prefer_floor")
    plain = (
        coordinates != "tf_crop_and_resize"
        and not node.attribute("antialias", 0)
        and not node.attribute("exclude_outside", 0)
        and node.attribute("keep_aspect_ratio_policy", "stretch") == "stretch"
    )
    return Resizing(node, mode, coordinates, rounding, _scales(facts, node, rank), plain)


def factors(found: Resizing) -> tuple[int, ...] | str:
    """Per axis of the map the s for which output pixel j is input pixel floor(j / s); in words why there is none.

    That is judged by the index map itself: one period of s pixels decides it, because all coordinate
    transformations allowed here move by one input pixel in s output pixels.
    """
    if found.mode != "nearest" or not found.plain:
        return f"mode '{found.mode}' mixes pixels" if found.mode != "nearest" else "the Resize crops or keeps a ratio"
    if None in found.scales:
        return "the scales are not known before the run"
    if not found.maps_only:
        return "the Resize changes batch or channels"
    result = []
    for scale in found.scales[2:]:
        assert scale is not None
        if scale < 1 or scale != int(scale):
            return f"a scale of {scale:g} is not a whole number"
        s = int(scale)
        pixels = [_pixel(found, s + j, s) for j in range(s)]
        if pixels != [1] * s:
            return f"'{found.coordinates}' with '{found.rounding}' does not repeat each pixel {s} times"
        result.append(s)
    return tuple(result)


def _pixel(found: Resizing, j: int, s: int) -> int | None:
    """The input pixel that output pixel j reads, None when that depends on the size of the map."""
    if s == 1 and found.coordinates in ("align_corners", "half_pixel_symmetric"):
        return j
    match found.coordinates:
        case "asymmetric":
            at = j / s
        case "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric":
            at = (j + 0.5) / s - 0.5
        case "tf_half_pixel_for_nn":
            at = (j + 0.5) / s
        case _:
            return None
    match found.rounding:
        case "floor":
            return math.floor(at)
        case "ceil":
            return math.ceil(at)
        case "round_prefer_floor":
            return math.ceil(at - 0.5)
        case "round_prefer_ceil":
            return math.floor(at + 0.5)
        case _:
            return None


def _scales(facts: Facts, node: Node, rank: int) -> tuple[float | None, ...]:
    """Scales from the attribute, the scales or sizes input, or the declared shapes of both tensors."""
    named = node.attribute("axes") or range(rank)
    axes = [a % rank for a in named]
    known: Sequence[float] | None = node.attribute("scales")
    if known is None:
        last = node.op_type == "Upsample" or facts.opset < 11
        stored = facts.constant(node.input(1 if last else 2))
        known = None if stored is None or not stored.size else [float(v) for v in stored.ravel()]
    if known is not None:
        full = dict(zip(axes, known, strict=True))
        return tuple(full.get(a, 1.0) for a in range(rank))
    return tuple(_ratio(facts, node, axis) if axis in axes else 1.0 for axis in range(rank))


def _ratio(facts: Facts, node: Node, axis: int) -> float | None:
    """Output size over input size as declared; 1 for one symbolic size, None when unknown."""
    x, y = facts.shape(node.input(0)), facts.shape(node.outputs[0])
    sizes = facts.constant(node.input(3))
    if x is None or x[axis] is None:
        return None
    axes = [a % len(x) for a in node.attribute("axes") or range(len(x))]
    out = None if y is None else y[axis]
    if sizes is not None:
        out = int(sizes.ravel()[axes.index(axis)])
    if out == x[axis]:
        return 1.0
    return out / x[axis] if isinstance(out, int) and isinstance(x[axis], int) and x[axis] else None  # type: ignore[operator]


def growth(facts: Facts, resize: Node) -> float:
    """Pixels of the map after the Resize over those before, at the measured sizes; 1 when not known."""
    x, y = facts.size(resize.input(0)), facts.size(resize.outputs[0])
    return 1.0 if x is None or y is None or not math.prod(x[2:]) else math.prod(y[2:]) / math.prod(x[2:])


def other_inputs(
    facts: Facts, new: Builder, found: Resizing, channels: int
) -> Sequence[str | NDArray[np.int64] | None]:
    """The inputs beside x for a map of so many channels: sizes that name channels name the new number."""
    node, named = found.node, found.node.input(3)
    axes = [a % len(found.scales) for a in node.attribute("axes") or range(len(found.scales))]
    if not named or 1 not in axes or facts.channels(found.x) == channels:
        return node.inputs[1:]
    at, stored = axes.index(1), facts.constant(named)
    if stored is not None:
        sizes = [channels if i == at else int(v) for i, v in enumerate(stored)]
        return [*node.inputs[1:3], np.array(sizes, np.int64)]
    ends = [new.slice(named, 0, *part) if part[0] < part[1] else None for part in ((0, at), (at + 1, len(axes)))]
    parts = [ends[0], np.array([channels], np.int64), ends[1]]
    return [*node.inputs[1:3], new.Concat(*(p for p in parts if p is not None), axis=0)]
