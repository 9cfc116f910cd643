"""Cases for `merge_sibling_convs`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from benchmarks.cases import CaseOf, model, weights_of


def _siblings(c: int, counts: Sequence[int], k: int, size: int, end: str = "") -> onnx.ModelProto:
    """Siblings with Relu, each read by a 1x1 of its own (the sum is the output) or joined by `end`."""
    pads = f"pads = [{', '.join([str(k // 2)] * 4)}]"
    body, names = "z = Relu (x) ", range(len(counts))
    weights = {f"w{i}": weights_of(n, c, k, k) for i, n in enumerate(counts)}
    weights |= {f"b{i}": weights_of(n) for i, n in enumerate(counts)}
    for i in names:
        body += f" c{i} = Conv <{pads}> (z, w{i}, b{i})  a{i} = Relu (c{i})"
    if not end:
        weights |= {f"v{i}": weights_of(32, n, 3, 3) for i, n in enumerate(counts)}
        body += " ".join(f" d{i} = Conv (a{i}, v{i})" for i in names)
        end = f" y = Sum ({', '.join(f'd{i}' for i in names)})"
    return model(f"N, {c}, {size}, {size}", body + end, weights)


def cases() -> Iterator[CaseOf]:
    yield CaseOf("Inception 1x1: 192 -> 64, 96, 16 at 28x28", _siblings(192, (64, 96, 16), 1, 28))
    yield CaseOf("Inception 1x1: 832 -> 256, 160, 32 at 7x7", _siblings(832, (256, 160, 32), 1, 7))
    yield CaseOf("detection heads 3x3: 64 -> 4, 2, 10 at 40x40", _siblings(64, (4, 2, 10), 3, 40))
    joined = " y = Concat <axis = 1> (a0, a1)"
    yield CaseOf("3x3: 64 -> 32, 32 joined by a Concat, 28x28", _siblings(64, (32, 32), 3, 28, joined))
    yield CaseOf("1x1: 256 -> 64, 64 joined by a Concat, 14x14", _siblings(256, (64, 64), 1, 14, joined))
