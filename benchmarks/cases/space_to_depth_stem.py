"""Cases for `space_to_depth_stem`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import CaseOf, model, weights_of


def cases() -> Iterator[CaseOf]:
    for c_in, c_out, size, k, s, p in (
        (3, 64, 224, 7, 2, 3),
        (3, 64, 224, 11, 4, 2),
        (3, 32, 224, 3, 2, 1),
        (3, 96, 224, 4, 4, 0),
        (3, 192, 224, 16, 16, 0),
        (1, 32, 128, 5, 2, 2),
    ):
        body = f"c = Conv <strides = [{s}, {s}], pads = {[p] * 4}> (x, w, b)  y = Relu (c)"
        built = model(f"N, {c_in}, {size}, {size}", body, {"w": weights_of(c_out, c_in, k, k), "b": weights_of(c_out)})
        yield CaseOf(f"Conv {k}x{k}/{s}, {c_in} -> {c_out}, {size}x{size}", built)
