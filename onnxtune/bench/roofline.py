"""What the device can do at most, measured through ONNX Runtime: a large matrix product, and large copies.

The roofline model (Williams, Waterman & Patterson, Commun. ACM 52(4), 2009): work of F operations that must move B
bytes takes at least max(F / peak operations per second, B / peak bytes per second).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnxtune.model import Model

Bound = Literal["compute", "memory"]
GEMM = {False: 512, True: 4096}
"""Side of the square matrices, on the CPU and on a GPU: a few milliseconds, which other work may leave undisturbed."""
COPY = {False: 2**26, True: 2**29}
"""Bytes of the tensor that is copied: more than the last cache holds."""
PRODUCTS, COPIES = 20, 8
"""How often each is run in a round; the fastest counts."""


@dataclass(frozen=True)
class Roofline:
    """Peaks of the device: `flops` per second in the element type `dtype`, bytes per second to and from memory."""

    flops: float
    bandwidth: float
    dtype: str

    def seconds(self, flops: float, size: float) -> float:
        """The least time that `flops` operations on `size` bytes take."""
        return max(flops / self.flops, size / self.bandwidth)

    def bound(self, flops: float, size: float) -> Bound:
        return "compute" if flops / self.flops >= size / self.bandwidth else "memory"


def gemm(on_gpu: bool, dtype: int) -> tuple[Model, dict[str, NDArray[Any]], float]:
    """(model, feeds, floating-point operations) of a large product of square matrices."""
    side = GEMM[on_gpu]
    node = onnx.helper.make_node("MatMul", ["a", "b"], ["c"], name="gemm")
    values = [onnx.helper.make_tensor_value_info(n, dtype, [side, side]) for n in "abc"]
    rng = np.random.default_rng(0)
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtype)
    feeds = {n: rng.standard_normal((side, side), np.float32).astype(kind) for n in "ab"}
    return _model(onnx.helper.make_graph([node], "gemm", values[:2], values[2:])), feeds, 2.0 * side**3


def copies(on_gpu: bool) -> tuple[Model, dict[str, NDArray[Any]], dict[str, float]]:
    """(model, feeds, bytes that each node of it moves) of elementwise operators on a large tensor.

    The output is small: its memory is new in every run, and so slow at first touch.
    """
    size = COPY[on_gpu]
    make = onnx.helper.make_node
    nodes = [
        make("Relu", ["x"], ["t"], name="copy"),
        make("Add", ["t", "x"], ["u"], name="add"),
        make("ReduceMax", ["u"], ["y"], name="end", keepdims=0),
    ]
    x = onnx.helper.make_tensor_value_info("x", TensorProto.FLOAT, [size // 4])
    y = onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [])
    feeds = {"x": np.random.default_rng(0).standard_normal(size // 4, np.float32)}
    return _model(onnx.helper.make_graph(nodes, "copies", [x], [y])), feeds, {"copy": 2.0 * size, "add": 3.0 * size}


def roofline(
    products: Sequence[float], operations: float, moved: dict[str, float], seconds: dict[str, list[float]], dtype: str
) -> Roofline:
    """The fastest product and the fastest copy of those measured (seconds): peaks, not averages."""
    return Roofline(operations / min(products), max(moved[n] / min(s) for n, s in seconds.items() if n in moved), dtype)


def _model(graph: onnx.GraphProto) -> Model:
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    return Model(proto, "roofline")
