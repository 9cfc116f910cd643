"""Convolutions in ONNX Runtime, for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxtune.calibrate.forms import Factors
from onnxtune.windows import Window

Conv = tuple[np.ndarray, np.ndarray | None, Window, int]
"""weight, bias, window, group"""


def run_convs(x: np.ndarray, convs: Sequence[Conv]) -> np.ndarray:
    """The convolutions in a row, without optimizations."""
    nodes, constants = [], []
    for i, (weight, bias, window, group) in enumerate(convs):
        names = [f"t{i}", f"w{i}"]
        constants.append(numpy_helper.from_array(weight.astype(np.float32), f"w{i}"))
        if bias is not None:
            names.append(f"b{i}")
            constants.append(numpy_helper.from_array(bias.astype(np.float32), f"b{i}"))
        attributes = {"strides": window.strides, "dilations": window.dilations, "pads": window.pads, "group": group}
        nodes.append(helper.make_node("Conv", names, [f"t{i + 1}"], **attributes))
    inputs = [helper.make_tensor_value_info("t0", TensorProto.FLOAT, x.shape)]
    outputs = [helper.make_tensor_value_info(f"t{len(convs)}", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"t0": x.astype(np.float32)})[0]


def run_factors(x: np.ndarray, factors: Factors) -> np.ndarray:
    stages = factors.stages
    biases = [None] * (len(stages) - 1) + [factors.bias]
    return run_convs(x, [(s.weight, b, s.window, s.group) for s, b in zip(stages, biases, strict=True)])
