"""A Conv node with constant weights as numbers, and the way back: what rules that compute new kernels share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxtune.facts import Facts, Node
from onnxtune.fragment import Builder
from onnxtune.windows import Window, window


@dataclass(frozen=True, eq=False)
class Convolution:
    """y = Conv(x). `weight`: float64 (C_out, C_in / group, *kernel); `bias`: float64 (C_out,) or None when absent.

    `window` has explicit pads; `dtype` is the type in which the model stores its weights.
    """

    node: Node
    weight: NDArray[np.float64]
    bias: NDArray[np.float64] | None
    window: Window
    group: int
    dtype: np.dtype[Any]

    @property
    def x(self) -> str:
        return self.node.input(0)

    @property
    def y(self) -> str:
        return self.node.outputs[0]

    @property
    def out_channels(self) -> int:
        return int(self.weight.shape[0])

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[1]) * self.group

    @property
    def shift(self) -> NDArray[np.float64]:
        """The bias, zeros when absent."""
        return np.zeros(self.out_channels) if self.bias is None else self.bias

    @property
    def pointwise(self) -> bool:
        """Kernel 1 on every axis, no pads (strides are free)."""
        return all(k == 1 for k in self.window.kernel) and not any(self.window.pads)

    @property
    def depthwise(self) -> bool:
        """One filter per input channel and output channel."""
        return self.group > 1 and self.group == self.in_channels == self.out_channels


def convolution(facts: Facts, node: Node) -> Convolution | str:
    """The Conv as numbers, or in words why it cannot be read (auto_pad that depends on the input's size...)."""
    if not node.is_op("Conv"):
        return f"{node.op_type} is no Conv"
    weight = facts.constant(node.input(1))
    bias = facts.constant(node.input(2)) if node.input(2) else None
    if weight is None or (node.input(2) and bias is None):
        return "the weights are not constant"
    if weight.dtype.kind != "f":
        return f"weights of type {weight.dtype}"
    found = window(facts, node)
    if isinstance(found, str):
        return found
    wide = None if bias is None else bias.astype(np.float64)
    return Convolution(node, weight.astype(np.float64), wide, found, node.attribute("group", 1), weight.dtype)


def add_conv(
    new: Builder,
    x: str,
    weight: NDArray[np.float64],
    bias: NDArray[np.float64] | None,
    frame: Window,
    dtype: np.dtype[Any],
    group: int = 1,
) -> str:
    """Write a Conv with these numbers, rounded to `dtype`; attributes at their defaults are left out."""
    ones = (1,) * len(frame.kernel)
    return str(
        new.Conv(
            x,
            weight.astype(dtype),
            None if bias is None else bias.astype(dtype),
            kernel_shape=list(frame.kernel),
            strides=list(frame.strides) if frame.strides != ones else None,
            dilations=list(frame.dilations) if frame.dilations != ones else None,
            pads=frame.pads if any(frame.pads) else None,
            group=group if group != 1 else None,
        )
    )
