"""Seeded inputs for measuring and verifying: plain, extreme, larger batches, other spatial sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.model import Model
from onnxtune.ranges import Ranges, clipped
from onnxtune.shapes import Shape, TensorInfo, describe
from onnxtune.sizes import spatial_axes

Feeds = dict[str, NDArray[Any]]
CHUNK = 2**20
"""Numbers that are drawn at a time."""


@dataclass(frozen=True, eq=False)
class Case:
    """One set of feeds with the name that reports call it by."""

    name: str
    feeds: Feeds


def random_feeds(model: Model, sizes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Feeds:
    """Standard normal inputs (integers: 0 to 7; booleans: either) of the given sizes."""
    rng = np.random.default_rng(seed)
    return {v.name: _normal(_info(v), sizes[v.name], rng) for v in model.inputs}


def cases(
    model: Model, sizes: Mapping[str, tuple[int, ...]], seed: int = 0, ranges: Ranges | None = None
) -> Iterator[Case]:
    """The verification inputs: seeded normal and uniform, ones, zeros, large, corner impulses;
    then batch 3 and other spatial sizes where the model declares these dimensions dynamic.

    `ranges`: what the user declares of inputs; the feeds are clipped to it and one case fills it.
    """
    for case in _cases(model, sizes, seed):
        yield Case(case.name, clipped(case.feeds, ranges or {}))
    if ranges:
        plain, rng = random_feeds(model, sizes, seed), np.random.default_rng(seed + 3)
        filled = {n: rng.uniform(*ranges[n], a.shape).astype(a.dtype) for n, a in plain.items() if n in ranges}
        yield Case("uniform in the declared ranges", {**plain, **clipped(filled, ranges)})


def _cases(model: Model, sizes: Mapping[str, tuple[int, ...]], seed: int) -> Iterator[Case]:
    plain = random_feeds(model, sizes, seed)
    rng = np.random.default_rng(seed + 1)
    yield Case("normal", plain)
    yield Case("uniform [0, 1)", _each(plain, lambda a: _drawn(rng.random, a.shape, a.dtype)))
    yield Case("ones", _each(plain, np.ones_like))
    yield Case("zeros", _each(plain, np.zeros_like))
    yield Case("normal x 1000", _each(plain, lambda a: a * 1000))
    yield Case("corner impulses", _each(plain, _corners))
    for name, other in _other_sizes(model, sizes):
        yield Case(name, random_feeds(model, other, seed + 2))


def _other_sizes(
    model: Model, sizes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, dict[str, tuple[int, ...]]]]:
    declared = {v.name: _info(v).shape or () for v in model.inputs}
    if any(shape and not isinstance(shape[0], int) for shape in declared.values()):
        yield "batch 3", _resized(declared, sizes, lambda shape, axis, size: 3 if axis == 0 else size)
    if any(not isinstance(shape[axis], int) for shape in declared.values() for axis in spatial_axes(shape)):
        yield "odd height and width", _resized(declared, sizes, _odd)
        yield "small height and width", _resized(declared, sizes, _small)


Change = Callable[[Shape, int, int], int]
"""(declared shape, axis, size) -> the size to try for a dynamic axis."""


def _odd(shape: Shape, axis: int, size: int) -> int:
    spatial = spatial_axes(shape)
    return size + (1, 3)[spatial.index(axis) % 2] if axis in spatial else size


def _small(shape: Shape, axis: int, size: int) -> int:
    spatial = spatial_axes(shape)
    return max(1, int(size * (0.5, 0.6)[spatial.index(axis) % 2])) if axis in spatial else size


def _resized(
    declared: Mapping[str, Shape], sizes: Mapping[str, tuple[int, ...]], change: Change
) -> dict[str, tuple[int, ...]]:
    """The sizes with all dynamic axes changed; a symbol that several axes share has one size on all of them."""
    values: dict[str, int] = {}
    for name, shape in declared.items():
        for axis, dim in enumerate(shape):
            if isinstance(dim, str) and (tried := change(shape, axis, sizes[name][axis])) != sizes[name][axis]:
                values.setdefault(dim, tried)

    def size(shape: Shape, axis: int, now: int) -> int:
        dim = shape[axis]
        return change(shape, axis, now) if dim is None else values.get(dim, now) if isinstance(dim, str) else now

    return {
        name: tuple(size(shape, axis, now) for axis, now in enumerate(sizes[name])) if shape else sizes[name]
        for name, shape in declared.items()
    }


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    info = describe(value)
    assert info is not None, "sizes.bind has refused inputs that are not tensors"
    return info


def _normal(info: TensorInfo, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    """An array also where the shape is (), for which numpy draws a number."""
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(info.elem_type))
    if dtype.kind in "iu":
        return np.asarray(rng.integers(0, 8, shape), dtype)
    if dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape), bool)
    if dtype.kind == "O":
        return np.full(shape, "a", object)
    return _drawn(rng.standard_normal, shape, dtype)


def _drawn(draw: Callable[[int], NDArray[np.float64]], shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """What `draw` gives for the shape, without ever holding all of it as 64-bit numbers."""
    values = np.empty(math.prod(shape), dtype)
    for start in range(0, values.size, CHUNK):
        part = values[start : start + CHUNK]
        part[...] = draw(part.size)
    return values.reshape(shape)


def _each(feeds: Feeds, change: Any) -> Feeds:
    """The change on floating-point inputs; others (indices, sizes, flags) stay as they are."""
    return {n: np.asarray(change(a)).astype(a.dtype) if _is_float(a) else a for n, a in feeds.items()}


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" or array.dtype.name in ("bfloat16",)


def _corners(array: NDArray[Any]) -> NDArray[Any]:
    """Zero but for single values in the first and last positions of each trailing (H, W) map."""
    result = np.zeros_like(array)
    if array.ndim >= 3 and array.size:
        for row, column, value in ((0, 0, 1), (0, -1, -2), (-1, 0, 3), (-1, -1, -4)):
            result[..., row, column] = value
    elif array.size:
        result.reshape(-1)[0] = 1
    return result
