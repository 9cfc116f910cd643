"""Cases for `winograd_conv`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from benchmarks.cases import CaseOf, model, weights_of


def _layer(channels: int, size: int, kernel: tuple[int, int] = (3, 3), group: int = 1, out: int = 0) -> onnx.ModelProto:
    """A convolution that keeps the size, between two activations."""
    weights = {"w": weights_of(out or channels, channels // group, *kernel)}
    pads = [k // 2 for k in (*kernel, *kernel)]
    body = f"a = Relu (x)  c = Conv <pads = {pads}, group = {group}> (a, w)  y = Relu (c)"
    return model(f"N, {channels}, {size}, {size}", body, weights)


def cases() -> Iterator[CaseOf]:
    for channels, size in ((16, 112), (32, 112), (32, 56), (64, 112), (64, 56), (128, 28), (256, 14), (512, 7)):
        yield CaseOf(f"Conv 3x3, {channels} channels, {size}x{size}", _layer(channels, size))
    yield CaseOf("Conv 3x3, 512 channels, 14x14", _layer(512, 14))
    yield CaseOf("Conv 3x3, 64 -> 256 channels, 28x28", _layer(64, 28, out=256))
    yield CaseOf("Conv 3x3, 4 groups of 32 channels, 28x28", _layer(128, 28, group=4))
    yield CaseOf("Conv 5x5, 64 channels, 28x28", _layer(64, 28, (5, 5)))
    yield CaseOf("Conv 7x7, 32 channels, 56x56", _layer(32, 56, (7, 7)))
    yield CaseOf("Conv 1x7, 128 channels, 17x17", _layer(128, 17, (1, 7)))
    yield CaseOf("Conv 7x1, 128 channels, 17x17", _layer(128, 17, (7, 1)))
