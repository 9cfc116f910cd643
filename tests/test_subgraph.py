"""Subgraphs for drawing: nodes with their weights and shapes, before and after a rewrite."""

from __future__ import annotations

import numpy as np

from onnxtune.facts import Facts
from onnxtune.model import Model
from onnxtune.proposal import Fragment, Proposal
from onnxtune.propose import propose
from onnxtune.subgraph import DRAWN, Subgraph, before_and_after
from onnxtune.testing import model_of, rule_named


def drawn(rule: str, text: str, weights: dict[str, np.ndarray] | None = None) -> list[tuple[Subgraph, Subgraph]]:
    facts = Facts(Model(model_of(text, weights or {})))
    said = propose(facts, [rule_named(rule)], {})
    return [before_and_after(facts, p) for p in said if isinstance(p, Proposal)]


def test_nodes_weights_attributes_and_shapes() -> None:
    weights = {"w": np.ones((8, 3, 3, 3), np.float32)}
    body = "c = Conv <strides = [2, 2]> (x, w)  y = LRN <size = 5> (c)"
    text = f"g (float[1, 3, 21, 21] x) => (float[1, 8, 10, 10] y) {{ {body} }}"
    before, after = drawn("replace_lrn", text, weights)[0]
    assert [n.operator for n in before.nodes] == ["LRN"]
    assert before.nodes[0].attributes == {"size": 5}
    assert before.shapes == {"c": (1, 8, 10, 10), "y": (1, 8, 10, 10)}
    conv = next(n for n in after.nodes if n.operator == "Conv")
    assert (8, 8, 1, 1) in conv.weights
    assert conv.outputs[0] in after.shapes
    assert after.nodes[-1].outputs == ("y",)


def test_what_was_taken_out_is_an_alias() -> None:
    text = "g (float[1, 3] x) => (float[1, 3] y) { a = Identity (x)  y = Relu (a) }"
    before, after = drawn("remove_noop", text)[0]
    assert [n.operator for n in before.nodes] == ["Identity"]
    assert not after.nodes
    assert after.aliases == {"a": "x"}


def test_defaults_are_not_told() -> None:
    weights = {"w": np.ones((4, 3, 1, 1), np.float32), "s": np.full((1, 4, 1, 1), 2, np.float32)}
    body = "c = Conv <strides = [1, 1], group = 1> (x, w)  y = Mul (c, s)"
    text = f"g (float[1, 3, 5, 5] x) => (float[1, 4, 5, 5] y) {{ {body} }}"
    before, _ = drawn("fold_batchnorm", text, weights)[0]
    assert before.nodes[0].attributes == {}
    assert before.nodes[0].inputs == ("x",)
    assert before.nodes[0].weights == ((4, 3, 1, 1),)


def test_long_ones_are_cut_and_counted() -> None:
    count = DRAWN + 5
    body = "".join(f" t{i + 1} = Relu (t{i})" for i in range(count))
    text = f"g (float[1, 3] t0) => (float[1, 3] t{count}) {{ {body} }}"
    facts = Facts(Model(model_of(text)))
    proposal = Proposal("r", "all away", frozenset(facts.by_key), Fragment((), aliases={f"t{count}": "t0"}))
    before, after = before_and_after(facts, proposal)
    assert len(before.nodes) == DRAWN
    assert before.left_out == 5
    assert (after.nodes, after.left_out) == ((), 0)
