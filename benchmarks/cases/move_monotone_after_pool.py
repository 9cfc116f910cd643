"""Cases for `move_monotone_after_pool`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from benchmarks.cases import CaseOf, model, same, weights_of

POOL = "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)"


def _layer(function: str, channels: int, size: int) -> onnx.ModelProto:
    weights = {"w": weights_of(channels, channels, 3, 3), "b": weights_of(channels), "p": np.abs(weights_of(channels))}
    weights["p"] = weights["p"].reshape(channels, 1, 1)
    body = f"c = Conv <{same(3)}> (x, w, b)  a = {function}  {POOL}"
    used = {k: v for k, v in weights.items() if k != "p" or "p" in function}
    return model(f"N, {channels}, {size}, {size}", body, used)


def cases() -> Iterator[CaseOf]:
    for function in ("Relu (c)", "Sigmoid (c)", "Tanh (c)", "LeakyRelu (c)", "Elu (c)", "Softplus (c)", "PRelu (c, p)"):
        for channels, size in ((64, 56), (16, 112)):
            name = f"3x3 Conv + {function.split()[0]} + 2x2/2 MaxPool, {channels}x{size}x{size}"
            yield CaseOf(name, _layer(function, channels, size))
    weights = {"m": np.abs(weights_of(64, 1, 1)), "n": weights_of(64, 1, 1)}
    pool = f"y = MaxPool <{same(3)}, strides = [2, 2]> (a)"
    body = f"c = Mul (x, m)  d = Add (c, n)  a = Relu (d)  {pool}"
    yield CaseOf("Mul + Add + Relu + 3x3/2 MaxPool, 64x112x112 (DenseNet)", model("N, 64, 112, 112", body, weights))
    yield CaseOf("Tanh + GlobalMaxPool, 256x14x14", model("N, 256, 14, 14", "a = Tanh (x)  y = GlobalMaxPool (a)"))
