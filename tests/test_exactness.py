"""The proof tools themselves: they pass right rewrites and catch wrong ones that look almost right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxtune.errors import ModelError
from onnxtune.exactness import impulses, integer_model
from onnxtune.facts import Facts
from onnxtune.fragment import Builder
from onnxtune.proposal import Proposal
from onnxtune.rule import Card, Rule
from onnxtune.testing import assert_affine_equal, assert_exact_on_integers, model_of

RNG = np.random.default_rng(0)
W1 = RNG.standard_normal((4, 3, 1, 1)).astype(np.float32)
W2 = RNG.standard_normal((5, 4, 3, 3)).astype(np.float32)
B1, B2 = (RNG.standard_normal(n).astype(np.float32) for n in (4, 5))
WEIGHTS = {"w": W1, "b": B1, "v": W2, "c": B2}
PAIR = "t = Conv (x, w{}) y = Conv <pads = [1, 1, 1, 1]> (t, v, c)"


def pair(bias: str = "", shape: str = "N, 3, 7, 6") -> onnx.ModelProto:
    """1x1 (with or without bias), then a padded 3x3: one 3x3 only when the bias is absent."""
    weights = {n: w for n, w in WEIGHTS.items() if n != "b" or bias}
    return model_of(f"g (float[{shape}] x) => (float[N, 5, P, Q] y) {{ {PAIR.format(bias)} }}", weights)


def merging(flaw: str = "") -> Rule:
    """Merges the pair as if no border were there, perhaps with another flaw."""

    def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal]:
        first, second = facts.nodes
        w, v, c = (facts.constant(n) for n in (first.input(1), second.input(1), second.input(2)))
        assert w is not None
        assert v is not None
        assert c is not None
        b = facts.constant(first.input(2)) if first.input(2) else np.zeros(4)
        product = np.einsum("omuv,mc->ocuv", v.astype(np.float64), w[:, :, 0, 0])
        bias = c + np.einsum("omuv,m->o", v.astype(np.float64), b)
        if flaw == "one weight":
            product[2, 1, 0, 0] += 1e-3
        if flaw == "bias":
            bias[:] = 0
        pads = [1, 1, 1, 1] if flaw != "shifted" else [0, 1, 2, 1]
        new = Builder("new", facts.names, facts.opset)
        y = new.Conv(first.input(0), product.astype(v.dtype), bias.astype(v.dtype), pads=pads)
        removes = frozenset([first.key, second.key])
        yield Proposal("merging", "two Convs -> one", removes, new.finish({second.outputs[0]: y}))

    return Rule(Card("merging", "XX001", "", ""), "graph", propose)


def test_a_right_rewrite_passes() -> None:
    assert_exact_on_integers(merging(), pair())
    assert_affine_equal(merging(), pair())


@pytest.mark.parametrize("flaw", ["one weight", "bias", "shifted"])
def test_a_flaw_is_caught(flaw: str) -> None:
    with pytest.raises(AssertionError, match="not equal on integers"):
        assert_exact_on_integers(merging(flaw), pair())
    with pytest.raises(AssertionError, match="another affine function of 'x'"):
        assert_affine_equal(merging(flaw), pair())


def test_a_wrong_border_is_caught() -> None:
    """With a bias the inner map is not zero outside: only the border differs."""
    with pytest.raises(AssertionError, match="not equal on integers"):
        assert_exact_on_integers(merging(), pair(", b"))
    with pytest.raises(AssertionError, match="another affine function"):
        assert_affine_equal(merging(), pair(", b"))


def test_a_rewrite_that_is_right_at_one_size_is_caught() -> None:
    def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal]:
        node, new = facts.nodes[-1], Builder("new", facts.names, facts.opset)
        y = new.AveragePool(node.input(0), kernel_shape=[4, 2])
        yield Proposal("wrong", "pool", frozenset([node.key]), new.finish({node.outputs[0]: y}))

    proto = model_of("g (float[N, 3, H, W] x) => (float[N, 3, P, Q] y) { y = GlobalAveragePool (x) }")
    rule = Rule(Card("wrong", "XX002", "", ""), "graph", propose)
    with pytest.raises((AssertionError, ModelError), match=r"not equal on integers|cannot run it"):
        assert_exact_on_integers(rule, proto, sizes={"x": (1, 3, 4, 2)})


def silent() -> Rule:
    return Rule(Card("silent", "XX003", "", ""), "graph", lambda facts, settings: [])


@pytest.mark.parametrize("check", [assert_exact_on_integers, assert_affine_equal])
def test_nothing_proposed_is_a_failure(check: Any) -> None:
    with pytest.raises(AssertionError, match="nothing was proposed"):
        check(silent(), pair())


def doing_nothing() -> Rule:
    def propose(facts: Facts, settings: Mapping[str, Any]) -> Iterator[Proposal]:
        node, new = facts.nodes[0], Builder("new", facts.names, facts.opset)
        y = new.copy(node.proto, node.inputs)[0]
        yield Proposal("same", "same", frozenset([node.key]), new.finish({node.outputs[0]: y}))

    return Rule(Card("same", "XX004", "", ""), "graph", propose)


def test_a_model_that_rounds_proves_nothing() -> None:
    proto = model_of("g (float[N, 3, 7, 6] x) => (float[N, 3, P, Q] y) { y = AveragePool <kernel_shape = [3, 3]> (x) }")
    with pytest.raises(AssertionError, match="the model itself rounds"):
        assert_exact_on_integers(doing_nothing(), proto)


def test_a_model_that_is_not_affine_proves_nothing() -> None:
    proto = model_of("g (float[N, 3, 7, 6] x) => (float[N, 3, 7, 6] y) { y = Relu (x) }")
    with pytest.raises(AssertionError, match="not affine"):
        assert_affine_equal(doing_nothing(), proto)


def test_square_maps_hide_transposed_axes() -> None:
    with pytest.raises(AssertionError, match="H != W"):
        assert_affine_equal(merging(), pair(shape="N, 3, 7, 7"))


def test_averages_over_powers_of_two_are_exact() -> None:
    body = "t = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x) y = Mul (t, s)"
    proto = model_of(f"g (float[N, 3, 9, 6] x) => (float[N, 3, P, Q] y) {{ {body} }}", {"s": np.float32([0.7])})
    assert_exact_on_integers(doing_nothing(), proto)
    assert_affine_equal(doing_nothing(), proto)


def test_half_precision_and_two_inputs() -> None:
    text = "g (float16[2, 3, 5, 4] x, float16[2, 3, 5, 4] z) => (float16[2, 3, 5, 4] y) { y = Sub (x, z) }"
    assert_exact_on_integers(doing_nothing(), model_of(text))
    assert_affine_equal(doing_nothing(), model_of(text))


def test_what_becomes_of_weights() -> None:
    names = dict.fromkeys("gbmv", np.array([0.0, 0.3, -1.7, 0.3], np.float32))
    names |= {"v": np.abs(names["v"]), "s": np.float32([[[0.8]], [[0.0]], [[-3.0]], [[0.2]]]), "k": np.float32(0.3)}
    body = "t = BatchNormalization (x, g, b, m, v) u = Mul (t, s) y = Clip (u, k)"
    proto = integer_model(model_of(f"g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y) {{ {body} }}", names))
    values = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    assert values["g"].tolist() == [0, 1, -3, 1]
    assert values["v"].tolist() == [0.5, 0.5, 3.5, 0.5]
    assert values["s"].ravel().tolist() == [1, 0, -2, 0.5]
    assert values["k"] == np.float32(0.3)
    assert onnx.helper.get_node_attr_value(proto.graph.node[0], "epsilon") == 0.5


def test_weights_in_constant_nodes_and_behind_reshapes() -> None:
    body = """c = Constant <value = float[2] {0.4, -9.0}> () e = Constant <value = int64[2] {1, 2}> ()
              d = Unsqueeze (c, e) y = Add (x, d)"""
    proto = integer_model(model_of(f"g (float[N, 2, 3, 3] x) => (float[N, 2, 3, 3] y) {{ {body} }}"))
    assert numpy_helper.to_array(proto.graph.node[0].attribute[0].t).tolist() == [1, -2]
    assert numpy_helper.to_array(proto.graph.node[1].attribute[0].t).tolist() == [1, 2]


def test_impulses_are_multiples_of_one_vector_per_place() -> None:
    feeds = list(impulses({"x": np.zeros((2, 3, 2, 4)), "k": np.ones(2)}, "x", np.random.default_rng(0)))
    assert len(feeds) == 10
    assert not feeds[0]["x"].any()
    assert all(np.count_nonzero(f["x"]) == 6 for f in feeds[1:-1])
    assert np.array_equal(-2 * sum(f["x"] for f in feeds[:-1]), feeds[-1]["x"])
