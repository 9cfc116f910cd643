"""A well-kept simplifier under our gates; its fusions, merging and weight tying stay switched off.

Between onnxslim and onnxsim it is a close call (benchmarks/simplifiers.py tried both on 42 models and 30
probes of odd graphs): onnxslim is pure Python, has public switches for what is not wanted, and folds
shape chains of dynamic batches; onnxsim is quicker and was right on more odd graphs unguarded. So
onnxslim is used where the probes found it right, and the rest is declined:

- it edits the model that it is given: it gets a copy; its messages go to nobody;
- it may turn Constant nodes of the forms value_float(s), value_int(s) into other types: they are lowered to
  tensors first;
- it freezes weights that a caller may feed, and draws random operators once: declined;
- it drops Dropout also where its mask is used: then dead-node elimination stays off.

What comes back is verified and measured like any other rewrite, and keeps the model's metadata, input and
output declarations.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

LEFT_ALONE: Mapping[str, frozenset[str]] = {
    "the graph is quantised": frozenset(
        {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
    ),
    "the graph has subgraphs": frozenset({"If", "Loop", "Scan", "SequenceMap"}),
    "the graph draws random numbers": frozenset(
        {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
    ),
}
NOT_OURS = ["graph_fusion", "subexpression_elimination", "weight_tying"]
"""onnxslim's optimisations beyond folding: other rules do them one by one, each with its own gate."""
FOLDED_UP_TO = 2**23
"""Bytes up to which a folded constant is stored."""


def transform(proto: onnx.ModelProto, settings: Mapping[str, Any]) -> onnx.ModelProto | str | None:
    problem = _problem(proto, settings["max_gigabytes"])
    if problem:
        return problem
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.ir_version = max(copy.ir_version, 4)  # up to version 3 weights had to be inputs; onnxslim unlists them
    for node in copy.graph.node:
        _lower(node)
    off = [*NOT_OURS, *(["dead_node_elimination"] if _trains(proto) else [])]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        result = onnxslim.slim(copy, skip_optimizations=off, size_threshold=FOLDED_UP_TO)
    return result if isinstance(result, onnx.ModelProto) else "onnxslim returned no model"


def _problem(proto: onnx.ModelProto, gigabytes: float) -> str | None:
    operators = {node.op_type for node in proto.graph.node}
    for reason, unwanted in LEFT_ALONE.items():
        if operators & unwanted:
            return reason
    if proto.functions:
        return "the model has local functions"
    if next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0) < 7:
        return "the opset is older than 7"
    if {i.name for i in proto.graph.initializer} & {i.name for i in proto.graph.input}:
        return "weights are graph inputs"
    if proto.ByteSize() > gigabytes * 1e9:
        return f"the model is larger than {gigabytes:g} GB"
    return None


def _lower(node: onnx.NodeProto) -> None:
    """Constant's attributes value_float(s) and value_int(s) as a tensor `value`."""
    if node.op_type != "Constant" or len(node.attribute) != 1:
        return
    attribute = node.attribute[0]
    dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if attribute.name in dtype:
        value = np.asarray(onnx.helper.get_attribute_value(attribute), dtype[attribute.name])
        attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(value)))


def _trains(proto: onnx.ModelProto) -> bool:
    """Is there a Dropout whose mask is used or that can be switched to training?"""
    read = {i for n in proto.graph.node for i in n.input} | {o.name for o in proto.graph.output}
    values = {i.name: i for i in proto.graph.initializer}
    values |= {n.output[0]: a.t for n in proto.graph.node if n.op_type == "Constant" for a in n.attribute}
    for node in proto.graph.node:
        if node.op_type != "Dropout":
            continue
        switch = node.input[2] if len(node.input) > 2 else ""
        off = not switch or (switch in values and not numpy_helper.to_array(values[switch]).any())
        if not off or set(node.output[1:]) & read - {""}:
            return True
    return False
