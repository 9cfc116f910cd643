"""Cases for `prune_channels`, see benchmarks/rules.py: to the next lower numbers that kernels like, and to three
quarters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx

from benchmarks.cases import CaseOf, model, same, weights_of

BOUNDARY: dict[str, Any] = {"ratios": [], "min_share": 0.0}
FURTHER: dict[str, Any] = {"ratios": [0.75], "min_share": 0.0}


def _pair(channels: int, size: int, kernel: int = 3) -> onnx.ModelProto:
    """Two convolutions with a ReLU between them, 64 channels outside."""
    body = f"a = Conv <{same(kernel)}> (x, v)  b = Relu (a)  y = Conv <{same(kernel)}> (b, w)"
    weights = {"v": weights_of(channels, 64, kernel, kernel), "w": weights_of(64, channels, kernel, kernel)}
    return model(f"N, 64, {size}, {size}", body, weights)


def _residual(channels: int, size: int) -> onnx.ModelProto:
    """A stem and two residual blocks of two 3x3 convolutions each, then the mean and ten classes."""
    body = f"s = Conv <{same(3)}> (x, w)  t0 = Relu (s)  "
    for i in range(2):
        body += f"""a{i} = Conv <{same(3)}> (t{i}, u{i})  b{i} = Relu (a{i})  c{i} = Conv <{same(3)}> (b{i}, v{i})
                    d{i} = Add (c{i}, t{i})  t{i + 1} = Relu (d{i})  """
    body += "m = GlobalAveragePool (t2)  f = Flatten (m)  y = Gemm <transB = 1> (f, g)"
    weights = {"w": weights_of(channels, 16, 3, 3), "g": weights_of(10, channels)}
    for i in range(2):
        weights |= {f"u{i}": weights_of(64, channels, 3, 3), f"v{i}": weights_of(channels, 64, 3, 3)}
    return model(f"N, 16, {size}, {size}", body, weights, "N, M")


def _depthwise(channels: int, size: int) -> onnx.ModelProto:
    body = f"""a = Conv (x, u)  b = Relu (a)  c = Conv <{same(3)}, group = {channels}> (b, v)  d = Relu (c)
               y = Conv (d, w)"""
    weights = {"u": weights_of(channels, 64, 1, 1), "v": weights_of(channels, 1, 3, 3)}
    return model(f"N, 64, {size}, {size}", body, weights | {"w": weights_of(64, channels, 1, 1)})


def cases() -> Iterator[CaseOf]:
    for channels in (65, 68, 72, 130):
        yield CaseOf(f"two 3x3 convolutions, {channels} channels between, 28x28", _pair(channels, 28), BOUNDARY)
    for channels in (64, 128):
        name = f"two 3x3 convolutions, {channels} channels between, 28x28: a quarter fewer"
        yield CaseOf(name, _pair(channels, 28), FURTHER)
    for channels, settings in ((66, BOUNDARY), (64, FURTHER)):
        what = "" if settings is BOUNDARY else ": a quarter fewer"
        stream = {**settings, "min_channels": 64 - (settings is FURTHER)}
        yield CaseOf(f"residual stream of {channels} channels, 28x28{what}", _residual(channels, 28), stream)
        yield CaseOf(f"1x1, depthwise 3x3, 1x1, {channels} channels, 20x20{what}", _depthwise(channels, 20), settings)
