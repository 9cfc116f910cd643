"""The head of a classifier, read from the graph: spatial means, flattened maps, linear layers.

Each reader takes a node and returns what it found, None when the node is something else, or a No with
the reason when it is nearly that but cannot be understood safely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.rule import No

FLOATS = frozenset({np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64)})

BATCH = -2
"""In the target of a Reshape: as many rows as there are images."""


@dataclass(frozen=True)
class SpatialMean:
    """The mean of x (N, C, H, W) over its map: (N, C, 1, 1), or (N, C) when `flat`."""

    nodes: tuple[Node, ...]
    x: str
    flat: bool


@dataclass(frozen=True)
class FlatMap:
    """x (N, C, H, W) as a matrix (N, C * H * W), or (N, H * W * C) when `channels_last`.

    Of what comes between the `nodes` only a Shape may see something, too.
    """

    nodes: tuple[Node, ...]
    x: str
    channels: int
    height: int
    width: int
    channels_last: bool


@dataclass(frozen=True, eq=False)
class Linear:
    """y = x W^T + b on a matrix x (N, K); `weight` (J, K), `bias` (J,) or None. Do not write into them."""

    nodes: tuple[Node, ...]
    x: str
    weight: NDArray[Any]
    bias: NDArray[Any] | None

    @property
    def output(self) -> str:
        return self.nodes[-1].outputs[0]


def spatial_mean(facts: Facts, node: Node) -> SpatialMean | No | None:
    """Global pooling in any spelling: GlobalAveragePool, a window over the whole map, a reduction."""
    if not node.is_op("GlobalAveragePool", "AveragePool", "ReduceMean"):
        return None
    if node.op_type == "ReduceMean":
        return _reduced(facts, node)
    x = node.input(0)
    shape = facts.shape(x)
    if shape is None or len(shape) != 4:
        return No("the rank of the map is not known to be 4")
    if node.op_type == "AveragePool":
        whole = _window(shape[2:], node)
        if isinstance(whole, No) or not whole:
            return whole or None
    return _typed(facts, SpatialMean((node,), x, flat=False))


def _typed(facts: Facts, mean: SpatialMean) -> SpatialMean | No:
    dtype = facts.dtype(mean.x)
    return mean if dtype in FLOATS else No(f"means of type {dtype} are not handled")


def _window(size: Sequence[int | str | None], node: Node) -> bool | No:
    """Has an AveragePool one window that holds the whole map?"""
    kernel = node.attribute("kernel_shape", [])
    pads, strides = node.attribute("pads", [0, 0, 0, 0]), node.attribute("strides", [1, 1])
    if node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or len(kernel) != 2:
        return No("auto_pad is not resolved to explicit pads")
    if any(d != 1 for d in node.attribute("dilations", [1, 1])):
        return False
    for axis, extent in enumerate(size):
        if not isinstance(extent, int):
            return No("the size of the map is not declared")
        begin, spare = pads[axis], extent + pads[axis] + pads[axis + 2] - kernel[axis]
        several = spare >= (1 if node.attribute("ceil_mode", 0) else strides[axis])
        if kernel[axis] - begin < extent or spare < 0 or several:
            return False
    if any(pads) and node.attribute("count_include_pad", 0):
        return No("the mean counts the padding (count_include_pad=1)")
    return True


def _reduced(facts: Facts, node: Node) -> SpatialMean | No | None:
    """ReduceMean over axes 2 and 3, together or one after the other (`x.mean(3).mean(2)`)."""
    x, axes = node.input(0), _axes(facts, node)
    if axes is None or isinstance(axes, No):
        return axes
    flat = not node.attribute("keepdims", 1)
    if facts.rank(x) == 4 and axes == {2, 3}:
        return _typed(facts, SpatialMean((node,), x, flat))
    inner = facts.producer(x)
    if inner is None or not inner.is_op("ReduceMean") or facts.rank(inner.input(0)) != 4:
        return None
    first = _axes(facts, inner)
    if not isinstance(first, set) or flat == bool(inner.attribute("keepdims", 1)):
        return None
    # Without keepdims the axis that is left has become axis 2, whichever was reduced first.
    both = first in ({2}, {3}) and axes == {2} if flat else first | axes == {2, 3}
    if not both:
        return None
    if reason := facts.why_not_private(x, {node.key}):
        return No(reason)
    return _typed(facts, SpatialMean((inner, node), inner.input(0), flat))


def _axes(facts: Facts, node: Node) -> set[int] | No | None:
    """The axes of a ReduceMean or Squeeze, counted from the front; None when it names none."""
    axes = node.attribute("axes")
    if axes is None and not node.input(1):
        return None
    rank = facts.rank(node.input(0))
    axes = facts.constant(node.input(1)) if axes is None else axes
    if rank is None or axes is None:
        return No(f"the rank or the axes of the {node.op_type} are not known")
    return {int(a) % rank for a in np.asarray(axes).reshape(-1)}


def flat_map(facts: Facts, node: Node) -> FlatMap | No | None:
    """Flatten, Reshape or Squeeze of a map of declared size to a matrix, one row for each image."""
    if not node.is_op("Flatten", "Reshape", "Squeeze"):
        return None
    x, last = node.input(0), False
    nodes: tuple[Node, ...] = (node,)
    shape = facts.shape(x)
    if shape is None or len(shape) != 4:
        return None
    turn = facts.producer(x)
    if turn is not None and turn.is_op("Transpose") and turn.attribute("perm") == [0, 2, 3, 1]:
        # Exporters read the batch size where the map is turned already; what is flattened is the same.
        sizes = {reader.key for reader in facts.consumers(x) if reader.is_op("Shape")}
        if reason := facts.why_not_private(x, {node.key, *sizes}):
            return No(reason)
        nodes, x, last = (turn, node), turn.input(0), True
        shape = (shape[0], shape[3], shape[1], shape[2])
    batch, (channels, height, width) = shape[0], shape[1:]
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        return No("the size of the flattened map is not declared")
    found = FlatMap(nodes, x, channels, height, width, last)
    if node.op_type == "Flatten":
        return found if node.attribute("axis", 1) in (1, -3) else None
    if node.op_type == "Squeeze":
        return found if _axes(facts, node) == ({1, 2} if last else {2, 3}) else None
    target = _target(facts, node.input(1), x)
    if target is None:
        return No("the shape given to Reshape is computed, not constant")
    if len(target) != 2:
        return None
    rows, columns = target
    copies = rows == BATCH or (rows == 0 and not node.attribute("allowzero", 0))
    # The number of elements is N * C * H * W: with C * H * W columns there can only be N rows.
    if columns == channels * height * width or (columns == -1 and (copies or rows == batch)):
        return found
    return No("Reshape fixes the batch size or mixes images")


def _target(facts: Facts, tensor: str, x: str) -> list[int] | None:
    """A Reshape's target: constant, or as exporters write `view(x.size(0), -1)`: BATCH stands for x's own batch."""
    known = facts.constant(tensor)
    if known is not None:
        return [int(d) for d in known.ravel()]
    maker = facts.producer(tensor)
    if maker is not None and maker.is_op("Concat"):
        parts = [_target(facts, i, x) for i in maker.inputs]
        return None if any(p is None for p in parts) else [d for p in parts for d in p or ()]
    if maker is not None and maker.is_op("Unsqueeze", "Cast", "Identity"):
        return _target(facts, maker.input(0), x)
    return [BATCH] if _is_batch(facts, maker, x) else None


def _is_batch(facts: Facts, node: Node | None, x: str) -> bool:
    """Is it the first entry of Shape(x), by Gather, Slice or Shape's own end?"""
    if node is not None and node.is_op("Shape"):
        first = node.attribute("start", 0) == 0 and node.attribute("end") == 1
    elif node is not None and node.is_op("Gather"):
        index = facts.constant(node.input(1))
        first, node = (
            index is not None and index.size == 1 and int(index.ravel()[0]) == 0,
            facts.producer(node.input(0)),
        )
    elif node is not None and node.is_op("Slice"):
        limits = [node.attribute(n, facts.constant(node.input(i))) for i, n in ((1, "starts"), (2, "ends"))]
        first = [None if v is None else np.asarray(v).ravel().tolist() for v in limits] == [[0], [1]]
        node = facts.producer(node.input(0))
    else:
        return False
    if not first or node is None or not node.is_op("Shape"):
        return False
    mine, other = facts.shape(x), facts.shape(node.input(0))
    return node.input(0) == x or bool(mine and other and mine[0] is not None and mine[0] == other[0])


