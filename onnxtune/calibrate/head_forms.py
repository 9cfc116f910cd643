"""Smaller forms of a fully connected layer (J, d), from gentle to radical, as sizes, as numbers and as nodes.

    low rank r   x -> (r, d) -> (J, r)                            r (J + d) weights
    bins a x b   AveragePool to a x b cells, then (J, C a b)      two grids side by side make a pyramid
    maps R       depthwise Conv with the same R learned h x w kernels for each channel, then (J, C R)
    gap          GlobalAveragePool, then (J, C)

All but the first need a map. Cells of a grid overlap where the map's size is not a multiple of it: they are
the windows of one AveragePool, and the weights behind are fitted to what it gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.calibrate.heads import Head
from onnxtune.calibrate.moments import Array
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.fully_connected import FullyConnected
from onnxtune.heads import gemm, global_mean
from onnxtune.later import Later
from onnxtune.proposal import Fragment

Pair = tuple[int, int]
FAMILIES = ("gap", "pyramid", "maps", "low_rank")
RANK_MULTIPLE = 8
GENTLE, LARGE = 0.4, 2**24
"""Low rank that leaves a larger share of a layer with more weights is not offered: it takes minutes to fit."""


@dataclass(frozen=True)
class HeadForm:
    """One form: `rank` of low rank, `maps` of learned maps, or the `grids` to pool to."""

    family: str
    name: str
    rank: int = 0
    maps: int = 0
    grids: tuple[Pair, ...] = ()

    @property
    def kind(self) -> str:
        """Forms of one kind are fitted alike."""
        return "low rank" if self.rank else "pooled"

    def cells(self) -> int:
        """Pooled features per channel."""
        return self.maps or sum(math.prod(g) for g in self.grids)

    def parameters(self, outputs: int, columns: int, size: tuple[int, int, int] | None) -> int:
        """Weights without the bias."""
        if self.rank:
            return self.rank * (outputs + columns)
        assert size is not None, "pooling needs a map"
        return outputs * size[0] * self.cells() + self.maps * size[1] * size[2]


def forms(layer: FullyConnected, family: str, ratios: Sequence[float]) -> Iterator[HeadForm]:
    """Forms of a family ("auto": of all) with fewer weights than the layer has."""
    j, d = layer.weight.shape
    found: list[HeadForm] = []
    few = [r for r in ratios if r <= GENTLE or j * d <= LARGE]
    ranks = {int(r * j * d / (j + d)) // RANK_MULTIPLE * RANK_MULTIPLE or RANK_MULTIPLE for r in few}
    found += [HeadForm("low_rank", f"rank {r}", rank=r) for r in sorted(ranks) if r < min(j, d)]
    if layer.size is not None and layer.size[1] * layer.size[2] > 1 and not layer.unpoolable:
        h, w = layer.size[1:]
        grids = dict.fromkeys((min(n, h), min(n, w)) for n in (4, 3, 2) if n < max(h, w))
        found += [HeadForm("pyramid", f"{a}x{b} means", grids=((a, b),)) for a, b in grids]
        both = ((1, 1), (2, 2))
        if min(h, w) > 2 and np.linalg.matrix_rank(grid_maps((h, w), both)) == 5:  # else the first says nothing new
            found.append(HeadForm("pyramid", "1x1 and 2x2 means", grids=both))
        found += [HeadForm("maps", f"{n} learned map{'s' * (n > 1)}", maps=n) for n in (4, 2, 1) if n < h * w]
        found.append(HeadForm("gap", "global average pooling", grids=((1, 1),)))
    smaller = (f for f in found if f.parameters(j, d, layer.size) < 0.7 * j * d)
    yield from (f for f in smaller if family in ("auto", f.family))


def window(size: Pair, grid: Pair) -> tuple[Pair, Pair]:
    """Kernel and strides of the AveragePool that makes `grid` cells of a map."""
    strides = size[0] // grid[0], size[1] // grid[1]
    return (size[0] - (grid[0] - 1) * strides[0], size[1] - (grid[1] - 1) * strides[1]), strides


def grid_maps(size: Pair, grids: Sequence[Pair]) -> Array:
    """(cells, H W): the means over the windows of each grid, row by row."""
    maps = []
    for grid in grids:
        (kh, kw), (sh, sw) = window(size, grid)
        for i in range(grid[0]):
            for k in range(grid[1]):
                cell = np.zeros(size)
                cell[i * sh : i * sh + kh, k * sw : k * sw + kw] = 1 / (kh * kw)
                maps.append(cell.ravel())
    return np.stack(maps)


def unfitted(form: HeadForm, layer: FullyConnected) -> Head:
    """Any weights of the right shapes."""
    j, d = layer.weight.shape

    def some(*shape: int) -> Array:
        return np.broadcast_to(np.float32(1 / shape[1]), shape)

    if form.rank:
        return Head(some(form.rank, d), some(j, form.rank), np.zeros(j), math.nan)
    assert layer.size is not None, "pooling needs a map"
    c, h, w = layer.size
    inner = some(form.maps, h * w) if form.maps else grid_maps((h, w), form.grids)
    return Head(inner, some(j, c * form.cells()), np.zeros(j), math.nan)


def put_off(fragment: Fragment) -> Fragment:
    """The fragment of an unfitted head with random weights that are drawn when they are needed."""

    def later(weight: onnx.TensorProto | Later) -> onnx.TensorProto | Later:
        shape = tuple(weight.dims) if isinstance(weight, onnx.TensorProto) else ()
        if len(shape) < 2 or isinstance(weight, Later):
            return weight
        dtype = onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)

        def make() -> NDArray[Any]:
            values = np.random.default_rng(0).random(shape, dtype=np.float32)
            values -= 0.5
            values /= math.prod(shape[1:])
            return values

        return Later(shape, np.dtype(dtype), make, weight.name)

    return replace(fragment, stored=tuple(later(w) for w in fragment.stored))


def write(new: Builder, facts: Facts, layer: FullyConnected, form: HeadForm, head: Head) -> str:
    """The nodes that a person would write for it; returns the tensor that takes the place of the layer's y."""
    dtype = layer.weight.dtype
    outer, bias = _cast(head.outer, dtype), _cast(head.bias, dtype)
    if layer.size is None:
        return gemm(new, gemm(new, layer.x, _cast(head.inner, dtype), None), outer, bias)
    c, h, w = layer.size
    if form.rank and layer.conv:
        features = str(new.Conv(layer.x, _cast(head.inner.reshape(-1, c, h, w), dtype)))
    elif form.rank:
        features = gemm(new, str(new.Flatten(layer.x, axis=1)), _cast(head.inner, dtype), None)
        return gemm(new, features, outer, bias)
    elif form.maps:
        kernels = np.tile(head.inner.reshape(1, form.maps, 1, h, w), (c, 1, 1, 1, 1)).reshape(-1, 1, h, w)
        features = str(new.Conv(layer.x, _cast(kernels, dtype), group=c))
    elif len(form.grids) == 1:
        features = _means(new, facts, layer.x, (h, w), form.grids[0])
    else:
        return _pyramid(new, facts, layer, form, outer, bias)
    if layer.conv:
        kernel = form.grids[0] if form.grids else (1, 1)
        return str(new.Conv(features, outer.reshape(len(outer), -1, *kernel), bias))
    return gemm(new, str(new.Flatten(features, axis=1)), outer, bias)


