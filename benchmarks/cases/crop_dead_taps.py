"""Cases for `crop_dead_taps`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.cases import CaseOf, model, same, weights_of


def cases() -> Iterator[CaseOf]:
    weights = {"w": weights_of(256, 256, 3, 3)}
    body = f"c = Conv <{same(3)}> (x, w)  y = Relu (c)"
    for size in (1, 2):
        yield CaseOf(f"3x3 Conv on 256x{size}x{size}", model(f"N, 256, {size}, {size}", body, weights))
    for dilation, size in ((12, 14), (18, 14), (36, 33)):
        atrous = f"dilations = [{dilation}, {dilation}], pads = [{dilation}, {dilation}, {dilation}, {dilation}]"
        built = model(f"N, 256, {size}, {size}", f"c = Conv <{atrous}> (x, w)  y = Relu (c)", weights)
        yield CaseOf(f"3x3 Conv with dilation {dilation} on 256x{size}x{size}", built)
    pruned = weights_of(64, 64, 5, 5)
    pruned[:, :, [0, 4]] = 0
    pruned[..., [0, 4]] = 0
    built = model("N, 64, 28, 28", f"c = Conv <{same(5)}> (x, w)  y = Relu (c)", {"w": np.asarray(pruned)})
    yield CaseOf("5x5 Conv with a border of zero weights on 64x28x28", built)
    deep = {"w": weights_of(256, 1, 3, 3), "v": weights_of(256, 256, 1, 1)}
    body = f"d = Conv <{same(3)}, group = 256> (x, w)  r = Relu (d)  y = Conv (r, v)"
    yield CaseOf("depthwise 3x3 Conv + 1x1 Conv on 256x1x1", model("N, 256, 1, 1", body, deep))
    body = f"p = MaxPool <{same(3)}> (x)  y = Conv (p, v)"
    weights = {"v": weights_of(256, 256, 1, 1)}
    yield CaseOf("3x3/1 MaxPool + 1x1 Conv on 256x1x1", model("N, 256, 1, 1", body, weights))
