"""Height and width become free only where the network really takes any size."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxtune.free_size import with_free_size
from onnxtune.model import Model
from onnxtune.runtime import CPU, Session, Target
from onnxtune.testing import model_of

ONE = Target(CPU, {}, 1)
POOLED = "c = Conv <pads = [1, 1, 1, 1]> (x, k) p = GlobalAveragePool (c) f = Flatten (p) y = Gemm <transB = 1> (f, w)"
FLAT = "c = Conv <pads = [1, 1, 1, 1]> (x, k) f = Flatten (c) y = Gemm <transB = 1> (f, w)"


def model(body: str, size: str = "16, 16", columns: int = 4, output: str = "N, 5") -> Model:
    rng = np.random.default_rng(0)
    weights = {"k": rng.standard_normal((4, 3, 3, 3)), "w": rng.standard_normal((5, columns))}
    used = {n: a.astype(np.float32) for n, a in weights.items() if f", {n})" in body}
    return Model(model_of(f"g (float[N, 3, {size}] x) => (float[{output}] y) {{ {body} }}", used))


def test_global_pooling_takes_any_size() -> None:
    free = with_free_size(model(POOLED), ONE)
    assert isinstance(free, Model)
    onnx.checker.check_model(free.proto, full_check=True)
    dims = free.inputs[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == ["N", 3, "height", "width"]
    x = np.random.default_rng(1).standard_normal((2, 3, 11, 23)).astype(np.float32)
    assert Session(free, ONE).run({"x": x})["y"].shape == (2, 5)


def test_maps_may_grow() -> None:
    body = "y = Conv <pads = [1, 1, 1, 1]> (x, k)"
    assert isinstance(with_free_size(model(body, output="N, 4, 16, 16"), ONE), Model)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (model(FLAT, columns=4 * 256), "cannot run it"),
        (model(POOLED, size="H, W"), "no input is an image"),
        (model("c = Conv (x, k) y = Flatten (c)", output="N, 784"), "another shape"),
    ],
)
def test_declines(given: Model, reason: str) -> None:
    answer = with_free_size(given, ONE)
    assert isinstance(answer, str)
    assert reason in answer
