"""Transposed convolutions and their phases: the two ways to write a convolution that enlarges its map.

Output pixel s i + a (per axis, 0 <= a < s: its phase) of a transposed convolution with stride s, kernel t
and `before` cut off at the start is

    y[s i + a] = sum over j of t[a - s j + before] x[i + j]

so each phase is a plain convolution of x whose taps are every s-th tap of t. Pixels beyond the map are
zeros in both forms. With c = s n + r outputs (r < s) the last phases would be one shorter: all are made
n + 1 long and the rest is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.convolution import Convolution, add_conv
from onnxtune.facts import Node
from onnxtune.fragment import Builder
from onnxtune.pointwise import replay
from onnxtune.windows import Window

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Transposed:
    """kernel: (C_out, C_in / group, *taps). The output has s H + `grows` pixels for H of the input, per axis."""

    kernel: Floats
    strides: tuple[int, ...]
    before: tuple[int, ...]
    grows: tuple[int, ...]

    @property
    def pads(self) -> list[int]:
        """What a ConvTranspose cuts off, begins then ends: s (H - 1) + taps - begin - end = s H + grows."""
        taps = self.kernel.shape[2:]
        axes = zip(taps, self.strides, self.before, self.grows, strict=True)
        return [*self.before, *(t - s - b - g for t, s, b, g in axes)]

    @property
    def surplus(self) -> tuple[int, ...]:
        """Pixels per axis by which s equally long phases are too long."""
        return tuple(-g % s for g, s in zip(self.grows, self.strides, strict=True))


@dataclass(frozen=True, eq=False)
class Phase:
    """One phase as a convolution of the small map: kernel (C_out, C_in / group, *taps), pads begin and end."""

    kernel: Floats
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def frame(self) -> Window:
        taps = self.kernel.shape[2:]
        ones = (1,) * len(taps)
        return Window(taps, ones, ones, self.begin, self.end)


def add_transposed(new: Builder, x: str, whole: Transposed, bias: Floats | None, dtype: np.dtype[Any]) -> str:
    """Write a ConvTranspose with these numbers, rounded to `dtype`; its weights are (C_in, C_out, *taps)."""
    return str(
        new.ConvTranspose(
            x,
            whole.kernel.swapaxes(0, 1).astype(dtype),
            None if bias is None else bias.astype(dtype),
            kernel_shape=list(whole.kernel.shape[2:]),
            strides=list(whole.strides),
            pads=whole.pads if any(whole.pads) else None,
        )
    )


def square(strides: Sequence[int]) -> bool:
    """Can DepthToSpace interleave the phases?"""
    return len(strides) == 2 and strides[0] == strides[1]


def add_enlarging(
    new: Builder, x: str, whole: Transposed, conv: Convolution, form: str, after: Sequence[Node] = ()
) -> str:
    """Write it with bias, type and groups of `conv`: `transposed`, in `phases`, or with `one` Conv for all phases.

    `after`: activations, which go before the interleaving. The last two forms need `square` strides, the
    last one opset 11.
    """
    if form == "transposed":
        return replay(new, add_transposed(new, x, whole, conv.bias, conv.dtype), after)
    make = _each_phase if form == "phases" else _one_bank
    mode = "CRD" if form == "one" else None
    y = str(new.DepthToSpace(make(new, x, whole, conv, after), blocksize=whole.strides[0], mode=mode))
    for axis, cut in enumerate(whole.surplus, start=2):
        y = new.slice(y, axis, 0, -cut) if cut else y
    return y


def _each_phase(new: Builder, x: str, whole: Transposed, conv: Convolution, after: Sequence[Node]) -> str:
    made = [
        replay(new, add_conv(new, x, p.kernel, conv.bias, p.frame, conv.dtype, conv.group), after)
        for p in phases(whole)
    ]
    return str(new.Concat(*made, axis=1))


def _one_bank(new: Builder, x: str, whole: Transposed, conv: Convolution, after: Sequence[Node]) -> str:
    every = phases(whole, alike=True)
    kernel = np.stack([p.kernel for p in every], axis=1).reshape(-1, *every[0].kernel.shape[1:])
    bias = None if conv.bias is None else np.repeat(conv.bias, len(every))
    return replay(new, add_conv(new, x, kernel, bias, every[0].frame, conv.dtype, conv.group), after)


def phases(whole: Transposed, *, alike: bool = False) -> list[Phase]:
    """All phases in row-major order; `alike`: filled up with zeros to one kernel with the same pads."""
    axes = [_axis(whole, axis) for axis in range(len(whole.strides))]
    if alike:
        axes = [[(min(lo for lo, _ in a), max(hi for _, hi in a))] * len(a) for a in axes]
    return [_phase(whole, index, axes) for index in np.ndindex(*whole.strides)]


def _axis(whole: Transposed, axis: int) -> list[tuple[int, int]]:
    """First and last j of each phase along an axis, wide enough for pads that are not negative."""
    taps, s = whole.kernel.shape[2 + axis], whole.strides[axis]
    before, longer = whole.before[axis], math.ceil(whole.grows[axis] / s)
    ranges = []
    for a in range(s):
        low, high = math.ceil((a + before - taps + 1) / s), (a + before) // s
        ranges.append((min(low, 0), max(high, -longer)))
    return ranges


def _phase(whole: Transposed, index: tuple[int, ...], axes: list[list[tuple[int, int]]]) -> Phase:
    kernel = whole.kernel
    begin, end = [], []
    for axis, a in enumerate(index):
        low, high = axes[axis][a]
        positions = a - whole.strides[axis] * np.arange(low, high + 1) + whole.before[axis]
        inside = (positions >= 0) & (positions < whole.kernel.shape[2 + axis])
        shape = [1] * kernel.ndim
        shape[2 + axis] = -1
        taken = np.take(kernel, np.where(inside, positions, 0), axis=2 + axis)
        kernel = taken * inside.reshape(shape)
        begin.append(-low)
        end.append(math.ceil(whole.grows[axis] / whole.strides[axis]) + high)
    return Phase(kernel, tuple(begin), tuple(end))


def upsampled(kernel: Floats, factors: tuple[int, ...], frame: Window) -> Transposed:
    """Nearest upsampling by whole factors, then a convolution of stride 1 with these (float64) taps.

    Repeating each pixel s times is a transposed convolution with s ones, so the taps add up under a
    sliding box: t[q + d (K - 1 - k)] += w[k] for q in 0..s-1.
    """
    for axis, (s, d) in enumerate(zip(factors, frame.dilations, strict=True), start=2):
        reach = d * (kernel.shape[axis] - 1)
        wide = np.zeros((*kernel.shape[:axis], s + reach, *kernel.shape[axis + 1 :]))
        at = np.moveaxis(wide, axis, 0)
        for k in range(kernel.shape[axis]):
            at[reach - d * k : reach - d * k + s] += np.take(kernel, k, axis=axis)
        kernel = wide
    reaches = [d * (k - 1) for d, k in zip(frame.dilations, frame.kernel, strict=True)]
    return _cut(kernel, factors, frame, reaches)


def shuffled(kernel: Floats, block: int, frame: Window) -> Transposed:
    """A convolution of stride 1 without dilations, then pixels from channels in blocks.

    kernel: (C_out, *phase, C_in / group, *taps), one filter for each phase. Phases do not overlap:
    t[a + s (K - 1 - k)] = w[a, k].
    """
    axes = len(frame.kernel)
    flipped = np.flip(kernel, axis=tuple(range(-axes, 0)))
    order = [0, axes + 1]
    for axis in range(axes):
        order += [axes + 2 + axis, 1 + axis]
    whole = flipped.transpose(order).reshape(
        kernel.shape[0], kernel.shape[axes + 1], *(block * k for k in frame.kernel)
    )
    return _cut(whole, (block,) * axes, frame, [block * (k - 1) for k in frame.kernel], block)


def _cut(kernel: Floats, strides: tuple[int, ...], frame: Window, reaches: list[int], unit: int = 1) -> Transposed:
    """The transposed convolution whose output a window with pads of `unit` pixels cuts to size.

    Pads beyond the kernel's reach would cut less than nothing: the kernel gets zeros there instead.
    """
    begin = [r - unit * p for r, p in zip(reaches, frame.begin, strict=True)]
    end = [r - unit * p for r, p in zip(reaches, frame.end, strict=True)]
    more = [(max(0, -b), max(0, -e)) for b, e in zip(begin, end, strict=True)]
    grows = tuple(r - b - e for r, b, e in zip(reaches, begin, end, strict=True))
    return Transposed(np.pad(kernel, [(0, 0), (0, 0), *more]), strides, tuple(max(0, b) for b in begin), grows)
