"""Cases for `merge_conv_average_pool`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from benchmarks.cases import CaseOf, model, same, weights_of


def _pair(channels: int, size: int, kernel: int, over: int, *, inputs: int = 0, group: int = 1) -> onnx.ModelProto:
    inputs = inputs or channels
    body = f"""c = Conv <{same(kernel)}, group = {group}> (x, w)
               y = AveragePool <kernel_shape = [{over}, {over}], strides = [{over}, {over}]> (c)"""
    weights = {"w": weights_of(channels, inputs // group, kernel, kernel)}
    return model(f"N, {inputs}, {size}, {size}", body, weights)


def cases() -> Iterator[CaseOf]:
    for channels, size in ((64, 56), (128, 28), (256, 14)):
        yield CaseOf(f"3x3 Conv + 2x2/2 AveragePool, {channels}x{size}x{size}", _pair(channels, size, 3, 2))
    yield CaseOf("3x3 Conv + 3x3/3 AveragePool, 64x27x27", _pair(64, 27, 3, 3))
    body = f"c = Conv <{same(3)}> (x, w)  y = AveragePool <kernel_shape = [3, 3], strides = [2, 2]> (c)"
    built = model("N, 64, 28, 28", body, {"w": weights_of(64, 64, 3, 3)})
    yield CaseOf("3x3 Conv + 3x3/2 AveragePool, 64x28x28", built)
    yield CaseOf("5x5 Conv + 2x2/2 AveragePool, 64x28x28", _pair(64, 28, 5, 2))
    yield CaseOf("3x3 Conv of 3 channels + 2x2/2 AveragePool, 32x112x112", _pair(32, 112, 3, 2, inputs=3))
    yield CaseOf("depthwise 3x3 Conv + 2x2/2 AveragePool, 128x56x56", _pair(128, 56, 3, 2, group=128))
