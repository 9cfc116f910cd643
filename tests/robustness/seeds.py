"""Small valid models of many kinds, from which broken ones are made."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

RNG = np.random.default_rng(0)


def parsed(text: str, weights: dict[str, np.ndarray] | None = None, opset: int = 17, ir: int = 8) -> onnx.ModelProto:
    """A model from ONNX's text syntax with weights."""
    header = f'<ir_version: {ir}, opset_import: ["": {opset}, "com.example": 1]>'
    proto = onnx.parser.parse_model(f"{header} {text}")
    proto.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in (weights or {}).items())
    return proto


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def convolutional() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, pooling, Flatten, Gemm; metadata and doc strings."""
    weights = {"w": normal(8, 3, 3, 3), "v": normal(8, 8, 3, 3), "g": normal(8 * 9, 5)}
    weights |= {k: np.abs(normal(8)) for k in ("s", "b", "m", "r")}
    proto = parsed(
        """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w)  n = BatchNormalization (a, s, b, m, r)  c = Relu (n)
            d = Conv <pads = [1, 1, 1, 1]> (c, v)  e = Add (c, d)
            p = MaxPool <kernel_shape = [3, 3], strides = [3, 3], pads = [0, 0, 1, 1]> (e)
            f = Flatten (p)  y = Gemm (f, g) }""",
        weights,
    )
    proto.doc_string = "a small network"
    proto.metadata_props.add(key="author", value="somebody")
    return proto


def branching() -> onnx.ModelProto:
    """An If whose bodies capture outer tensors, a Loop and shape arithmetic."""
    return parsed(
        """g (float[N, 4] x, bool c) => (float[N, 4] y, float[N, 4] z) {
            k = Constant <value = float {2}> ()
            y = If (c) <then_branch = t () => (float[N, 4] u) { u = Mul (x, k) },
                        else_branch = e () => (float[N, 4] v) { v = Add (x, k) }>
            n = Constant <value = int64 {3}> ()
            yes = Constant <value = bool {1}> ()
            z = Loop (n, yes, x) <body = b (int64 i, bool d, float[N, 4] s) => (bool more, float[N, 4] t)
                { more = Identity (d)  t = Add (s, k) }> }"""
    )


def functional() -> onnx.ModelProto:
    """A local function that is called twice."""
    proto = parsed("g (float[N, 4] x) => (float[N, 4] y) { a = com.example.twice (x)  y = com.example.twice (a) }")
    node = onnx.helper.make_node("Add", ["p", "p"], ["q"])
    proto.functions.append(
        onnx.helper.make_function("com.example", "twice", ["p"], ["q"], [node], [onnx.helper.make_opsetid("", 17)])
    )
    return proto


def quantised() -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear around a convolution with 8-bit weights."""
    weights = {
        "w": RNG.integers(-127, 127, (4, 3, 1, 1)).astype(np.int8),
        "s": np.float32(0.1), "z": np.int8(0), "ws": np.full(4, 0.02, np.float32), "wz": np.zeros(4, np.int8),
    }  # fmt: skip
    return parsed(
        """g (float[1, 3, 6, 6] x) => (float[1, 4, 6, 6] y) {
            q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
            f = DequantizeLinear <axis = 0> (w, ws, wz)  y = Conv (d, f) }""",
        weights,
    )


def sequences() -> onnx.ModelProto:
    """A sequence inside the graph."""
    return parsed(
        """g (float[4, 4] x) => (float[M, 4] y) {
            s = SplitToSequence <axis = 0> (x)  y = ConcatFromSequence <axis = 0> (s) }"""
    )


def resizing() -> onnx.ModelProto:
    """Reshape, Resize, Pad, Expand, ConstantOfShape: sizes that are values."""
    weights = {"s": np.array([1, 1, 2, 2], np.float32), "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
               "t": np.array([1, 3, 10, 10]), "r": np.array([1, -1])}  # fmt: skip
    return parsed(
        """g (float[1, 3, 4, 4] x) => (float[1, M] y) {
            a = Resize <mode = "nearest"> (x, , s)  b = Pad (a, p)  k = ConstantOfShape (t)
            e = Expand (k, t)  c = Add (b, e)  y = Reshape (c, r) }""",
        weights,
    )


def outside() -> onnx.ModelProto:
    """A weight that is said to lie in a file (which is not there)."""
    proto = convolutional()
    tensor = proto.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "weights.bin", offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")
    return proto


MAKERS = (convolutional, branching, functional, quantised, sequences, resizing, outside)
