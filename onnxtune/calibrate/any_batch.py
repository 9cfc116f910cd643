"""A model that fixes its batch, for any number of images: large matrices are then read once for many of them.

Whether that is the same function is not read off the graph but tried: images together must give what each gives
alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxtune.errors import ModelError
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.runtime import Session, Target

NAME = "N"
TRIED = 3
"""Images on which it is tried."""
ROUNDING = 1e-3
"""Difference, relative to the largest output, that may be the rounding of other kernels."""


def set_free(model: Model, batches: Collection[int | None]) -> None:
    """Change the model itself: free first axes of inputs and outputs; a Reshape to as many rows as a batch has
    images goes to as many as there are."""
    graph = model.proto.graph
    for value in (*graph.input, *graph.output):
        for dim in value.type.tensor_type.shape.dim[:1]:
            dim.dim_param = dim.dim_param or NAME
    facts = Facts(model)
    for node in graph.node:
        if node.op_type != "Reshape" or node.domain or any(a.name == "allowzero" and a.i for a in node.attribute):
            continue
        target = facts.constant(node.input[1])
        rows = [] if target is None else [int(d) for d in target.ravel()]
        if rows and rows[0] in batches:
            name = f"{node.output[0]}/any_batch"
            rows[0] = 0 if -1 in rows else -1
            graph.initializer.append(numpy_helper.from_array(np.array(rows, np.int64), name))
            node.input[1] = name


def rows_are_images(model: Model, rows: Mapping[str, NDArray[Any]], target: Target) -> bool:
    """Do these inputs together give what each of them gives alone?"""
    count = min(TRIED, *(len(r) for r in rows.values()))
    try:
        session = Session(model, target)
        together = session.run({n: r[:count] for n, r in rows.items()})
        alone = [session.run({n: r[i : i + 1] for n, r in rows.items()}) for i in range(count)]
    except ModelError:
        return False
    return all(_same(value, [a[name] for a in alone]) for name, value in together.items())


def _same(together: NDArray[Any], alone: list[NDArray[Any]]) -> bool:
    if any(a.ndim == 0 or len(a) != 1 for a in alone) or together.shape != (len(alone), *alone[0].shape[1:]):
        return False
    each = np.concatenate(alone).astype(np.float64)
    return bool(np.abs(together - each).max(initial=0.0) <= ROUNDING * np.abs(each).max(initial=0.0))
