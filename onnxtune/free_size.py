"""Height and width of a model's images as free dimensions, where the network is fit for any size.

A network whose head pools over the whole map takes images of all sizes, but its file still declares one. Whether it
is free of the size is not read off the graph but tried: at several sizes it must run, unoptimised and as deployed
with equal results, and give outputs of the same shape (maps may grow), and at its own size the same as before.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from onnxtune.errors import ModelError
from onnxtune.feeds import Feeds, random_feeds
from onnxtune.model import Model
from onnxtune.runtime import Outputs, Session, Target
from onnxtune.shapes import describe
from onnxtune.sizes import bind, spatial_axes

NAMES = ("height", "width")
TOLERANCE = 1e-3
"""Of the largest output: both sides are the same weights in other kernels."""


def with_free_size(model: Model, target: Target, seed: int = 0) -> Model | str:
    """The model with symbolic height and width, verified at several sizes; or in words why it must keep its size."""
    axes = _image_axes(model)
    if not axes:
        return "no input is an image of declared height and width"
    free = _freed(model, axes)
    own = bind(model).sizes
    try:
        sessions = [Session(free, target, "disable"), Session(free, target)]
        before = Session(model, target, "disable").run(random_feeds(model, own, seed))
        for sizes in ({}, *_others(own, axes)):
            feeds = random_feeds(free, {**own, **sizes}, seed)
            plain, deployed = (s.run(feeds) for s in sessions)
            if problem := _problem(before, plain, deployed, same=not sizes):
                return f"{problem} at {_shown(feeds, axes)}"
    except ModelError as error:
        return str(error)
    return free


def _image_axes(model: Model) -> dict[str, tuple[int, ...]]:
    """Inputs of rank 4 with the axes of height and width that have a declared size."""
    found = {}
    for value in model.inputs:
        shape = (describe(value) or (0, None))[1]
        if shape is not None and len(shape) == 4:
            axes = spatial_axes(shape)
            if all(isinstance(shape[a], int) for a in axes):
                found[value.name] = axes
    return found


def _freed(model: Model, axes: dict[str, tuple[int, ...]]) -> Model:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    del proto.graph.value_info[:]
    for value in proto.graph.input:
        for name, axis in zip(NAMES, axes.get(value.name, ()), strict=False):
            value.type.tensor_type.shape.dim[axis].dim_param = name
    for value in proto.graph.output:
        dims = value.type.tensor_type.shape.dim
        for dim in list(dims)[1:] if len(dims) == 4 else ():
            dim.Clear()  # a map may grow with the image
    return model.with_proto(proto)


def _others(own: dict[str, tuple[int, ...]], axes: dict[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Sizes of all images together: larger, of another shape, not a multiple of anything."""
    for factor, more in ((2, (0, 0)), (1, (16, 32)), (1, (1, 6))):
        changed = {}
        for name, where in axes.items():
            size = list(own[name])
            for i, axis in enumerate(where):
                size[axis] = factor * size[axis] + more[i]
            changed[name] = tuple(size)
        yield changed


def _problem(before: Outputs, plain: Outputs, deployed: Outputs, *, same: bool) -> str:
    for name, value in plain.items():
        other = deployed[name]
        if value.ndim != before[name].ndim or (value.ndim < 4 and value.shape != before[name].shape):
            return f"output '{name}' has another shape"
        against = [other, before[name]] if same else [other]
        if value.dtype.kind != "f":
            continue
        if not np.isfinite(value).all():
            return f"output '{name}' is not finite"
        allowed = TOLERANCE * max(float(np.abs(value).max(initial=0.0)), 1e-6)
        if any(a.shape != value.shape or float(np.abs(a - value).max(initial=0.0)) > allowed for a in against):
            return f"output '{name}' differs between kernels"
    return ""


def _shown(feeds: Feeds, axes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} " + "x".join(str(feeds[name].shape[a]) for a in where) for name, where in axes.items())
