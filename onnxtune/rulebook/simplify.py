"""A well-kept simplifier under our gates; its fusions and weight tying stay switched off.

onnxslim edits the model that it is given and sets up logging, so it gets a copy, and its messages go to
nobody. What comes back is verified and measured like any other rewrite, and keeps the model's metadata,
input and output declarations.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import onnx

LEFT_ALONE = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
)
BODIES = frozenset({"If", "Loop", "Scan"})
NOT_OURS = ["graph_fusion", "weight_tying"]
"""onnxslim's optimisations beyond folding: other rules do them one by one, each with its own gate."""


def transform(proto: onnx.ModelProto, settings: Mapping[str, Any]) -> onnx.ModelProto | str | None:
    operators = {node.op_type for node in proto.graph.node}
    if operators & LEFT_ALONE:
        return "the graph is quantised"
    if operators & BODIES or proto.functions:
        return "the graph has subgraphs or local functions"
    import onnxslim

    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        result = onnxslim.slim(copy, skip_optimizations=NOT_OURS)
    return result if isinstance(result, onnx.ModelProto) else "onnxslim returned no model"
