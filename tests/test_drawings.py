"""The drawings of `rules explain` tell the truth.

An example of each rule holds the operators drawn before, and those drawn after once the rule has rewritten it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper

from benchmarks.cases import discover
from onnxtune.apply import apply
from onnxtune.catalog import catalog, own_rule
from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Proposal
from onnxtune.propose import propose, propose_levels
from onnxtune.rule import Rule
from onnxtune.sizes import bind
from onnxtune.testing import model_of

OPERATORS = {s.name for s in defs.get_all_schemas()}
CPU_DOES_NOT_LIKE = {"space_to_depth_stem": {"provider": "cuda"}}
"""Settings under which a rule offers what it does not offer on the CPU."""


def drawn(text: str) -> set[str]:
    """Operators in a drawing; what stands in brackets is remarks."""
    bare = re.sub(r"\([^()]*\)", "", text)
    words = set(re.findall(r"\b[A-Z][A-Za-z0-9]+\b", bare))
    assert words - OPERATORS == set(), f"not operators: {words - OPERATORS}"
    return words


def of(proto: onnx.ModelProto) -> set[str]:
    return {n.op_type for n in proto.graph.node}


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _frozen() -> onnx.ModelProto:
    proto = model_of("g (float[N, 8, 9, 9] x) => (float[N, 8, 7, 7] y) { y = Conv (x, w) }", {"w": normal(8, 8, 3, 3)})
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [8, 8, 3, 3]))
    return proto


def _chain(first: NDArray[np.float32], last: NDArray[np.float32]) -> onnx.ModelProto:
    body = "c = Conv (x, w)  r = Relu (c)  y = Conv (r, v)"
    text = f"g (float[N, {first.shape[1]}, 12, 12] x) => (float[N, {len(last)}, H, W] y) {{ {body} }}"
    return model_of(text, {"w": first, "v": last})


def _shapes() -> onnx.ModelProto:
    text = """g (float[2, 8, 4, 4] x) => (float[2, 128] y) {
        s = Shape (x)  b = Gather (s, zero)  u = Unsqueeze (b, at)  t = Concat <axis = 0> (u, rest)
        y = Reshape (x, t) }"""
    weights = {"zero": np.array(0), "at": np.array([0]), "rest": np.array([-1])}
    return model_of(text, weights)


def _upsample() -> onnx.ModelProto:
    text = """g (float[1, 8, 4, 4] x) => (float[1, 8, 8, 8] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, w)  y = Upsample <mode = "nearest"> (c, s) }"""
    return model_of(text, {"w": normal(8, 8, 3, 3), "s": np.array([1, 1, 2, 2], np.float32)}, opset=9, ir=4)


def _large_kernel() -> onnx.ModelProto:
    text = "g (float[N, 64, 12, 12] x) => (float[N, 64, 12, 12] y) { y = Conv <pads = [2, 2, 2, 2]> (x, w) }"
    return model_of(text, {"w": normal(64, 64, 5, 5)})


def _dead() -> onnx.ModelProto:
    w = normal(64, 16, 3, 3)
    w[5:25] = 0
    return _chain(w, normal(16, 64, 3, 3))


def _twins() -> onnx.ModelProto:
    w = normal(64, 16, 3, 3)
    w[8:16] = 2 * w[:8]
    return _chain(w, normal(16, 64, 3, 3))


EXAMPLES: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "freeze_initializers": _frozen,
    "upgrade_opset": _upsample,
    "simplify": _shapes,
    "remove_dead_channels": _dead,
    "merge_duplicate_channels": _twins,
    "stack_3x3": _large_kernel,
    "separable_conv": _large_kernel,
    "bottleneck_conv": _large_kernel,
    "cp_conv": _large_kernel,
    "prune_channels": lambda: _chain(normal(68, 64, 3, 3), normal(64, 68, 3, 3)),
}
"""Of rules without cases in benchmarks/."""


def examples(rule: Rule) -> Iterator[onnx.ModelProto]:
    if rule.name in EXAMPLES:
        yield EXAMPLES[rule.name]()
    for _, case in discover([rule.name]):
        yield case.model


def after(rule: Rule, proto: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """The example after each of the rule's proposals; without enabling rewrites, as in the rule's own cases."""
    model = Model(proto)
    facts = Facts(model, bind(model, {}).sizes)
    settings = {rule.name: CPU_DOES_NOT_LIKE.get(rule.name, {})}
    if rule.kind == "model":
        changed = rule.entry(proto, rule.settings())
        if changed is not None and not isinstance(changed, str):
            yield changed
    for said in propose(facts, [rule], settings):
        if isinstance(said, Proposal):
            yield apply(model, [said]).proto
    if rule.levels is not None:
        for level in propose_levels(facts, [rule], settings):
            if hasattr(level, "unfitted"):
                yield apply(model, [level.unfitted]).proto


NAMES = [r.name for r in catalog(plugins=False)]


@pytest.mark.parametrize("name", NAMES)
def test_drawings_name_operators(name: str) -> None:
    drawing = own_rule(name).card.drawing
    assert drawing is not None
    assert drawn(drawing.before) | drawn(drawing.after)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_as_drawn(name: str) -> None:
    rule = own_rule(name)
    drawing = rule.card.drawing
    assert drawing is not None
    tried = []
    for proto in examples(rule):
        if not drawn(drawing.before) <= of(proto):
            continue
        for result in after(rule, proto):
            if drawn(drawing.after) <= of(result):
                return
            tried.append(sorted(of(result)))
    pytest.fail(f"no example goes from {drawn(drawing.before)} to {drawn(drawing.after)}; results: {tried[:6]}")
