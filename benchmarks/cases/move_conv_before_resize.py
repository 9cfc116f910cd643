"""Cases for `move_conv_before_resize`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from benchmarks.cases import CaseOf, model, weights_of


def _net(c_in: int, c_out: int, size: int, scale: float, mode: str, *, conv_first: bool = False) -> onnx.ModelProto:
    weights = {
        "w": weights_of(c_out, c_in, 1, 1),
        "b": weights_of(c_out),
        "s": np.array([1, 1, scale, scale], np.float32),
    }
    resize = f'Resize <mode = "{mode}">'
    if conv_first:
        body = f"a = Relu (x)  c = Conv (a, w, b)  y = {resize} (c, , s)"
    else:
        body = f"a = Relu (x)  u = {resize} (a, , s)  y = Conv (u, w, b)"
    return model(f"N, {c_in}, {size}, {size}", body, weights)


def cases() -> Iterator[CaseOf]:
    for mode in ("nearest", "linear", "cubic"):
        for c_in, c_out, size in ((256, 128, 20), (64, 19, 56), (32, 128, 28)):
            built = _net(c_in, c_out, size, 2, mode)
            yield CaseOf(f"{mode} x2, Conv 1x1, {c_in} -> {c_out}, {size}x{size}", built)
    for mode in ("nearest", "linear"):
        built = _net(64, 64, 56, 0.5, mode, conv_first=True)
        yield CaseOf(f"Conv 1x1, {mode} x0.5, 64 -> 64, 56x56", built)
    yield CaseOf("Conv 1x1, linear x0.5, 256 -> 64, 56x56", _net(256, 64, 56, 0.5, "linear", conv_first=True))
