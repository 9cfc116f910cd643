"""The end of a network alone: the same outputs as the whole, and only where a cut is worth while."""

from __future__ import annotations

import numpy as np
import onnx

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


def classifier(outputs: str = "float[N, 20] y", batch: str = "N") -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    shapes = {"k": (12, 3, 3, 3), "l": (12, 12, 3, 3), "w": (40, 432), "v": (20, 40), "b": (40,)}
    weights = {n: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32) for n, s in shapes.items()}
    text = f"""g (float[{batch}, 3, 12, 12] x) => ({outputs}) {{
        a = Conv <pads = [1, 1, 1, 1]> (x, k) c = Conv <pads = [1, 1, 1, 1]> (a, l) r = Relu (c)
        p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r) f = Flatten (p)
        h = Gemm <transB = 1> (f, w, b) s = Relu (h) y = Gemm <transB = 1> (s, v) }}"""
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
    assert [n.op_type for n in tail.facts.nodes] == ["Flatten", "Gemm", "Relu", "Gemm"]
    onnx.checker.check_model(tail.facts.model.proto, full_check=True)
    indices = np.array([3, 17, 5])
    found = Session(tail.facts.model, ONE).run(tail.data.feeds(indices))["y"]
    assert np.allclose(found, Session(model, ONE).run({"x": x[indices]})["y"], atol=1e-5)
    assert tail.macs > 0
    assert tail.bytes == 4 * (12 * 27 + 12 * 108)
    assert tail.data.digest() != "d"


def test_a_fixed_batch_stays() -> None:
    tail, _, _ = cut(classifier(outputs="float[1, 20] y", batch="1"))
    assert tail is not None
    assert tail.data.batch == 1


def test_no_cut_where_another_output_stands_before_it() -> None:
    assert cut(classifier("float[N, 20] y, float[N, 12, 12, 12] r"))[0] is None
