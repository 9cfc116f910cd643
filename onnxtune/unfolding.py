"""The kernel of a convolution as matrices, and factors of these matrices as two convolutions.

The axes of W (group g, outputs O, inputs I, taps u, v...) are sorted into two sets: rows belong to the first
of the two layers, columns to the second. Each tap axis goes to one layer with its stride, dilation and pads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from onnxtune.convolution import Convolution, add_conv
from onnxtune.fragment import Builder
from onnxtune.lowrank import Matrix, proves_more
from onnxtune.windows import Window

GROUP, OUT, IN, TAPS = 0, 1, 2, 3
Axes = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Unfolding:
    """One way to sort the axes. Matrices are stacked over `batch`: the groups, for `depthwise` the inputs too."""

    form: str
    conv: Convolution
    batch: Axes
    first: Axes
    second: Axes

    @property
    def _ordered(self) -> Matrix:
        conv = self.conv
        w = conv.weight.reshape(conv.group, conv.out_channels // conv.group, -1, *conv.window.kernel)
        return w.transpose(*self.batch, *self.first, *self.second)

    @property
    def stack(self) -> Matrix:
        """(B, first axes, second axes)"""
        w, b, f = self._ordered, len(self.batch), len(self.first)
        return w.reshape(prod(w.shape[:b]), prod(w.shape[b : b + f]), -1)

    def largest_rank(self, ratio: float) -> int:
        """The largest rank with which two layers need at most `ratio` of the products."""
        strides = (1, 1, 1, *self.conv.window.strides)
        early = prod(strides[a] for a in self.second)  # the first layer runs before these strides
        w, b, f = self._ordered, len(self.batch), len(self.first)
        rows, columns = prod(w.shape[b : b + f]), prod(w.shape[b + f :])
        return int(ratio * rows * columns / (rows * early + columns))

    def promises(self, rank: int, roundoff: float) -> bool:
        """A quick look at a few matrices: may all have at most this rank?"""
        w, b = self._ordered, len(self.batch)
        count = prod(w.shape[:b])
        places = (np.unravel_index(i, w.shape[:b]) for i in sorted({0, count // 2, count - 1}))
        return rank >= 1 and not any(proves_more(w[p], len(self.first), rank, roundoff) for p in places)

    def moved(self, first: Matrix, second: Matrix) -> float:
        """Largest change of a filter, relative to it, when its factors stand for it (Frobenius norms)."""
        w = self._ordered
        change = w - (first.astype(np.float64) @ second.astype(np.float64)).reshape(w.shape)
        order = (*self.batch, *self.first, *self.second)
        inner = tuple(i for i, a in enumerate(order) if a not in (GROUP, OUT))
        was, now = (np.square(a).sum(axis=inner) for a in (w, change))
        return float(np.sqrt(np.max(now / np.where(was, was, 1e-300))))

    def write(self, new: Builder, first: Matrix, second: Matrix) -> str:
        """The two convolutions of factors (B, first axes, r) and (B, r, second axes)."""
        conv, g = self.conv, self.conv.group
        early, late = (
            [k if TAPS + i in own else 1 for i, k in enumerate(conv.window.kernel)] for own in (self.first, self.second)
        )
        rank, out = first.shape[2], conv.out_channels // g
        if IN in self.batch:  # (g I, taps, r) and (g I, r, O)
            inner = conv.in_channels
            kernel = first.swapaxes(1, 2).reshape(inner * rank, 1, *early)
            mixing = second.reshape(g, -1, rank, out).transpose(0, 3, 1, 2)
        else:  # (g, I taps, r) and (g, r, O taps)
            inner = g
            kernel = first.swapaxes(1, 2).reshape(g * rank, -1, *early)
            mixing = second.reshape(g, rank, out, -1).swapaxes(1, 2)
        x = add_conv(new, conv.x, kernel, None, part(conv.window, self.first), conv.dtype, inner)
        weight = mixing.reshape(conv.out_channels, -1, *late)
        return add_conv(new, x, weight, conv.bias, part(conv.window, self.second), conv.dtype, g)


def unfoldings(conv: Convolution) -> Iterator[Unfolding]:
    """Those in which a low rank can save products."""
    kernel, dense = conv.window.kernel, conv.out_channels > conv.group
    taps = tuple(range(TAPS, TAPS + len(kernel)))
    if prod(kernel) > 1 and dense:
        yield Unfolding("depthwise", conv, (GROUP, IN), taps, (OUT,))
    if len(kernel) == 2 and min(kernel) > 1:
        yield Unfolding("columns", conv, (GROUP,), (IN, TAPS), (OUT, TAPS + 1))
        yield Unfolding("rows", conv, (GROUP,), (IN, TAPS + 1), (OUT, TAPS))
    if conv.in_channels > conv.group and dense:
        yield Unfolding("output", conv, (GROUP,), (IN, *taps), (OUT,))
        if prod(kernel) > 1:
            yield Unfolding("input", conv, (GROUP,), (IN,), (OUT, *taps))


def part(window: Window, axes: Axes) -> Window:
    """The window on the tap axes that a layer has, 1 x 1 on the others."""
    own = [TAPS + i in axes for i in range(len(window.kernel))]

    def keep(values: Axes, other: int) -> Axes:
        return tuple(v if o else other for v, o in zip(values, own, strict=True))

    return replace(
        window,
        kernel=keep(window.kernel, 1),
        strides=keep(window.strides, 1),
        dilations=keep(window.dilations, 1),
        begin=keep(window.begin, 0),
        end=keep(window.end, 0),
    )
