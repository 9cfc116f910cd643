"""Cases for `use_global_pool`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import CaseOf, model, weights_of


def cases() -> Iterator[CaseOf]:
    body = "z = Relu (x)  c = Conv (z, w, b)  y = GlobalAveragePool (c)"
    weights = {"w": weights_of(1000, 512, 1, 1), "b": weights_of(1000)}
    yield CaseOf("Conv 1x1 512 -> 1000 on 13x13, then GAP", model("N, 512, 13, 13", body, weights))
    body = "z = Relu (x)  y = AveragePool <kernel_shape = [7, 7]> (z)"
    yield CaseOf("AveragePool over the whole map, 2048x7x7", model("N, 2048, 7, 7", body))
