"""A convolution by Winograd's fast filters along one axis or both, written in ONNX operators.

Along an axis, m outputs of an r-tap filter take n = m + r - 1 products in place of m r (onnxtune/winograd.py):

    y[m t + k] = sum over i of A[k, i] (sum over the other axis and the channels of U_i * d_i)[t]
    d_i[t] = sum over j of B[i, j] x[m t + j - pad]        U_i = sum over j of G[i, j] w[j]

and along both, with pairs of i. Which is

    d      for each axis: n depthwise Conv with stride m and a row of B as kernel (without its zeros), Concat
    U * d  one Conv in as many times the groups as there are products; its kernel has size 1 along the axis
    A      for each axis: one Conv 1 from n to m channels on the line of all tiles and channels (a map would be cut
           into blocks of channels), and a Transpose that puts the m outputs of each tile side by side

A bias b adds to all outputs alike, as the product of the points 1 does: it goes there. An activation that ONNX
Runtime computes inside of a Conv moves behind A, where it still can.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.convolution import Convolution, add_conv, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.pointwise import fused_after, replay
from onnxtune.proposal import Decline, Proposal
from onnxtune.windows import Window
from onnxtune.winograd import Fast, fast

RULE = "winograd_conv"
AXES = ("height", "width")
SLICE = 10
"""The first opset in which the ends of a Slice are an input."""
Size = int | str
"""A size that is known (-1: Reshape finds it), or the tensor of one number that holds it."""
NEARLY, NEARLY_BOTH = 1.07, 1.15
"""How many times the least products smaller tiles may take, along one axis and each of two: their transforms are
shorter, and lose fewer digits, of which both axes together lose more."""


@dataclass(frozen=True, eq=False)
class Tiling:
    """A fast filter along an axis of the map (0: height): `tiles` of them side by side cover `out` outputs: numbers
    that the model fixes or, where not `fixed`, those at the measured size."""

    axis: int
    algorithm: Fast
    out: int
    fixed: bool

    @property
    def m(self) -> int:
        """Outputs of one tile."""
        return int(self.algorithm.outputs.shape[0])

    @property
    def points(self) -> int:
        """Products of one tile."""
        return int(self.algorithm.outputs.shape[1])

    @property
    def tiles(self) -> int:
        return -(-self.out // self.m)


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        weight = facts.size(node.input(1)) if node.is_op("Conv") else None
        if weight is None or len(weight) != 4 or min(weight[:2]) < settings["channels"]:
            continue
        long = [a for a in (0, 1) if 3 <= weight[2 + a] < max(settings["points"])]
        if not long:
            continue
        conv = convolution(facts, node)
        reasons = [conv] * len(long) if isinstance(conv, str) else [_why_not(facts, conv, a) for a in long]
        if all(reasons):
            yield Decline(RULE, node.key, reasons[0])
            continue
        assert isinstance(conv, Convolution), "else there is a reason"
        axes = [a for a, why in zip(long, reasons, strict=True) if not why]
        for tilings in _tilings(facts, conv, axes, settings["points"]):
            yield _proposal(facts, conv, tilings)


def _tilings(facts: Facts, conv: Convolution, axes: Sequence[int], points: Sequence[int]) -> Iterator[list[Tiling]]:
    """One axis, rows rather than columns, since they lie one behind the other in memory; and both."""
    yield from [[t] for a in axes if (t := _tiling(facts, conv, a, points, NEARLY)) is not None][:1]
    both = [t for a in axes if (t := _tiling(facts, conv, a, points, NEARLY_BOTH)) is not None]
    if len(both) == 2:
        yield both


def _why_not(facts: Facts, conv: Convolution, axis: int) -> str:
    if conv.dtype.itemsize < 4:
        return f"{conv.dtype} rounds too coarsely for the transforms"
    if conv.window.strides[axis] != 1:
        return f"stride {conv.window.strides[axis]} along the {AXES[axis]}"
    if conv.window.dilations[axis] != 1:
        return f"dilation {conv.window.dilations[axis]} along the {AXES[axis]}"
    if facts.size(conv.y) is None:
        return "the map's size is not known"
    if facts.opset < SLICE and not _fixed(facts, conv.y, axis):
        return f"the {AXES[axis]} is not fixed, and before opset {SLICE} a Slice takes no computed end"
    return ""


def _fixed(facts: Facts, tensor: str, axis: int) -> bool:
    """Does the model itself say how large the map is along the axis?"""
    shape = facts.shape(tensor)
    return shape is not None and len(shape) == 4 and isinstance(shape[2 + axis], int)


def _tiling(facts: Facts, conv: Convolution, axis: int, points: Sequence[int], nearly: float) -> Tiling | None:
    """Tiles that take as few products as may be, and of nearly as few the least sums; None: the map is too small."""
    taps, out = conv.window.kernel[axis], (facts.size(conv.y) or ())[2 + axis]
    sizes = sorted(n - taps + 1 for n in points)
    found = [Tiling(axis, fast(m, taps), out, _fixed(facts, conv.y, axis)) for m in sizes if 2 <= m <= out]
    least = min((t.tiles * t.points for t in found), default=0)
    return next((t for t in found if t.tiles * t.points <= nearly * least), None)


def _proposal(facts: Facts, conv: Convolution, tilings: Sequence[Tiling]) -> Proposal:
    activation = fused_after(facts, conv.y)
    after = [] if activation is None else [activation]
    new = Builder(f"{conv.node.key}/{RULE}", facts.names, facts.opset)
    y, channels = conv.x, conv.in_channels
    for tiling in tilings:
        y = _inputs(new, y, channels, conv, tiling)
        channels *= tiling.points
    y = _products(new, y, conv, tilings)
    y = _outputs(new, y, conv, tilings, after)
    region = [conv.node, *after]
    form = " and ".join(f"F({t.m}, {conv.window.kernel[t.axis]}) along the {AXES[t.axis]}" for t in tilings)
    title = f"Conv {'x'.join(map(str, conv.window.kernel))} -> Winograd {form}"
    outputs = {region[-1].outputs[0]: y}
    return Proposal(RULE, title, frozenset(n.key for n in region), new.finish(outputs))


def _inputs(new: Builder, x: str, channels: int, conv: Convolution, tiling: Tiling) -> str:
    """d along one axis, (N, n C, tiles, W) along the height: n depthwise Conv.

    A row whose last tap has the place q reads up to q - r + 1 + (m - 1) rows behind the map's last window: with as
    many pads more there are tiles for all outputs, however large the map.
    """
    axis, begin, end = tiling.axis, conv.window.begin[tiling.axis], conv.window.end[tiling.axis]
    made = []
    for row in tiling.algorithm.inputs:
        taps, first, step = _tight(row)
        if first > begin:  # a Conv cannot leave out the map's first rows
            taps, first, step = row[begin:], begin, 1
        behind = first + (len(taps) - 1) * step + 1 - conv.window.kernel[axis]
        pads = _on(axis, begin - first, 0), _on(axis, end + behind, 0)
        window = Window(_on(axis, len(taps)), _on(axis, tiling.m), _on(axis, step), *pads)
        kernel = np.broadcast_to(taps.reshape(1, 1, *window.kernel), (channels, 1, *window.kernel))
        made.append(add_conv(new, x, kernel, None, window, conv.dtype, channels))
    return str(new.Concat(*made, axis=1))


def _tight(row: NDArray[np.float64]) -> tuple[NDArray[np.float64], int, int]:
    """The taps without zeros at both ends and, where every other one is zero, between: taps, first one, dilation."""
    used = np.flatnonzero(row)
    first, last = int(used[0]), int(used[-1])
    step = 2 if last > first and (last - first) % 2 == 0 and not row[first + 1 : last : 2].any() else 1
    return row[first : last + 1 : step], first, step


def _products(new: Builder, d: str, conv: Convolution, tilings: Sequence[Tiling]) -> str:
    """U * d, (N, n M, tiles, W') along the height: one Conv in groups."""
    u = conv.weight
    for tiling in tilings:  # the axis goes to the front, as in d
        u = np.tensordot(tiling.algorithm.filter, u, (1, u.ndim - 2 + tiling.axis))
        u = np.expand_dims(u, u.ndim - 1 + tiling.axis)
    own, products = conv.window, math.prod(t.points for t in tilings)
    along = [t.axis for t in tilings]
    kernel, begin, end = (_without(v, along, least) for v, least in ((own.kernel, 1), (own.begin, 0), (own.end, 0)))
    window = Window(kernel, own.strides, own.dilations, begin, end)
    u = u.reshape(products * conv.out_channels, conv.weight.shape[1], *kernel)
    bias = None
    if conv.bias is not None:
        ones = reduce(np.multiply.outer, [np.arange(t.points) == t.algorithm.one for t in reversed(tilings)])
        bias = np.multiply.outer(ones, conv.bias).reshape(-1)
    return add_conv(new, d, u, bias, window, conv.dtype, products * conv.group)


def _outputs(new: Builder, u: str, conv: Convolution, tilings: Sequence[Tiling], activation: Sequence[Node]) -> str:
    """(N, M, H', W') from the products, one axis after the other, the last one first."""
    channels = conv.out_channels * math.prod(t.points for t in tilings)
    map_ = _map(new, u, tilings)
    line = Window((1,), (1,), (1,), (0,), (0,))
    for tiling in reversed(tilings):
        u = new.Reshape(u, np.array([0, tiling.points, -1], np.int64))
        u = add_conv(new, u, tiling.algorithm.outputs[:, :, None], None, line, conv.dtype)
        u = replay(new, u, activation if tiling is tilings[0] else [])
        channels //= tiling.points
        u = _interleaved(new, u, channels, map_, tiling)
        map_[tiling.axis] = tiling.out if tiling.fixed else _end(new, conv, tiling.axis)
        if not tiling.fixed or tiling.tiles * tiling.m != tiling.out:
            u = _cropped(new, u, tiling.axis, map_[tiling.axis])
    return u


def _map(new: Builder, u: str, tilings: Sequence[Tiling]) -> list[Size]:
    """Sizes of the map of products."""
    known: dict[int, Size] = {t.axis: t.tiles for t in tilings if t.fixed}
    free = [a for a in (0, 1) if a not in known]
    if len(free) < 2:  # Reshape finds one
        return [known.get(a, -1) for a in (0, 1)]
    sizes = new.Shape(u)
    return [new.slice(sizes, 0, 2 + a, 3 + a) for a in (0, 1)]


def _end(new: Builder, conv: Convolution, axis: int) -> str:
    """The outputs' size along an axis, from that of the inputs."""
    size = new.slice(new.Shape(conv.x), 0, 2 + axis, 3 + axis)
    more = conv.window.begin[axis] + conv.window.end[axis] - conv.window.kernel[axis] + 1
    return str(new.Add(size, np.array([more], np.int64))) if more else size


def _cropped(new: Builder, y: str, axis: int, end: Size) -> str:
    if isinstance(end, int):
        return new.slice(y, 2 + axis, 0, end)
    return str(new.Slice(y, np.array([0], np.int64), end, np.array([2 + axis], np.int64)))


def _interleaved(new: Builder, y: str, channels: int, map_: Sequence[Size], tiling: Tiling) -> str:
    """(N, C, H', tiles) from the outputs of each tile, (N, m, C H' tiles): their places along the axis."""
    y = _reshaped(new, y, [0, tiling.m, channels, *map_])
    y = new.Transpose(y, perm=[0, 2, 3, 1, 4] if tiling.axis == 0 else [0, 2, 3, 4, 1])
    whole = tiling.tiles * tiling.m if tiling.fixed else -1
    return _reshaped(new, y, [0, channels, *(whole if a == tiling.axis else size for a, size in enumerate(map_))])


def _reshaped(new: Builder, x: str, shape: Sequence[Size]) -> str:
    """Reshape, some of whose sizes are tensors."""
    if all(isinstance(size, int) for size in shape):
        return str(new.Reshape(x, np.array(shape, np.int64)))
    parts = (size if isinstance(size, str) else np.array([size], np.int64) for size in shape)
    return str(new.Reshape(x, new.Concat(*parts, axis=0)))


def _without(numbers: tuple[int, ...], axes: Sequence[int], least: int) -> tuple[int, ...]:
    return tuple(least if a in axes else k for a, k in enumerate(numbers))


def _on(axis: int, number: int, other: int = 1) -> tuple[int, int]:
    """This number along the axis, `other` along the other one."""
    return (number, other) if axis == 0 else (other, number)
