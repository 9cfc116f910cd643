"""freeze_initializers: defaults of inputs become constants; what a caller must feed stays."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxtune import Result, optimize
from onnxtune.rulebook.freeze_initializers import transform
from onnxtune.testing import model_of

W = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)


def conv(listed: str = ", float[4, 3, 3, 3] w", ir: int = 4) -> onnx.ModelProto:
    text = f"g (float[N, 3, 8, 8] x{listed}) => (float[N, 4, 6, 6] y) {{ c = Conv (x, w)  y = Relu (c) }}"
    return model_of(text, {"w": W}, ir=ir, opset=9)


def tuned(proto: onnx.ModelProto) -> Result:
    rule = ("freeze_initializers",)
    return optimize(proto, threads=1, providers="cpu", only=rule, force_rules=rule, cache=False)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("ir", [3, 4, 8])
def test_fires_and_is_the_same_function(ir: int) -> None:
    result = tuned(conv(ir=ir))
    assert [k.rewrite.rule for k in result.report.kept] == ["freeze_initializers"]
    onnx.checker.check_model(result.model, full_check=True)
    assert [i.name for i in result.model.graph.input] == ["x"]
    assert [i.name for i in result.model.graph.initializer] == ["w"]
    assert result.model.ir_version == max(ir, 4)


@pytest.mark.usefixtures("quick")
def test_nothing_to_freeze() -> None:
    assert tuned(conv(listed="")).report.outcomes == ()


def test_only_inputs_with_a_default_go() -> None:
    frozen = transform(conv(", float[4, 3, 3, 3] w, float[2] other"), {})
    assert frozen is not None
    assert [i.name for i in frozen.graph.input] == ["x", "other"]


def test_sparse_defaults_are_defaults() -> None:
    proto = conv(", float[4, 3, 3, 3] w, float[4] s")
    values = onnx.helper.make_tensor("s", onnx.TensorProto.FLOAT, [1], [2.0])
    positions = onnx.helper.make_tensor("i", onnx.TensorProto.INT64, [1], [0])
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, positions, [4]))
    frozen = transform(proto, {})
    assert frozen is not None
    assert [i.name for i in frozen.graph.input] == ["x"]


def test_the_given_model_is_not_changed() -> None:
    proto = conv()
    transform(proto, {})
    assert proto == conv()
