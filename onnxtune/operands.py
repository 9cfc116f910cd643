"""Operands that say little for their size: constants, and single pixels that are repeated all over a map.

And what they add to a convolution, computed apart from the others (see the rule split_concat_conv).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxtune.convolution import Convolution
from onnxtune.facts import Facts, Node
from onnxtune.shapes import Shape
from onnxtune.stencil import Stencil, applied

RESIZES = ("nearest", "linear")
"""Modes of a Resize that give back the value of a single pixel, as it is."""


@dataclass(frozen=True, eq=False)
class Operand:
    """`value`: a constant, which broadcasts against the tensor; `pixel`: a tensor (N, C, 1...) that is repeated.

    One of both. `node`: what makes the operand of it, None for a plain constant.
    """

    value: NDArray[np.float64] | None = None
    pixel: str = ""
    node: Node | None = None


def operand(facts: Facts, tensor: str) -> Operand | None:
    """What is known of a tensor (N, C, positions...); None when it is like any other."""
    stored = facts.constant(tensor)
    if stored is not None:
        return Operand(value=stored.astype(np.float64)) if stored.dtype.kind == "f" else None
    node = facts.producer(tensor)
    if node is None:
        return None
    if node.is_op("ConstantOfShape"):
        given = node.attribute("value")
        number = np.zeros(1) if given is None else numpy_helper.to_array(given)
        return Operand(value=number.astype(np.float64), node=node) if number.dtype.kind == "f" else None
    source = facts.constant(node.input(0)) if node.is_op("Expand") else None
    if source is not None and source.dtype.kind == "f":
        return Operand(value=source.astype(np.float64), node=node)
    return Operand(pixel=node.input(0), node=node) if _repeats(facts, node) else None


def _repeats(facts: Facts, node: Node) -> bool:
    """Does it put one pixel everywhere, and leave batch and channels alone?"""
    shape = facts.shape(node.input(0))
    if shape is None or len(shape) < 3 or any(d != 1 for d in shape[2:]) or not isinstance(shape[1], int):
        return False
    if node.is_op("Expand"):
        target = facts.constant(node.input(1))
        given = facts.shape(node.outputs[0]) if target is None else tuple(int(d) for d in target)
        same_rank = given is not None and len(given) == len(shape)
        return same_rank and given is not None and (given[1] in (1, shape[1]) or (target is None and shape[1] > 1))
    if node.is_op("Tile"):
        repeats = facts.constant(node.input(1))
        return repeats is not None and repeats.size == len(shape) and bool(np.all(repeats[:2] == 1))
    if not node.is_op("Resize", "Upsample") or node.attribute("mode", "nearest") not in RESIZES:
        return False
    if node.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return False
    return _keeps_channels(facts, node, shape)


def _keeps_channels(facts: Facts, node: Node, shape: Shape) -> bool:
    """Does a Resize or Upsample leave batch and channels alone? By its scales, its result's shape or its sizes."""
    first = 1 if node.op_type == "Upsample" or facts.opset < 11 else 2
    scales, sizes = facts.constant(node.input(first)), facts.producer(node.input(3))
    given = node.attribute("scales") if scales is None else scales.ravel().tolist()
    if given:
        return not node.attribute("axes") and list(given[:2]) == [1, 1]
    out = facts.shape(node.outputs[0])
    if out is not None and tuple(out[:2]) == tuple(shape[:2]) and None not in out[:2]:
        return True
    head = facts.producer(sizes.input(0)) if sizes is not None and sizes.is_op("Concat") else None
    source = facts.producer(head.input(0)) if head is not None and head.is_op("Slice") else None
    if head is None or source is None or not source.is_op("Shape") or source.input(0) != node.input(0):
        return False
    ends = [facts.constant(head.input(i)) for i in (1, 2)]
    return [None if e is None else e.ravel().tolist() for e in ends] == [[0], [2]] and not source.attributes


@dataclass(frozen=True, eq=False)
class Share:
    """What an operand adds to the output: a constant that broadcasts to (N, C_out, ...), or a 1x1 Conv of a pixel."""

    constant: NDArray[np.float64] | None = None
    pixel: str = ""
    weight: NDArray[np.float64] | None = None


def share(
    conv: Convolution, w: NDArray[np.float64], o: Operand, size: tuple[int, ...] | None, limit: int
) -> Share | str:
    """The operand's share through its columns `w` of the weight; `size` is the map's, as declared."""
    padded, axes = any(conv.window.pads), tuple(range(2, w.ndim))
    if o.value is None:
        if padded:
            return "the convolution pads a repeated operand: at the border the share differs"
        return Share(pixel=o.pixel, weight=w.sum(axes, keepdims=True))
    shape = (1,) * (w.ndim - o.value.ndim) + o.value.shape
    value = np.broadcast_to(o.value.reshape(shape), (shape[0], w.shape[1], *shape[2:]))
    if not value.any():
        return Share()
    if all(d == 1 for d in shape[2:]) and not padded:
        return Share(constant=np.tensordot(value, w.sum(axes), (1, 1)).reshape(shape[0], -1, *(1,) * len(axes)))
    if size is None:
        return "a constant before pads, or one that is not the same everywhere, needs a known size of the map"
    part = Stencil(w, np.zeros(len(w)), conv.window, 1)
    if conv.out_channels * math.prod(size) > limit:
        return "the constant map would be large"
    return Share(constant=applied(part, np.broadcast_to(value, (*value.shape[:2], *size))))
