"""Other batch sizes: of models that leave the batch open, and of those that fix it, where it can be freed.

Whether a network is free of the batch that its file declares is not read off the graph but tried: with the batch
symbolic, the outputs of several inputs together must be the outputs of the same inputs one batch at a time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from onnxtune.errors import ModelError
from onnxtune.feeds import Feeds, random_feeds
from onnxtune.model import Model
from onnxtune.runtime import CPU, Outputs, Session, Target
from onnxtune.shapes import describe
from onnxtune.sizes import Sizes

SYMBOL = "batch"
TOLERANCE = 1e-3
"""Of the largest output: other kernels may serve another batch."""
TIMES = 2
"""Batches of the declared size that the freed model takes at once when it is tried."""


def batch_is_free(model: Model) -> bool:
    """Does any input leave its first axis open?"""
    infos = [describe(v) for v in model.inputs]
    return any(i is not None and i.shape and not isinstance(i.shape[0], int) for i in infos)


def sized(model: Model, sizes: Sizes, batch: int) -> dict[str, tuple[int, ...]]:
    """The sizes with this batch on every first axis that the model leaves open."""
    changed = dict(sizes)
    for value in model.inputs:
        info = describe(value)
        if info is not None and info.shape and not isinstance(info.shape[0], int):
            changed[value.name] = (batch, *sizes[value.name][1:])
    return changed


def items(sizes: Sizes) -> int:
    """Inputs that one inference processes: the first axis of the first input that has one."""
    return next((shape[0] for shape in sizes.values() if shape), 1)


def with_free_batch(model: Model, sizes: Sizes, seed: int = 0) -> Model | str:
    """The model with a symbolic batch, verified; or in words why its batch is fixed. `sizes`: as it declares them."""
    own = {shape[0] for shape in sizes.values() if shape}
    if len(own) != 1:
        return "its inputs do not share a first axis of one size"
    (batch,) = own
    free = _freed(model, batch)
    target = Target(CPU)
    try:
        together, alone = Session(free, target, "basic"), Session(model, target, "basic")
        parts = [random_feeds(model, sizes, seed + i) for i in range(TIMES)]
        got = together.run(_stacked(parts))
        problem = _problem(got, [alone.run(p) for p in parts], batch)
        if not problem and batch > 1:
            singles = [{n: a[i : i + 1] for n, a in parts[0].items()} for i in range(batch)]
            problem = _problem(alone.run(parts[0]), [together.run(s) for s in singles], 1)
    except ModelError as error:
        return f"freed of its batch of {batch} it does not run: {str(error).partition(': ')[2]}"
    return problem or free


def _freed(model: Model, batch: int) -> Model:
    """Symbolic first axes; Reshape targets that begin with the batch take it from their input instead."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    del graph.value_info[:]
    fed = {v.name for v in model.inputs}
    for value in [*(v for v in graph.input if v.name in fed), *graph.output]:
        dims = value.type.tensor_type.shape.dim
        if dims and (value.name in fed or dims[0].dim_value == batch):
            dims[0].dim_param = SYMBOL
    weights = {i.name: i for i in graph.initializer}
    made = {n.output[0]: n for n in graph.node if n.op_type == "Constant"}
    for node in graph.node:
        if node.op_type != "Reshape" or any(a.name == "allowzero" and a.i for a in node.attribute):
            continue
        name = node.input[1]
        tensor = weights[name] if name in weights else _constant(made.get(name))
        if tensor is None:
            continue
        target = numpy_helper.to_array(tensor).copy()
        if target.size and target[0] == batch:
            target[0] = 0  # as the input has it
            fresh = numpy_helper.from_array(target, f"{name}/{SYMBOL}/{len(graph.initializer)}")
            graph.initializer.append(fresh)
            node.input[1] = fresh.name
    return model.with_proto(proto)


def _constant(node: onnx.NodeProto | None) -> onnx.TensorProto | None:
    return None if node is None else next((a.t for a in node.attribute if a.name == "value"), None)


def _stacked(parts: list[Feeds]) -> Feeds:
    return {n: np.concatenate([p[n] for p in parts]) for n in parts[0]}


def _problem(together: Outputs, alone: list[Outputs], batch: int) -> str:
    """Why the outputs are not those of the parts, stacked; "" when they are."""
    for name, value in together.items():
        pieces = [a[name] for a in alone]
        if not value.ndim or any(p.shape[:1] != (batch,) for p in pieces):
            return f"output '{name}' has no batch axis"
        expected = np.concatenate(pieces)
        if expected.shape != value.shape:
            return f"output '{name}' of several inputs has the shape {value.shape}, not {expected.shape}"
        if not _close(value, expected):
            return f"output '{name}' of several inputs is not what these give one by one"
    return ""


def _close(value: np.ndarray, expected: np.ndarray) -> bool:
    if value.dtype.kind != "f":
        return bool(np.array_equal(value, expected))
    allowed = TOLERANCE * max(float(np.abs(expected).max(initial=0.0)), 1e-6)
    return bool(np.isfinite(value).all() and float(np.abs(value - expected).max(initial=0.0)) <= allowed)


def shown(sizes: Mapping[str, tuple[int, ...]]) -> str:
    """ "x 1x3x224x224, y 4"."""
    return ", ".join(f"{n} {'x'.join(map(str, s)) or 'scalar'}" for n, s in sizes.items())
