"""Cases for `merge_linear_layers`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import CaseOf, model, weights_of


def cases() -> Iterator[CaseOf]:
    body = "z = Relu (x)  t = Gemm <transB = 1> (z, w)  y = Gemm <transB = 1> (t, v)"
    weights = {"w": weights_of(1024, 2048), "v": weights_of(1000, 1024)}
    yield CaseOf("FC 2048 -> 1024 -> 1000", model("N, 2048", body, weights, "N, M"))
