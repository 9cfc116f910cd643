"""Cutting a region out: the small model computes what the nodes computed, and nothing else comes along."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxtune.facts import Facts
from onnxtune.feeds import random_feeds
from onnxtune.model import Model
from onnxtune.region import extract, neighbourhood
from onnxtune.runtime import Session, Target
from onnxtune.testing import model_of

W = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
TEXT = """g (float[N, 3, H, V] x) => (float[N, 4, A, B] y, float[N, 4, C, D] z) {
    a = Relu (x)
    b = Conv (a, w)
    k = Constant <value = float[1] {2.0}> ()
    c = Mul (b, k)
    d = Sigmoid (c)
    y = Neg (d)
    z = Abs (c)
}"""
FACTS = Facts(Model(model_of(TEXT, {"w": W, "unused": W})), {"x": (2, 3, 9, 8)})


def names(values: object) -> list[str]:
    return [v.name for v in values]  # type: ignore[attr-defined]


def test_a_region_is_a_model_of_its_own() -> None:
    region = extract(FACTS, {"b", "c"})
    assert region is not None
    onnx.checker.check_model(region.proto, full_check=True)
    graph = region.proto.graph
    assert [n.op_type for n in graph.node] == ["Constant", "Conv", "Mul"]
    assert names(graph.input) == ["a"]
    assert names(graph.output) == ["c"]
    assert names(graph.initializer) == ["w"]
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [2, 3, 9, 8]


def test_it_computes_what_the_nodes_computed() -> None:
    region = extract(FACTS, {"b", "c", "d"})
    assert region is not None
    assert names(region.outputs) == ["c", "d"], "c is also read outside of the region"
    feeds = random_feeds(region, {"a": (2, 3, 9, 8)})
    got = Session(region, Target(threads=1), "disable").run(feeds)
    whole = Session(FACTS.model, Target(threads=1), "disable")
    want = whole.run({"x": np.maximum(feeds["a"], 0)}, ["y"])["y"]
    positive = Session(region, Target(threads=1), "disable").run({"a": np.maximum(feeds["a"], 0)})
    assert np.array_equal(-positive["d"], want)
    assert got["c"].shape == (2, 4, 7, 6)


def test_graph_outputs_are_visible() -> None:
    region = extract(FACTS, {"y", "z"})
    assert region is not None
    assert names(region.inputs) == ["d", "c"]
    assert names(region.outputs) == ["y", "z"]


def test_neighbours_within_one_and_two_steps() -> None:
    assert neighbourhood(FACTS, {"c"}) == {"b", "c", "d", "z"}
    assert neighbourhood(FACTS, {"c"}, hops=2) == {"a", "b", "c", "d", "y", "z"}
    assert neighbourhood(FACTS, {"c"}, hops=0) == {"c"}


def test_what_a_replacement_reads_comes_along() -> None:
    region = extract(FACTS, {"d"}, ["w", "k", "x"])
    assert region is not None
    assert names(region.proto.graph.initializer) == ["w"]
    assert [n.op_type for n in region.proto.graph.node] == ["Constant", "Sigmoid"]
    assert names(region.inputs) == ["c", "x"]


def test_weights_that_may_be_fed_are_inputs_of_the_region() -> None:
    proto = model_of("g (float[4] x, float[4] k) => (float[4] y) { y = Mul (x, k) }", {"k": np.ones(4, np.float32)})
    region = extract(Facts(Model(proto), {"x": (4,)}), {"y"})
    assert region is not None
    assert names(region.inputs) == ["x", "k"]
    assert not region.proto.graph.initializer


@pytest.mark.parametrize(
    ("text", "sizes", "keys"),
    [
        ("g (float[N, 4] x) => (float[A] y) { n = NonZero (x)  i = Cast <to = 1> (n)  y = Flatten (i) }", (2, 4), "y"),
        (
            """g (float[4] x, bool c) => (float[4] y) { y = If (c) <
                then_branch = a () => (float[4] p) { p = Abs (x) },
                else_branch = b () => (float[4] q) { q = Neg (x) }> }""", (4,), "y",
        ),
    ],
    ids=["size unknown", "has bodies"],
)  # fmt: skip
def test_what_cannot_be_cut_out(text: str, sizes: tuple[int, ...], keys: str) -> None:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {text}')
    assert extract(Facts(Model(proto), {"x": sizes}), {keys}) is None


def test_a_region_that_nobody_sees() -> None:
    proto = model_of("g (float[4] x) => (float[4] y) { y = Neg (x)  dead = Abs (x) }")
    assert extract(Facts(Model(proto), {"x": (4,)}), {"dead"}) is None


def test_functions_and_opsets_come_along() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17, "local": 1]>
        g (float[4] x) => (float[4] z) <float[4] y> { y = local.twice (x)  z = Neg (y) }
        <opset_import: ["": 17], domain: "local"> twice (a) => (b) { b = Add (a, a) }""")
    region = extract(Facts(Model(proto), {"x": (4,)}), {"y"})
    assert region is not None
    assert Session(region, Target(threads=1)).run({"x": np.ones(4, np.float32)})["y"].tolist() == [2, 2, 2, 2]
