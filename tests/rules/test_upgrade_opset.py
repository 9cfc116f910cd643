"""upgrade_opset: only below the target, only for other rules, under the same gates."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxtune import Result, optimize
from onnxtune.rulebook.upgrade_opset import transform
from onnxtune.testing import model_of

AXES = "g (float[N, 3, 8, 8] x) => (float[N, 3] y) { m = ReduceMean <axes = [2], keepdims = 0> (x)  s = ReduceSum <axes = [2], keepdims = 0> (m)  y = Relu (s) }"  # noqa: E501


def tuned(proto: onnx.ModelProto, *, force: bool) -> Result:
    rule = ("upgrade_opset",)
    forced = rule if force else ()
    return optimize(proto, threads=1, providers="cpu", only=rule, force_rules=forced, cache=False)


def opset(proto: onnx.ModelProto) -> int:
    return next(int(o.version) for o in proto.opset_import if o.domain == "")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("before", [8, 9, 11, 12])
def test_converts_and_is_the_same_function(before: int) -> None:
    result = tuned(model_of(AXES, opset=before, ir=4), force=True)
    assert opset(result.model) == 13
    onnx.checker.check_model(result.model, full_check=True)
    assert [k.rewrite.rule for k in result.report.kept] == ["upgrade_opset"]


@pytest.mark.usefixtures("quick")
def test_alone_it_is_not_worth_it() -> None:
    result = tuned(model_of(AXES, opset=9, ir=4), force=False)
    assert opset(result.model) == 9
    assert [o.reason for o in result.report.rejected] == ["no other rule needs it"]


@pytest.mark.parametrize(("before", "target"), [(13, 13), (17, 13), (12, 11)])
def test_newer_models_are_left_alone(before: int, target: int) -> None:
    text = "g (float[2] x) => (float[2] y) { y = Relu (x) }"
    assert transform(model_of(text, opset=before), {"opset": target}) is None


def test_without_operator_set_it_has_nothing_to_say() -> None:
    proto = model_of("g (float[2] x) => (float[2] y) { y = Relu (x) }")
    del proto.opset_import[:]
    proto.opset_import.add(domain="com.example", version=1)
    assert transform(proto, {"opset": 13}) is None


def test_what_the_converter_cannot_do_is_a_reason() -> None:
    proto = model_of("g (float[1, 2, 4, 4] x) => (float[1, 2, 8, 8] y) { y = Upsample (x, s) }",
                     {"s": np.array([1, 1, 2, 2], np.float32)}, opset=9, ir=4)  # fmt: skip
    proto.graph.node[0].op_type = "ImageScaler"
    answer = transform(proto, {"opset": 13})
    assert isinstance(answer, str)
    assert answer.startswith("ONNX's version converter cannot convert it: ")
    assert "\n" not in answer


@pytest.mark.usefixtures("quick")
def test_weights_that_it_adds_need_a_newer_ir() -> None:
    """The pads become an input; up to IR version 3 a weight had to be listed as one."""
    pad = model_of("g (float[1, 3] x) => (float[1, 5] y) { y = Pad <pads = [0, 1, 0, 1]> (x) }", opset=6, ir=3)
    result = tuned(pad, force=True)
    assert opset(result.model) == 13
    assert result.model.ir_version >= 4
    onnx.checker.check_model(result.model, full_check=True)
