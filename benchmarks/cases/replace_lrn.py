"""Cases for `replace_lrn`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.cases import CaseOf, model


def cases() -> Iterator[CaseOf]:
    for channels, size in ((64, 55), (192, 28), (256, 13)):
        text = "c = Relu (x)  y = LRN <size = 5, alpha = 0.0001> (c)"
        built = model(f"N, {channels}, {size}, {size}", text)
        yield CaseOf(f"LRN on {channels}x{size}x{size}", built)