def linear(facts: Facts, node: Node) -> Linear | No | None:
    """Gemm, or MatMul with its Add, on a matrix with constant weights."""
    if not node.is_op("Gemm", "MatMul"):
        return None
    x, weight = node.input(0), facts.constant(node.input(1))
    if weight is None:
        return No(f"the weight '{node.input(1)}' is not constant")
    if weight.dtype not in FLOATS or weight.ndim != 2:
        return None
    if node.op_type == "Gemm":
        return _gemm(facts, node, weight)
    shape = facts.shape(x)
    if shape is None or len(shape) != 2:
        return None
    weight = weight.T
    for add in facts.consumers(node.outputs[0]):
        if add.is_op("Add") and facts.why_not_private(node.outputs[0], {add.key}) is None:
            other = add.inputs[1 - add.inputs.index(node.outputs[0])]
            bias = _row(facts.constant(other), weight.shape[0])
            if bias is not None:
                return Linear((node, add), x, weight, bias)
    return Linear((node,), x, weight, None)


def linear_before(facts: Facts, tensor: str) -> Linear | None:
    """The linear layer whose result the tensor is."""
    maker = facts.producer(tensor)
    if maker is None:
        return None
    starts = [facts.producer(i) for i in maker.inputs] if maker.is_op("Add") else [maker]
    layers = (linear(facts, s) for s in starts if s is not None)
    return next((x for x in layers if isinstance(x, Linear) and x.output == tensor), None)


