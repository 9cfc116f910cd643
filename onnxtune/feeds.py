"""Seeded inputs for measuring and verifying: plain, extreme, larger batches, other spatial sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxtune.model import Model
from onnxtune.shapes import TensorInfo, describe

Feeds = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Case:
    """One set of feeds with the name that reports call it by."""

    name: str
    feeds: Feeds


def random_feeds(model: Model, sizes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Feeds:
    """Standard normal inputs (integers: 0 to 7; booleans: either) of the given sizes."""
    rng = np.random.default_rng(seed)
    return {v.name: _normal(_info(v), sizes[v.name], rng) for v in model.inputs}


def cases(model: Model, sizes: Mapping[str, tuple[int, ...]], seed: int = 0) -> Iterator[Case]:
    """The verification inputs: seeded normal and uniform, ones, zeros, large, corner impulses;
    then batch 3 and other spatial sizes where the model declares these dimensions dynamic."""
    plain = random_feeds(model, sizes, seed)
    yield Case("normal", plain)
    yield Case("uniform [0, 1)", _each(plain, lambda a: np.random.default_rng(seed + 1).random(a.shape)))
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
    batch = {name for name, shape in declared.items() if shape and not isinstance(shape[0], int)}
    if batch:
        yield "batch 3", {n: (3, *s[1:]) if n in batch else s for n, s in sizes.items()}
    spatial = {
        name: [axis for axis in (2, 3) if len(shape) == 4 and not isinstance(shape[axis], int)]
        for name, shape in declared.items()
    }
    if any(spatial.values()):
        for label, steps in (("odd height and width", (1, 3)), ("small height and width", (-0.5, -0.4))):
            yield (
                label,
                {n: tuple(_step(d, a, steps, spatial[n]) for a, d in enumerate(s)) for n, s in sizes.items()},
            )


def _step(size: int, axis: int, steps: tuple[float, float], dynamic: list[int]) -> int:
    if axis not in dynamic:
        return size
    step = steps[axis - 2]
    return size + int(step) if step >= 1 else max(1, int(size * (1 + step)))


def _info(value: onnx.ValueInfoProto) -> TensorInfo:
    info = describe(value)
    assert info is not None, "sizes.bind has refused inputs that are not tensors"
    return info


def _normal(info: TensorInfo, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[Any]:
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(info.elem_type))
    if dtype.kind in "iu":
        return rng.integers(0, 8, shape).astype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "O":
        return np.full(shape, "a", object)
    return rng.standard_normal(shape).astype(dtype)


def _each(feeds: Feeds, change: Any) -> Feeds:
    """The change on floating-point inputs; others (indices, sizes, flags) stay as they are."""
    return {n: np.asarray(change(a)).astype(a.dtype) if _is_float(a) else a for n, a in feeds.items()}


def _is_float(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" or array.dtype.name in ("bfloat16",)


def _corners(array: NDArray[Any]) -> NDArray[Any]:
    """Zero but for single values in the first and last positions of each trailing (H, W) map."""
    result = np.zeros_like(array)
    if array.ndim >= 3:
        for row, column, value in ((0, 0, 1), (0, -1, -2), (-1, 0, 3), (-1, -1, -4)):
            result[..., row, column] = value
    elif array.size:
        result.reshape(-1)[0] = 1
    return result
