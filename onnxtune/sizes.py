"""Binding a model's dynamic dimensions to concrete sizes: the user's, else sensible ones that are said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from onnxtune.errors import ModelError, UsageError
from onnxtune.model import Model
from onnxtune.shapes import Shape, describe

Sizes = Mapping[str, tuple[int, ...]]

ASSUMED_SPATIAL = 224
"""Height and width that are assumed when an image input leaves them open (the ImageNet crop)."""
ASSUMED_CHANNELS = 3


INPUT_LIMIT = 2**30
"""Bytes that all inputs of one inference may take: a shape is quickly written down, and feeds are made of it."""


KINDS = {
    "sequence_type": "a sequence",
    "optional_type": "an optional value",
    "map_type": "a map",
    "sparse_tensor_type": "a sparse tensor",
}


@dataclass(frozen=True)
class Binding:
    """Concrete input shapes, and for each dimension that had to be assumed a phrase saying so."""

    sizes: dict[str, tuple[int, ...]]
    assumed: tuple[str, ...]


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`name:1x3x224x224` -> {name: (1, 3, 224, 224)}. Raises UsageError."""
    found = {}
    for text in texts:
        name, _, dims = text.rpartition(":")
        try:
            shape = tuple(int(d) for d in dims.replace(",", "x").split("x"))
        except ValueError:
            raise UsageError(f"--input-shapes {text}: expected name:1x3x224x224") from None
        if not name or any(d < 1 for d in shape):
            raise UsageError(f"--input-shapes {text}: expected name:1x3x224x224, all sizes at least 1")
        found[name] = shape
    return found


def bind(model: Model, given: Sizes | None = None) -> Binding:
    """Sizes for every input: as declared, as given, else assumed (batch 1, 3 channels, 224 x 224).

    Raises UsageError when a given name or size contradicts the model, or when an input's rank is
    unknown and not given; ModelError when an input's type cannot be fed (sequence, map).
    """
    reason = unfed(model)
    if reason:
        raise ModelError(f"{model.name}: {reason}")
    return bind_tensors(model, given)


def unfed(model: Model) -> str | None:
    """Why the model cannot be run here, in words: an input that is no tensor. None where all are."""
    for value in model.inputs:
        if describe(value) is None:
            kind = KINDS.get(value.type.WhichOneof("value") or "", "not a tensor")
            return f"input '{value.name}' is {kind}; only tensors can be fed"
    return None


def bind_tensors(model: Model, given: Sizes | None = None) -> Binding:
    """As `bind`, for those inputs that are tensors."""
    given = {name: tuple(shape) for name, shape in (given or {}).items()}
    unknown = given.keys() - {i.name for i in model.inputs}
    if unknown:
        names = ", ".join(i.name for i in model.inputs)
        raise UsageError(f"{model.name}: --input-shapes names '{min(unknown)}', but the inputs are: {names}")
    sizes: dict[str, tuple[int, ...]] = {}
    assumed: list[str] = []
    values: dict[str, int] = {}
    tensors = [(value, info) for value in model.inputs if (info := describe(value)) is not None]
    for value, info in tensors:
        if value.name in given:
            _check(model, value.name, info.shape, given[value.name])
            for dim, size in zip(info.shape or (), given[value.name], strict=False):
                if isinstance(dim, str):
                    values.setdefault(dim, size)
    for value, info in tensors:
        if value.name in given:
            sizes[value.name] = given[value.name]
        elif info.shape is None:
            raise UsageError(f"{model.name}: input '{value.name}' has no declared rank; give --input-shapes")
        else:
            sizes[value.name] = _fill(value.name, info.shape, values, assumed)
    _refuse_huge(model, sizes)
    return Binding(sizes, tuple(assumed))


def _refuse_huge(model: Model, sizes: Sizes) -> None:
    total = 0
    for value in model.inputs:
        if value.name in sizes:
            kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
            total += math.prod(sizes[value.name]) * int(kind.itemsize)
    if total > INPUT_LIMIT:
        largest = max(sizes, key=lambda name: math.prod(sizes[name]))
        shown = "x".join(map(str, sizes[largest]))
        raise ModelError(
            f"{model.name}: its inputs take {total / 1e9:.3g} GB (at most {INPUT_LIMIT / 1e9:.3g}), '{largest[:80]}'"
            f" is {shown}; give smaller --input-shapes where they are dynamic"
        )


def with_batch(model: Model, sizes: Sizes, given: Sizes, batch: int) -> tuple[dict[str, tuple[int, ...]], bool]:
    """Sizes with this batch where the model leaves it open and the user has not given it; were there such inputs?"""
    changed = dict(sizes)
    for value in model.inputs:
        info = describe(value)
        free = info is not None and info.shape and not isinstance(info.shape[0], int)
        if free and value.name not in given:
            changed[value.name] = (batch, *sizes[value.name][1:])
    return changed, changed != dict(sizes)


def spatial_axes(shape: Shape) -> tuple[int, ...]:
    """Height and width of an image input: axes 2 and up, or 1 and 2 when channels come last."""
    channels_last = len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4)
    return (1, 2) if channels_last else tuple(range(2, len(shape)))


def _fill(name: str, shape: Shape, values: dict[str, int], assumed: list[str]) -> tuple[int, ...]:
    spatial = spatial_axes(shape)
    result = []
    for axis, dim in enumerate(shape):
        if isinstance(dim, int):
            result.append(dim)
            continue
        if isinstance(dim, str) and dim in values:
            result.append(values[dim])
            continue
        if axis == 0:
            size, said = 1, ""
        elif axis in spatial and len(shape) >= 4:
            size, said = ASSUMED_SPATIAL, f"input '{name}' axis {axis} is dynamic; {ASSUMED_SPATIAL} was assumed"
        elif axis == 1 and len(shape) >= 4:
            size, said = ASSUMED_CHANNELS, f"input '{name}' axis 1 is dynamic; {ASSUMED_CHANNELS} was assumed"
        else:
            size, said = 16, f"input '{name}' axis {axis} is dynamic; 16 was assumed"
        if said:
            assumed.append(said)
        if isinstance(dim, str):
            values[dim] = size
        result.append(size)
    return tuple(result)


def _check(model: Model, name: str, declared: Shape | None, given: tuple[int, ...]) -> None:
    if any(size < 1 for size in given):
        raise UsageError(f"{model.name}: --input-shapes {name}:{'x'.join(map(str, given))}: all sizes are at least 1")
    if declared is None:
        return
    shown = "x".join(str(d or "?") for d in declared)
    wrong = len(declared) != len(given) or any(
        isinstance(d, int) and d != g for d, g in zip(declared, given, strict=True)
    )
    if wrong:
        raise UsageError(
            f"{model.name}: --input-shapes {name}:{'x'.join(map(str, given))} does not fit the declared {shown}"
        )
