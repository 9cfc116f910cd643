"""Cases for `cascade_max_pool`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from benchmarks.cases import CaseOf, model, same


def _spp(channels: int, size: int) -> onnx.ModelProto:
    pools = " ".join(f"p{k} = MaxPool <{same(k)}> (x)" for k in (5, 9, 13))
    return model(f"N, {channels}, {size}, {size}", f"{pools} y = Concat <axis = 1> (x, p5, p9, p13)")


def cases() -> Iterator[CaseOf]:
    for channels, size in ((512, 13), (256, 20)):
        name = f"SPP 5/9/13 on {channels}x{size}x{size}"
        yield CaseOf(name, _spp(channels, size))
    for k, channels, size in ((13, 512, 13), (9, 64, 56), (5, 512, 13), (5, 64, 56)):
        built = model(f"N, {channels}, {size}, {size}", f"y = MaxPool <{same(k)}> (x)")
        yield CaseOf(f"MaxPool {k}x{k} on {channels}x{size}x{size}", built)
