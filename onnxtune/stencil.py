"""Convolutions as algebra: sums, compositions and scalings of linear maps that see a window around each place.

A Stencil is y = W * x + b with zeros outside of the map, what one Conv node computes. Identity, averages and
per-channel scales are stencils with one filter per channel. All arithmetic is in float64.

A tap a of an axis with dilation d and pads p reads x at s i + d a - p, for output place i of stride s.

    scaled      s (W * x + b) + t  =  (s W) * x + (s b + t)
    composed    U * (V * x): taps a and b meet at s1 (d2 b - p2) + d1 a - p1, in steps of s1 s2. Exact on an
                axis if the second has no pads there, or the first is a plain pick of places (kernel 1, no pads)
                without a bias: what the second sees outside of the map is then 0 on both ways.
    summed      taps at equal offsets add; the window spans them all, pads begin where the first one does.
                The output's size needs E = begin + end - d (k - 1) to be the same in all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnxtune.convolution import Convolution
from onnxtune.windows import Window

Vector = NDArray[np.float64]
Ints = tuple[int, ...]
LARGEST = 2**24
"""Weights (in number) above which no kernel is computed."""


@dataclass(frozen=True, eq=False)
class Stencil:
    """`weight`: (C_out, C_in / group, *kernel); `bias`: (C_out,), zeros when there is none."""

    weight: NDArray[np.float64]
    bias: Vector
    window: Window
    group: int

    @property
    def out_channels(self) -> int:
        return int(self.weight.shape[0])

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[1]) * self.group

    @property
    def biased(self) -> bool:
        return bool(self.bias.any())

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.weight).all() and np.isfinite(self.bias).all())

    def scaled(self, scale: Vector, shift: Vector) -> Stencil:
        """scale * y + shift; both (C_out,) or (1,)."""
        rows = np.broadcast_to(scale, (self.out_channels,)).reshape(-1, *(1,) * (self.weight.ndim - 1))
        return replace(self, weight=self.weight * rows, bias=self.bias * scale + shift)

    def regrouped(self, group: int) -> Stencil:
        """The same map with fewer groups (`group` divides the present number), filled up with zeros."""
        merged = self.group // group
        if merged == 1:
            return self
        rows, columns = self.out_channels // self.group, self.weight.shape[1]
        weight = np.zeros((group, merged, rows, merged, columns, *self.window.kernel))
        by_block = self.weight.reshape(group, merged, rows, columns, *self.window.kernel)
        for i in range(merged):
            weight[:, i, :, i] = by_block[:, i]
        shape = (self.out_channels, merged * columns, *self.window.kernel)
        return replace(self, weight=weight.reshape(shape), group=group)


def of(conv: Convolution) -> Stencil:
    return Stencil(conv.weight, conv.shift, conv.window, conv.group)


def box(channels: int, window: Window) -> Stencil:
    """The average over a window that counts its padding (kernel 1: identity), one filter per channel."""
    weight = np.full((channels, 1, *window.kernel), 1.0 / math.prod(window.kernel))
    return Stencil(weight, np.zeros(channels), window, channels)


def identity(channels: int, axes: int) -> Stencil:
    ones, none = (1,) * axes, (0,) * axes
    return box(channels, Window(ones, ones, ones, none, none))


def composed(first: Stencil, second: Stencil) -> Stencil | str:
    """`second` after `first` as one stencil, or in words why it is not one."""
    if second.in_channels != first.out_channels:
        return "the channels do not fit"
    one, two = first.window, second.window
    for k, p, q, a, b in zip(one.kernel, one.begin, one.end, two.begin, two.end, strict=True):
        if (a or b) and (k != 1 or p or q):
            return "the second layer pads what the first one has spread: the border would differ"
        if (a or b) and first.biased:
            return "the first layer has a bias (or shift) that the second one's padding does not see"
    group = math.gcd(first.group, second.group)
    window, places = _composed_window(one, two)
    rows, columns, inner = second.out_channels // group, first.in_channels // group, first.out_channels // group
    if max(rows * columns * math.prod(window.kernel), inner * max(rows, columns)) * group > LARGEST:
        return "the composed kernel would be too large"
    first, second = first.regrouped(group), second.regrouped(group)
    v = _taps_first(first.weight.reshape(group, inner, columns, *one.kernel))
    u = _taps_first(second.weight.reshape(group, rows, inner, *two.kernel))
    weight = np.zeros((*window.kernel, group, rows, columns))
    for tap, later in itertools.product(_indices(one), _indices(two)):
        weight[tuple(int(p[i, j]) for p, i, j in zip(places, tap, later, strict=True))] += u[later] @ v[tap]
    taps = tuple(range(len(window.kernel)))
    bias = second.bias + (u.sum(taps) @ first.bias.reshape(group, inner, 1)).ravel()
    shape = (group * rows, columns, *window.kernel)
    return Stencil(np.moveaxis(weight, taps, range(-len(taps), 0)).reshape(shape), bias, window, group)


def _taps_first(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """(group, rows, columns, *kernel) as (*kernel, group, rows, columns)."""
    return np.ascontiguousarray(np.moveaxis(weight, (0, 1, 2), (-3, -2, -1)))


def _indices(window: Window) -> Iterator[Ints]:
    return itertools.product(*(range(k) for k in window.kernel))


def _composed_window(one: Window, two: Window) -> tuple[Window, list[NDArray[np.int64]]]:
    """The window of the composition and, per axis, where tap a of the first and b of the second meet: [a, b]."""
    places, dilations, kernel = [], [], []
    for k, s, d, k2, d2 in zip(one.kernel, one.strides, one.dilations, two.kernel, two.dilations, strict=True):
        offsets = d * np.arange(k)[:, None] + s * d2 * np.arange(k2)
        step = math.gcd(*(int(o) for o in offsets.ravel())) or 1
        places.append(offsets // step)
        dilations.append(step)
        kernel.append(int(offsets.max()) // step + 1)
    strides = tuple(a * b for a, b in zip(one.strides, two.strides, strict=True))
    begin = tuple(p + s * q for p, s, q in zip(one.begin, one.strides, two.begin, strict=True))
    end = tuple(p + s * q for p, s, q in zip(one.end, one.strides, two.end, strict=True))
    return Window(tuple(kernel), strides, tuple(dilations), begin, end), places


def summed(parts: Sequence[Stencil], *, same_size: bool) -> Stencil | str:
    """The sum of stencils of one input, or in words why it is not one.

    `same_size`: the outputs are known to have the same size, whatever the windows say.
    """
    if len({(p.in_channels, p.out_channels) for p in parts}) > 1:
        return "the branches differ in channels"
    if len({p.window.strides for p in parts}) > 1:
        return "the branches differ in strides"
    window = _common_window([p.window for p in parts], same_size=same_size)
    if isinstance(window, str):
        return window
    group = math.gcd(*(p.group for p in parts))
    shape = (parts[0].out_channels, parts[0].in_channels // group, *window.kernel)
    if math.prod(shape) > LARGEST:
        return "the common kernel would be too large"
    weight = np.zeros(shape)
    for part in parts:
        weight[_taps(part.window, window)] += part.regrouped(group).weight
    return Stencil(weight, np.sum([p.bias for p in parts], axis=0), window, group)


def _common_window(windows: Sequence[Window], *, same_size: bool) -> Window | str:
    kernel, dilations, begin, end = [], [], [], []
    for axis in range(len(windows[0].kernel)):
        starts = [-w.begin[axis] for w in windows]
        reach = [w.dilations[axis] * (w.kernel[axis] - 1) for w in windows]
        extra = [w.end[axis] - s - r for w, s, r in zip(windows, starts, reach, strict=True)]
        if len(set(extra)) > 1 and not same_size:
            return "the branches give the same size only for some sizes of the map"
        first, last = min(starts), max(s + r for s, r in zip(starts, reach, strict=True))
        steps = [w.dilations[axis] for w in windows if w.kernel[axis] > 1]
        step = math.gcd(*steps, *(s - first for s in starts)) or 1
        kernel.append((last - first) // step + 1)
        dilations.append(step)
        begin.append(-first)
        end.append(max(extra) + last)
    if min(begin + end) < 0:
        return "negative pads"
    return Window(tuple(kernel), windows[0].strides, tuple(dilations), tuple(begin), tuple(end))


def _taps(part: Window, whole: Window) -> tuple[slice, ...]:
    """Where the part's taps lie in the common kernel: an index of the weight."""
    result = [slice(None), slice(None)]
    for k, d, p, step, start in zip(part.kernel, part.dilations, part.begin, whole.dilations, whole.begin, strict=True):
        first, stride = (start - p) // step, max(1, d // step)
        result.append(slice(first, first + stride * (k - 1) + 1, stride))
    return tuple(result)


def applied(stencil: Stencil, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The stencil's value on x: (N, C_in, *size), bias included."""
    w, groups = stencil.window, stencil.group
    spatial = tuple(zip(w.begin, w.end, strict=True))
    padded = np.pad(x, ((0, 0), (0, 0), *spatial))
    wide = zip(padded.shape[2:], w.kernel, w.strides, w.dilations, strict=True)
    out = tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in wide)
    taps = _taps_first(stencil.weight.reshape(groups, stencil.out_channels // groups, -1, *w.kernel))
    result = np.zeros((x.shape[0], groups, stencil.out_channels // groups, math.prod(out)))
    for tap in _indices(w):
        starts = (d * t for d, t in zip(w.dilations, tap, strict=True))
        seen = (slice(a, a + s * (o - 1) + 1, s) for a, s, o in zip(starts, w.strides, out, strict=True))
        result += taps[tap] @ padded[(slice(None), slice(None), *seen)].reshape(x.shape[0], groups, -1, math.prod(out))
    bias = stencil.bias.reshape(1, -1, *(1,) * len(out))
    return np.asarray(result.reshape(x.shape[0], stencil.out_channels, *out) + bias)
