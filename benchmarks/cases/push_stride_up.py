"""Cases for `push_stride_up`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from benchmarks.cases import CaseOf, model, same, weights_of
from onnxtune.testing import model_of


def _pair(before: str, channels: int, size: int, kernel: int) -> onnx.ModelProto:
    weights = {"w": weights_of(channels, channels, kernel, kernel), "v": weights_of(2 * channels, channels, 1, 1)}
    body = f"c = {before} (x, w)  r = Relu (c)  y = Conv <kernel_shape = [1, 1], strides = [2, 2]> (r, v)"
    return model(f"N, {channels}, {size}, {size}", body, weights)


def _residual(channels: int, size: int) -> onnx.ModelProto:
    """A bottleneck block and the two 1x1 convolutions with a stride that begin the next one."""
    thin = channels // 4
    weights = {
        "v1": weights_of(thin, channels, 1, 1),
        "v2": weights_of(thin, thin, 3, 3),
        "v3": weights_of(channels, thin, 1, 1),
        "v4": weights_of(2 * thin, channels, 1, 1),
        "v5": weights_of(2 * thin, 2 * thin, 3, 3),
        "v6": weights_of(2 * channels, 2 * thin, 1, 1),
        "v7": weights_of(2 * channels, channels, 1, 1),
    }
    body = f"""c1 = Conv (x, v1)  r1 = Relu (c1)  c2 = Conv <{same(3)}> (r1, v2)  r2 = Relu (c2)  c3 = Conv (r2, v3)
               s = Add (c3, x)  r = Relu (s)
               d1 = Conv <strides = [2, 2]> (r, v4)  e1 = Relu (d1)  d2 = Conv <{same(3)}> (e1, v5)  e2 = Relu (d2)
               d3 = Conv (e2, v6)  d0 = Conv <strides = [2, 2]> (r, v7)  t = Add (d3, d0)  y = Relu (t)"""
    return model(f"N, {channels}, {size}, {size}", body, weights)


def cases() -> Iterator[CaseOf]:
    conv = f"Conv <{same(3)}>"
    yield CaseOf("3x3 Conv + Relu + 1x1/2 Conv, 64x56x56", _pair(conv, 64, 56, 3))
    yield CaseOf("3x3 Conv + Relu + 1x1/2 Conv, 256x14x14", _pair(conv, 256, 14, 3))
    yield CaseOf("1x1 Conv + Relu + 1x1/2 Conv, 128x28x28", _pair("Conv", 128, 28, 1))
    for channels, size in ((256, 56), (512, 28)):
        yield CaseOf(f"stride on the 1x1 of a residual block, {channels}x{size}x{size}", _residual(channels, size))
    body = f"p = MaxPool <{same(3)}> (x)  y = Conv <strides = [2, 2]> (p, v)"
    yield CaseOf("3x3/1 MaxPool + 1x1/2 Conv, 64x56x56", model("N, 64, 56, 56", body, {"v": weights_of(64, 64, 1, 1)}))
    body = f"""c = Conv (x, u)  p = MaxPool <{same(3)}> (x)  s = Add (c, p)  y = Conv <strides = [2, 2]> (s, v)
               z = GlobalAveragePool (p)"""
    weights = {"u": weights_of(64, 64, 1, 1), "v": weights_of(8, 64, 1, 1)}
    text = f"g (float[N, 64, 28, 28] x) => (float[N, C, H, W] y, float[N, 64, P, Q] z) {{ {body} }}"
    yield CaseOf("a sum with a map that is read in full + 1x1/2 Conv, 64x28x28", model_of(text, weights))
