"""Cases for `split_concat_conv`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.cases import CaseOf, model, weights_of


def _aspp(branches: int, channels: int, size: int) -> onnx.ModelProto:
    """1x1 branches and the pooled one, joined and projected."""
    names = [f"a{i}" for i in range(branches)]
    body = " ".join(f"c{i} = Conv (x, w{i})  a{i} = Relu (c{i})" for i in range(branches))
    body += f""" g = GlobalAveragePool (x)  h = Conv (g, w0)  v = Relu (h)  e = Resize <mode = "linear"> (v, , s)
                 j = Concat <axis = 1> ({", ".join(names)}, e)  p = Conv (j, wp)  y = Relu (p)"""
    weights = {f"w{i}": weights_of(channels, channels, 1, 1) for i in range(branches)}
    weights |= {
        "wp": weights_of(channels, (branches + 1) * channels, 1, 1),
        "s": np.array([1, 1, size, size], np.float32),
    }
    return model(f"N, {channels}, {size}, {size}", body, weights)


def cases() -> Iterator[CaseOf]:
    yield CaseOf("ASPP, 4 branches and a pooled one of 128 channels, 32x32", _aspp(4, 128, 32))
    yield CaseOf("LR-ASPP, 1 branch and a pooled one of 128 channels, 32x32", _aspp(1, 128, 32))
    body = "j = Concat <axis = 1> (x, g)  c = Conv <pads = [1, 1, 1, 1]> (j, w)  y = Relu (c)"
    weights: dict[str, NDArray[Any]] = {"g": weights_of(1, 2, 56, 56), "w": weights_of(32, 34, 3, 3)}
    yield CaseOf("coordinates before a 3x3, 32 channels, 56x56", model("1, 32, 56, 56", body, weights))
    weights = {"g": np.zeros((1, 32, 28, 28), np.float32), "w": weights_of(64, 64, 3, 3)}
    yield CaseOf("32 channels of zeros before a 3x3, 28x28", model("1, 32, 28, 28", body, weights))
