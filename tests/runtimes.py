"""What the installed ONNX Runtime can run: tests that need more are skipped, with the reason.

onnxtune allows versions of ONNX Runtime that know neither the newest operator sets nor every operator. There it
declines models that ONNX Runtime cannot load, which tests of its own hold; a rewrite of them cannot be tried.
"""

from __future__ import annotations

import functools

import onnxruntime
import pytest
from _pytest.mark import ParameterSet
from onnx import parser


@functools.cache
def runs(operator: str, opset: int) -> bool:
    """Can this operator of ONNX be loaded here at this version? `operator`: a line of ONNX's text syntax, x to y."""
    inputs = "float[1, 4, 9, 9] x, float[4, 4, 3, 3] w, float[1, 18, 7, 7] o"
    text = f"g ({inputs}) => (float[a, b, c, d] y) {{ {operator} }}"
    try:
        proto = parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {text}')
        onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception:  # onnxruntime's classes share no base
        return False
    return True


def opsets(*versions: int) -> list[ParameterSet]:
    """Versions of the operator set as parameters; those that ONNX Runtime does not know are skipped."""
    return [
        pytest.param(v, marks=pytest.mark.skipif(not known(v), reason=f"ONNX Runtime here does not know opset {v}"))
        for v in versions
    ]


def known(opset: int) -> bool:
    return runs("y = Conv (x, w)", opset)


needs_deform_conv = pytest.mark.skipif(
    not runs("y = DeformConv (x, w, o)", 19), reason="ONNX Runtime here has no kernel of DeformConv"
)
