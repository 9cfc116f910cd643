"""The end of a network alone: the same outputs as the whole, and only where a cut is worth while."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxtune.calibrate.dataset import Dataset, specs_of
from onnxtune.calibrate.level import Level
from onnxtune.calibrate.tail import Tail, tail_of
from onnxtune.catalog import catalog
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.propose import propose_levels
from onnxtune.runtime import CPU, Session, Target
from onnxtune.sizes import bind
from onnxtune.testing import model_of

ONE = Target(CPU, {}, 1)
RULE = next(r for r in catalog() if r.name == "replace_fc_head")


def classifier(
    outputs: str = "float[N, 20] y", batch: str = "N", flatten: str = "f = Flatten (p)", more: str = "", s: str = ""
) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    shapes = {"k": (12, 3, 3, 3), "l": (12, 12, 3, 3), "w": (40, 432), "v": (20, 40), "b": (40,)}
    weights = {n: (rng.standard_normal(d) / np.sqrt(np.prod(d[1:]))).astype(np.float32) for n, d in shapes.items()}
    if s:
        weights["s"] = np.array([int(d) for d in s.split(",")])
    text = f"""g (float[{batch}, 3, 12, 12] x) => ({outputs}) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, k) c = Conv <pads = [1, 1, 1, 1]> (a, l) r = Relu (c)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) {flatten}
        g = Gemm <transB = 1> (f, w, b) {more or "h = Identity (g)"} q = Relu (h) y = Gemm <transB = 1> (q, v) }}"""
    return model_of(text, weights)


def cut(proto: onnx.ModelProto, count: int = 20) -> tuple[Tail | None, Model, np.ndarray]:
    model = Model(proto)
    x = np.random.default_rng(1).standard_normal((count, 3, 12, 12)).astype(np.float32)
    data = Dataset("data", count, specs_of(model), lambda i: {"x": x[i]}, str, digest=lambda: "d")
    facts = Facts(model, bind(model).sizes)
    levels = [v for v in propose_levels(facts, [RULE], {}) if isinstance(v, Level)]
    return tail_of(facts, levels, data, ONE, lambda done, total: None), model, x


def test_tail_gives_what_the_whole_gives() -> None:
    tail, model, x = cut(classifier())
    assert tail is not None
    assert [n.op_type for n in tail.facts.nodes] == ["Flatten", "Gemm", "Identity", "Relu", "Gemm"]
    onnx.checker.check_model(tail.facts.model.proto, full_check=True)
    indices = np.array([3, 17, 5])
    found = Session(tail.facts.model, ONE).run(tail.data.feeds(indices))["y"]
    assert np.allclose(found, Session(model, ONE).run({"x": x[indices]})["y"], atol=1e-5)
    assert tail.macs > 0
    assert tail.bytes == 4 * (12 * 27 + 12 * 108)
    assert tail.data.digest() != "d"


@pytest.mark.parametrize("rows", ["1, 432", "1, -1", "-1, 432"])
def test_a_fixed_batch_is_set_free(rows: str) -> None:
    proto = classifier("float[1, 20] y", "1", flatten="f = Reshape (p, s)", s=rows)
    tail, model, x = cut(proto)
    assert tail is not None
    assert tail.data.batch is None
    indices = np.array([3, 17, 5])
    found = Session(tail.facts.model, ONE).run(tail.data.feeds(indices))["y"]
    each = [Session(model, ONE).run({"x": x[i : i + 1]})["y"] for i in indices]
    assert np.allclose(found, np.concatenate(each), atol=1e-5)


def test_a_batch_whose_images_are_mixed_stays() -> None:
    tail, _, _ = cut(classifier("float[2, 20] y", "2", more="m = ReduceMean <axes = [0]> (g) h = Sub (g, m)"))
    assert tail is not None
    assert tail.data.batch == 2


def test_no_cut_where_another_output_stands_before_it() -> None:
    assert cut(classifier("float[N, 20] y, float[N, 12, 12, 12] r"))[0] is None
