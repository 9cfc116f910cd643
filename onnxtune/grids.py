"""Which pixels of every map are read: all of them, or a grid of every s_h-th row and s_w-th column.

A 1x1 window with stride s reads the pixels s i of its input. A pointwise operator reads what is read of
its result. So from the last node to the first

    grid(t) = greatest common divisor, axis by axis, of what the readers of t ask for

where everything else (wider windows, graph outputs, subgraphs, unknown operators) asks for every pixel.
Pixels outside of the grid need not be computed. Who makes t at the pixels g i alone?

    a window       Conv or pool with stride s g. n = floor(L / s) + 1 pixels become
                   ceil(n / g) = floor((n - 1) / g) + 1 = floor(L / (s g)) + 1, what the window counts by itself
    pointwise      the same operator (or Concat of channels) on operands thinned alike. Operands of size 1 on
                   an axis (broadcast) have their only pixel on every grid
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from onnxtune.facts import Facts, Node
from onnxtune.windows import Window, window

Grid = tuple[int, ...]
"""Steps along the spatial axes, at least one above 1."""

WINDOWS = ("Conv", "MaxPool", "AveragePool", "LpPool")
ONE_MAP = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip",
    "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log",
    "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign",
    "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu",
)  # fmt: skip
"""Pointwise in their first input; the others are limits or one value per channel."""
SEVERAL_MAPS = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mean", "Sum", "Pow", "PRelu")


def grids(facts: Facts) -> dict[str, Grid]:
    """Tensors of which only a grid is read, and whose makers can leave the other pixels out."""
    stopped: set[str] = set()
    while True:
        found = _asked(facts, stopped)
        idle = {t for t in found if not _reaches_window(facts, found, t)}
        if not idle:
            return found
        stopped |= idle


def thinnable(facts: Facts, node: Node) -> Window | str:
    """The window of a Conv or pool whose stride may grow, or in words why it may not."""
    if not node.is_op(*WINDOWS):
        return f"{node.op_type} makes every pixel"
    if node.attribute("ceil_mode", 0):
        return "ceil_mode = 1"
    if len(node.outputs) > 1 and any(node.outputs[1:]):
        return "the Indices output is used"
    found = window(facts, node)
    kernel = node.attribute("kernel_shape") or (facts.shape(node.input(1)) or ())[2:]
    if isinstance(found, str) and kernel and all(k == 1 for k in kernel):  # SAME pads of a 1x1 window are 0
        ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
        return Window(ones, tuple(node.attribute("strides", ones)), ones, zeros, zeros)
    return found


def maps(facts: Facts, node: Node, grid: Grid) -> tuple[int, ...] | None:
    """Positions of the inputs that a pointwise node reads pixel by pixel; None when it is no such node."""
    if node.is_op("BatchNormalization") and (node.attribute("training_mode", 0) or not node.attribute("spatial", 1)):
        return None
    if any(node.outputs[1:]):
        return None
    if node.is_op(*ONE_MAP):
        return (0,)
    by_channel = node.is_op("Concat") and node.attribute("axis", 1) % (len(grid) + 2) < 2
    if not by_channel and not node.is_op(*SEVERAL_MAPS):
        return None
    found = []
    for position, tensor in enumerate(node.inputs):
        shape = facts.shape(tensor)
        if facts.is_constant(tensor) or (shape is not None and all(d == 1 for d in shape[-len(grid) :])):
            continue
        if shape is None or len(shape) != len(grid) + 2:
            return None
        found.append(position)
    return tuple(found)


def asks(facts: Facts, node: Node, tensor: str, found: Mapping[str, Grid]) -> Grid | None:
    """The grid of its input that a node reads, None when it is every pixel."""
    grid = found.get(node.outputs[0])
    if tensor in node.captured:
        return None
    if node.is_op(*WINDOWS):
        own = thinnable(facts, node)
        if isinstance(own, str) or any(k != 1 for k in own.kernel) or any(own.pads) or tensor in node.inputs[1:]:
            return None
        return _grid(s * g for s, g in zip(own.strides, grid or (1,) * len(own.strides), strict=True))
    positions = maps(facts, node, grid) if grid else None
    if positions is None or any(tensor == t for i, t in enumerate(node.inputs) if i not in positions):
        return None
    return grid


def regions(facts: Facts, found: Mapping[str, Grid]) -> list[list[Node]]:
    """Nodes that make or read a thinned tensor, connected by these."""
    joined: list[dict[str, Node]] = []
    for tensor in found:
        touching = [facts.producer(tensor), *facts.consumers(tensor)]
        merged = {n.key: n for n in touching if n is not None}
        for region in [r for r in joined if not r.keys().isdisjoint(merged)]:
            merged |= region
            joined.remove(region)
        joined.append(merged)
    return [sorted(r.values(), key=lambda n: n.index) for r in joined]


def _asked(facts: Facts, stopped: set[str]) -> dict[str, Grid]:
    found: dict[str, Grid] = {}
    for node in reversed(facts.nodes):
        tensor = node.key
        readers = facts.consumers(tensor)
        if not readers or tensor in stopped or facts.is_output(tensor) or tensor != node.outputs[0]:
            continue
        each = [asks(facts, reader, tensor, found) for reader in readers]
        known = [grid for grid in each if grid is not None]
        common = _grid(math.gcd(*steps) for steps in zip(*known, strict=True)) if len(known) == len(each) else None
        if common is None:
            continue
        if maps(facts, node, common) is not None or isinstance(thinnable(facts, node), Window):
            found[tensor] = common
    return found


def _reaches_window(facts: Facts, found: Mapping[str, Grid], tensor: str) -> bool:
    """Does thinning the tensor save more than the pixels of a pointwise operator?"""
    node = facts.producer(tensor)
    assert node is not None, "only results of nodes are thinned"
    positions = maps(facts, node, found[tensor])
    return positions is None or any(node.inputs[i] in found for i in positions)


def _grid(steps: Iterable[int]) -> Grid | None:
    result = tuple(steps)
    return result if any(s > 1 for s in result) else None
