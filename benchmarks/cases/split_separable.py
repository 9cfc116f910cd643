"""Cases for `split_separable`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.cases import CaseOf, model, same, weights_of


def cases() -> Iterator[CaseOf]:
    """64 channels on 28x28, or as they say."""
    a, b = weights_of(64, 64), weights_of(64, 64, 3, 3)
    for name, w in (
        ("3x3 of rank one per channel", np.einsum("oi,iuv->oiuv", a, b[0])),
        ("3x3 of 16 independent filters", np.einsum("oq,qiuv->oiuv", a[:, :16], b[:16])),
        ("3x3 of 40 independent filters", np.einsum("oq,qiuv->oiuv", a[:, :40], b[:40])),
        ("3x3 as 3x1, 1x3 with 32 channels between", np.einsum("qiu,oqv->oiuv", b[:32, :, :, 0], b[:, :32, 0])),
    ):
        body = f"c = Conv <{same(3)}> (x, w)  y = Relu (c)"
        yield CaseOf(f"Conv {name}, 64x28x28", model("N, 64, 28, 28", body, {"w": w.astype(np.float32)}))
    row = np.array([1, 4, 6, 4, 1]) / 16
    blur = np.repeat(np.outer(row, row)[None, None], 64, axis=0)
    body = f"z = Relu (x)  c = Conv <{same(5)}, group = 64> (z, w)  y = Relu (c)"
    yield CaseOf("depthwise 5x5 blur, 64x56x56", model("N, 64, 56, 56", body, {"w": blur.astype(np.float32)}))
    low = weights_of(4096, 64) @ weights_of(64, 4096)
    yield CaseOf("Gemm 4096 -> 4096 of rank 64", model("N, 4096", "y = Gemm <transB = 1> (x, w)", {"w": low}, "N, M"))
