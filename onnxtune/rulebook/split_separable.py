"""Layers whose kernel has exactly low rank, as two layers.

With the axes of W (group g, outputs O, inputs I, taps u, v) sorted into two sets, W is a matrix. If its rank
is r, W = sum over q < r of F[first axes, q] S[q, second axes], and the layer is that of F, to r channels,
followed by that of S. Each tap axis belongs to one layer, which takes its stride, dilation and pads. The
first layer has no bias, so zeros padded around the map stay zeros, and this is exact at every pixel.

    form        first layer has  second layer has   ranks
    depthwise   u, v             O                  per g and I, so the first layer is depthwise
    columns     I, u             O, v               K x 1, then 1 x K
    rows        I, v             O, u               1 x K, then K x 1
    output      I, u, v          O                  K x K to r channels, then 1 x 1
    input       I                O, u, v            1 x 1 to r channels, then K x K
    linear      I                O                  two Gemm

A depthwise layer has I = O = 1, and `columns` makes two depthwise ones. Low means: within a few
roundings of the stored weights (`onnxtune.lowrank`). The factors are computed in float64, get equal norms
and are rounded once; where that would move a filter by more than a few roundings of its own, it is declined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxtune.convolution import Convolution, convolution
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.heads import Linear, gemm, linear
from onnxtune.lowrank import factors, proves_more
from onnxtune.proposal import Decline, Proposal
from onnxtune.unfolding import unfoldings

RULE = "split_separable"
ROUNDINGS = 32.0
"""How far a filter may move, in units of its own rounding."""
LARGEST = 512
"""Ranks above are not looked for: the search would take longer than it is worth."""
CANCEL = "factors of rank {} ({}) cancel: rounding them would cost precision"


def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal | Decline]:
    for node in facts.nodes:
        if node.is_op("Gemm", "MatMul"):
            found = linear(facts, node)
            if isinstance(found, Linear) and (split := _linear(facts, node, found, settings["ratio"])) is not None:
                yield split
        elif node.is_op("Conv"):
            conv = convolution(facts, node)
            if isinstance(conv, Convolution):
                yield from _convolution(facts, conv, settings["ratio"])
            elif "auto_pad" in conv:
                yield Decline(RULE, node.key, conv)


def _linear(facts: Facts, node: Node, layer: Linear, ratio: float) -> Proposal | Decline | None:
    (j, k), dtype = layer.weight.shape, layer.weight.dtype
    largest, view = min(int(ratio * j * k / (j + k)), LARGEST), layer.weight.T
    more = proves_more(view, 1, largest, _roundoff(dtype))
    pair = None if more else factors(view[None], largest, _roundoff(dtype))
    if pair is None:
        return None
    first, second = (f[0].astype(dtype) for f in pair)
    rank, wide = first.shape[1], layer.weight.T.astype(np.float64)
    moved = np.linalg.norm(wide - first.astype(np.float64) @ second.astype(np.float64), axis=0)
    if np.any(moved > ROUNDINGS * _roundoff(dtype) * np.linalg.norm(wide, axis=0)):
        return Decline(RULE, node.key, CANCEL.format(rank, "linear"))
    new = Builder(f"{layer.output}/{RULE}", facts.names, facts.opset)
    y = gemm(new, gemm(new, layer.x, first.T, None), second.T, layer.bias)
    title = f"linear layer {k} -> {j} of rank {rank} -> {k} -> {rank} -> {j}"
    keys = frozenset(n.key for n in layer.nodes)
    return Proposal(RULE, title, keys, new.finish({layer.output: y}), settings={"form": "linear"})


def _convolution(facts: Facts, conv: Convolution, ratio: float) -> Iterator[Proposal | Decline]:
    for way in unfoldings(conv):
        largest, roundoff = min(way.largest_rank(ratio), LARGEST), _roundoff(conv.dtype)
        pair = factors(way.stack, largest, roundoff) if way.promises(largest, roundoff) else None
        if pair is None:
            continue
        first, second = (f.astype(conv.dtype) for f in pair)
        rank, kernel = first.shape[2], "x".join(map(str, conv.window.kernel))
        if way.moved(first, second) > ROUNDINGS * _roundoff(conv.dtype):
            yield Decline(RULE, conv.node.key, CANCEL.format(rank, way.form))
            continue
        new = Builder(f"{conv.y}/{RULE}", facts.names, facts.opset)
        fragment = new.finish({conv.y: way.write(new, first, second)})
        title = f"Conv {kernel}, {conv.in_channels} -> {conv.out_channels}, of rank {rank} -> two Conv ({way.form})"
        keys, chosen = frozenset({conv.node.key}), {"form": way.form}
        yield Proposal(RULE, title, keys, fragment, settings=chosen, details={"rank": rank})


def _roundoff(dtype: np.dtype[Any]) -> float:
    return float(np.finfo(dtype).eps) / 2
