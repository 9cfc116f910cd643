"""A strided convolution as a convolution of stride 1 on blocks of pixels.

SpaceToDepth turns x into X[(r, c), m] = x[c, s m + r] (per axis, 0 <= r < s). With P = ceil(p / s) and
lead = P s - p, tap k of a convolution with stride s and pads p meets

    x[s i + k - p] = x[s (i - P) + k + lead] = X[r, i - P + q]        where k + lead = s q + r

so the same sums come from a kernel W[o, (r, c), q] = w[o, c, s q + r - lead] of ceil((k + lead) / s) taps with
P pads at the start, zeros where w has no tap.

The map is filled up with zeros to whole blocks, which stand for the padding that was there anyway or meet
taps that are zero; blocks that no output reads are cut off. How many there are depends on the size, so height
and width must be known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.convolution import Convolution, add_conv, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.proposal import Decline, Proposal
from onnxtune.rule import No
from onnxtune.windows import Window

RULE = "space_to_depth_stem"


@dataclass(frozen=True)
class Axis:
    """One axis of the new convolution: its taps and pads, the zeros before the old taps, and by how many
    pixels the map is filled up (cut off when negative)."""

    taps: int
    begin: int
    end: int
    lead: int
    more: int


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    if settings["provider"].startswith("cpu"):  # slower in every case measured
        return
    for node in facts.nodes:
        if not node.is_op("Conv") or not _few_channels(facts, node, settings):
            continue
        answer = _answer(facts, node)
        yield Decline(RULE, node.key, str(answer)) if isinstance(answer, No) else answer


def _few_channels(facts: Facts, node: Node, settings: Mapping[str, Any]) -> bool:
    shape = facts.shape(node.input(1))
    strides = node.attribute("strides", [1])
    if shape is None or len(shape) != 4 or max(strides) < 2:
        return False
    channels, *kernel = (d if isinstance(d, int) else 0 for d in shape[1:])
    few = 0 < channels <= settings["channels"] and min(kernel) >= settings["kernel"]
    return bool(few and node.attribute("group", 1) == 1)


def _answer(facts: Facts, node: Node) -> Proposal | No:
    conv, shape = convolution(facts, node), facts.shape(node.inputs[0])
    if isinstance(conv, str):
        return No(conv)
    frame, sizes = conv.window, (None, None) if shape is None else shape[2:]
    if frame.strides[0] != frame.strides[1]:
        return No(f"strides {frame.strides[0]} and {frame.strides[1]}")
    if any(d != 1 for d in frame.dilations):
        return No("dilations")
    axes = []
    for i, size in enumerate(sizes):
        if not isinstance(size, int):
            return No("the height or width is not known")
        axis = _axis(size, frame.kernel[i], frame.strides[i], frame.begin[i], frame.end[i])
        if axis is None:
            return No("an output that meets nothing but padding")
        axes.append(axis)
    return _proposal(facts, conv, axes)


def _axis(size: int, kernel: int, stride: int, begin: int, end: int) -> Axis | None:
    """None when no block of the map is read."""
    outputs = (size + begin + end - kernel) // stride + 1
    before = -(-begin // stride)
    lead = before * stride - begin
    taps = -(-(kernel + lead) // stride)
    read = outputs + taps - 1 - before
    blocks = min(-(-size // stride), read)
    if blocks < 1:
        return None
    return Axis(taps, before, read - blocks, lead, blocks * stride - size)


def _proposal(facts: Facts, conv: Convolution, axes: list[Axis]) -> Proposal:
    new = Builder(f"{conv.node.key}/{RULE}", facts.names, facts.opset)
    x, s = conv.x, conv.window.strides[0]
    for i, a in enumerate(axes, start=2):
        x = new.slice(x, i, 0, a.more) if a.more < 0 else x
    if any(a.more > 0 for a in axes):
        x = new.pad(x, [0, 0, 0, 0, 0, 0, *(max(0, a.more) for a in axes)])
    frame = Window(
        tuple(a.taps for a in axes), (1, 1), (1, 1), tuple(a.begin for a in axes), tuple(a.end for a in axes)
    )
    y = add_conv(new, new.SpaceToDepth(x, blocksize=s), _weight(conv, axes), conv.bias, frame, conv.dtype)
    kernel, taps = ("x".join(map(str, k)) for k in (conv.window.kernel, frame.kernel))
    title = (
        f"Conv {kernel}/{s} on {conv.in_channels} channels -> SpaceToDepth + Conv {taps} on {conv.in_channels * s * s}"
    )
    return Proposal(RULE, title, frozenset({conv.node.key}), new.finish({conv.y: y}))


def _weight(conv: Convolution, axes: list[Axis]) -> NDArray[np.float64]:
    """w as (C_out, s s C_in, taps, taps), the blocks' pixels before their channels."""
    (rows, columns), s = axes, conv.window.strides[0]
    ends = [a.taps * s - a.lead - k for a, k in zip(axes, conv.window.kernel, strict=True)]
    wide = np.pad(conv.weight, [(0, 0), (0, 0), *((a.lead, e) for a, e in zip(axes, ends, strict=True))])
    split = wide.reshape(conv.out_channels, conv.in_channels, rows.taps, s, columns.taps, s)
    return split.transpose(0, 3, 5, 1, 2, 4).reshape(conv.out_channels, -1, rows.taps, columns.taps)
