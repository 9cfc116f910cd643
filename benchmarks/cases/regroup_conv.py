"""Cases for `regroup_conv`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from benchmarks.cases import CaseOf, model, same, weights_of


def _bottleneck(channels: int, size: int, groups: int, w: np.ndarray) -> onnx.ModelProto:
    """1x1, then the grouped 3x3, then 1x1, as in ResNeXt."""
    mix = weights_of(channels, channels, 1, 1)
    body = (
        f"a = Conv (x, v)  b = Relu (a)  c = Conv <{same(3)}, group = {groups}> (b, w)  d = Relu (c)  y = Conv (d, v)"
    )
    return model(f"N, {channels}, {size}, {size}", body, {"v": mix, "w": w})


def cases() -> Iterator[CaseOf]:
    for channels, size, groups in ((128, 28, 32), (64, 28, 8), (96, 28, 12), (256, 14, 32), (32, 56, 2)):
        w = weights_of(channels, channels // groups, 3, 3)
        yield CaseOf(
            f"3x3, {channels} channels in {groups} groups, {size}x{size}", _bottleneck(channels, size, groups, w)
        )
    w = weights_of(128, 128, 3, 3) * np.kron(np.eye(8), np.ones((16, 16)))[:, :, None, None].astype(np.float32)
    yield CaseOf("3x3, 128 channels, dense with 8 diagonal blocks", _bottleneck(128, 28, 1, w))
    body = "a = Relu (x)  y = ConvTranspose <group = 64, strides = [2, 2]> (a, w)"
    up = weights_of(64, 1, 2, 2)
    yield CaseOf("depthwise ConvTranspose 2x2, 64x28x28", model("N, 64, 28, 28", body, {"w": up}))
