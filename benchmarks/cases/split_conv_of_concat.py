"""Cases for `split_conv_of_concat`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from benchmarks.cases import CaseOf, weights_of
from onnxtune.testing import model_of


def _decoder(coarse: int, fine: int, c_out: int, size: int, k: int, mode: str = "nearest") -> onnx.ModelProto:
    """A coarse map upsampled by 2, joined to a fine one, a convolution that keeps the size."""
    weights = {
        "w": weights_of(c_out, coarse + fine, k, k),
        "b": weights_of(c_out),
        "s": np.array([1, 1, 2, 2], np.float32),
    }
    body = f"""a = Relu (x)  f = Relu (z)  u = Resize <mode = "{mode}"> (a, , s)  j = Concat <axis = 1> (u, f)
               c = Conv <pads = {[k // 2] * 4}> (j, w, b)  y = Relu (c)"""
    inputs = f"float[N, {coarse}, {size // 2}, {size // 2}] x, float[N, {fine}, {size}, {size}] z"
    return model_of(f"g ({inputs}) => (float[N, C, H, W] y) {{ {body} }}", weights)


def _pyramid(channels: int, size: int) -> onnx.ModelProto:
    """Four maps at 1, 1/2, 1/4 and 1/8 of the size, brought to one size, joined, a 1x1 layer (SegFormer's head)."""
    inputs = ", ".join(f"float[N, {channels}, {size >> i}, {size >> i}] x{i}" for i in range(4))
    body = " ".join(f'u{i} = Resize <mode = "linear"> (x{i}, , s{i})' for i in range(1, 4))
    weights = {f"s{i}": np.array([1, 1, 2**i, 2**i], np.float32) for i in range(1, 4)}
    weights |= {"w": weights_of(channels, 4 * channels, 1, 1), "b": weights_of(channels)}
    body += " j = Concat <axis = 1> (u3, u2, u1, x0)  c = Conv (j, w, b)  y = Relu (c)"
    return model_of(f"g ({inputs}) => (float[N, C, H, W] y) {{ {body} }}", weights)


def cases() -> Iterator[CaseOf]:
    for coarse, fine, c_out, size in ((128, 128, 128, 28), (256, 128, 128, 40)):
        yield CaseOf(
            f"x2, Concat, Conv 1x1, {coarse} + {fine} -> {c_out}, {size}x{size}", _decoder(coarse, fine, c_out, size, 1)
        )
    for coarse, fine, c_out, size in ((64, 64, 64, 28), (128, 64, 64, 56), (32, 16, 16, 112)):
        yield CaseOf(
            f"x2, Concat, Conv 3x3, {coarse} + {fine} -> {c_out}, {size}x{size}", _decoder(coarse, fine, c_out, size, 3)
        )
    yield CaseOf("linear x2, x4, x8, Concat, Conv 1x1, 4 x 64 -> 64, 56x56", _pyramid(64, 56))
