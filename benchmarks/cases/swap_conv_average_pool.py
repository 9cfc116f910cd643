"""Cases for `swap_conv_average_pool`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from benchmarks.cases import CaseOf, model, weights_of


def _transition(channels: int, outputs: int, size: int) -> onnx.ModelProto:
    """BatchNormalization was folded: Relu, 1x1 convolution, 2x2 average, as in DenseNet."""
    body = "r = Relu (x)  c = Conv (r, w, b)  y = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (c)"
    weights = {"w": weights_of(outputs, channels, 1, 1), "b": weights_of(outputs)}
    return model(f"N, {channels}, {size}, {size}", body, weights)


def cases() -> Iterator[CaseOf]:
    for channels, outputs, size in ((256, 128, 56), (512, 256, 28), (1024, 512, 14), (64, 256, 28), (256, 16, 28)):
        name = f"1x1 Conv {channels} -> {outputs} + 2x2/2 AveragePool, {size}x{size}"
        yield CaseOf(name, _transition(channels, outputs, size))
    body = "c = Conv (x, w)  y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (c)"
    built = model("N, 128, 28, 28", body, {"w": weights_of(128, 128, 1, 1)})
    yield CaseOf("1x1 Conv 128 -> 128 + 3x3/2 AveragePool, 28x28", built)
