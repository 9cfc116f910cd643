"""A convolution by Winograd's fast filter along one axis, written in ONNX operators.

Along the axis, m outputs of an r-tap filter take n = m + r - 1 products in place of m r (onnxtune/winograd.py):

    y[m t + k] = sum over i of A[k, i] (sum over the other axis and the channels of U_i * d_i)[t]
    d_i[t] = sum over j of B[i, j] x[m t + j - pad]        U_i = sum over j of G[i, j] w[j]

which is

    d_i    n depthwise Conv with stride m and the row B[i] as kernel (its zeros at both ends left out), Concat
    U_i    one Conv in n times the groups whose kernel has size 1 along the axis and stays as it is along the other
    A      one Conv 1 from n to m channels on the line of all outputs, then the m phases are interleaved

A bias b adds to all outputs alike, as the product of the point 1 does: it goes there. An activation that ONNX
Runtime computes inside of a Conv moves behind A, where it still can. Only along one axis: along both, the
products fall once more, but the transforms and the weights grow faster than that on a CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.convolution import Convolution, add_conv, convolution
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.pointwise import fused_after, replay
from onnxtune.proposal import Decline, Proposal
from onnxtune.windows import Window
from onnxtune.winograd import Fast, fast

RULE = "winograd_conv"
HEIGHT, WIDTH = 0, 1
NEARLY = 1.07
"""How many times the least products smaller tiles may take: their transforms are shorter, and lose fewer digits."""


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        weight = facts.size(node.input(1)) if node.is_op("Conv") else None
        if weight is None or len(weight) != 4:
            continue
        axis = HEIGHT if weight[2 + HEIGHT] > 1 else WIDTH
        sizes = [n - weight[2 + axis] + 1 for n in settings["points"]]
        if weight[2 + axis] < 3 or max(sizes) < 2 or min(weight[0], weight[1]) < settings["channels"]:
            continue
        conv = convolution(facts, node)
        why = conv if isinstance(conv, str) else _why_not(facts, conv, axis)
        if why:
            yield Decline(RULE, node.key, why)
            continue
        assert isinstance(conv, Convolution), "else there is a reason"
        if m := _tile(weight[2 + axis], _length(facts, conv.y, axis), sizes):
            yield _proposal(facts, conv, axis, m)


def _why_not(facts: Facts, conv: Convolution, axis: int) -> str:
    if conv.dtype.itemsize < 4:
        return f"{conv.dtype} rounds too coarsely for the transforms"
    along = ("height", "width")[axis]
    if conv.window.strides[axis] != 1:
        return f"stride {conv.window.strides[axis]} along the {along}"
    if conv.window.dilations[axis] != 1:
        return f"dilation {conv.window.dilations[axis]} along the {along}"
    if not _length(facts, conv.x, axis) or not _length(facts, conv.y, axis):
        return f"the {along} is not known"
    return ""


def _tile(taps: int, out: int, sizes: Sequence[int]) -> int:
    """Outputs of a tile: as few products as may be, and of nearly as few the least sums. 0: the map is too small."""
    products = {m: -(-out // m) * (m + taps - 1) for m in sorted(sizes) if 2 <= m <= out}
    return next((m for m, n in products.items() if n <= NEARLY * min(products.values())), 0)


def _length(facts: Facts, tensor: str, axis: int) -> int:
    """The map's size along the axis; 0 when the model does not fix it."""
    shape = facts.shape(tensor)
    size = shape[2 + axis] if shape is not None and len(shape) == 4 else None
    return size if isinstance(size, int) else 0


