"""Cases for `fold_batchnorm`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.cases import CaseOf, model, weights_of


def cases() -> Iterator[CaseOf]:
    statistics = {k: np.full(128, v, np.float32) for k, v in (("s", 1.1), ("b", 0.2), ("m", 0.3), ("v", 0.9))}
    body = "t = Gemm <transB = 1> (x, w)  z = BatchNormalization (t, s, b, m, v)  y = Relu (z)"
    weights = {"w": weights_of(128, 256), **statistics}
    yield CaseOf("FC 256 -> 128 + BatchNorm", model("N, 256", body, weights, "N, M"))
    body = "c = Conv <pads = [1, 1, 1, 1]> (x, w)  z = BatchNormalization (c, s, b, m, v)  y = Relu (z)"
    weights = {"w": weights_of(128, 64, 3, 3), **statistics}
    yield CaseOf("Conv 3x3 + BatchNorm (ORT folds it)", model("N, 64, 28, 28", body, weights))