def _gemm(facts: Facts, node: Node, weight: NDArray[Any]) -> Linear | No:
    if node.attribute("transA", 0):
        return No("Gemm transposes its input")
    weight = weight if node.attribute("transB", 0) else weight.T
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    if alpha != 1:
        weight = (weight.astype(np.float64) * alpha).astype(weight.dtype)
    if not node.input(2) or beta == 0:
        return Linear((node,), node.input(0), weight, None)
    bias = _row(facts.constant(node.input(2)), weight.shape[0])
    if bias is None:
        return No("the bias is not a constant row")
    return Linear((node,), node.input(0), weight, bias if beta == 1 else (bias * beta).astype(weight.dtype))


def _row(bias: NDArray[Any] | None, size: int) -> NDArray[Any] | None:
    """A constant that is added to each row of (N, size), as (size,); None for anything else."""
    if bias is None or bias.ndim > 2 or bias.shape not in ((), (1,), (size,), (1, 1), (1, size)):
        return None
    return np.asarray(np.broadcast_to(bias, (1, size))[0])


def global_mean(facts: Facts, new: Builder, x: str, *, flat: bool = False) -> str:
    """The mean over the map, (N, C, 1, 1) or (N, C), as the operator that has a kernel for its type."""
    if facts.dtype(x) == np.float64:  # ONNX Runtime's CPU provider has no GlobalAveragePool for it
        return new.reduce("ReduceMean", x, [2, 3], keepdims=not flat)
    pooled = str(new.GlobalAveragePool(x))
    return str(new.Flatten(pooled, axis=1)) if flat else pooled


def gemm(new: Builder, x: str, weight: NDArray[Any], bias: NDArray[Any] | str | None) -> str:
    """x W^T + b; weight (J, K), bias (J,), a tensor's name or None (which Gemm allows from opset 11)."""
    if bias is None and new.opset < 11:
        bias = np.zeros(weight.shape[0], weight.dtype)
    return str(new.Gemm(x, weight, bias, transB=1))
