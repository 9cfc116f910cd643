"""Cases for `upsample_conv_to_phases`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from benchmarks.cases import CaseOf, model, weights_of

REPEAT = 'Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">'


def _decoder(c_in: int, c_out: int, size: int, k: int = 3, scale: int = 2, group: int = 1) -> onnx.ModelProto:
    """Upsampling, a convolution that keeps the size, Relu."""
    weights = {"w": weights_of(c_out, c_in // group, k, k), "s": np.array([1, 1, scale, scale], np.float32)}
    pads = [k // 2] * 4
    body = f"a = Relu (x)  u = {REPEAT} (a, , s)  c = Conv <pads = {pads}, group = {group}> (u, w)  y = Relu (c)"
    return model(f"N, {c_in}, {size}, {size}", body, weights)


def cases() -> Iterator[CaseOf]:
    for c_in, c_out, size in ((256, 128, 14), (64, 64, 28), (64, 32, 56), (64, 3, 56), (32, 1, 112), (16, 16, 56)):
        yield CaseOf(f"x2 + Conv 3x3, {c_in} -> {c_out}, {size}x{size}", _decoder(c_in, c_out, size))
    yield CaseOf("x2 + Conv 5x5, 64 -> 64, 28x28", _decoder(64, 64, 28, 5))
    yield CaseOf("x4 + Conv 3x3, 64 -> 64, 14x14", _decoder(64, 64, 14, 3, 4))
    yield CaseOf("x2 + depthwise 3x3, 64 channels, 28x28", _decoder(64, 64, 28, 3, 2, 64))
