"""Deep networks of any number of nodes, on which time per node is counted.

`deep`: residual blocks as exporters leave them, with a few places for each kind of rewrite. `crowded`: a rule fires at
every third node. `wide`: branches of one tensor, all of them alike. Channels are few, so that inference is quick; the
last scale of each block is small, so that numbers stay finite at any depth.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

CHANNELS, SIZE = 8, 8
BRANCH = 0.05
"""Scale of a block's own part beside what it passes on."""


class Net:
    """Nodes and weights as they are added; tensors are their names."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def constant(self, array: NDArray[Any]) -> str:
        kept = array if array.dtype.kind == "i" else array.astype(np.float32)
        self.weights.append(numpy_helper.from_array(kept, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"t{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def conv(self, x: str, into: int = CHANNELS, out: int = CHANNELS, k: int = 3, pads: int | None = None) -> str:
        w = self.random.standard_normal((out, into, k, k)) / (k * into**0.5)
        around = k // 2 if pads is None else pads
        return self.add("Conv", x, self.constant(w), self.constant(np.zeros(out)), pads=[around] * 4)

    def norm(self, x: str, c: int = CHANNELS, gain: float = 1.0, dead: bool = False) -> str:
        scale, shift = gain * self.random.uniform(0.5, 1.5, c), self.random.standard_normal(c) * 0.1 * gain
        if dead:
            scale[0], shift[0] = 0, -1
        parts = (scale, shift, self.random.standard_normal(c) * 0.1, self.random.uniform(0.5, 1.5, c))
        return self.add("BatchNormalization", x, *(self.constant(p) for p in parts))

    def scaled(self, x: str) -> str:
        return self.norm(x, gain=BRANCH)

    def model(self, y: str, name: str) -> onnx.ModelProto:
        self.add("Flatten", self.add("GlobalAveragePool", y))
        self.add("Gemm", self.nodes[-1].output[0], self.constant(self.random.standard_normal((CHANNELS, 10))))
        x = helper.make_tensor_value_info("x", 1, ["N", 3, SIZE, SIZE])
        out = helper.make_tensor_value_info(self.nodes[-1].output[0], 1, ["N", 10])
        graph = helper.make_graph(self.nodes, name, [x], [out], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _basic(net: Net, y: str) -> str:
    a = net.add("Relu", net.norm(net.conv(y)))
    return net.scaled(net.conv(a))


def _noops(net: Net, y: str) -> str:
    a = net.add("Identity", net.add("Relu", net.norm(net.conv(y))))
    return net.scaled(net.conv(net.add("Dropout", a)))


def _padded(net: Net, y: str) -> str:
    pads = net.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    a = net.add("Relu", net.norm(net.conv(net.add("Pad", y, pads), pads=0)))
    return net.scaled(net.conv(a))


def _linear(net: Net, y: str) -> str:
    a = net.conv(net.conv(y, out=3 * CHANNELS, k=1), into=3 * CHANNELS)
    return net.scaled(net.conv(net.add("Relu", a), k=1))


def _parallel(net: Net, y: str) -> str:
    a = net.add("Add", net.norm(net.conv(y)), net.norm(net.conv(y, k=1)))
    return net.scaled(net.conv(net.add("Relu", a)))


def _swish(net: Net, y: str) -> str:
    a = net.norm(net.conv(y))
    limits = [net.constant(np.array(v, np.float64)) for v in (0.0, 6.0)]
    gate = net.add("Clip", net.add("Add", a, net.constant(np.array(3.0))), *limits)
    a = net.add("Mul", a, net.add("Div", gate, net.constant(np.array(6.0))))
    return net.scaled(net.conv(a))


def _siblings(net: Net, y: str) -> str:
    parts = [net.add("Relu", net.conv(y, out=CHANNELS // 2, k=1)) for _ in range(2)]
    return net.scaled(net.conv(net.add("Concat", *parts, axis=1)))


def _pooled(net: Net, y: str) -> str:
    a = net.add("Relu", net.conv(y))
    pools = [net.add("MaxPool", a, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[1, 1]) for k in (5, 9)]
    return net.scaled(net.conv(net.add("Concat", a, *pools, axis=1), into=3 * CHANNELS, k=1))


def _dead(net: Net, y: str) -> str:
    a = net.add("Relu", net.norm(net.conv(y), dead=True))
    return net.scaled(net.conv(a))


def _tied(net: Net, y: str) -> str:
    w = net.random.standard_normal((CHANNELS, CHANNELS, 3, 3)) / 8
    w[1] = w[0]
    a = net.add("Relu", net.add("Conv", y, net.constant(w), pads=[1] * 4))
    return net.scaled(net.conv(a))


RARE: tuple[Callable[[Net, str], str], ...] = (
    _noops, _padded, _linear, _parallel, _swish, _siblings, _pooled, _dead, _tied,
)  # fmt: skip
PERIOD = 3
"""Every third block is one of RARE in turn, the others are plain."""


def deep(nodes: int) -> onnx.ModelProto:
    """Residual blocks of Conv, BatchNormalization and Relu; every PERIOD-th offers something to rewrite."""
    net = Net()
    y = net.add("Relu", net.conv("x", into=3))
    block = 0
    while len(net.nodes) < nodes - 3:
        rare = block % PERIOD == PERIOD - 1
        make = RARE[block // PERIOD % len(RARE)] if rare else _basic
        y = net.add("Relu", net.add("Add", y, make(net, y)))
        block += 1
    return net.model(y, f"deep-{nodes}")


def crowded(nodes: int) -> onnx.ModelProto:
    """A chain in which every third node does nothing."""
    net = Net()
    y = net.add("Relu", net.conv("x", into=3))
    while len(net.nodes) < nodes - 3:
        w = net.constant(np.eye(CHANNELS).reshape(CHANNELS, CHANNELS, 1, 1) * net.random.uniform(0.9, 1.1))
        y = net.add("Relu", net.add("Identity", net.add("Conv", y, w)))
    return net.model(y, f"crowded-{nodes}")


def wide(nodes: int) -> onnx.ModelProto:
    """Hundreds of branches of each tensor, which are added up: 100 tensors at most have so many readers."""
    net = Net()
    y = net.add("Relu", net.conv("x", into=3))
    branches = max(2, nodes // 40)
    while len(net.nodes) < nodes - 3:
        parts = [net.add("Relu", net.conv(y, k=1)) for _ in range(branches)]
        y = net.add("Relu", net.norm(net.add("Sum", *parts), gain=4 / branches))
    return net.model(y, f"wide-{nodes}")


MODELS: dict[str, Callable[[int], onnx.ModelProto]] = {"deep": deep, "crowded": crowded, "wide": wide}
