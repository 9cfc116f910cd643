"""A linear layer that a calibrated rewrite approximates: y = W rows(x) + b."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.calibrate.moments import MOST_COLUMNS
from onnxtune.convolution import convolution
from onnxtune.facts import Facts, Node
from onnxtune.later import Later
from onnxtune.windows import Window

WIDE = 2048
"""Columns beyond which a matrix product, of which each image gives one row only, is fitted from a sample of rows."""


@dataclass(frozen=True, eq=False)
class Layer:
    """`weight` (J, d) float64, `bias` (J,) float64, both rounded to `dtype` when written.

    Of a weight too large to be held `stored` makes the values when they are wanted, in their own type (see
    `values`); `weight` then has their shape and no meaning.

    With a `window`, x is a map (N, C, *map), its rows are the patches under the window in the order of
    Conv's weights, and `kernel` is (J, C, *kernel). Without one, x is a matrix (N, d), or a map that is
    flattened to one; where y is more than W x + b of it, the layer is not `linear`, and weight and bias have no meaning
    but the shapes of rows and answers. `x` and `y` are tensors of the graph that the layer was read from; y is the
    pre-activation, and `rectified` says that Relu is all that reads it.
    """

    key: str
    x: str
    y: str
    weight: NDArray[np.floating[Any]]
    bias: NDArray[np.float64]
    dtype: np.dtype[Any]
    window: Window | None = None
    rectified: bool = False
    stored: Later | None = None
    linear: bool = True

    def values(self) -> NDArray[np.floating[Any]]:
        """The weight (J, d). Hold it no longer than needed."""
        return self.weight if self.stored is None else self.stored.array()

    @property
    def columns(self) -> int:
        return int(self.weight.shape[1])

    @property
    def wide(self) -> bool:
        """Is it too wide for a covariance of its rows? Then a sample of the rows is all that is known of them."""
        return self.columns > (MOST_COLUMNS if self.window is not None else WIDE)

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[0])

    @property
    def kernel(self) -> NDArray[np.floating[Any]]:
        """(J, C, *kernel) of a layer with a window."""
        assert self.window is not None, "only convolutions have a kernel"
        return self.weight.reshape(self.outputs, -1, *self.window.kernel)


def conv_layer(facts: Facts, node: Node) -> Layer | str:
    """A Conv of group 1 as a layer, or in words why it cannot be one."""
    found = convolution(facts, node)
    if isinstance(found, str):
        return found
    if found.group != 1:
        return "depthwise kernels do not factorise" if found.depthwise else "grouped convolutions are not refitted"
    if found.dtype not in (np.float32, np.float16):
        return f"weights of type {found.dtype}"
    if (reader := _needs_positive(facts, found.y)) is not None:
        return f"its result must stay positive, '{reader.key}' takes the {reader.op_type} of it"
    flat = found.weight.reshape(found.out_channels, -1)
    return Layer(node.key, found.x, found.y, flat, found.shift, found.dtype, found.window, rectified(facts, found.y))


def _needs_positive(facts: Facts, tensor: str) -> Node | None:
    """Who reads the tensor and is not finite for all numbers: least squares may miss by little and change the sign."""
    return next((r for r in facts.consumers(tensor) if r.is_op("Sqrt", "Log", "Reciprocal") or _root(facts, r)), None)


def _root(facts: Facts, node: Node) -> bool:
    power = facts.constant(node.input(1)) if node.is_op("Pow") else np.zeros(1)
    return power is None or bool(((power < 0) | (power % 1 != 0)).any())


def rectified(facts: Facts, tensor: str) -> bool:
    """Is Relu all that sees the tensor?"""
    readers = facts.consumers(tensor)
    return bool(readers) and not facts.is_output(tensor) and all(r.is_op("Relu") for r in readers)
