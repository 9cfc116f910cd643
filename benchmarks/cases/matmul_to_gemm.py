"""Cases for `matmul_to_gemm`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import CaseOf, model, weights_of


def cases() -> Iterator[CaseOf]:
    for size, k, n in ((56, 96, 384), (28, 192, 768), (14, 384, 1536), (7, 768, 3072), (56, 384, 96)):
        body = "p = MatMul (x, w)  s = Add (p, b)  y = Relu (s)"
        proto = model(f"1, {size}, {size}, {k}", body, {"w": weights_of(k, n), "b": weights_of(n)})
        yield CaseOf(f"MatMul {k} -> {n} + Add, {size}x{size} map", proto)
