"""Cases for `pad_channels`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from benchmarks.cases import CaseOf, model, weights_of


def _chain(channels: int, size: int) -> onnx.ModelProto:
    """Three 3x3 convolutions with ReLU between two of 16 channels."""
    same = "pads = [1, 1, 1, 1]"
    body = f"""a = Conv <{same}> (x, v0)  b = Relu (a)  c = Conv <{same}> (b, v1)  d = Relu (c)
               e = Conv <{same}> (d, v2)  f = Relu (e)  y = Conv <{same}> (f, v3)"""
    counts = [16, channels, channels, channels, 16]
    weights = {f"v{i}": weights_of(counts[i + 1], counts[i], 3, 3) for i in range(4)}
    return model(f"N, 16, {size}, {size}", body, weights)


def cases() -> Iterator[CaseOf]:
    for channels in (17, 31, 63, 65, 127):
        yield CaseOf(f"three 3x3 convolutions, {channels} channels, 28x28", _chain(channels, 28))
    for channels in (103, 231):
        weights = {
            "u": weights_of(channels, 64, 1, 1),
            "v": weights_of(channels, 1, 3, 3),
            "w": weights_of(64, channels, 1, 1),
        }
        body = f"a = Conv (x, u)  b = Relu (a)  c = Conv <pads = [1,1,1,1], group = {channels}> (b, v)  y = Conv (c, w)"
        yield CaseOf(f"depthwise 3x3, {channels} channels, 20x20", model("N, 64, 20, 20", body, weights))
    for group, each in ((2, 31), (4, 15), (8, 15), (4, 20)):
        channels = group * each
        weights = {
            "u": weights_of(channels, 64, 1, 1),
            "v": weights_of(channels, each, 3, 3),
            "w": weights_of(64, channels, 1, 1),
        }
        body = f"a = Conv (x, u)  b = Relu (a)  c = Conv <pads = [1,1,1,1], group = {group}> (b, v)  y = Conv (c, w)"
        yield CaseOf(f"3x3 in {group} groups of {each} channels, 20x20", model("N, 64, 20, 20", body, weights))
