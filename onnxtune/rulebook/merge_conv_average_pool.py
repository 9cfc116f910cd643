"""A convolution followed by an average is one convolution. Per axis, kernel k, stride s, dilation d, pad p:

    y[j] = sum_v w[v] x[s j + d v - p]        z[i] = 1/a sum_u y[t i + u]        0 <= u < a, pool stride t
    z[i] = sum_u sum_v w[v]/a x[s t i + (s u + d v) - p]

so the merged kernel has w[v]/a added at s u + d v for all u, v: size s (a - 1) + d (k - 1) + 1, stride s t,
the same pads; distances that s and d have in common are left as its dilation g = gcd(s, d). Zeros around x
are zeros for both. The pool must have no pads of its own (y beyond the border is not 0 but what the
convolution would give there). The bias passes, since the weights of the average sum to 1.

Sizes: with L = padded size - d (k - 1) - 1 the convolution makes n = floor(L / s) + 1 pixels and the pool
floor((n - a) / t) + 1 = floor(floor((L - s (a - 1)) / s) / t) + 1 = floor((L - s (a - 1)) / (s t)) + 1,
which is the merged window's count.

Products per pixel of z: the merged kernel's size, before it was t_h t_w k_h k_w.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.convolution import Convolution, add_conv, convolution
from onnxtune.fragment import Builder
from onnxtune.pattern import Match
from onnxtune.rule import No
from onnxtune.windows import Window, window


def rewrite(match: Match, new: Builder, settings: Mapping[str, Any]) -> str | No:
    pool = match.y
    conv, over = convolution(match.facts, match.c), window(match.facts, pool)
    if isinstance(conv, str) or isinstance(over, str):
        return No(conv if isinstance(conv, str) else str(over))
    if any(over.pads) or any(d != 1 for d in over.dilations) or pool.attribute("ceil_mode", 0):
        return No("the pool has pads, dilations or ceil_mode = 1")
    merged = _window(conv.window, over)
    before = math.prod(over.strides) * math.prod(conv.window.kernel)
    if math.prod(merged.kernel) >= before:
        return No(f"{math.prod(merged.kernel)} products per pixel instead of {before}")
    weight = _blurred(conv, over, merged)
    return add_conv(new, conv.x, weight, conv.bias, merged, conv.dtype, conv.group)


def _window(own: Window, over: Window) -> Window:
    common = tuple(math.gcd(s, d) for s, d in zip(own.strides, own.dilations, strict=True))
    axes = zip(own.kernel, own.strides, own.dilations, over.kernel, common, strict=True)
    kernel = tuple((s * (a - 1) + d * (k - 1)) // g + 1 for k, s, d, a, g in axes)
    strides = tuple(s * t for s, t in zip(own.strides, over.strides, strict=True))
    return Window(kernel, strides, common, own.begin, own.end)


def _blurred(conv: Convolution, over: Window, merged: Window) -> NDArray[np.float64]:
    """(C_out, C_in / group, *merged.kernel): the kernel added up at all places where the average has it."""
    own, size = conv.window, math.prod(over.kernel)
    result = np.zeros((*conv.weight.shape[:2], *merged.kernel))
    for shift in np.ndindex(*over.kernel):
        axes = zip(shift, own.kernel, own.strides, own.dilations, merged.dilations, strict=True)
        taps = (slice(s * u // g, (s * u + d * (k - 1)) // g + 1, d // g) for u, k, s, d, g in axes)
        result[(slice(None), slice(None), *taps)] += conv.weight / size
    return result
