"""Cases for `fold_shuffle`, see benchmarks/rules.py."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from benchmarks.cases import CaseOf, model, same, weights_of


def _shuffled(channels: int, groups: int, size: int) -> onnx.ModelProto:
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1, as in ShuffleNet."""
    w = weights_of(channels, channels // groups, 1, 1)
    shapes = [[-1, groups, channels // groups, size, size], [-1, channels, size, size]]
    weights = {"w": w, "d": weights_of(channels, 1, 3, 3), "i": np.array(shapes[0]), "j": np.array(shapes[1])}
    body = f"""a = Conv <group = {groups}> (x, w)  b = Relu (a)  c = Reshape (b, i)
               t = Transpose <perm = [0, 2, 1, 3, 4]> (c)  e = Reshape (t, j)
               f = Conv <{same(3)}, group = {channels}> (e, d)  y = Conv <group = {groups}> (f, w)"""
    return model(f"N, {channels}, {size}, {size}", body, weights)


def cases() -> Iterator[CaseOf]:
    for channels, groups, size in ((112, 2, 28), (136, 2, 14)):
        name = f"shuffle between 1x1 in {groups} groups, {channels}x{size}x{size}"
        yield CaseOf(name, _shuffled(channels, groups, size))
    order = np.random.default_rng(0).permutation(64)
    for k, size in ((1, 56), (1, 28), (3, 28)):
        body = f"a = Relu (x)  s = Gather <axis = 1> (a, order)  y = Conv <{same(k)}> (s, w)"
        built = model(f"N, 64, {size}, {size}", body, {"order": order, "w": weights_of(64, 64, k, k)})
        yield CaseOf(f"Gather before a dense {k}x{k}, 64x{size}x{size}", built)
    shapes = {"i": np.array([-1, 4, 16, 28, 28]), "j": np.array([-1, 64, 28, 28])}
    body = """a = Conv (x, w)  b = Relu (a)  c = Reshape (b, i)  t = Transpose <perm = [0, 2, 1, 3, 4]> (c)
              e = Reshape (t, j)  y = Conv (e, w)"""
    built = model("N, 64, 28, 28", body, {"w": weights_of(64, 64, 1, 1), **shapes})
    yield CaseOf("shuffle between dense 1x1, 64x28x28", built)
