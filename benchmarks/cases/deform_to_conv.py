"""Cases for `deform_to_conv`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from benchmarks.cases import CaseOf, weights_of
from onnxtune.testing import model_of


def _net(channels: int, size: int, shift: float) -> onnx.ModelProto:
    """A 3x3 DeformConv whose offsets come from a convolution of zeros, as in a network before training."""
    weights = {
        "w": weights_of(channels, channels, 3, 3),
        "zero": np.zeros((18, channels, 3, 3), np.float32),
        "offset": np.full(18, shift, np.float32),
    }
    body = "o = Conv <pads = [1, 1, 1, 1]> (a, zero, offset)  y = DeformConv <pads = [1, 1, 1, 1]> (a, w, o)"
    text = f"g (float[N, {channels}, {size}, {size}] x) => (float[N, C, H, W] y) {{ a = Relu (x)  {body} }}"
    return model_of(text, weights, opset=19)


def cases() -> Iterator[CaseOf]:
    for channels, size in ((64, 28), (128, 14)):
        for shift in (0.0, 0.5):
            yield CaseOf(f"offsets of {shift}, {channels} channels, {size}x{size}", _net(channels, size, shift))
