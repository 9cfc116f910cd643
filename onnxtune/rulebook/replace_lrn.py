"""Local response normalization from fast operators.

    y[c] = x[c] / t[c]^beta,    t[c] = bias + alpha / size * sum of x[j]^2
    j from c - floor((size - 1) / 2) to c + ceil((size - 1) / 2), within 0 .. C - 1

The sum over channels is a 1x1 convolution of x^2 with a band matrix, W[c, j] = alpha / size inside the
window and 0 outside, and the bias is the convolution's bias. The other form averages x^2 over a window
of the channel axis (average pooling of (N, 1, C, H, W) that counts its padding); it does fewer
multiplications but cannot use a matrix kernel. Both are measured.

beta = 3/4 (AlexNet, GoogLeNet) needs no power function: t^(3/4) = sqrt(t) * sqrt(sqrt(t)); 1/2 and 1
are simpler still; other exponents use Pow. t > 0 is required, so bias > 0 and alpha >= 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.fragment import Builder
from onnxtune.pattern import Match
from onnxtune.rule import No


def variants(match: Match, settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield {"form": "conv"}
    yield {"form": "pool"}


def rewrite(match: Match, new: Builder, settings: Mapping[str, Any]) -> str | No:
    node, x, facts = match.y, match["x"], match.facts
    shape, channels, dtype = facts.shape(x), facts.channels(x), facts.dtype(x)
    if shape is None or channels is None or dtype is None:
        return No("the number of channels is not known")
    if len(shape) != 4:
        return No(f"the input has rank {len(shape)}, not 4")
    size, beta = node.attribute("size"), node.attribute("beta", 0.75)
    alpha, bias = node.attribute("alpha", 1e-4), node.attribute("bias", 1.0)
    if bias <= 0 or alpha < 0:
        return No(f"bias {bias:g}, alpha {alpha:g}: the root of a negative number could be taken")
    square = new.Mul(x, x)
    if settings["form"] == "conv":
        total = new.Conv(square, band(channels, size, alpha / size).astype(dtype), np.full(channels, bias, dtype))
    else:
        total = _pooled(new, square, size, alpha, bias, dtype)
    return str(new.Div(x, _power(new, total, beta, dtype)))


def band(channels: int, size: int, value: float) -> NDArray[np.float64]:
    """W (C, C, 1, 1): `value` where input channel j lies in the window of output channel c."""
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    inside = (offset >= -((size - 1) // 2)) & (offset <= size // 2)
    return np.where(inside, float(value), 0.0)[:, :, None, None]


def _pooled(new: Builder, square: str, size: int, alpha: float, bias: float, dtype: np.dtype[Any]) -> str:
    pads = [(size - 1) // 2, 0, 0, size // 2, 0, 0]
    deep = new.unsqueeze(square, [1])
    mean = new.AveragePool(deep, kernel_shape=[size, 1, 1], pads=pads, count_include_pad=1)
    flat = new.squeeze(mean, [1])
    return str(new.Add(new.Mul(flat, np.array(alpha, dtype)), np.array(bias, dtype)))


def _power(new: Builder, t: str, beta: float, dtype: np.dtype[Any]) -> str:
    if beta == 1:
        return t
    if beta == 0.5:
        return str(new.Sqrt(t))
    if beta == 0.75:
        root = new.Sqrt(t)
        return str(new.Mul(root, new.Sqrt(root)))
    return str(new.Pow(t, np.array(beta, dtype)))
