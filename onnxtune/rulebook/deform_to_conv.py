"""A deformable convolution with uniform offsets as a plain convolution.

    y[o, i] = sum over c, k of w[o, c, k] m[k] x(c, s i - p + d k + f[k]) + b[o]

where x at a place between pixels is interpolated linearly per axis and is 0 outside of the map, pixel by pixel
(a place less than one pixel outside still gets its share of the border). If mask m and offsets f are the same
for all i, then with f[k] + d k = n + t, n whole, 0 <= t < 1, each tap adds (1 - t) w m to position n and
t w m to position n + 1, per axis: a plain kernel over the positions lo .. hi, with p - lo pads before and
as many after as keep the output's size. Pads are 0 outside of the map, as interpolation takes it to be.

Offsets of 0 leave kernel and dilations as they are. Input channels may come in groups with offsets of their
own. Offsets and masks are followed through what makes them (see onnxtune/uniform.py); these nodes go, too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.convolution import add_conv
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No
from onnxtune.uniform import uniform
from onnxtune.windows import Window, window

RULE = "deform_to_conv"
Floats = NDArray[np.float64]


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        if node.is_op("DeformConv"):
            answer = _answer(facts, node, settings["growth"])
            yield Decline(RULE, node.key, str(answer)) if isinstance(answer, No) else answer


def _answer(facts: Facts, node: Node, growth: float) -> Proposal | No:
    weight, bias = facts.constant(node.inputs[1]), facts.constant(node.input(3))
    if weight is None or (node.input(3) and bias is None):
        return No("the weights are not constant")
    frame, groups = window(facts, node), node.attribute("offset_group", 1)
    if isinstance(frame, str) or len(frame.kernel) != 2:
        return No(frame if isinstance(frame, str) else "the map does not have two axes")
    each = (groups, *frame.kernel)
    offsets = _fixed(facts, node.inputs[2], (*each, 2))
    mask = _fixed(facts, node.input(4), each) if node.input(4) else (np.ones(each), ())
    if offsets is None or mask is None:
        return No(f"the {'offsets' if offsets is None else 'mask'} depend on the input or the place")
    (shifts, makers), (scales, others) = offsets, mask
    region = dict.fromkeys([*makers, *others, node])
    keys = frozenset(n.key for n in region)
    for tensor in (o for n in (*makers, *others) for o in n.outputs if o):
        if seen := facts.why_not_private(tensor, keys):
            return No(seen)
    group = node.attribute("group", 1)
    wide = weight.astype(np.float64)
    wide = wide * _per_channel(scales, wide, group)
    if shifts.any():
        places = _places(shifts, frame)
        larger = _larger(places, frame)
        if math.prod(larger.kernel) > growth * math.prod(frame.kernel):
            return No(f"a plain kernel would be {larger.kernel[0]}x{larger.kernel[1]}")
        low = np.array(frame.begin) - larger.begin
        wide, frame = _enlarged(wide, _per_channel(places - low, wide, group), larger), larger
    new = Builder(f"{node.key}/{RULE}", facts.names, facts.opset)
    shift = None if bias is None else bias.astype(np.float64)
    y = add_conv(new, node.inputs[0], wide, shift, frame, weight.dtype, group)
    title = f"DeformConv with fixed offsets -> Conv {'x'.join(map(str, frame.kernel))}"
    return Proposal(RULE, title, keys, new.finish({node.outputs[0]: y}))


def _fixed(facts: Facts, tensor: str, shape: tuple[int, ...]) -> tuple[Floats, Sequence[Node]] | None:
    """The tensor's values per channel in this shape and the nodes that make it, None when they vary."""
    found = uniform(facts, tensor)
    if found is None or len(found.values) not in (1, math.prod(shape)) or not np.isfinite(found.values).all():
        return None
    return np.broadcast_to(found.values, (math.prod(shape),)).reshape(shape), found.nodes


def _per_channel(values: Floats, weight: Floats, group: int) -> Floats:
    """(offset groups, ...) as (C_out, C_in / group, ...): what the input channel of each weight has."""
    rows, columns = weight.shape[:2]
    channels = (np.arange(rows) // (rows // group))[:, None] * columns + np.arange(columns)
    return np.asarray(values[channels // (columns * group // len(values))])


def _places(shifts: Floats, frame: Window) -> Floats:
    """Where each tap looks, relative to the first pixel of the window: (offset groups, kH, kW, 2)."""
    rows, columns = (np.arange(k) * d for k, d in zip(frame.kernel, frame.dilations, strict=True))
    return np.asarray(shifts + np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1))


def _larger(places: Floats, frame: Window) -> Window:
    """The window that holds all places, wide enough for pads that are not negative."""
    reach = np.array([d * (k - 1) for k, d in zip(frame.kernel, frame.dilations, strict=True)])
    low = np.minimum(np.floor(places.min((0, 1, 2))), frame.begin).astype(int)
    high = np.maximum(np.ceil(places.max((0, 1, 2))), reach - frame.end).astype(int)
    rows, columns = (high - low + 1).tolist()
    begin, end = (tuple(v.tolist()) for v in (np.array(frame.begin) - low, np.array(frame.end) + high - reach))
    return Window((rows, columns), frame.strides, (1, 1), begin, end)


def _enlarged(weight: Floats, places: Floats, frame: Window) -> Floats:
    """The kernel of the larger window; places: (C_out, C_in / group, kH, kW, 2) in it."""
    kernel = np.zeros((*weight.shape[:2], *frame.kernel))
    o, c = np.ogrid[: weight.shape[0], : weight.shape[1]]
    for k in np.ndindex(*weight.shape[2:]):
        at = np.floor(places[:, :, *k]).astype(int)
        part = places[:, :, *k] - at
        for corner in itertools.product((0, 1), repeat=2):
            share = np.prod(np.where(corner, part, 1 - part), axis=-1)
            row, column = (
                np.minimum(at[..., i] + corner[i], frame.kernel[i] - 1) for i in range(2)
            )  # share is 0 beyond
            kernel[o, c, row, column] += share * weight[:, :, *k]
    return kernel
