"""Writing a CNN in code, with seeded He-random weights, the way exporters write it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


@dataclass(frozen=True)
class Map:
    """A tensor of the network under construction: (N, `channels`, H, W), or (N, `channels`) after `flatten`."""

    name: str
    channels: int


class Net:
    """Nodes and weights of one network with input `x`: (N, channels, size, size)."""

    def __init__(self, size: int, channels: int = 3, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.size, self.input = size, Map("x", channels)

    def constant(self, array: NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def add(self, op: str, channels: int, *inputs: Map | str, **attributes: Any) -> Map:
        """A node with one output; returns that."""
        names = [i.name if isinstance(i, Map) else i for i in inputs]
        self.nodes.append(helper.make_node(op, names, [f"t{len(self.nodes)}"], **attributes))
        return Map(self.nodes[-1].output[0], channels)

    def conv(
        self, x: Map, out: int, k: int, stride: int = 1, *, group: int = 1, bias: bool = True, act: str = ""
    ) -> Map:
        """A convolution that pads by k // 2; `bias`: as where batch normalization has been folded."""
        into = x.channels // group
        w = self.rng.standard_normal((out, into, k, k)) * math.sqrt(2 / (into * k * k))
        parts = [w.astype(np.float32)]
        if bias:
            parts.append((0.1 * self.rng.standard_normal(out)).astype(np.float32))
        names = [self.constant(p) for p in parts]
        half = k // 2
        y = self.add("Conv", out, x, *names, kernel_shape=[k, k], strides=[stride] * 2, pads=[half] * 4, group=group)
        return self.act(y, act)

    def norm(self, x: Map) -> Map:
        """Batch normalization as it is in a network in training form."""
        c = x.channels
        scale, var = self.rng.uniform(0.3, 0.9, c), self.rng.uniform(0.7, 1.8, c)
        shift, mean = 0.1 * self.rng.standard_normal((2, c))
        names = [self.constant(a.astype(np.float32)) for a in (scale, shift, mean, var)]
        return self.add("BatchNormalization", c, x, *names)

    def act(self, x: Map, kind: str) -> Map:
        if not kind:
            return x
        if kind == "SiLU":
            return self.add("Mul", x.channels, x, self.add("Sigmoid", x.channels, x))
        if kind == "Relu6":
            low, high = (self.constant(np.array(v, np.float32)) for v in (0.0, 6.0))
            return self.add("Clip", x.channels, x, low, high)
        if kind == "LeakyRelu":
            return self.add("LeakyRelu", x.channels, x, alpha=0.1)
        return self.add(kind, x.channels, x)

    def sum(self, *maps: Map, act: str = "") -> Map:
        y = maps[0]
        for other in maps[1:]:
            y = self.add("Add", y.channels, y, other)
        return self.act(y, act)

    def concat(self, *maps: Map) -> Map:
        return self.add("Concat", sum(m.channels for m in maps), *maps, axis=1)

    def max_pool(self, x: Map, k: int, stride: int, pad: int) -> Map:
        return self.add("MaxPool", x.channels, x, kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4)

    def upsample(self, x: Map) -> Map:
        """Nearest, twice as large."""
        scales = self.constant(np.array([1, 1, 2, 2], np.float32))
        mode = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.add("Resize", x.channels, x, "", scales, **mode)

    def classify(self, x: Map, classes: int = 1000) -> Map:
        """Global average pooling, Flatten, Gemm."""
        pooled = self.add("GlobalAveragePool", x.channels, x)
        return self.linear(self.add("Flatten", x.channels, pooled), classes)

    def linear(self, x: Map, out: int) -> Map:
        w = self.rng.standard_normal((out, x.channels)) * math.sqrt(2 / x.channels)
        names = [self.constant(a.astype(np.float32)) for a in (w, 0.1 * self.rng.standard_normal(out))]
        return self.add("Gemm", out, x, *names, transB=1)

    def model(self, name: str, *outputs: Map) -> onnx.ModelProto:
        """The network as a model with batch "N", opset 17, checked."""
        size = self.size
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", self.input.channels, size, size])
        made = [helper.make_empty_tensor_value_info(o.name) for o in outputs]
        graph = helper.make_graph(self.nodes, name, [x], made, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        del inferred.graph.value_info[:]
        onnx.checker.check_model(inferred, full_check=True)
        return inferred