def _proposal(facts: Facts, conv: Convolution, axis: int, m: int) -> Proposal:
    r, out = conv.window.kernel[axis], _length(facts, conv.y, axis)
    algorithm, tiles = fast(m, r), -(-out // m)
    activation = fused_after(facts, conv.y)
    after = [] if activation is None else [activation]
    new = Builder(f"{conv.node.key}/{RULE}", facts.names, facts.opset)
    y = _inputs(new, conv, axis, algorithm, tiles, _length(facts, conv.x, axis))
    y = _products(new, y, conv, axis, algorithm)
    y = replay(new, _outputs(new, y, conv, algorithm), after)
    y = _interleaved(new, y, conv, axis, m, tiles, out)
    region = [conv.node, *after]
    kernel = "x".join(map(str, conv.window.kernel))
    title = f"Conv {kernel} -> Winograd F({m}, {r}) along the {('height', 'width')[axis]}"
    outputs = {region[-1].outputs[0]: y}
    return Proposal(RULE, title, frozenset(n.key for n in region), new.finish(outputs))


def _inputs(new: Builder, conv: Convolution, axis: int, algorithm: Fast, tiles: int, size: int) -> str:
    """d_i of all i, (N, n C, tiles, W) along the height: n depthwise Conv."""
    m = algorithm.outputs.shape[0]
    made = []
    for row in algorithm.inputs:
        taps, first, step = _tight(row)
        begin = conv.window.begin[axis] - first
        if begin < 0:  # a Conv cannot leave out what it does not need
            taps, first, step = row[min(first, conv.window.begin[axis]) :], min(first, conv.window.begin[axis]), 1
            begin = conv.window.begin[axis] - first
        reach = (len(taps) - 1) * step + 1
        end = max((tiles - 1) * m + reach - size - begin, 0)
        window = Window(_on(axis, len(taps)), _on(axis, m), _on(axis, step), _on(axis, begin, 0), _on(axis, end, 0))
        kernel = np.broadcast_to(taps.reshape(1, 1, *window.kernel), (conv.in_channels, 1, *window.kernel))
        made.append(add_conv(new, conv.x, kernel, None, window, conv.dtype, conv.in_channels))
    return str(new.Concat(*made, axis=1))


def _tight(row: NDArray[np.float64]) -> tuple[NDArray[np.float64], int, int]:
    """The taps without zeros at both ends and, where every other one is zero, between: taps, first one, dilation."""
    used = np.flatnonzero(row)
    first, last = int(used[0]), int(used[-1])
    step = 2 if last > first and (last - first) % 2 == 0 and not row[first + 1 : last : 2].any() else 1
    return row[first : last + 1 : step], first, step


def _products(new: Builder, d: str, conv: Convolution, axis: int, algorithm: Fast) -> str:
    """U_i * d_i of all i, (N, n M, tiles, W'): one Conv in groups."""
    points = algorithm.filter.shape[0]
    u = np.tensordot(algorithm.filter, conv.weight, (1, 2 + axis))
    u = np.expand_dims(u, 3 + axis).reshape(points * conv.out_channels, conv.weight.shape[1], *_kernel(conv, axis))
    bias = None if conv.bias is None else np.outer(np.arange(points) == algorithm.one, conv.bias).reshape(-1)
    own = conv.window
    window = Window(
        _kernel(conv, axis),
        own.strides,
        own.dilations,
        _without(own.begin, axis),
        _without(own.end, axis),
    )
    return add_conv(new, d, u, bias, window, conv.dtype, points * conv.group)


def _outputs(new: Builder, u: str, conv: Convolution, algorithm: Fast) -> str:
    """The m phases of all outputs, (N, m, M H' W' / m): on a line, since a map would be cut into blocks of channels."""
    m, points = algorithm.outputs.shape
    u = new.Reshape(u, np.array([0, points, -1], np.int64))
    line = Window((1,), (1,), (1,), (0,), (0,))
    return add_conv(new, u, algorithm.outputs.reshape(m, points, 1), None, line, conv.dtype)


def _interleaved(new: Builder, y: str, conv: Convolution, axis: int, m: int, tiles: int, out: int) -> str:
    """(N, M, H', W') from the m phases."""
    channels, whole = conv.out_channels, m * tiles
    apart = [0, m, channels, tiles, -1] if axis == HEIGHT else [0, m, channels, -1, tiles]
    joined = [0, channels, whole, -1] if axis == HEIGHT else [0, channels, -1, whole]
    order = [0, 2, 3, 1, 4] if axis == HEIGHT else [0, 2, 3, 4, 1]
    y = new.Transpose(new.Reshape(y, np.array(apart, np.int64)), perm=order)
    y = new.Reshape(y, np.array(joined, np.int64))
    return y if whole == out else new.slice(y, 2 + axis, 0, out)


def _kernel(conv: Convolution, axis: int) -> tuple[int, ...]:
    return tuple(1 if a == axis else k for a, k in enumerate(conv.window.kernel))


def _without(numbers: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return tuple(0 if a == axis else k for a, k in enumerate(numbers))


def _on(axis: int, number: int, other: int = 1) -> tuple[int, int]:
    """This number along the axis, `other` along the other one."""
    return (number, other) if axis == HEIGHT else (other, number)
