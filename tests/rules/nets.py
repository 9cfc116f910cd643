"""Small networks for tests, built operator by operator with seeded weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


class Net:
    """`net.add(op, inputs, **attributes)` adds a node and returns its output; arrays become weights."""

    def __init__(self, *shape: int | str, opset: int = 17, dtype: Any = np.float32, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.opset = opset
        self.dtype = np.dtype(dtype)
        self.rng = np.random.default_rng(seed)
        self.inputs = [helper.make_tensor_value_info("x", self.type, shape)]

    @property
    def type(self) -> int:
        return int(helper.np_dtype_to_tensor_dtype(self.dtype))

    def input(self, name: str, *shape: int | str) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, self.type, shape))
        return name

    def constant(self, array: NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def random(self, *shape: int, low: float = -1.0, high: float = 1.0) -> str:
        return self.constant(self.rng.uniform(low, high, shape).astype(self.dtype))

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x: str, into: int, out: int, k: int = 3, *, group: int = 1, **attributes: Any) -> str:
        scale = 1.5 / np.sqrt(k * k * into / group)
        w = self.random(out, into // group, k, k, low=-scale, high=scale)
        attributes = {"pads": [k // 2] * 4, **attributes}
        return str(self.add("Conv", x, w, self.random(out), group=group, **attributes))

    def transposed(self, x: str, into: int, out: int, *, group: int = 1) -> str:
        scale = 1.0 / np.sqrt(into / group)
        w = self.random(into, out // group, 2, 2, low=-scale, high=scale)
        return str(self.add("ConvTranspose", x, w, self.random(out), strides=[2, 2], group=group))

    def norm(self, x: str, c: int) -> str:
        return str(
            self.add("BatchNormalization", x, self.random(c), self.random(c), self.random(c), self.random(c, low=0.5))
        )

    def gemm(self, x: str, into: int, out: int, *, transB: int = 1) -> str:
        shape = (out, into) if transB else (into, out)
        scale = 1.5 / np.sqrt(into)
        return str(self.add("Gemm", x, self.random(*shape, low=-scale, high=scale), self.random(out), transB=transB))

    def pooled(self, x: str) -> str:
        return str(self.add("Flatten", self.add("GlobalAveragePool", x)))

    def captured(self, x: str) -> str:
        """A tensor of unknown shape that only the bodies of an If read, which makes it its result."""
        n = len(self.nodes)
        bodies = [
            helper.make_graph(
                [helper.make_node("Identity", [x], [f"{name}{n}"])], name, [], [onnx.ValueInfoProto(name=f"{name}{n}")]
            )
            for name in ("then", "else")
        ]
        for body in bodies:
            body.output[0].type.tensor_type.elem_type = self.type
        condition = self.constant(np.array(True))
        return str(self.add("If", condition, then_branch=bodies[0], else_branch=bodies[1]))

    def model(self, *outputs: str) -> onnx.ModelProto:
        infos = [onnx.ValueInfoProto(name=o) for o in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.weights)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
        by_name = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output]}
        del proto.graph.output[:]
        proto.graph.output.extend(by_name[o] for o in outputs)
        onnx.checker.check_model(proto, full_check=True)
        return proto
