"""Cases for `merge_linear_convs`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.cases import CaseOf, model, weights_of


def cases() -> Iterator[CaseOf]:
    body = "z = Relu (x)  t = Conv (z, v)  c = Conv <pads = [1, 1, 1, 1]> (t, w, b)  y = Relu (c)"
    weights = {"v": weights_of(256, 64, 1, 1), "w": weights_of(64, 256, 3, 3), "b": weights_of(64)}
    yield CaseOf("1x1 64 -> 256, 3x3 256 -> 64, 28x28", model("N, 64, 28, 28", body, weights))
    biased = body.replace("(z, v)", "(z, v, a)")
    built = model("N, 64, 28, 28", biased, {**weights, "a": weights_of(256)})
    yield CaseOf("the same with a bias before the pads (constant map)", built)
    body = "z = Relu (x)  t = Conv <pads = [1, 1, 1, 1]> (z, v, a)  c = Conv (t, w, b)  y = Relu (c)"
    weights = {
        "v": weights_of(128, 64, 3, 3),
        "a": weights_of(128),
        "w": weights_of(64, 128, 1, 1),
        "b": weights_of(64),
    }
    yield CaseOf("3x3 64 -> 128, 1x1 128 -> 64, 28x28", model("N, 64, 28, 28", body, weights))
    weights = {"v": weights_of(72, 64, 3, 3), "a": weights_of(72), "w": weights_of(64, 72, 1, 1), "b": weights_of(64)}
    yield CaseOf("3x3 64 -> 72, 1x1 72 -> 64, 28x28 (little to save)", model("N, 64, 28, 28", body, weights))
    means = {"m": weights_of(1, 3, 1, 1), "d": np.full((1, 3, 1, 1), 0.25, np.float32), "w": weights_of(32, 3, 3, 3)}
    body = "t = Sub (x, m)  z = Div (t, d)  c = Conv <strides = [2, 2], pads = [1, 1, 1, 1]> (z, w)  y = Relu (c)"
    yield CaseOf("(x - mean) / std before a padded 3x3/2, 3x224x224", model("N, 3, 224, 224", body, means))
    unpadded = body.replace("pads = [1, 1, 1, 1]", "pads = [0, 0, 0, 0]")
    yield CaseOf("the same without pads", model("N, 3, 224, 224", unpadded, means))
