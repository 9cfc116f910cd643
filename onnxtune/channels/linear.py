"""Conv, ConvTranspose, Gemm and MatMul in one form: rows over the channels of their input.

    y[r] = bias[r] + sum_c (w[r, starts[c] : starts[c + 1]] applied to channel c)

A convolution has one weight per tap and channel; after Flatten a channel has as many columns as its map
has elements. In a convolution in groups the columns are those of the row's own group. Depthwise convolutions
are not meant here, nor are weights that are stored as integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.channels.axis import Integers
from onnxtune.channels.contracting import sums
from onnxtune.channels.flow import Channels
from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.later import Later

Vector = NDArray[np.float64]
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class Linear:
    """stored: (rows, columns), to be multiplied by alpha, decoded when asked for; starts: (channels,) first
    column of each channel; bias: (rows,).

    `uniform`: a constant channel gives the same value at every place of the output, since no zeros
    are put around it. `shape`: of the weights as the model has them. `stacked`: a product of several matrices.
    """

    node: Node
    facts: Facts
    alpha: float
    starts: Integers
    bias: Vector
    uniform: bool
    shape: tuple[int, ...]
    group: int = 1
    stacked: bool = False

    @property
    def stored(self) -> NDArray[Any]:
        w = self.facts.constant(self.node.input(1))
        assert w is not None, "trace has proved that the weights are constant"
        if self.node.is_op("Conv", "ConvTranspose"):
            if self.node.op_type == "ConvTranspose":
                w = w.reshape(self.group, -1, *w.shape[1:]).swapaxes(1, 2)
            return w.reshape(len(self.bias), -1)
        return w if self.node.is_op("Gemm") and self.node.attribute("transB", 0) else w.T

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stored.dtype

    @property
    def w(self) -> Vector:
        """(rows, columns): the weights in float64, a new array."""
        return np.asarray(self.alpha * self.stored.astype(np.float64))

    @cached_property
    def uses(self) -> NDArray[np.bool_]:
        """(rows, channels): is any weight other than 0?"""
        stored = self.stored
        if self.group > 1:
            own = np.logical_or.reduceat(stored != 0, self.starts, axis=1)
            groups = np.eye(self.group, dtype=bool).repeat(len(own) // self.group, 0).repeat(own.shape[1], 1)
            return np.asarray(np.tile(own, self.group) & groups)
        if np.count_nonzero(stored) == stored.size and self.alpha:
            return np.ones((len(stored), len(self.starts)), bool)
        return np.asarray(np.logical_or.reduceat(stored != 0, self.starts, axis=1)) & (self.alpha != 0)

    def shares(self, values: Vector) -> Vector:
        """(rows,): what channels with constant values add to the rows; channels with 0 are not looked at."""
        total, used = np.zeros(len(self.bias)), np.flatnonzero(values).tolist()
        stored = self.stored
        if self.group > 1:
            taps = np.add.reduceat(stored, self.starts, axis=1, dtype=np.float64)
            grouped = taps.reshape(self.group, -1, len(self.starts)) @ values.reshape(self.group, -1, 1)
            return np.asarray(self.alpha * grouped.ravel())
        for c in used:
            total += self.alpha * values[c] * stored[:, self.columns(c)].sum(axis=1, dtype=np.float64)
        return total

    def columns(self, channel: int) -> Integers:
        end = self.starts[channel + 1] if channel + 1 < len(self.starts) else math.prod(self.shape) // len(self.bias)
        return np.arange(self.starts[channel], end)

    def write(self, new: Builder, x: str, w: Callable[[], Vector], bias: Vector) -> str:
        """The node on `x` with other weights of the same shape. `w` is called when they are written."""
        node, dtype = self.node, self.dtype
        values = Later(self.shape, dtype, lambda: self._placed(w().astype(dtype)))
        stored: NDArray[Any] | None = bias.astype(dtype) if node.input(2) or bias.any() else None
        if node.op_type in ("Conv", "ConvTranspose"):
            return new.copy(node.proto, [x, values, *([] if stored is None else [stored])])[0]
        if node.op_type == "Gemm":
            return new.copy(node.proto, [x, values, *([] if stored is None else [stored])], alpha=None, beta=None)[0]
        if stored is not None and not self.stacked:
            return str(new.Gemm(x, values, stored))
        y = new.MatMul(x, values)
        return str(y if stored is None else new.Add(y, stored))

    def _placed(self, w: NDArray[Any]) -> NDArray[Any]:
        """Weights in the shape that the model has them in."""
        if self.node.op_type not in ("Conv", "ConvTranspose"):
            return w if self.node.op_type == "Gemm" and self.node.attribute("transB", 0) else w.T
        taps = w.reshape(self.group, -1, len(self.starts), w.shape[1] // len(self.starts))
        taps = taps.swapaxes(1, 2) if self.node.op_type == "ConvTranspose" else taps
        return taps.reshape(self.shape)


def layers(channels: Channels) -> list[Node]:
    """Nodes that sum over channels, in order."""
    facts = channels.facts
    found = [n for n in facts.nodes if n.is_op(*LAYERS) and n.key not in channels.barriers]
    return [n for n in found if sums(n, facts, channels.axes.get(n.input(0)))]


def linear(channels: Channels, node: Node) -> Linear | None:
    """The node of `layers` in the common form; None for quantised weights and where it has a bias per row of
    the batch."""
    facts, axis = channels.facts, channels.axes.get(node.input(0))
    stored = facts.constant(node.input(1))
    if stored is None or (node.input(2) and not facts.is_constant(node.input(2))):
        return None
    given = facts.constant(node.input(2)) if node.input(2) else None
    w = stored
    if node.is_op("Conv", "ConvTranspose"):
        group = node.attribute("group", 1)
        if node.op_type == "ConvTranspose":
            w = w.reshape(group, -1, *w.shape[1:]).swapaxes(1, 2)
            w = w.reshape(-1, *w.shape[2:])
        rows, into = w.shape[:2]
        bias = np.zeros(rows) if given is None else given.astype(np.float64)
        uniform = node.op_type == "Conv" and not is_padded(node)
        starts = _starts(np.full(into, w[0, 0].size))
        return Linear(node, facts, 1.0, starts, bias, uniform, stored.shape, group)
    if not (node.is_op("Gemm") and node.attribute("transB", 0)):
        w = w.T
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    if given is not None and given.size not in (1, given.shape[-1] if given.ndim else 1):
        return None
    bias = np.zeros(len(w)) if given is None else np.broadcast_to(beta * given.astype(np.float64).ravel(), (len(w),))
    blocks = np.ones(w.shape[1], np.int64) if axis is None else axis.blocks
    stacked = (facts.rank(node.input(0)) or 2) > 2
    return Linear(node, facts, alpha, _starts(blocks), bias, True, stored.shape, stacked=stacked)


def is_padded(node: Node) -> bool:
    """May the window reach beyond the map?"""
    automatic = node.attribute("auto_pad", "NOTSET")
    return automatic.startswith("SAME") or (automatic == "NOTSET" and any(node.attribute("pads", [])))


def _starts(blocks: Integers | Sequence[int]) -> Integers:
    sizes = np.asarray(blocks, np.int64)
    return np.cumsum(sizes) - sizes
