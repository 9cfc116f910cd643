"""Taps of a window that read nothing but padding, and the window without them.

Per axis, kernel k, stride s, dilation d, pads (p, q), map of H pixels, n = floor((H + p + q - d (k - 1) - 1) / s) + 1
outputs: tap u reads pixel i s + u d - p for output i. It reads padding alone when none of these is in [0, H).

Cutting off `a` leading and `b` trailing taps takes a d from the leading and b d from the trailing pad, so that
i s + u d - p and n stay what they were for the taps that are left. As many can be cut as the pads allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.windows import Window

Cut = tuple[int, int]
"""How many taps go at the begin and at the end of an axis."""


def unread_taps(own: Window, axis: int, size: object) -> NDArray[np.bool_]:
    """Which taps of an axis read padding alone; none when the map's size is not known or too small."""
    k, s, d = own.kernel[axis], own.strides[axis], own.dilations[axis]
    if not isinstance(size, int) or size + own.begin[axis] + own.end[axis] <= d * (k - 1):
        return np.zeros(k, bool)
    count = (size + own.begin[axis] + own.end[axis] - d * (k - 1) - 1) // s + 1
    pixel = s * np.arange(count)[:, None] + d * np.arange(k) - own.begin[axis]
    return np.asarray(((pixel < 0) | (pixel >= size)).all(axis=0))


def zero_taps(weight: NDArray[Any]) -> list[NDArray[np.bool_]]:
    """Which taps of each axis have no weight in any channel."""
    zero = (weight == 0).all(axis=(0, 1))
    return [zero.all(axis=tuple(a for a in range(zero.ndim) if a != axis)) for axis in range(zero.ndim)]


def outer_cut(own: Window, axis: int, dead: NDArray[np.bool_]) -> Cut:
    """As many of the outer dead taps as the pads pay for; one tap stays."""
    live = np.flatnonzero(~dead)
    first, last = (int(live[0]), int(live[-1])) if live.size else (len(dead) - 1, len(dead) - 1)
    d = own.dilations[axis]
    return min(first, own.begin[axis] // d), min(len(dead) - 1 - last, own.end[axis] // d)


def cropped(own: Window, cuts: Sequence[Cut]) -> Window:
    """What is left of the window after the cuts of each axis."""
    axes = list(zip(own.kernel, own.dilations, own.begin, own.end, cuts, strict=True))
    kernel = tuple(k - a - b for k, _, _, _, (a, b) in axes)
    return replace(
        own,
        kernel=kernel,
        begin=tuple(p - a * d for _, d, p, _, (a, _) in axes),
        end=tuple(q - b * d for _, d, _, q, (_, b) in axes),
        dilations=tuple(1 if k == 1 else d for k, d in zip(kernel, own.dilations, strict=True)),
    )


def trimmed(own: Window, smaller: Window, sizes: Sequence[object]) -> Window:
    """Without end pads that the last window of the larger one did not reach either (a stride left them over)."""
    end = list(smaller.end)
    for axis, size in enumerate(sizes):
        if isinstance(size, int):
            reach = own.dilations[axis] * (own.kernel[axis] - 1)
            last = (size + own.begin[axis] + own.end[axis] - reach - 1) // own.strides[axis] * own.strides[axis]
            ahead = last - smaller.begin[axis] + smaller.dilations[axis] * (smaller.kernel[axis] - 1)
            end[axis] = min(end[axis], max(0, ahead + 1 - size))
    return replace(smaller, end=tuple(end))
