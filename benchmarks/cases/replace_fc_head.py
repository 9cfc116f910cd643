"""Cases for `replace_fc_head`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.cases import CaseOf, model, weights_of


def cases() -> Iterator[CaseOf]:
    constant = {"w": np.repeat(weights_of(1024, 256), 49, axis=1) / np.float32(49), "b": weights_of(1024)}
    head = "z = Relu (x)  f = Flatten (z)  y = Gemm <transB = 1> (f, w, b)"
    name = "spatially constant FC 256x7x7 -> 1024"
    yield CaseOf(name, model("N, 256, 7, 7", head, constant, "N, M"))
    for c, j, k in ((16, 120, 5), (256, 1024, 7)):
        body = "z = Relu (x)  c = Conv (z, w, b)  d = Relu (c)  y = Flatten (d)"
        built = model(f"N, {c}, {k}, {k}", body, {"w": weights_of(j, c, k, k), "b": weights_of(j)}, "N, M")
        yield CaseOf(f"Conv {k}x{k} over the whole map, {c} -> {j}", built)
