"""Small clean CNNs for the tests of checks: seeded weights, every dimension known, opset 17."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int | str, ...]


class Cnn:
    """`net.add(op, inputs, **attributes)` adds a node and returns its output; `net.x` is the input."""

    def __init__(self, *shape: int | str, opset: int = 17, ir: int = 8, dtype: int = TensorProto.FLOAT) -> None:
        self.x, self.opset, self.ir, self.dtype = "x", opset, ir, dtype
        self.inputs = [helper.make_tensor_value_info("x", dtype, shape)]
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(len(shape))

    def weight(self, values: NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def normal(self, *shape: int, scale: float = 1.0) -> NDArray[Any]:
        kind = helper.tensor_dtype_to_np_dtype(self.dtype)
        return (scale * self.rng.standard_normal(shape)).astype(kind)

    def ints(self, *values: int) -> str:
        return self.weight(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"{op.lower()}{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"n{len(self.nodes)}", domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, x: str, into: int, out: int, k: Any = 3, *, values: Any = None, **attributes: Any) -> str:
        height, width = k if isinstance(k, tuple) else (k, k)
        group = attributes.get("group", 1)
        shape = (out, into // group, height, width)
        if "auto_pad" not in attributes:
            attributes.setdefault("pads", [height // 2, width // 2, height // 2, width // 2])
        attributes.setdefault("kernel_shape", [height, width])
        scale = float(np.sqrt(2 / np.prod(shape[1:])))
        w = self.weight(self.normal(*shape, scale=scale) if values is None else values)
        return str(self.add("Conv", x, w, self.weight(self.normal(out, scale=0.1)), **attributes))

    def norm(self, x: str, c: int, *, gamma: Any = None, beta: Any = None, **more: Any) -> str:
        gamma = 1 + 0.1 * self.rng.random(c) if gamma is None else gamma
        beta = np.zeros(c) if beta is None else beta
        stats = [np.asarray(v, np.float32) for v in (gamma, beta, np.zeros(c), np.ones(c))]
        return self.add("BatchNormalization", x, *(self.weight(v) for v in stats), **more)  # type: ignore[no-any-return]

    def block(self, x: str, into: int, out: int, k: Any = 3, **attributes: Any) -> str:
        """Convolution and ReLU."""
        return str(self.add("Relu", self.conv(x, into, out, k, **attributes)))

    def classifier(self, x: str, c: int, classes: int = 10) -> str:
        """Global average pooling and one fully connected layer."""
        return self.fc(str(self.add("Flatten", self.add("GlobalAveragePool", x))), c, classes)

    def fc(self, x: str, into: int, out: int) -> str:
        w = self.weight(self.normal(out, into, scale=float(np.sqrt(1 / into))))
        return str(self.add("Gemm", x, w, self.weight(self.normal(out)), transB=1))

    def model(self, *outputs: str, weights_as_inputs: bool = False) -> onnx.ModelProto:
        infos = [onnx.ValueInfoProto(name=o) for o in outputs]
        graph = helper.make_graph(self.nodes, "net", self.inputs, infos, self.weights)
        domains = {n.domain for n in self.nodes} - {""}
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=self.ir)
        inferred = onnx.shape_inference.infer_shapes(proto)
        known = {v.name: v for v in [*inferred.graph.value_info, *inferred.graph.output]}
        for value in proto.graph.output:
            if value.name in known and known[value.name].type.HasField("tensor_type"):
                value.CopyFrom(known[value.name])
            elif not value.type.HasField("tensor_type"):
                value.type.tensor_type.elem_type = self.dtype
        if weights_as_inputs:
            for w in self.weights:
                proto.graph.input.append(helper.make_tensor_value_info(w.name, w.data_type, list(w.dims)))
        return proto