def _means(new: Builder, facts: Facts, x: str, size: Pair, grid: Pair) -> str:
    """(N, C, *grid)"""
    if grid == (1, 1):
        return global_mean(facts, new, x)
    kernel, strides = window(size, grid)
    return str(new.AveragePool(x, kernel_shape=list(kernel), strides=list(strides)))


def _pyramid(
    new: Builder, facts: Facts, layer: FullyConnected, form: HeadForm, outer: NDArray[Any], bias: NDArray[Any]
) -> str:
    """Several grids side by side: columns grid by grid, where `outer` has them channel by channel."""
    assert layer.size is not None, "pooling needs a map"
    c, h, w = layer.size
    by_cell = outer.reshape(len(outer), c, -1)
    parts, columns, at = [], [], 0
    for grid in form.grids:
        cells = math.prod(grid)
        parts.append(str(new.Flatten(_means(new, facts, layer.x, (h, w), grid), axis=1)))
        columns.append(by_cell[:, :, at : at + cells].reshape(len(outer), -1))
        at += cells
    y = gemm(new, str(new.Concat(*parts, axis=1)), np.concatenate(columns, axis=1), bias)
    return new.unsqueeze(y, [2, 3]) if layer.conv else y


def _cast(values: Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    return np.asarray(values).astype(dtype)
